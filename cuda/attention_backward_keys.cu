// Gradient of attention by keys and values:
//   dv = sum over queries of p dout, dk = scale * sum over queries of ds q      8 D multiply-adds a pair in view
// over the query heads that share a key head, in float32 and in one order. p, ds and `rows` are those of
// attention_backward_queries.cu. Scores, masks and macros: attention.cuh.
// Reference: tempa.ops.reference.packed_attention by autograd.
//
// A block has ROWS keys of one head and takes STEP queries at a time, the next while it works on one. Products are made
// transposed, keys by queries: so p and ds, as they are left in registers, are the left side of the next product.
// Grid (tiles, key heads, SLICES). Block (WARPS * 32).
#include "attention_tiles.cuh"

constexpr int SLICE = WIDTH / SLICES;

struct Shared {
    Row k[ROWS];
    Row v[ROWS];
    Row q[2][STEP];
    Row dout[2][STEP];
    float2 rows[2][STEP];
};

extern "C" __global__ void __launch_bounds__(THREADS)
attention_backward_keys(ELEMENT* __restrict__ dk, ELEMENT* __restrict__ dv, const float2* __restrict__ rows,
                        const ELEMENT* __restrict__ dout, const ELEMENT* __restrict__ q, const ELEMENT* __restrict__ k,
                        const ELEMENT* __restrict__ v, const int* __restrict__ query_bounds,
                        const int* __restrict__ key_bounds, const float* __restrict__ slopes, int num_sequences,
                        int num_tokens, int num_keys, int heads_of_key, int q_stride, int q_head_stride, int k_stride,
                        int k_head_stride, int v_stride, int v_head_stride, float scale, float softcap, int left,
                        int right) {
    Shared& shared = dynamic_shared<Shared>();
    const int tile = blockIdx.x, key_head = blockIdx.y, num_key_heads = gridDim.y;
    const int first_column = blockIdx.z * SLICE;
    const int sequence = sequence_of<ROWS>(tile, key_bounds, num_sequences);
    const Range keys = tokens_of(key_bounds, num_sequences, sequence, num_keys);
    const int first_key = (tile - keys.first / ROWS - sequence) * ROWS;
    if (first_key >= keys.count) return;
    // Keys that belong to no sequence have no queries.
    const Range queries = tokens_of(query_bounds, num_sequences, sequence, query_bounds[num_sequences]);
    const int num_rows = min(keys.count - first_key, ROWS);
    const int out_stride = num_key_heads * heads_of_key * HEAD_DIM;

    const long long first_token = keys.first + first_key;
    k += first_token * k_stride + (long long)key_head * k_head_stride;
    v += first_token * v_stride + (long long)key_head * v_head_stride;

    // Queries at the place of the first and of the last key, and the queries that see one of them.
    const int first_place = first_key + queries.count - keys.count, last_place = first_place + num_rows - 1;
    const int query_begin = max(first_place - right, 0);
    const int query_end = min(queries.count, last_place + left + 1);
    const int steps_of_head = max(query_end - query_begin + STEP - 1, 0) / STEP;
    const int num_steps = steps_of_head * heads_of_key;

    copy_rows<ROWS>(shared.k, k, k_stride, num_rows);
    copy_rows<ROWS>(shared.v, v, v_stride, num_rows);
    const auto copy_queries = [&](int step) {
        const int head = key_head * heads_of_key + step / steps_of_head;
        const int query = query_begin + step % steps_of_head * STEP, count = query_end - query;
        const long long token = queries.first + query;
        copy_rows<STEP>(shared.q[step % 2], q + token * q_stride + (long long)head * q_head_stride, q_stride, count);
        copy_rows<STEP>(shared.dout[step % 2], dout + token * out_stride + head * HEAD_DIM, out_stride, count);
        // Rows that are not there are zero in all three.
        const float2* from = rows + (long long)head * num_tokens + token;
        for (int row = threadIdx.x; row < STEP; row += THREADS)
            copy_async<8>(&shared.rows[step % 2][row], row < count ? from + row : from, row < count);
        copy_async_commit();
    };
    if (num_steps) copy_queries(0);

    const int first_row = threadIdx.x / 32 * ROWS_OF_WARP;
    const int place = first_place + first_row + first_row_of_lane();  // of the lane's first row
    float dk_sums[TILES][SLICE / 8][4] = {}, dv_sums[TILES][SLICE / 8][4] = {};

#pragma unroll 1
    for (int step = 0; step < num_steps; ++step) {
        // These queries are there, and all warps have done with those before, whose place is next.
        copy_async_wait<0>();
        __syncthreads();
        if (step + 1 < num_steps) copy_queries(step + 1);
        const int stage = step % 2, query = query_begin + step % steps_of_head * STEP;
        const Scoring scoring(scale, softcap, slopes, key_head * heads_of_key + step / steps_of_head);

        float weights[TILES][STEP / 8][4] = {}, slants[TILES][STEP / 8][4] = {};
        multiply_by_rows(weights, shared.k + first_row, shared.q[stage]);
        multiply_by_rows(slants, shared.v + first_row, shared.dout[stage]);

        const bool is_masked = query + STEP > min(query_end, first_place + left + 1) || query < last_place - right;
#pragma unroll
        for (int tile = 0; tile < TILES; ++tile) {
#pragma unroll
            for (int i = 0; i < STEP / 8 * 4; ++i) {
                float &score = weights[tile][i / 4][i % 4], &slant = slants[tile][i / 4][i % 4];
                const int column = first_column_of_lane() + column_of(i / 4, i);
                const int distance = query + column - place - tile * 16 - i % 4 / 2 * 8;
                const float tanh = SOFTCAP ? scoring.tanh_of(score) : 0.0f;
                score = scoring.score(score, tanh, distance);
                slant = (slant - shared.rows[stage][column].y) * (1.0f - tanh * tanh);
            }
            if (is_masked) {
                const int from = place + tile * 16 - query;
                const int last = queries.count - 1 - query;
                mask_outside(weights[tile], {clipped(from - right, min(from + left, last)),
                                             clipped(from + 8 - right, min(from + 8 + left, last))});
            }
#pragma unroll
            for (int i = 0; i < STEP / 8 * 4; ++i) {
                float &weight = weights[tile][i / 4][i % 4], &slant = slants[tile][i / 4][i % 4];
                const int column = first_column_of_lane() + column_of(i / 4, i);
                weight = exp2_approximate(weight * scoring.unit - shared.rows[stage][column].x);
                slant *= weight;
            }
        }
        multiply_weights(dv_sums, weights, shared.dout[stage], first_column);
        multiply_weights(dk_sums, slants, shared.q[stage], first_column);
    }
    // The first copies, which nobody has waited for if there was no step, must not land on the results.
    copy_async_wait<0>();
    __syncthreads();

#pragma unroll
    for (int i = 0; i < TILES * SLICE / 8 * 4; ++i) dk_sums[i / (SLICE / 2)][i / 4 % (SLICE / 8)][i % 4] *= scale;
    const int stride = num_key_heads * HEAD_DIM;
    const long long to = (first_token + first_row) * stride + key_head * HEAD_DIM;
    store_rows(dk + to, stride, num_rows - first_row, first_column, dk_sums, shared.k + first_row);
    store_rows(dv + to, stride, num_rows - first_row, first_column, dv_sums, shared.v + first_row);
}
