// C = A B for sm_80: cp.async in three stages, ldmatrix, mma.sync. A test of the simulator, not a fast kernel.
// A (M, K), B (K, N), both by rows; C (M, N) float32; K and N are multiples of 8. Blocks of 128 threads make 64x64.
// Compiled with ELEMENT (bf16, fp16) and BUG, one of the names below.
#include "ptx.cuh"

enum { NONE, NO_COPY_WAIT, NO_BARRIER, FILLED_TOO_SOON, OUT_OF_RANGE, PAST_THE_END, MISALIGNED, BARRIER_APART };

constexpr int TILE = 64, DEPTH = 32, STAGES = 3, THREADS = 128;
constexpr int PAD = 8;  // rows start in different banks

struct Tiles {
    ELEMENT a[STAGES][TILE][DEPTH + PAD];
    ELEMENT b[STAGES][DEPTH][TILE + PAD];
};

extern "C" __global__ void __launch_bounds__(THREADS)
gemm(float* c, const ELEMENT* a, const ELEMENT* b, int m, int n, int k) {
    Tiles& tiles = dynamic_shared<Tiles>();
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int first_row = blockIdx.y * TILE, first_column = blockIdx.x * TILE;
    const int num_steps = (k + DEPTH - 1) / DEPTH;

    const auto load = [&](int step) {
        const int stage = step % STAGES;
        for (int i = threadIdx.x; i < TILE * DEPTH / 8; i += THREADS) {
            const int row = i / (DEPTH / 8), column = i % (DEPTH / 8) * 8;
            const bool is_used = first_row + row < m && step * DEPTH + column < k;
            const long long from = (long long)(first_row + row) * k + step * DEPTH + column;
            copy_async<16>(&tiles.a[stage][row][column + (BUG == MISALIGNED)], a + (is_used ? from : 0), is_used);
        }
        for (int i = threadIdx.x; i < DEPTH * TILE / 8; i += THREADS) {
            const int row = i / (TILE / 8), column = i % (TILE / 8) * 8;
            const bool is_used = step * DEPTH + row < k && (first_column + column < n || BUG == PAST_THE_END);
            const long long from = (long long)(step * DEPTH + row) * n + first_column + column;
            copy_async<16>(&tiles.b[stage][row][column], b + (is_used ? from : 0), is_used);
        }
    };

    for (int step = 0; step < STAGES - 1; ++step) {
        if (step < num_steps) load(step);
        copy_async_commit();
    }
    float sums[TILE / 8][4] = {};
    for (int step = 0; step < num_steps; ++step) {
        if (BUG == NO_COPY_WAIT)
            copy_async_wait<STAGES - 1>();
        else
            copy_async_wait<STAGES - 2>();
        if (BUG == FILLED_TOO_SOON && step + STAGES - 1 < num_steps) load(step + STAGES - 1);
        // Everybody's copies of this step are there, and everybody has done with the step before, whose stage is next.
        if (BUG != NO_BARRIER) __syncthreads();
        if (BUG == BARRIER_APART && warp == 0) barrier_sync(1, THREADS);
        if (BUG != FILLED_TOO_SOON && step + STAGES - 1 < num_steps) load(step + STAGES - 1);
        copy_async_commit();
        const int stage = step % STAGES;
#pragma unroll
        for (int inner = 0; inner < DEPTH; inner += 16) {
            unsigned rows[4];
            load_matrix(rows, &tiles.a[stage][warp * 16 + lane % 16][inner + lane / 16 * 8]);
#pragma unroll
            for (int column = 0; column < TILE; column += 8) {
                unsigned columns[2];
                load_matrix_transposed(columns, &tiles.b[stage][inner + lane % 16][column]);
                mma_16x8x16<ELEMENT>(sums[column / 8], rows, columns);
            }
        }
    }
    if (BUG == OUT_OF_RANGE) tiles.a[threadIdx.x / 32][lane][lane + PAD + 1] = {};
#pragma unroll
    for (int i = 0; i < TILE / 8 * 4; ++i) {
        const int row = first_row + warp * 16 + lane / 4 + i % 4 / 2 * 8;
        const int column = first_column + i / 4 * 8 + lane % 4 * 2 + i % 2;
        if (row < m && column < n) c[(long long)row * n + column] = sums[i / 4][i % 4];
    }
}
