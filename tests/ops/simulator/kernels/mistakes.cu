// Kernels that are wrong, one mistake each; the simulator has to say so.
#include "ptx.cuh"

enum Mistake {
    READ_PAST_THE_END,
    WRITE_BEFORE_THE_START,
    WRITE_NEAR_THE_END,
    NULL_POINTER,
    SHARED_PAST_THE_END,
    SHARED_TOO_SMALL,
    STATIC_SHARED_TOO_LARGE,
    INDEX,
    MISALIGNED,
    UNEVEN_BARRIERS,
    LANE_LEFT_OUT,
    LANE_MISSING,
    DIVIDE_BY_ZERO,
    ENDLESS_LOOP,
    DEEP_STACK,
    BARRIER_COUNT,
    POISON,
    WRITE_BETWEEN_ELEMENTS,
};

struct Slots {
    float first[32], second[32];
};

__device__ __attribute__((noinline)) float recurse(float* x, int depth) {
    volatile float frame[256];
    frame[depth % 256] = x[0];
    return depth ? recurse(x, depth - 1) + frame[depth % 256] : frame[0];
}

extern "C" __global__ void wrong(float* x, int size, int mistake) {
    const int thread = threadIdx.x;
    switch (mistake) {
    case READ_PAST_THE_END: x[thread] = x[size + 32]; break;
    case WRITE_BEFORE_THE_START: x[thread - 100000] = 0; break;
    case WRITE_NEAR_THE_END:
        if (thread == 0) x[size] = 0;
        break;
    case NULL_POINTER: *reinterpret_cast<float*>((long long)x[thread]) = 0; break;
    case SHARED_PAST_THE_END: reinterpret_cast<float*>(&dynamic_shared<Slots>())[2000 + thread] = 0; break;
    case SHARED_TOO_SMALL: x[thread] = dynamic_shared<float[1000]>()[thread]; break;
    case STATIC_SHARED_TOO_LARGE: x[thread] = static_shared<float[20000]>()[thread]; break;
    case INDEX: dynamic_shared<Slots>().first[thread + size] = 0; break;
    case MISALIGNED: reinterpret_cast<uint4*>(x + thread)->x = 0; break;
    case UNEVEN_BARRIERS:
        if (thread < 16)
            __syncthreads();
        else
            __syncwarp(0xffff0000u);
        if (thread < 16) __syncwarp(0x0000ffffu);
        if (thread == 3) __shfl_sync(ALL_LANES, 1, 0);
        __syncthreads();
        break;
    case LANE_LEFT_OUT: __syncwarp(0x0000ffffu); break;
    case LANE_MISSING:
        if (thread != 7) __syncwarp();
        __syncthreads();
        break;
    case DIVIDE_BY_ZERO: x[thread] = thread / (int)x[thread]; break;
    case ENDLESS_LOOP:
        while (*const_cast<volatile int*>(&size)) {}
        break;
    case DEEP_STACK: x[thread] = recurse(x, 1000 * size); break;
    case BARRIER_COUNT: barrier_sync(1, 33); break;
    case POISON: x[thread] = static_shared<Slots>().first[thread] + dynamic_shared<Slots>().second[thread]; break;
    case WRITE_BETWEEN_ELEMENTS:
        if (thread < 31) x[2 * thread + 1] = 0;
        break;
    }
}
