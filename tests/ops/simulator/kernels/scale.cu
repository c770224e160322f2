// The simplest kernels, for tests of launches and arguments.

extern "C" __global__ void scale(float* x, float factor) { x[blockIdx.x * blockDim.x + threadIdx.x] *= factor; }

extern "C" __global__ void scale_strided(float* x, int stride, float factor) {
    x[(blockIdx.x * blockDim.x + threadIdx.x) * stride] *= factor;
}
