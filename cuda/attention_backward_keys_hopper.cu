// Gradient of attention by keys and values on sm_90a: what attention_backward_keys.cu computes, for heads of 64 or 128
// elements. Macros and how blocks work: attention_hopper.cuh.
// Reference: tempa.ops.reference.packed_attention by autograd.
//
// A group makes scores and slants of its 64 keys and the queries of a step, transposed, so that weights and slants are
// the left side of the next products as they are left in registers. While it does arithmetic, the matrix units work for
// the other group. The first keys, which most queries see, come first. Grid (blocks). Block (THREADS).
#include "attention_hopper.cuh"

// lse / ln 2 and delta of the queries of a step.
struct alignas(16) Known {
    float lse[STEP], delta[STEP];
};

struct alignas(1024) Shared {
    TileOf<ROWS> k, v;
    TileOf<STEP> q[STAGES], dout[STAGES];
    Known known[GROUPS][2];
    Mbarrier rows_full, rows_empty, full[STAGES], empty[STAGES];
};

__device__ __forceinline__ void load_tiles(Shared& shared, const TensorMap& dout, const TensorMap& q,
                                           const TensorMap& k, const TensorMap& v, const Batch& batch,
                                           int heads_of_key) {
    const bool is_issuer = is_elected();
    unsigned next = 0, num_loaded = 0;  // steps and tiles
    for_each_tile<false>(batch, [&](const Tile& tile) {
        if (tile.num_steps == 0) return;
        if (is_issuer) {
            mbarrier_wait(shared.rows_empty, num_loaded++ % 2 ^ 1);
            mbarrier_arrive_expecting(shared.rows_full, sizeof shared.k + sizeof shared.v);
            load_rows<ROWS>(shared.k, k, shared.rows_full, tile.head, tile.first_token);
            load_rows<ROWS>(shared.v, v, shared.rows_full, tile.head, tile.first_token);
            for (int head = tile.head * heads_of_key; head < (tile.head + 1) * heads_of_key; ++head)
                for (int step = 0; step < tile.num_steps; ++step, ++next) {
                    const Stage stage(next);
                    const int token = tile.others.first + tile.begin + step * STEP;
                    Mbarrier& full = shared.full[stage.index];
                    mbarrier_wait(shared.empty[stage.index], stage.parity ^ 1);
                    mbarrier_arrive_expecting(full, sizeof shared.q[0] + sizeof shared.dout[0]);
                    load_rows<STEP>(shared.q[stage.index], q, full, head, token);
                    load_rows<STEP>(shared.dout[stage.index], dout, full, head, token);
                }
        }
        __syncwarp();
    });
}

