// Attention over packed sequences on sm_90a: what attention_forward.cu computes, for heads of 64 or 128 elements.
// Reference: tempa.ops.reference.packed_attention. Scores, masks and macros: attention.cuh; besides, GROUPS of 64
// queries a block, STEP keys at a time, STAGES steps in shared memory, and BY_FMA of 16 exponentials by multiply-adds.
//
// One warpgroup loads boxes of the tensors, the others multiply. Queries, keys and values are in swizzled tiles of
// shared memory; weights stay in registers. A group issues the products with the keys of a step, then those of the
// weights of the step before with its values, and makes the weights of its step while the latter run. Groups take
// turns to issue, so that the matrix units work for one while another makes weights.
//
// On a multiprocessor, the products of a step take ROWS STEP HEAD_DIM / 1024 clocks, and its exponentials by the
// special unit ROWS STEP / 16: half of that with heads of 128, but as long with heads of 64, which therefore make some
// of them by multiply-adds. Keys and values come at 4096 / ROWS bytes a clock of products, from the second cache. STEP
// is as large as registers allow, for the fewest waits and reductions a key: scores, packed weights and sums take
// STEP / 2 + STEP / 4 + HEAD_DIM / 2 registers of a thread. Under a mask the steps at the edge are partly wasted, and
// shorter.
//
// As many blocks as multiprocessors take tiles in turn, and the loads for a tile begin during the one before. The last
// queries, which see most, come first, and every second round goes backwards, so that each block gets its share of
// long and short tiles. Blocks beside each other have the same queries of heads that may share keys. Grid (blocks).
// Block ((GROUPS + 1) * 128).
#include "attention.cuh"

constexpr int WARPGROUP = 128, ROWS_OF_GROUP = 64, ROWS = GROUPS * ROWS_OF_GROUP;
constexpr int PANEL = 64, PANELS = HEAD_DIM / PANEL;  // 128 bytes of a row, the width of a swizzle
// 65536 registers, less what a loading thread needs, shared by the threads that multiply.
constexpr int LOADING_REGISTERS = GROUPS == 2 ? 40 : 32, MULTIPLYING_REGISTERS = GROUPS == 2 ? 232 : 160;
// A sum may lag behind its row's largest score by so many powers of two before it is corrected.
constexpr float SLACK = 8;

struct alignas(1024) Shared {
    ELEMENT q[PANELS][ROWS][PANEL];
    ELEMENT k[STAGES][PANELS][STEP][PANEL];
    ELEMENT v[STAGES][PANELS][STEP][PANEL];
    Mbarrier q_full, q_empty, k_full[STAGES], k_empty[STAGES], v_full[STAGES], v_empty[STAGES];
};

struct Batch {
    const int *query_bounds, *key_bounds;
    int num_sequences, num_tokens, num_heads, num_tiles, left, right;
};

// Queries of one head, and the steps of keys that one of them sees.
struct Tile {
    int head, first_token, num_rows, first_place, key_begin, num_steps;
    Range keys;
};

// The last queries come first, those of one head after the other. Some tiles have no rows.
__device__ __forceinline__ Tile tile_of(const Batch& batch, int number) {
    Tile tile = {number % batch.num_heads};
    const int room = batch.num_tiles - 1 - number / batch.num_heads;
    const int sequence = sequence_of<ROWS>(room, batch.query_bounds, batch.num_sequences);
    const Range queries = tokens_of(batch.query_bounds, batch.num_sequences, sequence, batch.num_tokens);
    const int first_query = (room - queries.first / ROWS - sequence) * ROWS;
    tile.first_token = queries.first + first_query;
    tile.num_rows = min(queries.count - first_query, ROWS);
    // Queries that belong to no sequence have no keys.
    tile.keys = tokens_of(batch.key_bounds, batch.num_sequences, sequence, batch.key_bounds[batch.num_sequences]);
    tile.first_place = first_query + tile.keys.count - queries.count;
    tile.key_begin = max(tile.first_place - batch.left, 0);
    const int key_end = min(tile.keys.count, tile.first_place + tile.num_rows + batch.right);
    tile.num_steps = max(key_end - tile.key_begin + STEP - 1, 0) / STEP;
    return tile;
}

