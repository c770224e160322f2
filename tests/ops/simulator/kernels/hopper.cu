// The primitives of ptx_hopper.cuh and ptx_wgmma.cuh alone, for tests against plain Python.
#include "ptx.cuh"

constexpr int MAX_BOX_BYTES = 16384;

struct alignas(1024) Box {
    unsigned char bytes[MAX_BOX_BYTES];
    Mbarrier barrier;
};

// Loads a box of a tensor of RANK dimensions, shows how it lies in shared memory, and stores it elsewhere.
extern "C" __global__ void move_box(unsigned char* seen, const __grid_constant__ TensorMap from,
                                    const __grid_constant__ TensorMap to, int num_bytes, int x, int y, int z, int w) {
    Box& box = dynamic_shared<Box>();
    if (threadIdx.x == 0) {
        mbarrier_init(box.barrier, 1);
        fence_mbarrier_init();
        prefetch_tensor_map(from);
        mbarrier_arrive_expecting(box.barrier, num_bytes);
        if (RANK == 2) load_box(box.bytes, from, box.barrier, x, y);
        if (RANK == 3) load_box(box.bytes, from, box.barrier, x, y, z);
        if (RANK == 4) load_box(box.bytes, from, box.barrier, x, y, z, w);
    }
    __syncthreads();
    mbarrier_wait(box.barrier, 0);
    for (int i = threadIdx.x; i < num_bytes; i += blockDim.x) seen[i] = box.bytes[i];
    if (threadIdx.x == 0) {
        if (RANK == 2) store_box(to, box.bytes, x, y);
        if (RANK == 3) store_box(to, box.bytes, x, y, z);
        if (RANK == 4) store_box(to, box.bytes, x, y, z, w);
        store_box_commit();
        store_box_wait<0>();
    }
}

extern "C" __global__ void move_bytes(unsigned char* to, const unsigned char* from, int num_bytes) {
    Box& box = dynamic_shared<Box>();
    if (threadIdx.x == 0) {
        mbarrier_init(box.barrier, 1);
        fence_mbarrier_init();
        mbarrier_arrive_expecting(box.barrier, num_bytes);
        load_bytes(box.bytes, from, num_bytes, box.barrier);
    }
    __syncthreads();
    mbarrier_wait(box.barrier, 0);
    for (int i = threadIdx.x; i < num_bytes; i += blockDim.x) to[i] = box.bytes[i];
}

// Warps take turns by one barrier with an arrival of each: no warp is more than one round ahead.
extern "C" __global__ void rounds(int* results, int num_rounds) {
    struct Turn {
        Mbarrier barrier;
        int count;
    };
    Turn& turn = static_shared<Turn>();
    const int num_warps = blockDim.x / 32;
    if (threadIdx.x == 0) {
        turn.count = 0;
        mbarrier_init(turn.barrier, num_warps);
        fence_mbarrier_init();
    }
    __syncthreads();
    for (int round = 0; round < num_rounds; ++round) {
        if (is_elected()) {
            atomicAdd(&turn.count, 1);
            mbarrier_arrive(turn.barrier);
        }
        __syncwarp();
        mbarrier_wait(turn.barrier, round % 2);
        if (is_elected()) results[round * num_warps + threadIdx.x / 32] = turn.count;
        __syncwarp();
    }
}
