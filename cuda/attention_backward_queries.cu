// Gradient of attention by the queries, and what both halves of the gradient need of each row:
//   rows  (lse / ln 2, delta), delta = dout . out - dlse          moves 2 D elements and 12 bytes a row
//   dq    scale * sum over keys of ds k                           6 D multiply-adds a pair of tokens in view
// where p = e^(score - lse) and ds = p (dout . v - delta) dscore/dproduct. Scores, masks and macros: attention.cuh.
// Reference: tempa.ops.reference.packed_attention by autograd. Pairs are gone through once more for dk and dv, in
// attention_backward_keys.cu: no atomics, so results repeat bit for bit.
//
// A block has ROWS queries of one head and takes STEP keys at a time, the next while it works on one.
// Grid (tiles, heads). Block (WARPS * 32).
#include "attention_tiles.cuh"

// out and dout (tokens, heads, HEAD_DIM), lse and dlse (heads, tokens), rows (heads, tokens). A row that sees nothing
// gets 0 for its lse, which makes p 0 all the same. Each thread of a row reads 8 elements at a time; any grid.
extern "C" __global__ void __launch_bounds__(THREADS)
attention_backward_rows(float2* __restrict__ rows, const ELEMENT* __restrict__ out, const ELEMENT* __restrict__ dout,
                        const float* __restrict__ lse, const float* __restrict__ dlse, int num_tokens, int num_heads) {
    constexpr int LANES = HEAD_DIM > 128 ? 32 : HEAD_DIM > 64 ? 16 : 8;
    const long long num_rows = (long long)num_tokens * num_heads, lanes = (num_rows + 3) / 4 * 4 * LANES;
    for (long long i = (long long)blockIdx.x * THREADS + threadIdx.x; i < lanes; i += (long long)gridDim.x * THREADS) {
        const long long row = i / LANES;
        const int column = i % LANES * 8;
        float delta = 0;
        if (row < num_rows && column < HEAD_DIM) {
            const uint4 a = load_once(out + row * HEAD_DIM + column), b = load_once(dout + row * HEAD_DIM + column);
            const unsigned pairs[2][4] = {{a.x, a.y, a.z, a.w}, {b.x, b.y, b.z, b.w}};
#pragma unroll
            for (int pair = 0; pair < 4; ++pair) {
                float low[2], high[2];
                unpack_pair<ELEMENT>(pairs[0][pair], low[0], high[0]);
                unpack_pair<ELEMENT>(pairs[1][pair], low[1], high[1]);
                delta += low[0] * low[1] + high[0] * high[1];
            }
        }
#pragma unroll
        for (int offset = LANES / 2; offset > 0; offset /= 2) delta += __shfl_xor_sync(ALL_LANES, delta, offset);
        if (row < num_rows && column == 0) {
            const long long place = row % num_heads * num_tokens + row / num_heads;
            const float sum = lse[place];
            rows[place] = {sum == -infinity() ? 0.0f : sum * LOG2_E, dlse ? delta - dlse[place] : delta};
        }
    }
}

struct Shared {
    Row q[ROWS];
    Row dout[ROWS];
    Row k[2][STEP];
    Row v[2][STEP];
};

