// The row of a request in shared memory, and what its blocks do together. A row is cut into chunks, which the blocks of
// a cluster get in turn; maxima, lists and sums of chunks are written to all blocks, so that all decide the same.
//
// Needs the macros of sample.cu.
#pragma once
#include "pack.cuh"
#include "sample_mass.cuh"

constexpr int WARPS = THREADS / 32;
constexpr int CHUNKS = (VOCAB + CHUNK - 1) / CHUNK;
constexpr int OWN = (CHUNKS + CLUSTER - 1) / CLUSTER;  // chunks of a block
constexpr int BITS = 10, BINS = 1 << BITS;             // of a histogram
constexpr int LIMB = 14;  // bits of a weight that are added up together: those of all tokens fit 32 bits

static_assert(VOCAB <= 1 << 18 && RESIDENT <= OWN && CHUNK % (32 * VECTOR) == 0, "no shape of a row");

// The same in sample_cuda.py. Without `allowed` it is -1.
struct Request {
    u64 seed, num_prompt, num_output, min_new_tokens;
    double top_p, top_n_sigma, typical_p;
    float factor, min_level, repetition, presence, frequency, stop_ramp;
    int top_k, is_greedy, row, allowed, first_edit, last_edit;
};

// What happens to one logit; a token has one at most.
struct Edit {
    int id;
    float bias;
    int num_stops, count, is_in_prompt, is_bad;

    __device__ float apply(float x, const Request& request) const {
        const float ramp = __fmul_rn(request.stop_ramp, (float)request.num_output);
        x = __fadd_rn(x, bias);
        for (int i = 0; i < num_stops; ++i) x = __fadd_rn(x, ramp);
        if (is_in_prompt || count > 0)
            x = x > 0.0f ? __fdiv_rn(x, request.repetition) : __fmul_rn(x, request.repetition);
        if (count > 0) {
            x = __fadd_rn(x, -__fmul_rn(request.frequency, (float)count));
            x = __fadd_rn(x, -request.presence);
        }
        const bool is_early = num_stops > 0 && request.num_output < request.min_new_tokens;
        return is_bad || is_early ? -infinity() : x;
    }
};

struct Shared {
    Pack<ELEMENT, VECTOR> resident[RESIDENT ? RESIDENT * CHUNK / VECTOR : 1];
    union {
        unsigned limbs[3][BINS];
        struct {
            u64 keys[MEMBERS], masses[MEMBERS];
        } list;
    };
    u64 masses[CHUNKS > CHUNK ? CHUNKS : CHUNK];  // of all chunks, then of the tokens of one
    u64 parts_of_row[2][CLUSTER * WARPS], parts_of_block[2][WARPS];
    u64 before;
    int found;
    float maxima[CHUNKS];
    unsigned blocked[OWN * CHUNK / 32];  // tokens of own chunks that are masked, edited or not there
};
static_assert(sizeof(Shared) <= SHARED_BYTES, "sample_cuda.py counts less");

// Of a value of each thread: the sum of those of threads before it, and of all.
struct Sums {
    u64 before, total;
};

// Where weights reach a target: the place, or -1, their sum before it, and what is left of the target there.
struct Found {
    int at;
    u64 rest, total;
};

__device__ __forceinline__ void row_sync() {
#if CLUSTER > 1
    cluster_sync();
#else
    __syncthreads();
#endif
}

// The same variable of a block of the row.
template <class T>
__device__ __forceinline__ T& of_block(int rank, T& own) {
#if CLUSTER > 1
    return shared_of(rank, own);
#else
    return own;
#endif
}

__device__ __forceinline__ u64 sum_of_warp(u64 value) {
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(ALL_LANES, value, offset);
    return value;
}

struct Row {
    Shared& shared;
    const Request& request;
    const ELEMENT* logits;
    const Edit* edits;
    float* edited;  // logits of edits
    int num_edits, rank;
    int row_turn = 0, block_turn = 0;

    __device__ bool is_own(int id) const { return id / CHUNK % CLUSTER == rank; }

