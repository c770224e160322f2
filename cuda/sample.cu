// Draws the next token of each request from its row of logits: the same token, bit for bit, as the sampler on the CPU.
// What is computed, and why sums have no order here, is said in rust/core/src/sample/mod.rs and mass.rs.
// Reference: tempa.sample.Sampler
//
// A row belongs to a cluster of CLUSTER blocks, 1 before sm_90, which keep RESIDENT chunks each in shared memory. Where
// that is the whole row, it is moved once, 4 V bytes of float32, and all else happens on chip; what is not kept is read
// from the second cache again. Clusters and not launches for parts of a row, because levels need the row's largest
// logit: a second launch would move the row a second time. A single row still has 8 multiprocessors; of many rows, two
// blocks share one on sm_90 and sm_100, so that one loads while the other computes.
//
// Masses of all tokens, about 30 operations each, are added up only for log-probabilities or a draw without cuts. top-k
// needs none: k tokens reach the k-th largest of the chunks' maxima, and what reaches it is listed and sorted. top-p
// looks at that list too, without top-k at the tokens from the median of the maxima on, and takes histograms of the
// whole row only if the list does not hold its share. Passes skip chunks whose largest logit is too small.
//
// Compiled for ELEMENT (float, bf16), VECTOR elements a pack, VOCAB tokens in chunks of CHUNK, MEMBERS of a list, and
// THREADS and SHARED_BYTES of a block.
#include "sample_select.cuh"

// The logit `n` standard deviations of the finite logits below the largest: see passes.rs.
__device__ __forceinline__ float sigma_limit(Row& row, float largest, double n) {
    unsigned high = 0;  // of the lowest: its order is turned over
    row.each(-infinity(), [&](float x, int) { high = x > -infinity() ? max(high, ~ordered(x)) : high; });
    const float lowest = from_ordered(~(unsigned)row.max(high));
    const float range = fminf(__fadd_rn(largest, -lowest), LARGEST);
    if (range == 0.0f) return largest;
    const float unit = fminf(__fdiv_rn(1048576.0f, range), LARGEST);
    u64 count = 0, sum = 0, squares = 0;
    row.each(-infinity(), [&](float x, int) {
        if (!(x > -infinity())) return;
        const float distance = __fadd_rn(largest, -x);
        const u64 whole = (unsigned)(int)__fmul_rn(distance < range ? distance : range, unit);
        ++count;
        sum += whole;
        squares += whole * whole;
    });
    const double num = (double)row.sum(count), mean = (double)row.sum(sum) / num;
    const double variance = (double)row.sum(squares) / num - __dmul_rn(mean, mean);
    const double sigma = sqrt(variance > 0.0 ? variance : 0.0) / (double)unit;
    return fminf((float)((double)largest - __dmul_rn(n, sigma)), largest);
}

// Turns to the order of typical-p: by the distance of levels to their mean. Returns the mass of all that is left.
__device__ __forceinline__ u64 measure_levels(Row& row, Order& order, float low) {
    u64 left = 0, of_low = 0, of_high = 0;
    row.each(low, [&](float x, int id) {
        const u64 mass = order.weight(x, id);
        if (!mass) return;
        const u64 depth = (unsigned)(int)(-order.scale.level(x) * 65536.0f);
        left += mass;
        // In two halves of the masses, whose products then fit 64 bits.
        of_low += (mass & 0xfffff) * depth;
        of_high += (mass >> 20) * depth;
    });
    left = row.sum(left);
    of_low = row.sum(of_low);
    of_high = row.sum(of_high);
    const u64 sum = of_low + (of_high << 20);
    order.mean = (float)quotient((of_high >> 44) + (sum < of_low), sum, left) / -65536.0f;
    order.is_typical = true;
    return left;
}

// Fills in the masses of all chunks without what is behind the limit of `order`, or before the key.
__device__ __forceinline__ void weigh(Row& row, const Order& order, float low, u64 least) {
    Shared& shared = row.shared;
    const auto mass = [&](float x, int id) {
        const u64 mass = order.weight(x, id);
        return mass && (least == 0 || order.key(x, id) >= least) ? mass : 0;
    };
    row_sync();  // all blocks have read their masses
    for (int chunk = row.rank + threadIdx.x * CLUSTER; chunk < CHUNKS; chunk += THREADS * CLUSTER)
        shared.masses[chunk] = 0;
    __syncthreads();
    u64 of_chunk = 0;
    row.each_unedited<4>(low, [&](float x, int id) { of_chunk += mass(x, id); },
                         [&](int chunk) {
                             const u64 sum = sum_of_warp(of_chunk);
                             if (threadIdx.x % 32 == 0) shared.masses[chunk] = sum;
                             of_chunk = 0;
                         });
    __syncthreads();
    row.each_edited([&](float x, int id) { atomicAdd(&shared.masses[id / CHUNK], mass(x, id)); });
    __syncthreads();
    for (int i = threadIdx.x; i < OWN * CLUSTER; i += THREADS) {
        const int chunk = i / CLUSTER * CLUSTER + row.rank;
        if (chunk < CHUNKS) of_block(i % CLUSTER, shared.masses[chunk]) = shared.masses[chunk];
    }
    row_sync();
}