// Calls `work` for the tiles of a block that have rows.
template <class Work>
__device__ __forceinline__ void for_each_tile(const Batch& batch, const Work& work) {
    const int num_blocks = gridDim.x, block = blockIdx.x;
    for (int round = 0; round * num_blocks < batch.num_tiles * batch.num_heads; ++round) {
        const int number = round * num_blocks + (round % 2 ? num_blocks - 1 - block : block);
        if (number >= batch.num_tiles * batch.num_heads) continue;
        const Tile tile = tile_of(batch, number);
        if (tile.num_rows > 0) work(tile);
    }
}

// Which stage a step takes, and the parity of the phase of its barriers: steps are counted over all tiles.
struct Stage {
    int index;
    unsigned parity;

    __device__ __forceinline__ Stage(unsigned step) : index(step % STAGES), parity(step / STAGES % 2) {}
};

// Rows behind the end of a sequence come with its last ones; masks hide their scores.
template <int COUNT>
__device__ __forceinline__ void load_rows(ELEMENT (&to)[PANELS][COUNT][PANEL], const TensorMap& from, Mbarrier& full,
                                          int head, int token) {
    mbarrier_arrive_expecting(full, sizeof to);
#pragma unroll
    for (int panel = 0; panel < PANELS; ++panel) load_box(to[panel], from, full, panel * PANEL, head, token);
}

__device__ __forceinline__ void load_tiles(Shared& shared, const TensorMap& q, const TensorMap& k, const TensorMap& v,
                                           const Batch& batch, int heads_of_key) {
    prefetch_tensor_map(q);
    prefetch_tensor_map(k);
    prefetch_tensor_map(v);
    const bool is_issuer = is_elected();
    unsigned next = 0, num_loaded = 0;  // steps and tiles
    for_each_tile(batch, [&](const Tile& tile) {
        if (tile.num_steps == 0) return;
        if (is_issuer) {
            mbarrier_wait(shared.q_empty, num_loaded % 2 ^ 1);
            load_rows(shared.q, q, shared.q_full, tile.head, tile.first_token);
            // From the last keys to the first: those that need masks come while nothing else could be done.
            const int key_head = tile.head / heads_of_key;
            for (int step = tile.num_steps - 1; step >= 0; --step, ++next) {
                const Stage stage(next);
                const int token = tile.keys.first + tile.key_begin + step * STEP;
                mbarrier_wait(shared.k_empty[stage.index], stage.parity ^ 1);
                load_rows(shared.k[stage.index], k, shared.k_full[stage.index], key_head, token);
                mbarrier_wait(shared.v_empty[stage.index], stage.parity ^ 1);
                load_rows(shared.v[stage.index], v, shared.v_full[stage.index], key_head, token);
            }
            ++num_loaded;
        }
        __syncwarp();
    });
}

// 2^x for x <= 0, to 3e-6 of the value: a polynomial between -1/2 and 1/2, and the whole power added to its exponent.
// It is 1 at 0, so that -127, which stands for all below, gives 0.
__device__ __forceinline__ float exp2_by_fma(float x) {
    constexpr float ROUND = 12582912.0f;  // 1.5 * 2^23: what is added to it becomes whole, in the lowest bits
    x = fmaxf(x, -127.0f);
    const float rounded = __fadd_rn(x, ROUND);
    const float rest = __fadd_rn(x, -__fadd_rn(rounded, -ROUND));
    float power = __fmaf_rn(9.58285974e-3f, rest, 5.59064421e-2f);
    power = __fmaf_rn(power, rest, 2.40240986e-1f);
    power = __fmaf_rn(power, rest, 6.93124191e-1f);
    power = __fmaf_rn(power, rest, 1.0f);
    return __uint_as_float(__float_as_uint(power) + (__float_as_uint(rounded) << 23));
}

// What one multiplying thread has: two rows, 8 apart, of 64. Element i of scores and sums is in row i / 2 % 2 of them
// and in column i / 4 * 8 + i % 2 from the lane's first on.
using Scores = float[STEP / 2];
using Weights = unsigned[STEP / 16][4];
using Sums = float[HEAD_DIM / 2];

struct Rows {
    float largest[2], total[2];  // the total is this lane's part
};

// scores = q k^T of 64 queries and STEP keys.
__device__ __forceinline__ void issue_scores(Scores& scores, const ELEMENT (&q)[PANELS][ROWS][PANEL],
                                             const ELEMENT (&k)[PANELS][STEP][PANEL], int first_row) {
    const unsigned long long queries = k_major_descriptor<128>(&q[0][first_row][0]);
    const unsigned long long keys = k_major_descriptor<128>(&k[0][0][0]);
    pin_registers(scores);
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < HEAD_DIM; i += 16) {
        const int panel = i / PANEL, bytes = i % PANEL * 2;
        wgmma<ELEMENT, Major::k, Major::k>(scores, advanced(queries, panel * (int)sizeof q[0] + bytes),
                                           advanced(keys, panel * (int)sizeof k[0] + bytes), i > 0);
    }
    wgmma_commit();
}

