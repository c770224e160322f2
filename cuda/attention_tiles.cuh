// Attention by the matrices of single warps, on every architecture: tiles in shared memory and their products.
//
// Compiled with what attention.cuh names, HEAD_DIM a multiple of 8 up to 256, and with WARPS a block, TILES of 16 rows a
// warp and STEP rows of the other side at a time (a multiple of 16).
#pragma once
#include "attention.cuh"

constexpr int THREADS = WARPS * 32;
constexpr int ROWS_OF_WARP = TILES * 16;
constexpr int ROWS = WARPS * ROWS_OF_WARP;  // of a block

// dK and dV of wide heads do not fit the registers of a warp at once: blocks make a slice of their columns each.
constexpr int SLICES = HEAD_DIM > 128 ? 2 : 1;
// Products go by 16 columns; those behind HEAD_DIM are zero.
constexpr int WIDTH = (HEAD_DIM + SLICES * 16 - 1) / (SLICES * 16) * (SLICES * 16);
// A row of a tile is an odd number of 16 bytes long, so the eight rows that load_matrix reads at once start in eight
// different groups of four banks, whatever the column; and addresses differ by constants, which swizzled ones do not.
using Row = ELEMENT[WIDTH + 8];

// Starts copying rows that lie `stride` elements apart; rows from `num_rows` on become zero. A loop, as its addresses
// would take the registers of the sums.
template <int COUNT>
__device__ __forceinline__ void copy_rows(Row* to, const ELEMENT* from, int stride, int num_rows) {
    constexpr int CHUNKS = WIDTH / 8;
#pragma unroll 1
    for (int i = threadIdx.x; i < COUNT * CHUNKS; i += THREADS) {
        const int row = i / CHUNKS, column = i % CHUNKS * 8;
        const bool is_used = row < num_rows && column < HEAD_DIM;
        copy_async<16>(&to[row][column], is_used ? from + (long long)row * stride + column : from, is_used);
    }
}

// sums += a b^T for ROWS_OF_WARP rows of a and all rows of b.
template <int COUNT>
__device__ __forceinline__ void multiply_by_rows(float (&sums)[TILES][COUNT][4], const Row* a, const Row* b) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int column = 0; column < WIDTH; column += 16) {
        unsigned left[TILES][4];
#pragma unroll
        for (int tile = 0; tile < TILES; ++tile)
            load_matrix(left[tile], &a[tile * 16 + lane % 16][column + lane / 16 * 8]);
#pragma unroll
        for (int n = 0; n < COUNT; n += 2) {
            unsigned right[4];
            load_matrix(right, &b[n * 8 + lane / 16 * 8 + lane % 8][column + lane / 8 % 2 * 8]);
            const unsigned first[2] = {right[0], right[1]}, second[2] = {right[2], right[3]};
#pragma unroll
            for (int tile = 0; tile < TILES; ++tile) {
                mma_16x8x16<ELEMENT>(sums[tile][n], left[tile], first);
                mma_16x8x16<ELEMENT>(sums[tile][n + 1], left[tile], second);
            }
        }
    }
}

// sums += weights b for columns of b from `first_column` on; weights as multiply_by_rows leaves them, rounded.
template <int DEPTH, int COUNT>
__device__ __forceinline__ void multiply_weights(float (&sums)[TILES][COUNT][4],
                                                 const float (&weights)[TILES][DEPTH][4], const Row* b,
                                                 int first_column) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int k = 0; k < DEPTH; k += 2) {
        unsigned left[TILES][4];
#pragma unroll
        for (int tile = 0; tile < TILES; ++tile)
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const auto& pair = weights[tile][k + i / 2];
                left[tile][i] = pack_pair<ELEMENT>(pair[i % 2 * 2], pair[i % 2 * 2 + 1]);
            }
#pragma unroll
        for (int n = 0; n < COUNT; n += 2) {
            unsigned right[4];
            load_matrix_transposed(right, &b[k * 8 + lane % 16][first_column + n * 8 + lane / 16 * 8]);
            const unsigned first[2] = {right[0], right[1]}, second[2] = {right[2], right[3]};
#pragma unroll
            for (int tile = 0; tile < TILES; ++tile) {
                mma_16x8x16<ELEMENT>(sums[tile][n], left[tile], first);
                mma_16x8x16<ELEMENT>(sums[tile][n + 1], left[tile], second);
            }
        }
    }
}

// Writes a warp's rows to global memory by way of `through`, its own rows of a tile that it has done with.
template <int COUNT>
__device__ __forceinline__ void store_rows(ELEMENT* to, int stride, int num_rows, int first_column,
                                           const float (&sums)[TILES][COUNT][4], Row* through) {
    const int lane = threadIdx.x % 32;
    __syncwarp();
#pragma unroll
    for (int tile = 0; tile < TILES; ++tile)
#pragma unroll
        for (int n = 0; n < COUNT; ++n)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                ELEMENT* pair = &through[tile * 16 + half * 8 + first_row_of_lane()][n * 8 + first_column_of_lane()];
                *reinterpret_cast<unsigned*>(pair) =
                    pack_pair<ELEMENT>(sums[tile][n][half * 2], sums[tile][n][half * 2 + 1]);
            }
    __syncwarp();
#pragma unroll
    for (int first = 0; first < ROWS_OF_WARP * COUNT; first += 32) {
        const int i = first + lane, row = i / COUNT, column = i % COUNT * 8;
        if (row < num_rows && first_column + column < HEAD_DIM)
            *reinterpret_cast<uint4*>(to + (long long)row * stride + first_column + column) =
                *reinterpret_cast<const uint4*>(&through[row][column]);
    }
}