    // Of a token of an own chunk.
    __device__ float logit(int own, int at) const {
        if (own >= RESIDENT) return to_float(logits[(own * CLUSTER + rank) * CHUNK + at]);
        return to_float(shared.resident[(own * CHUNK + at) / VECTOR].at[at % VECTOR]);
    }

    template <class Visit>
    __device__ void each_edited(Visit visit) const {
        for (int i = threadIdx.x; i < num_edits; i += THREADS)
            if (is_own(edits[i].id)) visit(edited[i], edits[i].id);
    }

    // Calls visit(logit, id) for the block's tokens from this logit on, each by one thread, in any order, and for some
    // below; `end(chunk)` by the whole warp after each chunk. What is edited is not among them.
    template <int UNROLL, class Visit, class End>
    __device__ void each_unedited(float low, Visit visit, End end) const {
        const int lane = threadIdx.x % 32;
#pragma unroll 1
        for (int own = threadIdx.x / 32; own < OWN; own += WARPS) {
            const int chunk = own * CLUSTER + rank;
            if (chunk >= CHUNKS || !(shared.maxima[chunk] >= low)) continue;
            const unsigned* blocked = &shared.blocked[own * (CHUNK / 32)];
#pragma unroll UNROLL
            for (int i = 0; i < CHUNK / 32; ++i)
                if (!(blocked[i] >> lane & 1u)) visit(logit(own, i * 32 + lane), chunk * CHUNK + i * 32 + lane);
            end(chunk);
        }
    }

    template <class Visit>
    __device__ void each(float low, Visit visit) const {
        each_unedited<1>(low, visit, [](int) {});
        each_edited(visit);
    }

    // Over the threads of `BLOCKS` blocks, 1 or all of the row, which all come here. Two sets of parts take turns,
    // since those of the last time may still be read.
    template <int BLOCKS>
    __device__ Sums sums_of(u64 value) {
        const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
        u64 until = value;
#pragma unroll
        for (int distance = 1; distance < 32; distance *= 2) {
            const u64 other = __shfl_up_sync(ALL_LANES, until, distance);
            if (lane >= distance) until += other;
        }
        const u64 of_warp = __shfl_sync(ALL_LANES, until, 31);
        constexpr bool is_row = BLOCKS > 1;
        const int place = is_row ? rank * WARPS + warp : warp, turn = (is_row ? row_turn : block_turn) ^= 1;
        if constexpr (is_row) {
            if (lane < BLOCKS) of_block(lane, shared.parts_of_row[turn][place]) = of_warp;
            row_sync();
        } else {
            if (lane == 0) shared.parts_of_block[turn][place] = of_warp;
            __syncthreads();
        }
        u64 before = 0, total = 0;
        for (int i = lane; i < BLOCKS * WARPS; i += 32) {
            const u64 part = is_row ? shared.parts_of_row[turn][i] : shared.parts_of_block[turn][i];
            total += part;
            if (i < place) before += part;
        }
        return {sum_of_warp(before) + until - value, sum_of_warp(total)};
    }

    __device__ u64 sum(u64 value) { return sums_of<CLUSTER>(value).total; }

    __device__ u64 max(u64 value) {
        const int lane = threadIdx.x % 32, place = rank * WARPS + threadIdx.x / 32;
        const auto over_warp = [](u64 value) {
#pragma unroll
            for (int offset = 16; offset > 0; offset /= 2) {
                const u64 other = __shfl_xor_sync(ALL_LANES, value, offset);
                value = other > value ? other : value;
            }
            return value;
        };
        value = over_warp(value);
        row_turn ^= 1;
        if (lane < CLUSTER) of_block(lane, shared.parts_of_row[row_turn][place]) = value;
        row_sync();
        for (int i = lane; i < CLUSTER * WARPS; i += 32) {
            const u64 part = shared.parts_of_row[row_turn][i];
            value = part > value ? part : value;
        }
        return over_warp(value);
    }

