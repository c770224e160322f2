// Blocks of a cluster pass what they have to the next one, whole or with one of these mistakes.
#include "ptx.cuh"

enum Bug { NONE, NO_START, NO_WAIT, NO_END, NO_SUCH_BLOCK };

struct Slots {
    float values[64];
};

extern "C" IN_CLUSTERS_OF(BLOCKS) __global__ void pass_on(float* out, const float* in) {
    Slots& slots = dynamic_shared<Slots>();
    const unsigned rank = blockIdx.x % BLOCKS, next = (rank + 1) % BLOCKS;
    if (BUG != NO_START) cluster_sync();
    shared_of(BUG == NO_SUCH_BLOCK ? BLOCKS : next, slots.values[threadIdx.x]) = in[blockIdx.x * 64 + threadIdx.x];
    if (BUG != NO_WAIT) cluster_sync();
    out[blockIdx.x * 64 + threadIdx.x] = slots.values[63 - threadIdx.x];
    if (BUG == NO_WAIT) cluster_sync();
    if (BUG == NO_END && rank == 0) {
        for (int turn = 0; turn < 1000; ++turn) __syncthreads();
        out[threadIdx.x] = shared_of(next, slots.values[threadIdx.x]);
    }
}