// sums += weights v.
__device__ __forceinline__ void issue_sums(Sums& sums, Weights& weights, const ELEMENT (&v)[PANELS][STEP][PANEL]) {
    const unsigned long long values = mn_major_descriptor<128>(&v[0][0][0], sizeof v[0]);
    pin_registers(sums);
#pragma unroll
    for (int i = 0; i < STEP / 16; ++i) pin_registers(weights[i]);
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < STEP / 16; ++i)
        wgmma<ELEMENT, Major::mn>(sums, weights[i], advanced(values, i * 16 * PANEL * 2), true);
    wgmma_commit();
}

// Minus infinity for what a row does not see: its keys begin `from - left` behind the step's first and end behind
// `from + right`, and there are `num_keys`.
__device__ __forceinline__ void mask(Scores& scores, int from, int left, int right, int num_keys) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const Range seen = clipped(from + half * 8 - left, min(from + half * 8 + right, num_keys - 1));
        const int first = seen.first - first_column_of_lane();
#pragma unroll
        for (int i = half * 2; i < STEP / 2; i += i % 2 ? 3 : 1)
            if ((unsigned)(column_of(i / 4, i) - first) >= (unsigned)seen.count) scores[i] = -infinity();
    }
}

// Turns scores into weights. Sums of the steps before go times `shrink`, if true is returned to any lane.
__device__ __forceinline__ bool weigh(Scores& scores, Rows& rows, float unit, float (&shrink)[2]) {
    bool has_grown = false;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        // Two chains, as each step waits for the one before.
        float most = scores[half * 2], other = scores[half * 2 + 1];
#pragma unroll
        for (int i = half * 2 + 4; i < STEP / 2; i += 4) {
            most = fmaxf(most, scores[i]);
            other = fmaxf(other, scores[i + 1]);
        }
        most = fmaxf(most, other);
        most = fmaxf(most, __shfl_xor_sync(ALL_LANES, most, 1));
        most = fmaxf(most, __shfl_xor_sync(ALL_LANES, most, 2));
        // Not so while both are minus infinity: their difference is no number.
        const bool is_larger = (most - rows.largest[half]) * unit > SLACK;
        most = is_larger ? most : rows.largest[half];
        // A row that has seen no key yet: all its scores are minus infinity, and its weights become 0.
        const float base = most == -infinity() ? 0.0f : most * unit;
        shrink[half] = is_larger ? exp2_approximate(rows.largest[half] * unit - base) : 1.0f;
        rows.largest[half] = most;
        has_grown |= is_larger;
        float parts[2] = {};
#pragma unroll
        for (int i = half * 2; i < STEP / 2; i += i % 2 ? 3 : 1) {
            const float exponent = __fmaf_rn(scores[i], unit, -base);
            scores[i] = i / 4 * BY_FMA / 16 < (i / 4 + 1) * BY_FMA / 16 ? exp2_by_fma(exponent)
                                                                        : exp2_approximate(exponent);
            parts[i % 2] += scores[i];
        }
        rows.total[half] = rows.total[half] * shrink[half] + (parts[0] + parts[1]);
    }
    return has_grown;
}

__device__ __forceinline__ void pack(Weights& weights, const Scores& scores) {
#pragma unroll
    for (int i = 0; i < STEP / 4; ++i)
        weights[i / 4][i % 4] = pack_pair<ELEMENT>(scores[2 * i], scores[2 * i + 1]);
}

