// Element types as they lie in memory and their conversion to float32, in which all arithmetic is done.
// PTX instead of CUDA's headers: NVRTC alone compiles every kernel. All assembly for elements is in this file.
#pragma once

struct bf16 { unsigned short bits; };
struct fp16 { unsigned short bits; };

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
