// C = A B for sm_90a: bulk loads into four stages by one warpgroup, wgmma by the other, bulk stores. A test of the
// simulator, not a fast kernel. A (M, K) and C (M, N) by rows; B (K, N) by rows or, if B_MAJOR is k, by columns (N, K).
// Boxes are TILE rows (DEPTH for B by rows) of 64 elements. Blocks of 256 threads make 64 x TILE_N.
// Compiled with ELEMENT (bf16, fp16), TILE_N, B_MAJOR (k, mn), A_IN_REGISTERS (0, 1) and BUG, one of the names below.
#include "ptx.cuh"

enum {
    NONE,
    NO_WGMMA_WAIT,
    NO_EMPTY_WAIT,
    NO_FULL_WAIT,
    NO_FENCE,
    NO_STORE_WAIT,
    WRONG_PARITY,
    TOO_FEW_BYTES,
    TOO_FEW_ARRIVALS,
    NOT_INITIALISED,
    RELEASED_TOO_SOON,
};

constexpr int TILE_M = 64, DEPTH = 64, STAGES = 4, WARPGROUP = 128, PANELS = (TILE_N + 63) / 64;

struct alignas(1024) Tiles {
    ELEMENT a[STAGES][TILE_M][DEPTH];
    ELEMENT b[STAGES][PANELS * 64 * DEPTH];
    float c[TILE_M][TILE_N];
    Mbarrier full[STAGES], empty[STAGES];
};

__device__ __forceinline__ void load_tiles(Tiles& tiles, const TensorMap& a, const TensorMap& b, int num_steps) {
    for (int step = 0; step < num_steps; ++step) {
        const int stage = step % STAGES;
        if (BUG != NO_EMPTY_WAIT) mbarrier_wait(tiles.empty[stage], (step / STAGES + 1 + (BUG == WRONG_PARITY)) % 2);
        constexpr int num_bytes = sizeof tiles.a[0] + sizeof tiles.b[0];
        mbarrier_arrive_expecting(tiles.full[stage], BUG == TOO_FEW_BYTES ? num_bytes - 16 : num_bytes);
        load_box(tiles.a[stage], a, tiles.full[stage], step * DEPTH, blockIdx.y * TILE_M);
        for (int panel = 0; panel < PANELS; ++panel) {
            const int column = blockIdx.x * TILE_N + panel * 64;
            ELEMENT* to = tiles.b[stage] + panel * 64 * DEPTH;
            if (Major::B_MAJOR == Major::k)
                load_box(to, b, tiles.full[stage], step * DEPTH, column);
            else
                load_box(to, b, tiles.full[stage], column, step * DEPTH);
        }
    }
}

// The part of A that a thread of mma_16x8x16 holds, read from where a bulk load with a swizzle of 128 bytes put it.
__device__ __forceinline__ void read_a(unsigned (&to)[4], const ELEMENT (&a)[TILE_M][DEPTH], int k) {
    const int warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
    const int row = warp * 16 + lane % 16, piece = k / 8 + lane / 16;
    load_matrix(to, &a[row][(piece ^ row % 8) * 8]);
}

extern "C" __global__ void __launch_bounds__(2 * WARPGROUP, 1)
gemm(const __grid_constant__ TensorMap c, const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b,
     int num_steps) {
    Tiles& tiles = dynamic_shared<Tiles>();
    if (threadIdx.x == 0) {
        for (int stage = 0; stage < STAGES; ++stage) {
            if (BUG != NOT_INITIALISED || stage == 0) mbarrier_init(tiles.full[stage], 1);
            mbarrier_init(tiles.empty[stage], WARPGROUP + (BUG == TOO_FEW_ARRIVALS));
        }
        fence_mbarrier_init();
    }
    __syncthreads();
    if (threadIdx.x < WARPGROUP) {
        decrease_registers<40>();
        if (threadIdx.x < 32 && is_elected()) load_tiles(tiles, a, b, num_steps);
        return;
    }
    increase_registers<232>();
    float sums[TILE_N / 2];
    for (int step = 0; step < num_steps; ++step) {
        const int stage = step % STAGES;
        if (BUG != NO_FULL_WAIT) mbarrier_wait(tiles.full[stage], step / STAGES % 2);
        unsigned rows[DEPTH / 16][4];
        if (A_IN_REGISTERS) {
#pragma unroll
            for (int k = 0; k < DEPTH; k += 16) read_a(rows[k / 16], tiles.a[stage], k);
        }
        if (BUG != NO_FENCE) wgmma_fence();
        pin_registers(sums);
#pragma unroll
        for (int k = 0; k < DEPTH; k += 16) {
            const unsigned long long columns =
                Major::B_MAJOR == Major::k ? k_major_descriptor<128>(tiles.b[stage] + k)
                                           : mn_major_descriptor<128>(tiles.b[stage] + k * 64, 64 * DEPTH * 2);
            const bool accumulates = step > 0 || k > 0;
            if (A_IN_REGISTERS)
                wgmma<ELEMENT, Major::B_MAJOR>(sums, rows[k / 16], columns, accumulates);
            else
                wgmma<ELEMENT, Major::k, Major::B_MAJOR>(sums, advanced(k_major_descriptor<128>(tiles.a[stage]), 2 * k),
                                                         columns, accumulates);
        }
        wgmma_commit();
        if (BUG == RELEASED_TOO_SOON) mbarrier_arrive(tiles.empty[stage]);
        if (BUG != NO_WGMMA_WAIT) wgmma_wait<0>();
        pin_registers(sums);
        if (BUG != RELEASED_TOO_SOON) mbarrier_arrive(tiles.empty[stage]);
    }
    if (BUG == NO_WGMMA_WAIT) wgmma_wait<0>();
    const int thread = threadIdx.x - WARPGROUP, row = thread / 32 * 16 + thread % 32 / 4, column = thread % 4 * 2;
#pragma unroll
    for (int i = 0; i < TILE_N / 2; ++i) tiles.c[row + i % 4 / 2 * 8][i / 4 * 8 + column + i % 2] = sums[i];
    fence_async_shared();
    barrier_sync(1, WARPGROUP);
    if (thread == 0) {
        store_box(c, tiles.c, blockIdx.x * TILE_N, blockIdx.y * TILE_M);
        store_box_commit();
        if (BUG != NO_STORE_WAIT) store_box_wait<0>();
    }
}