// Writes a group's rows, each lane 16 bytes at a time: the four lanes of a row give each other words, first the two
// neighbours, then the two pairs, until each has the 8 columns of one product.
__device__ __forceinline__ void store_rows(ELEMENT* to, int stride, int num_rows, const Sums& sums) {
    const int lane = threadIdx.x % 32, row = threadIdx.x % WARPGROUP / 32 * 16 + first_row_of_lane();
    const bool is_odd = lane % 2, is_high = lane / 2 % 2;
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
        for (int n = 0; n < HEAD_DIM / 8; n += 4) {
            unsigned words[4];
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const int first = (n + i) * 4 + half * 2;
                words[i] = pack_pair<ELEMENT>(sums[first], sums[first + 1]);
            }
#pragma unroll
            for (int i = 0; i < 4; i += 2) {
                const unsigned got = __shfl_xor_sync(ALL_LANES, is_odd ? words[i] : words[i + 1], 1);
                words[i] = is_odd ? got : words[i];
                words[i + 1] = is_odd ? words[i + 1] : got;
            }
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                const unsigned got = __shfl_xor_sync(ALL_LANES, is_high ? words[i] : words[i + 2], 2);
                words[i] = is_high ? got : words[i];
                words[i + 2] = is_high ? words[i + 2] : got;
            }
            if (row + half * 8 < num_rows)
                store_once(to + (long long)(row + half * 8) * stride + (n + lane % 4) * 8,
                           uint4{words[0], words[1], words[2], words[3]});
        }
}

// Groups take turns in a ring to issue products. Each turn is a barrier of the group that takes it, and of the one
// before, which comes there and goes on.
__device__ __forceinline__ void take_turn(int group) { barrier_sync(1 + group, 2 * WARPGROUP); }
__device__ __forceinline__ void pass_turn(int group) { barrier_arrive(1 + (group + 1) % GROUPS, 2 * WARPGROUP); }

// Each warp tells that it has done with a tile in shared memory, once its products are.
__device__ __forceinline__ void release(Mbarrier& empty) {
    if (threadIdx.x % 32 == 0) mbarrier_arrive(empty);
}

// Rows from `count` on become zero: weights of 0 do not hide infinities and NaNs that may stand behind a sequence. All
// groups write the same zeros, each before its own products.
__device__ __forceinline__ void clear_rows(ELEMENT (&v)[PANELS][STEP][PANEL], int count, int group) {
    constexpr int CHUNKS = PANEL / 8;
    const int thread = threadIdx.x % WARPGROUP;
#pragma unroll 1
    for (int i = count * CHUNKS + thread; i < STEP * CHUNKS; i += WARPGROUP)
#pragma unroll
        for (int panel = 0; panel < PANELS; ++panel)
            *reinterpret_cast<uint4*>(&v[panel][i / CHUNKS][i % CHUNKS * 8]) = uint4{};
    fence_async_shared();
    barrier_sync(1 + GROUPS + group, WARPGROUP);
}