    // Where weights, added in order, reach `target_of(their sum)`. Each block finds the same for itself.
    template <class Weight, class Target>
    __device__ Found find(int count, Weight weight, Target target_of) {
        const int part = (count + THREADS - 1) / THREADS, first = threadIdx.x * part, last = min(count, first + part);
        u64 own = 0;
        for (int i = first; i < last; ++i) own += weight(i);
        const auto [before, total] = sums_of<1>(own);
        const u64 target = target_of(total);
        if (threadIdx.x == 0 && total < target) shared.found = -1;
        if (before < target && before + own >= target) {
            int at = first;
            u64 until = before;
            for (; until + weight(at) < target; ++at) until += weight(at);
            shared.found = at;
            shared.before = until;
        }
        __syncthreads();
        return {shared.found, target - shared.before, total};
    }

    // Reads masks, edits and logits. The largest logit; NaN if the row cannot be drawn from.
    __device__ float read(const int* mask, int mask_words, const int* allowed) {
        const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
        using Move = Pack<ELEMENT, VECTOR>;
        for (int own = warp; own < RESIDENT; own += WARPS)
#pragma unroll
            for (int i = 0; i < CHUNK / 32 / VECTOR; ++i) {
                const int at = (i * 32 + lane) * VECTOR, first = (own * CLUSTER + rank) * CHUNK + at;
                Move& place = shared.resident[(own * CHUNK + at) / VECTOR];
                if (first >= VOCAB) continue;
                if constexpr (sizeof(Move) >= 4)
                    copy_async<sizeof(Move)>(&place, logits + first);
                else
                    place = load_pack<VECTOR>(logits + first);
            }
        copy_async_commit();
        constexpr int WORDS = CHUNK / 32;
        for (int i = threadIdx.x; i < OWN * WORDS; i += THREADS) {
            const int word = (i / WORDS * CLUSTER + rank) * WORDS + i % WORDS, num_left = VOCAB - word * 32;
            unsigned open = num_left >= 32 ? ALL_LANES : num_left > 0 ? (1u << num_left) - 1 : 0;
            if (mask && word < mask_words) open &= mask[word];
            if (allowed && num_left > 0) open &= allowed[word];
            shared.blocked[i] = ~open;
        }
        __syncthreads();
        float largest = -infinity();
        bool is_wrong = false;
        for (int i = threadIdx.x; i < num_edits; i += THREADS) {
            const int id = edits[i].id, own = id / CHUNK / CLUSTER;
            if (!is_own(id)) continue;
            const unsigned bit = 1u << id % 32, old = atomicOr(&shared.blocked[(own * CHUNK + id % CHUNK) / 32], bit);
            const float x = edits[i].apply(old & bit ? -infinity() : to_float(logits[id]), request);
            is_wrong |= !(x <= LARGEST);
            edited[i] = x;
            largest = fmaxf(largest, x);
        }
        copy_async_wait<0>();
        row_sync();
        for (int own = warp; own < OWN; own += WARPS) {
            const int chunk = own * CLUSTER + rank;
            if (chunk >= CHUNKS) continue;
            float high = -infinity();
#pragma unroll
            for (int i = 0; i < CHUNK / 32 / VECTOR; ++i) {
                const int at = (i * 32 + lane) * VECTOR, first = chunk * CHUNK + at;
                if (first >= VOCAB) continue;
                const Move pack = own < RESIDENT ? shared.resident[(own * CHUNK + at) / VECTOR]
                                                 : load_pack<VECTOR>(logits + first);
                const unsigned blocked = shared.blocked[(own * CHUNK + at) / 32] >> at % 32;
#pragma unroll
                for (int j = 0; j < VECTOR; ++j) {
                    const float x = to_float(pack.at[j]);
                    is_wrong |= !(x <= LARGEST);
                    if (!(blocked >> j & 1u)) high = fmaxf(high, x);
                }
            }
#pragma unroll
            for (int offset = 16; offset > 0; offset /= 2)
                high = fmaxf(high, __shfl_xor_sync(ALL_LANES, high, offset));
            if (lane < CLUSTER) of_block(lane, shared.maxima[chunk]) = high;
            largest = fmaxf(largest, high);
        }
        const u64 most = max(is_wrong ? ~0ull : ordered(largest));
        return most > ordered(LARGEST) || most == ordered(-infinity()) ? __uint_as_float(0x7fc00000u)
                                                                      : from_ordered((unsigned)most);
    }
};
