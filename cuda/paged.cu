// Attention of new tokens to keys and values in the blocks of a cache, for decoding and for prefill in chunks:
//   o_i = sum_j softmax_j(t_ij) v_j,  t_ij = bound(q_i k_j scale) - slope (i - j),  bound(s) = cap tanh(s / cap)
// over the places j of the sequence with j <= i and (j > i - window or j < sinks). Places that no query sees are not
// read, nor are their entries of the block table. A query that sees nothing gets zeros.
// Reference: tempa.ops.reference.paged_attention
//
// The query heads that share a key head, times the new tokens of a sequence, are the rows of matrix products: every
// ROWS of them move the keys and values that they see once. A block does one split of the keys of such rows for one
// key head. The splits come from the host (tempa.ops.paged_cuda.plan); the block that finishes last adds them up,
// always in the same order, so that results repeat bit for bit for the same plan.
//
// Compiled for ELEMENT (bf16, fp16) of queries and results, KEPT (ELEMENT, int8, e4m3) of the cache, HEAD_DIM (a
// multiple of 16 bytes of KEPT), BLOCK_SIZE, GROUP query heads to a key head, ROW_WARPS (1, 2, 4) of the four warps
// that share out rows while the others share out keys, SLOTS tiles of keys or values that are in use or on their way,
// SOFTCAP and ALIBI 0 or 1.
#include "pack.cuh"
#include "ptx.cuh"

using int8 = signed char;

constexpr int WARPS = 4, THREADS = 32 * WARPS;
constexpr int ROWS = 16 * ROW_WARPS;
constexpr int TILE = 64;                                 // keys, or values, that are loaded together
constexpr int KEY_WARPS = WARPS / ROW_WARPS;
constexpr int SPANS = TILE / 16 / KEY_WARPS;             // of 16 keys, that a warp does of each tile
constexpr bool IS_SCALED = sizeof(KEPT) == 1;            // behind the rows of a block stands a float32 for each
constexpr int CHUNK = 16 / sizeof(KEPT);                 // elements that are moved together
constexpr int CHUNKS = (HEAD_DIM / CHUNK + 1) / 2 * 2;   // to a row, zeros at its end included
constexpr int WIDTH = CHUNKS * CHUNK;
constexpr bool IS_ONE_ENTRY = BLOCK_SIZE % 16 == 0;      // 16 keys of a tile lie in one block of the cache
constexpr int VECTOR = 4;                                // columns of a result that one thread adds up
constexpr int PART = HEAD_DIM + VECTOR;                  // floats of a row of a split: a `Share` of all columns

static_assert(HEAD_DIM % CHUNK == 0 && WARPS % ROW_WARPS == 0 && SLOTS >= 3, "not a shape of this kernel");

template <class One, class Other> constexpr bool IS_SAME = false;
template <class One> constexpr bool IS_SAME<One, One> = true;
// Weights carry the scales of the values and must not be too small for fp16, nor too large: its largest number over 127,
// times this, still is one.
constexpr float LIFT = IS_SCALED && IS_SAME<ELEMENT, fp16> ? 64.0f : 1.0f;

// One split of the keys that ROWS rows of a sequence see; -1 for none.
struct Item { int sequence, rows, split, num_splits, part; };

struct Ring {
    Pack<KEPT, CHUNK> rows[SLOTS][TILE][CHUNKS];
    float scales[SLOTS][IS_SCALED ? TILE : 1];
};

// Sums of values by weights 2^(score - largest), not yet divided by the sum of the weights.
struct Share { float largest, weight; Pack<float, VECTOR> sums; };

// What the warps found, in the place of the ring. Rows start 8 banks apart, so four rows of 8 sums fill all 32.
struct Found {
    float largest[WARPS][16], weights[WARPS][16];
    float sums[WARPS][16][WIDTH + 8];
};

// Where a chunk of a row lies. The eight rows that load_matrix reads at once must come to eight different groups of
// four banks. A row is CHUNKS groups long, which spreads them but for the powers of two in CHUNKS; this does the rest.
__device__ __forceinline__ int swizzled(int row, int chunk) {
    constexpr int SPREAD = CHUNKS % 8 == 0 ? 8 : CHUNKS % 4 == 0 ? 4 : 2;
    return chunk ^ (row * SPREAD / 8 % SPREAD);
}

