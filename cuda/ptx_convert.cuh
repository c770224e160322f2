// Elements to and from float32, and the fast functions of the special unit. PTX back end of ptx.cuh.
#pragma once

__device__ __forceinline__ float to_float(float value) { return value; }

__device__ __forceinline__ float to_float(bf16 value) { return __uint_as_float((unsigned)value.bits << 16); }

__device__ __forceinline__ float to_float(fp16 value) {
    float wide;
    asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(value.bits));
    return wide;
}

// Round to nearest, ties to even; NaN stays NaN and what is too large becomes infinity.
__device__ __forceinline__ void from_float(float value, float& to) { to = value; }

__device__ __forceinline__ void from_float(float value, bf16& to) {
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(to.bits) : "f"(value));
}

__device__ __forceinline__ void from_float(float value, fp16& to) {
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(to.bits) : "f"(value));
}

// Two elements in one register, the lower address in the lower half, as matrix instructions take them.
template <class Element>
__device__ __forceinline__ unsigned pack_pair(float low, float high);

template <>
__device__ __forceinline__ unsigned pack_pair<bf16>(float low, float high) {
    unsigned pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

template <>
__device__ __forceinline__ unsigned pack_pair<fp16>(float low, float high) {
    unsigned pair;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

template <class Element>
__device__ __forceinline__ void unpack_pair(unsigned pair, float& low, float& high) {
    low = to_float(Element{(unsigned short)pair});
    high = to_float(Element{(unsigned short)(pair >> 16)});
}

// Two e4m3 as two fp16, which hold each of them exactly.
__device__ __forceinline__ unsigned e4m3_pair_to_fp16(unsigned short pair) {
#if __CUDA_ARCH__ >= 890
    unsigned wide;
    asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(wide) : "h"(pair));
    return wide;
#else
    return pack_pair<fp16>(e4m3_to_float_by_bits(pair & 0xffu), e4m3_to_float_by_bits(pair >> 8));
#endif
}

__device__ __forceinline__ float to_float(e4m3 value) {
    return to_float(fp16{(unsigned short)e4m3_pair_to_fp16(value.bits)});
}

// Round to nearest, ties to even; NaN stays NaN and what exceeds 448 becomes 448.
__device__ __forceinline__ void from_float(float value, e4m3& to) {
#if __CUDA_ARCH__ >= 890
    unsigned short pair;
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(0.0f), "f"(value));
    to.bits = (unsigned char)pair;
#else
    to.bits = (unsigned char)float_to_e4m3_by_bits(value);
#endif
}

// 2^x, log2(x) and tanh(x) to about 2^-22, 2^-22 and 2^-11 of the value, without care for denormal numbers.
__device__ __forceinline__ float exp2_approximate(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

__device__ __forceinline__ float log2_approximate(float x) {
    float y;
    asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

__device__ __forceinline__ float tanh_approximate(float x) {
    float y;
    asm("tanh.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
