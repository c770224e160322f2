// One product by a warpgroup of ptx_wgmma.cuh: C = A B with A (64, DEPTH), B (DEPTH, TILE_N), C (64, TILE_N) float32.
// Compiled with ELEMENT (bf16, fp16), TILE_N, A_MAJOR and B_MAJOR (k, mn) and SWIZZLE, the bytes of a row. An operand
// lies in global memory as in shared memory: (64, DEPTH) and (TILE_N, DEPTH) for k, (DEPTH, 64) and (DEPTH, TILE_N) for
// mn.
#include "ptx.cuh"

constexpr int ROW = SWIZZLE / 2, DEPTH = ROW, PANELS_OF_A = 64 / ROW, PANELS_OF_B = (TILE_N + ROW - 1) / ROW;

template <Major major, int num_panels>
struct alignas(1024) Operand {
    ELEMENT elements[num_panels][DEPTH][ROW];

    __device__ void load(const TensorMap& map, Mbarrier& barrier) {
        if (major == Major::k)
            load_box(elements, map, barrier, 0, 0);
        else
            for (int panel = 0; panel < num_panels; ++panel) load_box(elements[panel], map, barrier, panel * ROW, 0);
    }

    __device__ unsigned long long descriptor(int k) const {
        return major == Major::k ? k_major_descriptor<SWIZZLE>(&elements[0][0][k])
                                 : mn_major_descriptor<SWIZZLE>(elements[0][k], sizeof elements[0]);
    }
};

struct Tiles {
    Operand<Major::A_MAJOR, PANELS_OF_A> a;
    Operand<Major::B_MAJOR, PANELS_OF_B> b;
    Mbarrier barrier;
};

extern "C" __global__ void __launch_bounds__(128)
product(float* c, const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b, int num_bytes) {
    Tiles& tiles = dynamic_shared<Tiles>();
    if (threadIdx.x == 0) {
        mbarrier_init(tiles.barrier, 1);
        fence_mbarrier_init();
        mbarrier_arrive_expecting(tiles.barrier, num_bytes);
        tiles.a.load(a, tiles.barrier);
        tiles.b.load(b, tiles.barrier);
    }
    __syncthreads();
    mbarrier_wait(tiles.barrier, 0);
    float sums[TILE_N / 2];
    wgmma_fence();
    pin_registers(sums);
#pragma unroll
    for (int k = 0; k < DEPTH; k += 16)
        wgmma<ELEMENT, Major::A_MAJOR, Major::B_MAJOR>(sums, tiles.a.descriptor(k), tiles.b.descriptor(k), k > 0);
    wgmma_commit();
    wgmma_wait<0>();
    pin_registers(sums);
    const int row = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4, column = threadIdx.x % 4 * 2;
#pragma unroll
    for (int i = 0; i < TILE_N / 2; ++i) c[(row + i % 4 / 2 * 8) * TILE_N + i / 4 * 8 + column + i % 2] = sums[i];
}
