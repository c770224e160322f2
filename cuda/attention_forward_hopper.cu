// Attention over packed sequences on sm_90a: what attention_forward.cu computes, for heads of 64 or 128 elements.
// Reference: tempa.ops.reference.packed_attention. Macros and how blocks work: attention_hopper.cuh; besides, BY_FMA of
// 16 exponentials are made by multiply-adds.
//
// A group issues the products with the keys of a step, then those of the weights of the step before with its values,
// and makes the weights of its step while the latter run. Groups take turns to issue, so that the matrix units work for
// one while another makes weights.
//
// On a multiprocessor, the products of a step take ROWS STEP HEAD_DIM / 1024 clocks, and its exponentials by the
// special unit ROWS STEP / 16: half of that with heads of 128, but as long with heads of 64, which therefore make some
// of them by multiply-adds. Keys and values come at 4096 / ROWS bytes a clock of products, from the second cache. STEP
// is as large as registers allow, for the fewest waits and reductions a key: scores, packed weights and sums take
// STEP / 2 + STEP / 4 + HEAD_DIM / 2 registers of a thread. Under a mask the steps at the edge are partly wasted, and
// shorter. The last queries, which see most, come first. Grid (blocks). Block (THREADS).
#include "attention_hopper.cuh"

// A sum may lag behind its row's largest score by so many powers of two before it is corrected.
constexpr float SLACK = 8;

struct alignas(1024) Shared {
    TileOf<ROWS> q;
    TileOf<STEP> k[STAGES], v[STAGES];
    Mbarrier q_full, q_empty, k_full[STAGES], k_empty[STAGES], v_full[STAGES], v_empty[STAGES];
};

__device__ __forceinline__ void load_tiles(Shared& shared, const TensorMap& q, const TensorMap& k, const TensorMap& v,
                                           const Batch& batch, int heads_of_key) {
    prefetch_tensor_map(q);
    prefetch_tensor_map(k);
    prefetch_tensor_map(v);
    const bool is_issuer = is_elected();
    unsigned next = 0, num_loaded = 0;  // steps and tiles
    for_each_tile<true>(batch, [&](const Tile& tile) {
        if (tile.num_steps == 0) return;
        if (is_issuer) {
            mbarrier_wait(shared.q_empty, num_loaded % 2 ^ 1);
            mbarrier_arrive_expecting(shared.q_full, sizeof shared.q);
            load_rows<ROWS>(shared.q, q, shared.q_full, tile.head, tile.first_token);
            // From the last keys to the first: those that need masks come while nothing else could be done.
            const int key_head = tile.head / heads_of_key;
            for (int step = tile.num_steps - 1; step >= 0; --step, ++next) {
                const Stage stage(next);
                const int token = tile.others.first + tile.begin + step * STEP;
                mbarrier_wait(shared.k_empty[stage.index], stage.parity ^ 1);
                mbarrier_arrive_expecting(shared.k_full[stage.index], sizeof shared.k[0]);
                load_rows<STEP>(shared.k[stage.index], k, shared.k_full[stage.index], key_head, token);
                mbarrier_wait(shared.v_empty[stage.index], stage.parity ^ 1);
                mbarrier_arrive_expecting(shared.v_full[stage.index], sizeof shared.v[0]);
                load_rows<STEP>(shared.v[stage.index], v, shared.v_full[stage.index], key_head, token);
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

struct Rows {
    float largest[2], total[2];  // the total is this lane's part
};

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

// Groups take turns in a ring to issue products. Each turn is a barrier of the group that takes it, and of the one
// before, which comes there and goes on.
__device__ __forceinline__ void take_turn(int group) { barrier_sync(1 + group, 2 * WARPGROUP); }
__device__ __forceinline__ void pass_turn(int group) { barrier_arrive(1 + (group + 1) % GROUPS, 2 * WARPGROUP); }

__device__ __forceinline__ void multiply_tiles(Shared& shared, ELEMENT* out, float* lse, const Batch& batch,
                                               const float* slopes, const float* sinks, float scale, float softcap,
                                               int group) {
    const int first_row = group * ROWS_OF_GROUP;
    const int row = first_row + first_row_of_thread();
    unsigned next = 0, num_loaded = 0;  // steps and tiles
    if (group == GROUPS - 1) pass_turn(group);
    for_each_tile<true>(batch, [&](const Tile& tile) {
        const Scoring scoring(scale, softcap, slopes, tile.head);
        const int place = tile.first_place + row;
        Sums sums = {};
        Rows rows = {{-infinity(), -infinity()}, {}};
        if (tile.num_steps > 0) {
            Scores scores;
            Weights weights;
            float shrink[2];
            const auto weigh_step = [&](int step) {
                const int key = tile.begin + step * STEP;
                if constexpr (!IS_FOLDED) {
#pragma unroll
                    for (int i = 0; i < STEP / 2; ++i) {
                        const int distance = key + first_column_of_thread() + column_of(i) - place - i / 2 % 2 * 8;
                        scores[i] = scoring.score(scores[i], SOFTCAP ? scoring.tanh_of(scores[i]) : 0.0f, distance);
                    }
                }
                if (is_masked(batch, tile, first_row, key))
                    mask(place - key, batch.before, batch.behind, tile.others.count - key,
                         [&](int i) { scores[i] = -infinity(); });
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
            const int num_keys = tile.others.count - tile.begin - (tile.num_steps - 1) * STEP;
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
                lse[(long long)tile.head * batch.num_rows + tile.first_token + row + half * 8] = end.lse;
        }
        const long long first_token = tile.first_token + first_row;
        store_rows(out + (first_token * batch.num_heads + tile.head) * HEAD_DIM, batch.num_heads * HEAD_DIM,
                   tile.num_rows - first_row, HEAD_DIM, sums);
    });
    if (group == 0) take_turn(group);
}

extern "C" __global__ void __launch_bounds__(THREADS, 1)
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
    const Batch batch = {query_bounds, key_bounds, num_sequences, num_tokens, num_heads, left, right};
    const int group = group_of_thread();
    if (group == GROUPS) {
        decrease_registers<LOADING_REGISTERS>();
        if (threadIdx.x % WARPGROUP < 32) load_tiles(shared, q, k, v, batch, heads_of_key);
    } else {
        increase_registers<MULTIPLYING_REGISTERS>();
        multiply_tiles(shared, out, lse, batch, slopes, sinks, scale, softcap, group);
    }
}
