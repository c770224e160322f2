// Activation f of a feed-forward layer, gated or not, over N rows of D results:
//   forward   y = f(x), gated y = f(gate) * up              moves 2*N*D elements, gated 3*N*D
//   backward  dx = dy * f'(x), gated dgate = dy * up * f'(gate), dup = dy * f(gate)   moves 3*N*D, gated 5*N*D
// Gated, a row of x is gate then up, 2*D elements, and so is a row of dx. Reference: tempa.ops.reference.activation.
// All arithmetic is float32 and each result is rounded once. The host checks that packs are aligned and are at most
// 2^31, which fits their number into 32 bits.
//
// Compiled for ELEMENT (float, bf16, fp16), VECTOR elements a pack, ACTIVATION (silu, gelu, relu2), GATED 0 or 1,
// THREADS a block, PACKS a thread.
#include "pack.cuh"

using Elements = Pack<ELEMENT, VECTOR>;

// f(x) and its derivative; the forward drops what it does not use.
struct Point {
    float value, slope;
};

__device__ __forceinline__ Point silu(float x) {
    const float sigmoid = __fdividef(1.0f, 1.0f + __expf(-x));
    return {x * sigmoid, sigmoid * (1.0f + x * (1.0f - sigmoid))};
}

__device__ __forceinline__ Point gelu(float x) {
    constexpr float SQRT_HALF = 0.7071067811865476f, DENSITY_AT_0 = 0.3989422804014327f;
    const float below = 0.5f + 0.5f * erff(x * SQRT_HALF);
    return {x * below, below + x * DENSITY_AT_0 * __expf(-0.5f * x * x)};
}

__device__ __forceinline__ Point relu2(float x) {
    const float rectified = x < 0 ? 0 : x;  // NaN stays NaN
    return {rectified * rectified, 2 * rectified};
}

// Neighbouring threads take neighbouring packs of the result.
__device__ __forceinline__ unsigned pack_index(int pack) { return (blockIdx.x * PACKS + pack) * THREADS + threadIdx.x; }

// Where a pack of the result has its x or gate.
__device__ __forceinline__ long long input_offset(unsigned pack, unsigned packs_of_row) {
    return (pack + (GATED ? (long long)(pack / packs_of_row) * packs_of_row : 0)) * VECTOR;
}

extern "C" __global__ void __launch_bounds__(THREADS)
activation_forward(ELEMENT* __restrict__ y, const ELEMENT* __restrict__ x, unsigned num_packs, unsigned packs_of_row) {
    const long long to_up = (long long)packs_of_row * VECTOR;
    Elements gate[PACKS], up[PACKS];
#pragma unroll
    for (int i = 0; i < PACKS; ++i) {
        const unsigned pack = pack_index(i);
        if (pack < num_packs) {
            const ELEMENT* from = x + input_offset(pack, packs_of_row);
            gate[i] = load_pack_once<VECTOR>(from);
            if (GATED) up[i] = load_pack_once<VECTOR>(from + to_up);
        }
    }
#pragma unroll
    for (int i = 0; i < PACKS; ++i) {
        const unsigned pack = pack_index(i);
        if (pack < num_packs) {
            Elements out;
#pragma unroll
            for (int j = 0; j < VECTOR; ++j) {
                const float value = ACTIVATION(to_float(gate[i].at[j])).value;
                from_float(GATED ? value * to_float(up[i].at[j]) : value, out.at[j]);
            }
            store_pack<VECTOR>(y + (long long)pack * VECTOR, out);
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
activation_backward(ELEMENT* __restrict__ dx, const ELEMENT* __restrict__ dy, const ELEMENT* __restrict__ x,
                    unsigned num_packs, unsigned packs_of_row) {
    const long long to_up = (long long)packs_of_row * VECTOR;
    Elements grad[PACKS], gate[PACKS], up[PACKS];
#pragma unroll
    for (int i = 0; i < PACKS; ++i) {
        const unsigned pack = pack_index(i);
        if (pack < num_packs) {
            const ELEMENT* from = x + input_offset(pack, packs_of_row);
            grad[i] = load_pack_once<VECTOR>(dy + (long long)pack * VECTOR);
            gate[i] = load_pack_once<VECTOR>(from);
            if (GATED) up[i] = load_pack_once<VECTOR>(from + to_up);
        }
    }
#pragma unroll
    for (int i = 0; i < PACKS; ++i) {
        const unsigned pack = pack_index(i);
        if (pack < num_packs) {
            Elements to_gate, to_up_half;
#pragma unroll
            for (int j = 0; j < VECTOR; ++j) {
                const Point point = ACTIVATION(to_float(gate[i].at[j]));
                const float upstream = to_float(grad[i].at[j]);
                from_float((GATED ? upstream * to_float(up[i].at[j]) : upstream) * point.slope, to_gate.at[j]);
                if (GATED) from_float(upstream * point.value, to_up_half.at[j]);
            }
            ELEMENT* to = dx + input_offset(pack, packs_of_row);
            store_pack<VECTOR>(to, to_gate);
            if (GATED) store_pack<VECTOR>(to + to_up, to_up_half);
        }
    }
}