extern "C" IN_CLUSTERS_OF(CLUSTER) __global__ void __launch_bounds__(THREADS, 512 / THREADS)
sample(int* __restrict__ out, const ELEMENT* __restrict__ logits, const Request* __restrict__ requests,
       const Edit* __restrict__ edits, float* edited, const int* __restrict__ allowed, const int* __restrict__ masks,
       long long row_stride, long long mask_stride, int mask_words, int top_n, int wants_logps) {
    constexpr int MISSING = 0x7fc00000;  // NaN
    Shared& shared = dynamic_shared<Shared>();
    const int at = blockIdx.x / CLUSTER, rank = blockIdx.x % CLUSTER;
    const Request& request = requests[at];
    Row row = {shared, request, logits + request.row * row_stride, edits + request.first_edit,
               edited + request.first_edit, request.last_edit - request.first_edit, rank};
    // The token and its two log-probabilities, then ids and log-probabilities of the likeliest.
    out += (long long)at * (3 + 2 * top_n);
    const float largest = row.read(masks ? masks + at * mask_stride : nullptr, mask_words,
                                   request.allowed < 0 ? nullptr : allowed + request.allowed);
    if (!(largest <= LARGEST)) {
        if (rank > 0) return;
        for (int i = threadIdx.x; i < 3 + 2 * top_n; i += THREADS)
            out[i] = i == 0 ? -1 : i < 3 ? MISSING : i < 3 + top_n ? -1 : __float_as_int(-infinity());
        return;
    }
    const Scale scale = {largest, request.factor};
    const float floor = scale.lowest_with_mass();
    const bool draws = !request.is_greedy, cuts_mass = draws && request.top_p < 1.0;
    const int top_k = draws && request.top_k < VOCAB ? request.top_k : 0;
    const u64 bits = random_bits(request.seed, request.num_prompt + request.num_output);
    // What may be drawn; with typical-p, from this key on. Whether `shared.masses` are of that.
    const Limit none = {-infinity(), VOCAB};
    Order kept = {scale, none};
    u64 typical = 0, total = 0;
    bool is_weighed = false;
    const auto narrow = [&](Limit limit) {
        kept.limit = tighter(kept.limit, limit);
        is_weighed = false;
    };
    // The likeliest tokens are in the list, all whose keys are `listed_from` or more.
    int num_listed = 0;
    u64 listed_from = ~0ull;
    Found chunk{};

    // One loop, so that what steps have in common stands in the code once.
    enum Step { TOTAL, GUESS, TOP_N, TOP_K, TOP_P, TYPICAL_P, DRAW };
#pragma unroll 1
    for (int step = TOTAL; step <= DRAW; ++step) {
        // A step may look for the token at which weights of `order` reach the target, from the logit `low` on.
        const bool is_counted = step == GUESS || step == TOP_N || step == TOP_K;
        u64 target = 0, key = 0;
        if (step == TOP_K && draws && request.top_n_sigma > 0.0)
            narrow({sigma_limit(row, largest, request.top_n_sigma), VOCAB});
        if (step == TYPICAL_P && draws && request.min_level <= 0.0f)
            narrow({scale.lowest([&](float x) { return scale.level(x) >= request.min_level; }), VOCAB});
        float low = is_counted ? -infinity() : fmaxf(kept.limit.logit, floor);

        const bool is_listed = key_of(ordered(kept.limit.logit), kept.limit.id) >= listed_from;
        if (step == TOTAL ? wants_logps : step == TOP_P ? cuts_mass && !is_listed : step == DRAW && draws) {
            if (!is_weighed) weigh(row, kept, low, typical);
            is_weighed = true;
            chunk = row.find(CHUNKS, [&](int i) { return shared.masses[i]; },
                             [&](u64 sum) { return step == DRAW ? __umul64hi(bits, sum) + 1 : 1; });
        }
        if (step == TOTAL) total = chunk.total;
        if (step == GUESS) {
            const int wanted = max(top_n, top_k > 0 ? top_k : cuts_mass ? CHUNKS / 2 : 0);
            if (wanted == 0 || wanted > CHUNKS / 2) continue;
            low = kth_maximum(shared, wanted);
            key = low > -infinity() ? (u64)ordered(low) << 32 : 0;
        } else if (step == TOP_N) {
            if (num_listed < top_n && listed_from > 0) target = top_n;
        } else if (step == TOP_K && top_k > 0) {
            if (num_listed >= top_k)
                key = shared.list.keys[top_k - 1];
            else if (listed_from > 0)
                target = top_k;
        } else if (step == TOP_P && cuts_mass) {
            if (!is_listed) target = share_of(request.top_p, chunk.total);
            const auto weight = [&](int i) {
                const Limit token = limit_at(shared.list.keys[i]);
                return kept.limit.keeps(token.logit, token.id) ? shared.list.masses[i] : 0;
            };
            const Found found = row.find(num_listed, weight, [&](u64 sum) {
                return is_listed ? share_of(request.top_p, sum) : target;
            });
            if (found.at >= 0) {
                key = shared.list.keys[found.at];
                target = 0;
            }
        } else if (step == TYPICAL_P && draws && request.typical_p < 1.0) {
            target = share_of(request.typical_p, measure_levels(row, kept, low));
        }
        if (target > 0) {
            Order order = kept;
            order.is_counted = is_counted;
            if (is_counted) order.limit = none;
            key = reach(row, order, low, target);
            num_listed = 0;
            listed_from = ~0ull;
        }
        if (step == GUESS || (step == TOP_N && target > 0)) {
            if (key) low = from_ordered(major_of(key));
            const int count = list_tokens(row, Order{scale, none, true}, low, key, ~0ull);
            if (count <= MEMBERS) {
                num_listed = count;
                listed_from = key;
            }
        } else if (step == TYPICAL_P) {
            typical = key;
            is_weighed &= !key;
        } else if (key) {
            narrow(limit_at(key));
        }
        if (step != TOP_N || rank > 0) continue;
        for (int i = threadIdx.x; i < top_n; i += THREADS) {
            const bool is_there = i < num_listed;
            const u64 key = is_there ? shared.list.keys[i] : 0;
            out[3 + i] = is_there ? id_of(key) : -1;
            out[3 + top_n + i] =
                __float_as_int(is_there ? scale.logp(from_ordered(major_of(key)), total) : -infinity());
        }
    }
    const auto finish = [&](float x, int id) {
        out[0] = id;
        out[1] = wants_logps ? __float_as_int(scale.logp(x, total)) : MISSING;
        out[2] = __float_as_int(draws ? scale.logp(x, chunk.total) : 0.0f);
    };
    if (!draws) {
        u64 first = 0;
        row.each(largest, [&](float x, int id) { first = x >= largest ? max(first, key_of(0, id)) : first; });
        first = row.max(first);
        if (rank == 0 && threadIdx.x == 0) finish(largest, id_of(first));
        return;
    }

    // The first token, by id, at which the masses exceed a random share of their sum lies in this chunk.
    if (chunk.at % CLUSTER != rank) return;
    const int own = chunk.at / CLUSTER, start = chunk.at * CHUNK;
    const auto drawn_mass = [&](float x, int id) {
        const u64 mass = kept.weight(x, id);
        return mass && (!typical || kept.key(x, id) >= typical) ? mass : 0;
    };
    const auto is_blocked = [&](int i) { return shared.blocked[(own * CHUNK + i) / 32] >> i % 32 & 1u; };
    for (int i = threadIdx.x; i < CHUNK; i += THREADS)
        shared.masses[i] = is_blocked(i) ? 0 : drawn_mass(row.logit(own, i), start + i);
    __syncthreads();
    row.each_edited([&](float x, int id) {
        if (id / CHUNK == chunk.at) shared.masses[id - start] = drawn_mass(x, id);
    });
    __syncthreads();
    const int token = row.find(CHUNK, [&](int i) { return shared.masses[i]; }, [&](u64) { return chunk.rest; }).at;
    if (threadIdx.x == 0 && !is_blocked(token)) finish(row.logit(own, token), start + token);
    row.each_edited([&](float x, int id) {
        if (id == start + token) finish(x, id);
    });
}