__device__ __forceinline__ void multiply_tiles(Shared& shared, ELEMENT* out, float* lse, const Batch& batch,
                                               const float* slopes, const float* sinks, float scale, float softcap,
                                               int group) {
    const int first_row = group * ROWS_OF_GROUP;
    const int row = first_row + threadIdx.x % WARPGROUP / 32 * 16 + first_row_of_lane();
    unsigned next = 0, num_loaded = 0;  // steps and tiles
    if (group == GROUPS - 1) pass_turn(group);
    for_each_tile(batch, [&](const Tile& tile) {
        const Scoring scoring(scale, softcap, slopes, tile.head);
        const int place = tile.first_place + row;
        Sums sums = {};
        Rows rows = {{-infinity(), -infinity()}, {}};
        if (tile.num_steps > 0) {
            Scores scores;
            Weights weights;
            float shrink[2];
            const auto weigh_step = [&](int step) {
                const int key = tile.key_begin + step * STEP;
                if constexpr (!IS_FOLDED) {
#pragma unroll
                    for (int i = 0; i < STEP / 2; ++i) {
                        const int distance =
                            key + first_column_of_lane() + column_of(i / 4, i) - place - i / 2 % 2 * 8;
                        scores[i] = scoring.score(scores[i], SOFTCAP ? scoring.tanh_of(scores[i]) : 0.0f, distance);
                    }
                }
                const int first_place = tile.first_place + first_row, last_place = first_place + ROWS_OF_GROUP - 1;
                if (key + STEP > min(tile.keys.count, first_place + batch.right + 1) || key < last_place - batch.left)
                    mask(scores, place - key, batch.left, batch.right, tile.keys.count - key);
                return weigh(scores, rows, scoring.unit, shrink);
            };

            mbarrier_wait(shared.q_full, num_loaded % 2);
            const Stage first(next);
            mbarrier_wait(shared.k_full[first.index], first.parity);
            take_turn(group);
            issue_scores(scores, shared.q, shared.k[first.index], first_row);
            pass_turn(group);
            wgmma_wait<0>();
            pin_registers(scores);
            release(shared.k_empty[first.index]);
            weigh_step(tile.num_steps - 1);
            pack(weights, scores);
            const int num_keys = tile.keys.count - tile.key_begin - (tile.num_steps - 1) * STEP;
            if (num_keys < STEP) {
                mbarrier_wait(shared.v_full[first.index], first.parity);
                clear_rows(shared.v[first.index], num_keys, group);
            }

#pragma unroll 1
            for (int step = tile.num_steps - 2; step >= 0; --step) {
                const Stage before(next), stage(++next);
                mbarrier_wait(shared.k_full[stage.index], stage.parity);
                take_turn(group);
                issue_scores(scores, shared.q, shared.k[stage.index], first_row);
                mbarrier_wait(shared.v_full[before.index], before.parity);
                issue_sums(sums, weights, shared.v[before.index]);
                pass_turn(group);
                wgmma_wait<1>();
                pin_registers(scores);
                release(shared.k_empty[stage.index]);
                const bool has_grown = weigh_step(step);
                wgmma_wait<0>(rows.total[0] + rows.total[1]);
                pin_registers(sums);
                release(shared.v_empty[before.index]);
                pack(weights, scores);
                if (__any_sync(ALL_LANES, has_grown)) {
#pragma unroll
                    for (int i = 0; i < HEAD_DIM / 2; ++i) sums[i] *= shrink[i / 2 % 2];
                }
            }
            release(shared.q_empty);
            ++num_loaded;
            const Stage last(next++);
            mbarrier_wait(shared.v_full[last.index], last.parity);
            issue_sums(sums, weights, shared.v[last.index]);
            wgmma_wait<0>();
            pin_registers(sums);
            release(shared.v_empty[last.index]);
        }
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const RowEnd end = end_of_row(rows.largest[half] * scoring.unit, rows.total[half], sinks, tile.head);
#pragma unroll
            for (int i = half * 2; i < HEAD_DIM / 2; i += i % 2 ? 3 : 1) sums[i] *= end.inverse;
            if (threadIdx.x % 4 == 0 && row + half * 8 < tile.num_rows)
                lse[(long long)tile.head * batch.num_tokens + tile.first_token + row + half * 8] = end.lse;
        }
        const long long first_token = tile.first_token + first_row;
        store_rows(out + (first_token * batch.num_heads + tile.head) * HEAD_DIM, batch.num_heads * HEAD_DIM,
                   tile.num_rows - first_row, sums);
    });
    if (group == 0) take_turn(group);
}

extern "C" __global__ void __launch_bounds__((GROUPS + 1) * WARPGROUP, 1)
attention_forward_hopper(ELEMENT* __restrict__ out, float* __restrict__ lse, const __grid_constant__ TensorMap q,
                         const __grid_constant__ TensorMap k, const __grid_constant__ TensorMap v,
                         const int* __restrict__ query_bounds, const int* __restrict__ key_bounds,
                         const float* __restrict__ slopes, const float* __restrict__ sinks, int num_sequences,
                         int num_tokens, int num_heads, int heads_of_key, float scale, float softcap, int left,
                         int right) {
    Shared& shared = dynamic_shared<Shared>();
    if (threadIdx.x == 0) {
        mbarrier_init(shared.q_full, 1);
        mbarrier_init(shared.q_empty, GROUPS * 4);
        for (int stage = 0; stage < STAGES; ++stage) {
            mbarrier_init(shared.k_full[stage], 1);
            mbarrier_init(shared.v_full[stage], 1);
            mbarrier_init(shared.k_empty[stage], GROUPS * 4);
            mbarrier_init(shared.v_empty[stage], GROUPS * 4);
        }
        fence_mbarrier_init();
    }
    __syncthreads();
    const int num_tiles = num_tokens / ROWS + num_sequences + 1;
    const Batch batch = {query_bounds, key_bounds, num_sequences, num_tokens, num_heads, num_tiles, left, right};
    // The same in all lanes, as the compiler then knows.
    const int group = __shfl_sync(ALL_LANES, threadIdx.x / WARPGROUP, 0);
    if (group == GROUPS) {
        decrease_registers<LOADING_REGISTERS>();
        if (threadIdx.x % WARPGROUP < 32) load_tiles(shared, q, k, v, batch, heads_of_key);
    } else {
        increase_registers<MULTIPLYING_REGISTERS>();
        multiply_tiles(shared, out, lse, batch, slopes, sinks, scale, softcap, group);
    }
}
