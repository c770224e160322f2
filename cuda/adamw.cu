// AdamW (Loshchilov and Hutter, 2019) for many tensors in one launch; torch.optim.AdamW's order of operations:
//   p = p - lr * decay * p;  m = m + (1 - beta1) (g - m);  v = beta2 * v + (1 - beta2) g^2
//   p = p - lr / (1 - beta1^step) * m / (sqrt(v) / sqrt(1 - beta2^step) + eps)
// Moves p and g of ELEMENT and m and v of float32 once in, p, m and v once out: 28 bytes an element in float32, 22 in
// 16 bits. Arithmetic is float32; p is rounded once. Reference: tempa.ops.reference.adamw.
//
// A block takes one chunk of one tensor; `chunks` lists tensor and first element of each. `tensors` lists offsets in
// bytes of p, g, m and v from the four pointers, which the host leaves null to give addresses, and the number of
// elements. Packs are used where all four are aligned to 16 bytes; the last elements of a tensor go one by one.
//
// Compiled for ELEMENT (float, bf16, fp16), CHUNK elements, THREADS.
#include "pack.cuh"

constexpr int VECTOR = 16 / sizeof(ELEMENT), QUADS = VECTOR / 4;

struct Tensors {
    long long parameter, gradient, mean, square, size;
};

struct Step {
    float rate, shrink, one_minus_beta1, beta2, one_minus_beta2, inverse_root, eps;

    __device__ __forceinline__ void take(ELEMENT& parameter, ELEMENT gradient, float& mean, float& square) const {
        const float slope = to_float(gradient);
        mean += one_minus_beta1 * (slope - mean);
        square = beta2 * square + one_minus_beta2 * slope * slope;
        const float kept = to_float(parameter) * shrink;
        from_float(kept - rate * mean / (sqrtf(square) * inverse_root + eps), parameter);
    }
};

template <class T>
__device__ __forceinline__ T* moved(T* base, long long num_bytes) {
    return reinterpret_cast<T*>(reinterpret_cast<unsigned long long>(base) + num_bytes);
}

extern "C" __global__ void __launch_bounds__(THREADS)
adamw(ELEMENT* parameters, const ELEMENT* gradients, float* means, float* squares, const Tensors* __restrict__ tensors,
      const int2* __restrict__ chunks, float rate, float shrink, float one_minus_beta1, float beta2,
      float one_minus_beta2, float inverse_root, float eps) {
    const Step step{rate, shrink, one_minus_beta1, beta2, one_minus_beta2, inverse_root, eps};
    const int2 chunk = chunks[blockIdx.x];
    const Tensors of = tensors[chunk.x];
    const long long first = (long long)chunk.y * CHUNK;
    ELEMENT* p = moved(parameters, of.parameter) + first;
    const ELEMENT* g = moved(gradients, of.gradient) + first;
    float *m = moved(means, of.mean) + first, *v = moved(squares, of.square) + first;
    const int size = min((long long)CHUNK, of.size - first);
    const unsigned long long addresses = (unsigned long long)p | (unsigned long long)g | (unsigned long long)m |
                                         (unsigned long long)v;
    const int in_packs = addresses % 16 ? 0 : size / VECTOR * VECTOR;
    for (int at = threadIdx.x * VECTOR; at < in_packs; at += THREADS * VECTOR) {
        Pack<ELEMENT, VECTOR> parameter = load_pack<VECTOR>(p + at);
        const Pack<ELEMENT, VECTOR> gradient = load_pack_once<VECTOR>(g + at);
        Pack<float, 4> mean[QUADS], square[QUADS];
#pragma unroll
        for (int i = 0; i < QUADS; ++i) {
            mean[i] = load_pack<4>(m + at + i * 4);
            square[i] = load_pack<4>(v + at + i * 4);
        }
#pragma unroll
        for (int i = 0; i < VECTOR; ++i)
            step.take(parameter.at[i], gradient.at[i], mean[i / 4].at[i % 4], square[i / 4].at[i % 4]);
        store_pack<VECTOR>(p + at, parameter);
#pragma unroll
        for (int i = 0; i < QUADS; ++i) {
            store_pack<4>(m + at + i * 4, mean[i]);
            store_pack<4>(v + at + i * 4, square[i]);
        }
    }
    for (int at = in_packs + threadIdx.x; at < size; at += THREADS) step.take(p[at], g[at], m[at], v[at]);
}