// Two of the four bytes of a register, as a matrix instruction takes them.
template <int LOW, int HIGH>
__device__ __forceinline__ unsigned widened(unsigned bytes) {
    const unsigned low = bytes >> 8 * LOW & 0xffu, high = bytes >> 8 * HIGH & 0xffu;
    if constexpr (IS_SAME<KEPT, e4m3>) {
        const unsigned pair = e4m3_pair_to_fp16(low | high << 8);
        if constexpr (IS_SAME<ELEMENT, fp16>) return pair;
        float first, second;
        unpack_pair<fp16>(pair, first, second);
        return pack_pair<ELEMENT>(first, second);
    } else {
        // As a float, 2^23 + 128 + b has b + 128 for its last byte.
        return pack_pair<ELEMENT>(__uint_as_float(0x4b000000u | (low ^ 0x80u)) - 8388736.0f,
                               __uint_as_float(0x4b000000u | (high ^ 0x80u)) - 8388736.0f);
    }
}

// tanh to 2^-22, where the instruction has 2^-11: scores of some ten need more.
__device__ __forceinline__ float bounded(float x) {
    return 1.0f - __fdividef(2.0f, exp2_approximate(2.0f * LOG2_E * x) + 1.0f);
}

// Of those who read what the others load. With one warp for all rows, each reads the keys that it loads itself.
__device__ __forceinline__ void meet() {
    if constexpr (ROW_WARPS == 1)
        __syncwarp();
    else
        __syncthreads();
}

// The base of exponents under a largest score, which is -inf where nothing is seen.
__device__ __forceinline__ float base_of(float largest) { return largest == -infinity() ? 0.0f : largest; }

__device__ __forceinline__ void add(Share& to, const Share& other, float unit) {
    const float largest = fmaxf(to.largest, other.largest), base = base_of(largest);
    const float old = exp2_approximate((to.largest - base) * unit);
    const float now = exp2_approximate((other.largest - base) * unit);
    to.largest = largest;
    to.weight = to.weight * old + other.weight * now;
#pragma unroll
    for (int i = 0; i < VECTOR; ++i) to.sums.at[i] = to.sums.at[i] * old + other.sums.at[i] * now;
}

// scores += q k for the warp's keys, which are the columns of the products.
__device__ __forceinline__ void multiply_keys(float (&scores)[SPANS * 2][4], const unsigned (&query)[WIDTH / 16][4],
                                              const Ring& ring, int slot, int key_warp, int lane) {
#pragma unroll
    for (int span = 0; span < SPANS; ++span) {
        const int row = (key_warp * SPANS + span) * 16 + lane / 16 * 8 + lane % 8;
#pragma unroll
        for (int chunk = 0; chunk < CHUNKS; chunk += 2) {
            unsigned rows[4];  // eight keys by two chunks, then the eight keys below
            load_matrix(rows, &ring.rows[slot][row][swizzled(row, chunk + lane / 8 % 2)]);
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                float(&products)[4] = scores[span * 2 + i];
                if constexpr (IS_SCALED) {
#pragma unroll
                    for (int j = 0; j < 2; ++j) {
                        const unsigned columns[2] = {widened<0, 1>(rows[i * 2 + j]), widened<2, 3>(rows[i * 2 + j])};
                        mma_16x8x16<ELEMENT>(products, query[chunk + j], columns);
                    }
                } else {
                    const unsigned columns[2] = {rows[i * 2], rows[i * 2 + 1]};
                    mma_16x8x16<ELEMENT>(products, query[chunk / 2], columns);
                }
            }
        }
    }
}

