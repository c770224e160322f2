// Attention over packed sequences: out = softmax(score(q k^T)) v and lse = log(sum of e^score), natural, per query and
// head. Scores, masks and macros: attention.cuh. A sink is one more score of a head, without a value.
// A query that sees no key gets 0 and the sink, or minus infinity without one.
// Reference: tempa.ops.reference.packed_attention. 4 D multiply-adds a pair of tokens in view; moves q and out once, and
// k and v once for every ROWS queries.
//
// A block has ROWS queries of one head in shared memory and takes STEP keys at a time: values come while the products
// with keys are made, the next keys while those with values are. Grid (tiles, heads): neighbouring blocks read the same
// keys, and the last queries, which see most, come first. Block (WARPS * 32).
#include "attention_tiles.cuh"

struct Shared {
    Row q[ROWS];
    Row k[STEP];
    Row v[STEP];
};

extern "C" __global__ void __launch_bounds__(THREADS, 2)
attention_forward(ELEMENT* __restrict__ out, float* __restrict__ lse, const ELEMENT* __restrict__ q,
                  const ELEMENT* __restrict__ k, const ELEMENT* __restrict__ v, const int* __restrict__ query_bounds,
                  const int* __restrict__ key_bounds, const float* __restrict__ slopes, const float* __restrict__ sinks,
                  int num_sequences, int num_tokens, int heads_of_key, int q_stride, int q_head_stride,
                  int k_stride, int k_head_stride, int v_stride, int v_head_stride, float scale,
                  float softcap, int left, int right) {
    Shared& shared = dynamic_shared<Shared>();
    const int tile = gridDim.x - 1 - blockIdx.x, head = blockIdx.y, num_heads = gridDim.y;
    const int sequence = sequence_of<ROWS>(tile, query_bounds, num_sequences);
    const Range queries = tokens_of(query_bounds, num_sequences, sequence, num_tokens);
    const int first_query = (tile - queries.first / ROWS - sequence) * ROWS;
    if (first_query >= queries.count) return;
    // Queries that belong to no sequence have no keys.
    const Range keys = tokens_of(key_bounds, num_sequences, sequence, key_bounds[num_sequences]);
    const int num_rows = min(queries.count - first_query, ROWS);

    q += (long long)(queries.first + first_query) * q_stride + (long long)head * q_head_stride;
    k += (long long)keys.first * k_stride + (long long)(head / heads_of_key) * k_head_stride;
    v += (long long)keys.first * v_stride + (long long)(head / heads_of_key) * v_head_stride;

    // Places of the first and last query among the keys, and the keys that one of the rows sees.
    const int first_place = first_query + keys.count - queries.count, last_place = first_place + num_rows - 1;
    const int key_end = min(keys.count, last_place + right + 1);
    const int key_begin = max(first_place - left, 0);

    copy_rows<ROWS>(shared.q, q, q_stride, num_rows);
    if (key_begin < key_end) copy_rows<STEP>(shared.k, k + (long long)key_begin * k_stride, k_stride, key_end - key_begin);
    copy_async_commit();

    const int first_row = threadIdx.x / 32 * ROWS_OF_WARP;
    const int place = first_place + first_row + first_row_of_lane();  // of the lane's first row
    const Scoring scoring(scale, softcap, slopes, head);
    float sums[TILES][WIDTH / 8][4] = {};
    float largest[TILES][2], total[TILES][2];  // of two rows each; the total is this lane's part
#pragma unroll
    for (int i = 0; i < TILES * 2; ++i) {
        largest[i / 2][i % 2] = -infinity();
        total[i / 2][i % 2] = 0;
    }

#pragma unroll 1
    for (int key = key_begin; key < key_end; key += STEP) {
        // The keys are there, and all warps have done with the values of the step before.
        copy_async_wait<0>();
        __syncthreads();
        copy_rows<STEP>(shared.v, v + (long long)key * v_stride, v_stride, key_end - key);
        copy_async_commit();

        float scores[TILES][STEP / 8][4] = {};
        multiply_by_rows(scores, shared.q + first_row, shared.k);

        // The values are there, and all warps have done with the keys.
        copy_async_wait<0>();
        __syncthreads();
        if (key + STEP < key_end) {
            copy_rows<STEP>(shared.k, k + (long long)(key + STEP) * k_stride, k_stride, key_end - key - STEP);
            copy_async_commit();
        }

        const bool is_masked =
            key + STEP > min(keys.count, first_place + right + 1) || key < last_place - left;
#pragma unroll
        for (int tile = 0; tile < TILES; ++tile) {
            if constexpr (!IS_FOLDED) {
#pragma unroll
                for (int i = 0; i < STEP / 8 * 4; ++i) {
                    float& score = scores[tile][i / 4][i % 4];
                    const int distance = key + first_column_of_lane() + column_of(i / 4, i) - place - tile * 16 -
                                         i % 4 / 2 * 8;
                    score = scoring.score(score, SOFTCAP ? scoring.tanh_of(score) : 0.0f, distance);
                }
            }
            if (is_masked) {
                const int from = place + tile * 16 - key;
                const int last = keys.count - 1 - key;
                mask_outside(scores[tile], {clipped(from - left, min(from + right, last)),
                                            clipped(from + 8 - left, min(from + 8 + right, last))});
            }
            bool has_grown = false;
            float shrink[2];
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                float most = largest[tile][half];
#pragma unroll
                for (int n = 0; n < STEP / 8; ++n)
                    most = fmaxf(most, fmaxf(scores[tile][n][half * 2], scores[tile][n][half * 2 + 1]));
                most = fmaxf(most, __shfl_xor_sync(ALL_LANES, most, 1));
                most = fmaxf(most, __shfl_xor_sync(ALL_LANES, most, 2));
                // A row that has seen no key yet: all its scores are minus infinity, and its weights become 0.
                const float base = most == -infinity() ? 0.0f : most * scoring.unit;
                shrink[half] = exp2_approximate(largest[tile][half] * scoring.unit - base);
                has_grown |= most != largest[tile][half];
                largest[tile][half] = most;
                float part = 0;
#pragma unroll
                for (int i = half * 2; i < STEP / 8 * 4; i += i % 2 ? 3 : 1) {
                    float& score = scores[tile][i / 4][i % 4];
                    score = exp2_approximate(score * scoring.unit - base);
                    part += score;
                }
                total[tile][half] = total[tile][half] * shrink[half] + part;
            }
            if (__any_sync(ALL_LANES, has_grown)) {
#pragma unroll
                for (int i = 0; i < WIDTH / 8 * 4; ++i) sums[tile][i / 4][i % 4] *= shrink[i % 4 / 2];
            }
        }
        multiply_weights(sums, scores, shared.v, 0);
    }
    // The first copies, which nobody has waited for if there was no step, must not land on the results.
    copy_async_wait<0>();
    __syncthreads();

#pragma unroll
    for (int i = 0; i < TILES * 2; ++i) {
        const int tile = i / 2, half = i % 2, row = first_row + tile * 16 + half * 8 + first_row_of_lane();
        const RowEnd end = end_of_row(largest[tile][half] * scoring.unit, total[tile][half], sinks, head);
#pragma unroll
        for (int n = 0; n < WIDTH / 8; ++n) {
            sums[tile][n][half * 2] *= end.inverse;
            sums[tile][n][half * 2 + 1] *= end.inverse;
        }
        if (threadIdx.x % 4 == 0 && row < num_rows)
            lse[(long long)head * num_tokens + queries.first + first_query + row] = end.lse;
    }
    out += ((long long)(queries.first + first_query + first_row) * num_heads + head) * HEAD_DIM;
    store_rows(out, num_heads * HEAD_DIM, num_rows - first_row, 0, sums, shared.q + first_row);
}
