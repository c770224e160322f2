// Gradient of attention by the queries on sm_90a: what attention_backward_queries.cu computes, for heads of 64 or 128
// elements, from the rows that it makes. Macros and how blocks work: attention_hopper.cuh.
// Reference: tempa.ops.reference.packed_attention by autograd.
//
// A group makes scores and slants of its 64 queries and the keys of a step, then adds the slants times the keys. While
// it does arithmetic, the matrix units work for the other group. Grid (blocks). Block (THREADS).
#include "attention_hopper.cuh"

struct alignas(1024) Shared {
    TileOf<ROWS> q, dout;
    TileOf<STEP> k[STAGES], v[STAGES];
    Mbarrier rows_full, rows_empty, full[STAGES], empty[STAGES];
};

__device__ __forceinline__ void load_tiles(Shared& shared, const TensorMap& dout, const TensorMap& q,
                                           const TensorMap& k, const TensorMap& v, const Batch& batch,
                                           int heads_of_key) {
    const bool is_issuer = is_elected();
    unsigned next = 0, num_loaded = 0;  // steps and tiles
    for_each_tile<true>(batch, [&](const Tile& tile) {
        if (tile.num_steps == 0) return;
        if (is_issuer) {
            mbarrier_wait(shared.rows_empty, num_loaded++ % 2 ^ 1);
            mbarrier_arrive_expecting(shared.rows_full, sizeof shared.q + sizeof shared.dout);
            load_rows<ROWS>(shared.q, q, shared.rows_full, tile.head, tile.first_token);
            load_rows<ROWS>(shared.dout, dout, shared.rows_full, tile.head, tile.first_token);
            const int key_head = tile.head / heads_of_key;
            for (int step = 0; step < tile.num_steps; ++step, ++next) {
                const Stage stage(next);
                const int token = tile.others.first + tile.begin + step * STEP;
                Mbarrier& full = shared.full[stage.index];
                mbarrier_wait(shared.empty[stage.index], stage.parity ^ 1);
                mbarrier_arrive_expecting(full, sizeof shared.k[0] + sizeof shared.v[0]);
                load_rows<STEP>(shared.k[stage.index], k, full, key_head, token);
                load_rows<STEP>(shared.v[stage.index], v, full, key_head, token);
            }
        }
        __syncwarp();
    });
}

__device__ __forceinline__ void multiply_tiles(Shared& shared, ELEMENT* dq, const float2* rows, const Batch& batch,
                                               const float* slopes, float scale, float softcap, int group) {
    const int first_row = group * ROWS_OF_GROUP, row = first_row + first_row_of_thread();
    unsigned next = 0, num_loaded = 0;  // steps and tiles
    for_each_tile<true>(batch, [&](const Tile& tile) {
        const Scoring scoring(scale, softcap, slopes, tile.head);
        const int place = tile.first_place + row;
        float2 of_row[2];
#pragma unroll
        for (int half = 0; half < 2; ++half)
            of_row[half] = row + half * 8 < tile.num_rows
                               ? rows[(long long)tile.head * batch.num_rows + tile.first_token + row + half * 8]
                               : float2{0.0f, 0.0f};
        Sums sums = {};
        if (tile.num_steps > 0) mbarrier_wait(shared.rows_full, num_loaded++ % 2);
#pragma unroll 1
        for (int step = 0; step < tile.num_steps; ++step, ++next) {
            const Stage stage(next);
            const int key = tile.begin + step * STEP;
            mbarrier_wait(shared.full[stage.index], stage.parity);
            if (tile.others.count - key < STEP) clear_rows(shared.k[stage.index], tile.others.count - key, group);
            Scores scores, slants;
            issue_scores(scores, shared.q, shared.k[stage.index], first_row);
            issue_scores(slants, shared.dout, shared.v[stage.index], first_row);
            wgmma_wait<0>();
            pin_registers(scores);
            pin_registers(slants);
            if constexpr (!IS_FOLDED) {
#pragma unroll
                for (int i = 0; i < STEP / 2; ++i) {
                    const int distance = key + first_column_of_thread() + column_of(i) - place - i / 2 % 2 * 8;
                    const float tanh = SOFTCAP ? scoring.tanh_of(scores[i]) : 0.0f;
                    scores[i] = scoring.score(scores[i], tanh, distance);
                    if (SOFTCAP) slants[i] = (slants[i] - of_row[i / 2 % 2].y) * (1.0f - tanh * tanh);
                }
            }
            if (is_masked(batch, tile, first_row, key))
                mask(place - key, batch.before, batch.behind, tile.others.count - key, [&](int i) {
                    scores[i] = -infinity();
                    slants[i] = 0;
                });
#pragma unroll
            for (int i = 0; i < STEP / 2; ++i) {
                const float2 known = of_row[i / 2 % 2];
                const float weight = exp2_approximate(scores[i] * scoring.unit - known.x);
                slants[i] = weight * (SOFTCAP ? slants[i] : slants[i] - known.y);
            }
            Weights packed;
            pack(packed, slants);
            issue_sums(sums, packed, shared.k[stage.index]);
            wgmma_wait<0>();
            pin_registers(sums);
            release(shared.empty[stage.index]);
        }
        if (tile.num_steps > 0) release(shared.rows_empty);
#pragma unroll
        for (int i = 0; i < HEAD_DIM / 2; ++i) sums[i] *= scale;
        const long long first_token = tile.first_token + first_row;
        store_rows(dq + (first_token * batch.num_heads + tile.head) * HEAD_DIM, batch.num_heads * HEAD_DIM,
                   tile.num_rows - first_row, HEAD_DIM, sums);
    });
}

extern "C" __global__ void __launch_bounds__(THREADS, 1)
attention_backward_queries_hopper(ELEMENT* __restrict__ dq, const float2* __restrict__ rows,
                                  const __grid_constant__ TensorMap dout, const __grid_constant__ TensorMap q,
                                  const __grid_constant__ TensorMap k, const __grid_constant__ TensorMap v,
                                  const int* __restrict__ query_bounds, const int* __restrict__ key_bounds,
                                  const float* __restrict__ slopes, int num_sequences, int num_tokens, int num_heads,
                                  int heads_of_key, float scale, float softcap, int left, int right) {
    Shared& shared = dynamic_shared<Shared>();
    if (threadIdx.x == 0) init_barriers(shared.rows_full, shared.rows_empty, shared.full, shared.empty);
    __syncthreads();
    const Batch batch = {query_bounds, key_bounds, num_sequences, num_tokens, num_heads, left, right};
    const int group = group_of_thread();
    if (group == GROUPS) {
        decrease_registers<LOADING_REGISTERS>();
        if (threadIdx.x % WARPGROUP < 32) load_tiles(shared, dout, q, k, v, batch, heads_of_key);
    } else {
        increase_registers<MULTIPLYING_REGISTERS>();
        multiply_tiles(shared, dq, rows, batch, slopes, scale, softcap, group);
    }
}
