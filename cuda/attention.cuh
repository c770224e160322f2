// What all attention kernels share: the sequences of a batch, who sees whom, scores and their masks.
//
// Compiled with ELEMENT (bf16, fp16), HEAD_DIM, SOFTCAP and ALIBI 0 or 1.
//
// Token t of a sequence with n queries and m keys stands at place t + m - n among the keys, so that the last query and
// the last key meet. It sees the keys from `left` places before to `right` places behind its own.
#pragma once
#include "ptx.cuh"

struct Range {
    int first, count;
};

// The tokens of a sequence; those behind the last one belong to none and end at `end`.
__device__ __forceinline__ Range tokens_of(const int* bounds, int num_sequences, int sequence, int end) {
    const int first = bounds[sequence];
    return {first, (sequence < num_sequences ? bounds[sequence + 1] : end) - first};
}

// Sequence i has its tiles of so many rows from floor(bounds[i] / rows) + i on. That is room enough for all tiles of the
// sequences before, whatever their lengths, so num_tokens / rows + num_sequences + 1 tiles do, and none needs more than
// the bounds. Some have no rows. Finds the sequence of a tile: each lane asks for one of up to 32 places at a time.
template <int rows>
__device__ __forceinline__ int sequence_of(int tile, const int* bounds, int num_sequences) {
    int first = 0, end = num_sequences + 1;
    while (end - first > 1) {
        const int stride = (end - first + 31) / 32;
        const int place = first + (int)(threadIdx.x % 32) * stride;
        const bool is_begun = place < end && bounds[place] / rows + place <= tile;
        first += (__popc(__ballot_sync(ALL_LANES, is_begun)) - 1) * stride;
        end = min(first + stride, end);
    }
    return first;
}

// Without soft-cap and ALiBi a score is the product itself, and its scale part of the exponent.
constexpr bool IS_FOLDED = !SOFTCAP && !ALIBI;

// From products of queries and keys to exponents of two: score * unit, where
// score = softcap * tanh(product * scale / softcap) - slope * |distance|.
struct Scoring {
    float unit, turn, cap, slope;

    __device__ __forceinline__ Scoring(float scale, float softcap, const float* slopes, int head)
        : unit(IS_FOLDED ? scale * LOG2_E : 1.0f),
          turn(SOFTCAP ? 2 * LOG2_E * scale / softcap : scale * LOG2_E),
          cap(softcap * LOG2_E),
          slope(ALIBI ? slopes[head] * LOG2_E : 0.0f) {}

    // 1 - 2 / (e^2x + 1) is right to 1e-7 of the cap; the instruction for tanh only to 5e-4.
    __device__ __forceinline__ float tanh_of(float product) const {
        return 1.0f - __fdividef(2.0f, exp2_approximate(product * turn) + 1.0f);
    }

    // Without soft-cap `tanh` is not used.
    __device__ __forceinline__ float score(float product, float tanh, int distance) const {
        if (IS_FOLDED) return product;
        const float score = SOFTCAP ? cap * tanh : product * turn;
        return ALIBI ? score - slope * fabsf((float)distance) : score;
    }
};

// Column of element i of tile n of a product, seen from this lane's first column.
__device__ __forceinline__ constexpr int column_of(int n, int i) { return n * 8 + i % 2; }
__device__ __forceinline__ int first_column_of_lane() { return threadIdx.x % 4 * 2; }
__device__ __forceinline__ int first_row_of_lane() { return threadIdx.x % 32 / 4; }

// Minus infinity for what is not in columns first..last; each lane has two rows.
template <int COUNT>
__device__ __forceinline__ void mask_outside(float (&scores)[COUNT][4], const Range (&seen)[2]) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const int first = seen[half].first - first_column_of_lane();
#pragma unroll
        for (int n = 0; n < COUNT; ++n)
#pragma unroll
            for (int i = half * 2; i < half * 2 + 2; ++i)
                if ((unsigned)(column_of(n, i) - first) >= (unsigned)seen[half].count) scores[n][i] = -infinity();
    }
}

// The part of first..last, both included, that is not below 0.
__device__ __forceinline__ Range clipped(int first, int last) {
    first = max(first, 0);
    return {first, max(last - first + 1, 0)};
}

// What becomes of a row when all its keys were seen: its weighted values go times `inverse`.
struct RowEnd {
    float inverse, lse;
};

// Weights were made as powers of two of exponents less `base`, which is minus infinity if there were none; each of the
// four lanes of a row has its part of their sum.
__device__ __forceinline__ RowEnd end_of_row(float base, float sum, const float* sinks, int head) {
    sum += __shfl_xor_sync(ALL_LANES, sum, 1);
    sum += __shfl_xor_sync(ALL_LANES, sum, 2);
    float shrink = 1;
    if (sinks) {
        const float sink = sinks[head] * LOG2_E, most = fmaxf(base, sink);
        // Of two that are minus infinity, their difference is no number.
        shrink = base == -infinity() ? 0.0f : exp2_approximate(base - most);
        sum = sum * shrink + (sink == -infinity() ? 0.0f : exp2_approximate(sink - most));
        base = most;
    }
    if (sum == 0) return {0.0f, -infinity()};
    return {shrink / sum, (base + log2_approximate(sum)) * LN_2};
}