// sums += w v for the warp's keys. Of values as bytes, even columns come to one product and odd ones to the next.
__device__ __forceinline__ void multiply_values(float (&sums)[WIDTH / 8][4], const float (&scores)[SPANS * 2][4],
                                                const Ring& ring, int slot, int key_warp, int lane) {
#pragma unroll
    for (int span = 0; span < SPANS; ++span) {
        const int first = (key_warp * SPANS + span) * 16, row = first + lane % 16;
        unsigned weights[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            float low = scores[span * 2 + i / 2][i % 2 * 2], high = scores[span * 2 + i / 2][i % 2 * 2 + 1];
            if constexpr (IS_SCALED) {
                const int key = first + i / 2 * 8 + lane % 4 * 2;
                low *= ring.scales[slot][key] * LIFT;
                high *= ring.scales[slot][key + 1] * LIFT;
            }
            weights[i] = pack_pair<ELEMENT>(low, high);
        }
#pragma unroll
        for (int chunk = 0; chunk < CHUNKS; chunk += 2) {
            unsigned rows[4];  // sixteen keys by a chunk, then the next chunk
            load_matrix_transposed(rows, &ring.rows[slot][row][swizzled(row, chunk + lane / 16)]);
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                if constexpr (IS_SCALED) {
                    const unsigned even[2] = {widened<0, 2>(rows[i * 2]), widened<0, 2>(rows[i * 2 + 1])};
                    const unsigned odd[2] = {widened<1, 3>(rows[i * 2]), widened<1, 3>(rows[i * 2 + 1])};
                    mma_16x8x16<ELEMENT>(sums[(chunk + i) * 2], weights, even);
                    mma_16x8x16<ELEMENT>(sums[(chunk + i) * 2 + 1], weights, odd);
                } else {
                    const unsigned columns[2] = {rows[i * 2], rows[i * 2 + 1]};
                    mma_16x8x16<ELEMENT>(sums[chunk + i], weights, columns);
                }
            }
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
paged_attention(ELEMENT* __restrict__ out, const ELEMENT* __restrict__ q, const KEPT* __restrict__ keys,
                const KEPT* __restrict__ values, const int* __restrict__ tables, const long long* __restrict__ lengths,
                const long long* __restrict__ starts, const Item* __restrict__ items, float* parts, unsigned* tickets,
                const float* __restrict__ slopes, long long key_stride, long long value_stride, int table_width,
                int num_kv_heads, int window, int sinks, float scale, float softcap) {
    Ring& ring = dynamic_shared<Ring>();
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int row_warp = warp / KEY_WARPS, key_warp = warp % KEY_WARPS;
    const int head = blockIdx.x % num_kv_heads;
    const Item item = items[blockIdx.x / num_kv_heads];
    if (item.sequence < 0) return;

    // The rows, the places they stand at, and the tiles of keys that they see.
    const long long start = starts[item.sequence];
    const int num_new = (int)(starts[item.sequence + 1] - start);
    const int num_before = (int)lengths[item.sequence] - num_new;
    const int first_row = item.rows * ROWS, num_rows = min(ROWS, num_new * GROUP - first_row);
    const int first_place = num_before + first_row / GROUP;
    const int last_place = num_before + (first_row + num_rows - 1) / GROUP;
    const int low = max(0, first_place - window + 1), end = num_rows > 0 ? last_place + 1 : 0;
    const int sink_tiles = min((sinks + TILE - 1) / TILE, low / TILE);
    const int num_tiles = max(0, sink_tiles + (end + TILE - 1) / TILE - low / TILE);
    const int first = (int)((long long)num_tiles * item.split / item.num_splits);
    const int last = (int)((long long)num_tiles * (item.split + 1) / item.num_splits);
    const auto place_of = [&](int tile) { return (tile < sink_tiles ? tile : tile - sink_tiles + low / TILE) * TILE; };

    // Tiles of keys and of values take turns in the ring. A warp loads 16 rows of each; their entries of the table are
    // looked up one tile ahead, by one lane for each row unless all are the same.
    const int* table = tables + (long long)item.sequence * table_width;
    const auto block_of = [&](int tile) {
        const int place = place_of(tile) + warp * 16 + (IS_ONE_ENTRY ? 0 : lane % 16);
        const bool is_seen = place < end && (place + (IS_ONE_ENTRY ? 16 : 1) > low || place < sinks);
        return tile < last && is_seen ? table[place / BLOCK_SIZE] : 0;
    };
    int next = first, load_slot = 0;
    bool is_values = false;
    int block = 0, block_ahead = block_of(first);
    const auto load = [&] {
        if (next < last) {
            if (!is_values) {
                block = block_ahead;
                block_ahead = block_of(next + 1);
            }
            const KEPT* pool = is_values ? values : keys;
            const long long stride = is_values ? value_stride : key_stride;
            const int place = place_of(next) + warp * 16;
#pragma unroll
            for (int i = 0; i < 16 * CHUNKS / 32; ++i) {
                const int row = (i * 32 + lane) / CHUNKS, chunk = (i * 32 + lane) % CHUNKS, at = place + row;
                const bool is_used = at < end && (at >= low || at < sinks) && chunk < HEAD_DIM / CHUNK;
                const long long entry = IS_ONE_ENTRY ? block : __shfl_sync(ALL_LANES, block, row);
                const int kept_row = head * BLOCK_SIZE + at % BLOCK_SIZE;
                copy_async<16>(&ring.rows[load_slot][warp * 16 + row][swizzled(row, chunk)],
                               pool + entry * stride + (long long)kept_row * HEAD_DIM + chunk * CHUNK, is_used);
            }
            if constexpr (IS_SCALED) {
                const int at = place + lane % 16, kept_row = head * BLOCK_SIZE + at % BLOCK_SIZE;
                const long long num_kept = (long long)num_kv_heads * BLOCK_SIZE * HEAD_DIM;
                if (lane < 16)
                    copy_async<4>(&ring.scales[load_slot][warp * 16 + lane],
                                  pool + block * stride + num_kept + kept_row * 4,
                                  at < end && (at >= low || at < sinks));
            }
            next += is_values;
            is_values = !is_values;
        }
        copy_async_commit();
        load_slot = load_slot + 1 == SLOTS ? 0 : load_slot + 1;
    };
#pragma unroll
    for (int i = 0; i < SLOTS - 1; ++i) load();

    // A lane has two rows, `lane / 4` and the eighth below. Keys as bytes come to lanes by fours: the products then sum
    // over the columns of a row in another order, of the queries too.
    int row_places[2];
    float row_slopes[2];
    unsigned query[WIDTH / 16][4];
    const float unit = (SOFTCAP ? softcap : scale) * LOG2_E;  // what scores are in the exponent of 2
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const int row = row_warp * 16 + lane / 4 + half * 8;
        const int token = (first_row + row) / GROUP, member = head * GROUP + (first_row + row) % GROUP;
        row_places[half] = num_before + token;
        row_slopes[half] = ALIBI ? slopes[member] * LOG2_E / unit : 0.0f;
        const ELEMENT* from = q + ((start + token) * num_kv_heads * GROUP + member) * HEAD_DIM;
#pragma unroll
        for (int i = 0; i < WIDTH / 8; ++i) {
            const int column = i / 2 * 16 + (IS_SCALED ? lane % 4 * 4 + i % 2 * 2 : lane % 4 * 2 + i % 2 * 8);
            Pack<ELEMENT, 2> pair = {};
            if (row < num_rows && column < HEAD_DIM) pair = load_pack<2>(from + column);
            query[i / 2][i % 2 * 2 + half] = pair.at[0].bits | (unsigned)pair.at[1].bits << 16;
        }
    }

    const bool has_rows = row_warp * 16 < num_rows;
    float largest[2] = {-infinity(), -infinity()}, weights[2] = {0, 0};
    float sums[WIDTH / 8][4] = {};
    int slot = 0;
    for (int tile = first; tile < last; ++tile) {
        float scores[SPANS * 2][4] = {};
        copy_async_wait<SLOTS - 2>();
        meet();  // the keys are there, and the slot before theirs has been read
        load();
        if (has_rows) {
            multiply_keys(scores, query, ring, slot, key_warp, lane);
            const int place = place_of(tile) + key_warp * SPANS * 16;
            const bool is_all_seen = place + SPANS * 16 <= first_place + 1
                && (place > last_place - window || place + SPANS * 16 <= sinks);
#pragma unroll
            for (int i = 0; i < SPANS * 8; ++i) {
                const int half = i % 4 / 2, key = i / 4 * 8 + lane % 4 * 2 + i % 2, at = place + key;
                float& score = scores[i / 4][i % 4];
                if (IS_SCALED) score *= ring.scales[slot][key_warp * SPANS * 16 + key];
                if (SOFTCAP) score = bounded(score * __fdividef(scale, softcap));
                if (ALIBI) score -= row_slopes[half] * (row_places[half] - at);
                if (!is_all_seen && (at > row_places[half] || (at <= row_places[half] - window && at >= sinks)))
                    score = -infinity();
            }
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                float high = largest[half];
#pragma unroll
                for (int i = 0; i < SPANS * 4; ++i) high = fmaxf(high, scores[i / 2][half * 2 + i % 2]);
                high = fmaxf(high, __shfl_xor_sync(ALL_LANES, high, 1));
                high = fmaxf(high, __shfl_xor_sync(ALL_LANES, high, 2));
                const float base = base_of(high) * unit, old = exp2_approximate(largest[half] * unit - base);
                largest[half] = high;
                weights[half] *= old;
#pragma unroll
                for (int i = 0; i < SPANS * 4; ++i) {
                    float& score = scores[i / 2][half * 2 + i % 2];
                    score = exp2_approximate(score * unit - base);
                    weights[half] += score;
                }
#pragma unroll
                for (int i = 0; i < WIDTH / 4; ++i) sums[i / 2][half * 2 + i % 2] *= old;
            }
        }
        slot = slot + 1 == SLOTS ? 0 : slot + 1;
        copy_async_wait<SLOTS - 2>();
        meet();
        load();
        if (has_rows) multiply_values(sums, scores, ring, slot, key_warp, lane);
        slot = slot + 1 == SLOTS ? 0 : slot + 1;
    }

    // What the warps have summed comes together in shared memory, and leaves it row by row.
    __syncthreads();
    Found& found = dynamic_shared<Found>();
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const int row = lane / 4 + half * 8;
        weights[half] += __shfl_xor_sync(ALL_LANES, weights[half], 1);
        weights[half] += __shfl_xor_sync(ALL_LANES, weights[half], 2);
        if (lane % 4 == 0) {
            found.largest[warp][row] = largest[half];
            found.weights[warp][row] = weights[half];
        }
#pragma unroll
        for (int i = 0; i < WIDTH / 4; ++i) {
            const int at = i / 2, column = lane % 4 * 2 + i % 2;
            found.sums[warp][row][IS_SCALED ? at / 2 * 16 + column * 2 + at % 2 : at * 8 + column] =
                sums[at][half * 2 + i % 2] / LIFT;
        }
    }
    __syncthreads();

    const auto part_of = [&](int split, int row) {
        return parts + (((long long)(item.part + split) * num_kv_heads + head) * ROWS + row) * PART;
    };
    const auto finish = [&](const Share& share, int row, int column) {
        const int token = (first_row + row) / GROUP, member = head * GROUP + (first_row + row) % GROUP;
        Pack<ELEMENT, VECTOR> result;
#pragma unroll
        for (int i = 0; i < VECTOR; ++i)
            from_float(share.weight > 0.0f ? share.sums.at[i] / share.weight : 0.0f, result.at[i]);
        store_pack<VECTOR>(out + ((start + token) * num_kv_heads * GROUP + member) * HEAD_DIM + column, result);
    };
    for (int i = threadIdx.x; i < num_rows * (HEAD_DIM / VECTOR); i += THREADS) {
        const int row = i / (HEAD_DIM / VECTOR), column = i % (HEAD_DIM / VECTOR) * VECTOR;
        Share share = {-infinity(), 0, {}};
#pragma unroll
        for (int from = 0; from < KEY_WARPS; ++from) {
            const int warp_from = row / 16 * KEY_WARPS + from;
            Share other = {found.largest[warp_from][row % 16], found.weights[warp_from][row % 16], {}};
#pragma unroll
            for (int j = 0; j < VECTOR; ++j) other.sums.at[j] = found.sums[warp_from][row % 16][column + j];
            add(share, other, unit);
        }
        if (item.num_splits == 1) {
            finish(share, row, column);
            continue;
        }
        float* part = part_of(item.split, row);
        store_pack<VECTOR>(part + VECTOR + column, share.sums);
        if (column == 0) store_pack<2>(part, Pack<float, 2>{share.largest, share.weight});
    }
    if (item.num_splits == 1) return;

    if (!is_last_block(tickets + (long long)item.part * num_kv_heads + head, item.num_splits)) return;
    for (int i = threadIdx.x; i < num_rows * (HEAD_DIM / VECTOR); i += THREADS) {
        const int row = i / (HEAD_DIM / VECTOR), column = i % (HEAD_DIM / VECTOR) * VECTOR;
        Share share = {-infinity(), 0, {}};
#pragma unroll 4
        for (int split = 0; split < item.num_splits; ++split) {
            const float* part = part_of(split, row);
            const auto of_row = load_pack<2>(part);
            add(share, {of_row.at[0], of_row.at[1], load_pack<VECTOR>(part + VECTOR + column)}, unit);
        }
        finish(share, row, column);
    }
}
