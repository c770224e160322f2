// Conversions of ptx.cuh alone, for tests against torch. Compiled with ELEMENT: bf16, fp16, e4m3.
#include "ptx.cuh"

extern "C" __global__ void widen(float* wide, const ELEMENT* narrow, int count) {
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += gridDim.x * blockDim.x)
        wide[i] = to_float(narrow[i]);
}

extern "C" __global__ void narrow(ELEMENT* narrow, const float* wide, int count) {
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += gridDim.x * blockDim.x)
        from_float(wide[i], narrow[i]);
}

extern "C" __global__ void widen_e4m3_pairs(unsigned* halves, const unsigned short* narrow) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < 128) halves[i] = e4m3_pair_to_fp16(narrow[i]);
}