__device__ __forceinline__ void multiply_tiles(Shared& shared, ELEMENT* dk, ELEMENT* dv, const float2* rows,
                                               const Batch& batch, int num_tokens, int heads_of_key,
                                               const float* slopes, float scale, float softcap, int group) {
    const int first_row = group * ROWS_OF_GROUP, row = first_row + first_row_of_thread();
    const int thread = threadIdx.x % WARPGROUP;
    unsigned next = 0, num_loaded = 0;  // steps and tiles
    for_each_tile<false>(batch, [&](const Tile& tile) {
        const int place = tile.first_place + row;
        // Each group has what is known of the queries of a step, and of the next, to itself. What is not there is zero.
        const auto copy_known = [&](unsigned step, int head, int query) {
            if (thread < STEP) {
                const bool is_used = query + thread < tile.others.count;
                const float2* from = rows + (long long)head * num_tokens + tile.others.first + query;
                from += is_used ? thread : 0;
                copy_async<4>(&shared.known[group][step % 2].lse[thread], &from->x, is_used);
                copy_async<4>(&shared.known[group][step % 2].delta[thread], &from->y, is_used);
            }
            copy_async_commit();
        };
        Sums dk_sums = {}, dv_sums = {};
        int head = tile.head * heads_of_key, query = tile.begin;
        const int query_end = tile.begin + tile.num_steps * STEP;
        const int head_end = tile.num_steps > 0 ? head + heads_of_key : head;
        if (head < head_end) {
            copy_known(next, head, query);
            mbarrier_wait(shared.rows_full, num_loaded++ % 2);
        }
#pragma unroll 1
        while (head < head_end) {
            const Stage stage(next);
            const int count = tile.others.count - query;
            // What is known of these queries is there, and the group has done with the place of the next.
            copy_async_wait<0>();
            sync_group(group);
            const bool is_last = query + STEP == query_end;
            const int next_head = head + is_last, next_query = is_last ? tile.begin : query + STEP;
            if (next_head < head_end) copy_known(next + 1, next_head, next_query);
            mbarrier_wait(shared.full[stage.index], stage.parity);
            if (count < STEP) {
                clear_rows(shared.q[stage.index], count, group);
                clear_rows(shared.dout[stage.index], count, group);
            }
            Scores scores, slants;
            issue_scores(scores, shared.k, shared.q[stage.index], first_row);
            issue_scores(slants, shared.v, shared.dout[stage.index], first_row);
            wgmma_wait<0>();
            pin_registers(scores);
            pin_registers(slants);

            const Scoring scoring(scale, softcap, slopes, head);
            const float* lse = shared.known[group][next % 2].lse + first_column_of_thread();
            const float* delta = shared.known[group][next % 2].delta + first_column_of_thread();
            if constexpr (!IS_FOLDED) {
#pragma unroll
                for (int j = 0; j < STEP / 2; ++j) {
                    const int column = column_of(j);
                    const int distance = query + first_column_of_thread() + column - place - j / 2 % 2 * 8;
                    const float tanh = SOFTCAP ? scoring.tanh_of(scores[j]) : 0.0f;
                    scores[j] = scoring.score(scores[j], tanh, distance);
                    if (SOFTCAP) slants[j] = (slants[j] - delta[column]) * (1.0f - tanh * tanh);
                }
            }
            if (is_masked(batch, tile, first_row, query))
                mask(place - query, batch.before, batch.behind, count, [&](int j) {
                    scores[j] = -infinity();
                    slants[j] = 0;
                });
#pragma unroll
            for (int j = 0; j < STEP / 2; ++j)
                scores[j] = exp2_approximate(scores[j] * scoring.unit - lse[column_of(j)]);
#pragma unroll
            for (int j = 0; j < STEP / 2; ++j)
                slants[j] = scores[j] * (SOFTCAP ? slants[j] : slants[j] - delta[column_of(j)]);
            Weights packed_weights, packed_slants;
            pack(packed_weights, scores);
            pack(packed_slants, slants);
            issue_sums(dv_sums, packed_weights, shared.dout[stage.index]);
            issue_sums(dk_sums, packed_slants, shared.q[stage.index]);
            wgmma_wait<0>();
            pin_registers(dv_sums);
            pin_registers(dk_sums);
            release(shared.empty[stage.index]);
            head = next_head;
            query = next_query;
            ++next;
        }
        if (tile.num_steps > 0) release(shared.rows_empty);
#pragma unroll
        for (int i = 0; i < HEAD_DIM / 2; ++i) dk_sums[i] *= scale;
        const long long to = ((long long)(tile.first_token + first_row) * batch.num_heads + tile.head) * HEAD_DIM;
        store_rows(dk + to, batch.num_heads * HEAD_DIM, tile.num_rows - first_row, HEAD_DIM, dk_sums);
        store_rows(dv + to, batch.num_heads * HEAD_DIM, tile.num_rows - first_row, HEAD_DIM, dv_sums);
    });
}

extern "C" __global__ void __launch_bounds__(THREADS, 1)
attention_backward_keys_hopper(ELEMENT* __restrict__ dk, ELEMENT* __restrict__ dv, const float2* __restrict__ rows,
                               const __grid_constant__ TensorMap dout, const __grid_constant__ TensorMap q,
                               const __grid_constant__ TensorMap k, const __grid_constant__ TensorMap v,
                               const int* __restrict__ query_bounds, const int* __restrict__ key_bounds,
                               const float* __restrict__ slopes, int num_sequences, int num_tokens, int num_keys,
                               int num_key_heads, int heads_of_key, float scale, float softcap, int left, int right) {
    Shared& shared = dynamic_shared<Shared>();
    if (threadIdx.x == 0) init_barriers(shared.rows_full, shared.rows_empty, shared.full, shared.empty);
    __syncthreads();
    const Batch batch = {key_bounds, query_bounds, num_sequences, num_keys, num_key_heads, right, left};
    const int group = group_of_thread();
    if (group == GROUPS) {
        decrease_registers<LOADING_REGISTERS>();
        if (threadIdx.x % WARPGROUP < 32) load_tiles(shared, dout, q, k, v, batch, heads_of_key);
    } else {
        increase_registers<MULTIPLYING_REGISTERS>();
        multiply_tiles(shared, dk, dv, rows, batch, num_tokens, heads_of_key, slopes, scale, softcap, group);
    }
}