extern "C" __global__ void __launch_bounds__(THREADS)
attention_backward_queries(ELEMENT* __restrict__ dq, const float2* __restrict__ rows, const ELEMENT* __restrict__ dout,
                           const ELEMENT* __restrict__ q, const ELEMENT* __restrict__ k, const ELEMENT* __restrict__ v,
                           const int* __restrict__ query_bounds, const int* __restrict__ key_bounds,
                           const float* __restrict__ slopes, int num_sequences, int num_tokens, int heads_of_key,
                           int q_stride, int q_head_stride, int k_stride, int k_head_stride, int v_stride,
                           int v_head_stride, float scale, float softcap, int left, int right) {
    Shared& shared = dynamic_shared<Shared>();
    const int tile = gridDim.x - 1 - blockIdx.x, head = blockIdx.y, num_heads = gridDim.y;
    const int sequence = sequence_of<ROWS>(tile, query_bounds, num_sequences);
    const Range queries = tokens_of(query_bounds, num_sequences, sequence, num_tokens);
    const int first_query = (tile - queries.first / ROWS - sequence) * ROWS;
    if (first_query >= queries.count) return;
    // Queries that belong to no sequence have no keys.
    const Range keys = tokens_of(key_bounds, num_sequences, sequence, key_bounds[num_sequences]);
    const int num_rows = min(queries.count - first_query, ROWS), out_stride = num_heads * HEAD_DIM;

    const long long first_token = queries.first + first_query;
    q += first_token * q_stride + (long long)head * q_head_stride;
    dout += first_token * out_stride + head * HEAD_DIM;
    k += (long long)keys.first * k_stride + (long long)(head / heads_of_key) * k_head_stride;
    v += (long long)keys.first * v_stride + (long long)(head / heads_of_key) * v_head_stride;

    const int first_place = first_query + keys.count - queries.count, last_place = first_place + num_rows - 1;
    const int key_end = min(keys.count, last_place + right + 1);
    const int key_begin = max(first_place - left, 0);

    copy_rows<ROWS>(shared.q, q, q_stride, num_rows);
    copy_rows<ROWS>(shared.dout, dout, out_stride, num_rows);
    const auto copy_keys = [&](int key, int stage) {
        copy_rows<STEP>(shared.k[stage], k + (long long)key * k_stride, k_stride, key_end - key);
        copy_rows<STEP>(shared.v[stage], v + (long long)key * v_stride, v_stride, key_end - key);
        copy_async_commit();
    };
    if (key_begin < key_end) copy_keys(key_begin, 0);

    const int first_row = threadIdx.x / 32 * ROWS_OF_WARP;
    const int place = first_place + first_row + first_row_of_lane();  // of the lane's first row
    const Scoring scoring(scale, softcap, slopes, head);
    float2 row_of[TILES][2];
#pragma unroll
    for (int i = 0; i < TILES * 2; ++i) {
        const int row = first_row + i * 8 + first_row_of_lane();
        row_of[i / 2][i % 2] =
            row < num_rows ? rows[(long long)head * num_tokens + first_token + row] : float2{0.0f, 0.0f};
    }
    float sums[TILES][WIDTH / 8][4] = {};

    int stage = 0;
#pragma unroll 1
    for (int key = key_begin; key < key_end; key += STEP, stage ^= 1) {
        // These keys are there, and all warps have done with those before, whose place is next.
        copy_async_wait<0>();
        __syncthreads();
        if (key + STEP < key_end) copy_keys(key + STEP, stage ^ 1);

        float weights[TILES][STEP / 8][4] = {}, slants[TILES][STEP / 8][4] = {};
        multiply_by_rows(weights, shared.q + first_row, shared.k[stage]);
        multiply_by_rows(slants, shared.dout + first_row, shared.v[stage]);

        const bool is_masked =
            key + STEP > min(keys.count, first_place + right + 1) || key < last_place - left;
#pragma unroll
        for (int tile = 0; tile < TILES; ++tile) {
#pragma unroll
            for (int i = 0; i < STEP / 8 * 4; ++i) {
                float &score = weights[tile][i / 4][i % 4], &slant = slants[tile][i / 4][i % 4];
                const int distance =
                    key + first_column_of_lane() + column_of(i / 4, i) - place - tile * 16 - i % 4 / 2 * 8;
                const float tanh = SOFTCAP ? scoring.tanh_of(score) : 0.0f;
                score = scoring.score(score, tanh, distance);
                slant = (slant - row_of[tile][i % 4 / 2].y) * (1.0f - tanh * tanh);
            }
            if (is_masked) {
                const int from = place + tile * 16 - key;
                const int last = keys.count - 1 - key;
                mask_outside(weights[tile], {clipped(from - left, min(from + right, last)),
                                             clipped(from + 8 - left, min(from + 8 + right, last))});
            }
#pragma unroll
            for (int i = 0; i < STEP / 8 * 4; ++i)
                weights[tile][i / 4][i % 4] =
                    exp2_approximate(weights[tile][i / 4][i % 4] * scoring.unit - row_of[tile][i % 4 / 2].x) *
                    slants[tile][i / 4][i % 4];
        }
        multiply_weights(sums, weights, shared.k[stage], 0);
    }
    // The first copies, which nobody has waited for if there was no step, must not land on the results.
    copy_async_wait<0>();
    __syncthreads();

#pragma unroll
    for (int i = 0; i < TILES * WIDTH / 8 * 4; ++i) sums[i / (WIDTH / 2)][i / 4 % (WIDTH / 8)][i % 4] *= scale;
    dq += (first_token + first_row) * out_stride + head * HEAD_DIM;
    store_rows(dq, out_stride, num_rows - first_row, 0, sums, shared.q + first_row);
}
