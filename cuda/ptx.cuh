// What kernels do beyond plain CUDA: all inline PTX of this folder stands behind this header.
//
// It has two back ends with the same functions: PTX, and the simulator of tests/ops/simulator, in which g++ runs the
// same kernels on the CPU. What CUDA itself has without a header (shuffles, votes, atomics, __syncthreads, __ldcs,
// exp2f) is used under CUDA's name. cuda/README.md says how a kernel is written and tested with it.
#pragma once
#ifndef __CUDA_ARCH__
#include "cuda.hpp"
#endif

// Elements as they lie in memory; all arithmetic is done in float32.
struct bf16 { unsigned short bits; };
struct fp16 { unsigned short bits; };
struct e4m3 { unsigned char bits; };  // 8-bit float without infinities, up to 448

// A barrier in shared memory, and a tensor in global memory as bulk copies see it (cuTensorMapEncodeTiled writes it;
// kernels take it as `const __grid_constant__ TensorMap`). From sm_90 on.
struct Mbarrier { unsigned long long state; };
struct alignas(64) TensorMap { unsigned long long state[16]; };

// Comes before __global__: so many neighbouring blocks, 1 to 8, are a cluster, from sm_90 on. Its size divides the grid.
#ifdef __CUDA_ARCH__
#if __CUDA_ARCH__ >= 900
#define IN_CLUSTERS_OF(size) __cluster_dims__(size, 1, 1)
#else
#define IN_CLUSTERS_OF(size)
#endif
#endif

// Which index of an operand of wgmma runs along memory: that of the sum, or that of the result's row or column.
enum class Major { k, mn };

// For devices before sm_89, which have no instruction for it.
__device__ __forceinline__ float e4m3_to_float_by_bits(unsigned bits) {
    // Moved into place it is a float that is 2^120 too small, denormal numbers included.
    const float magnitude = (bits & 0x7fu) == 0x7fu ? __uint_as_float(0x7fffffffu)
                                                    : __uint_as_float((bits & 0x7fu) << 20) * 0x1p120f;
    return bits & 0x80u ? -magnitude : magnitude;
}

__device__ __forceinline__ unsigned float_to_e4m3_by_bits(float value) {
    const unsigned sign = __float_as_uint(value) >> 24 & 0x80u;
    const float magnitude = fabsf(value);
    if (!(magnitude <= 448.0f)) return sign | (magnitude > 448.0f ? 0x7eu : 0x7fu);
    // Below the first normal number they are multiples of 2^-9.
    if (magnitude < 0x1p-6f) return sign | __float2uint_rn(magnitude * 0x1p9f);
    const unsigned wide = __float_as_uint(magnitude);
    return sign | (((wide + 0x7ffffu + (wide >> 20 & 1u)) >> 20) - (120u << 3));
}

#ifdef __CUDA_ARCH__
#include "ptx_convert.cuh"
#include "ptx_ampere.cuh"
#if __CUDA_ARCH__ >= 900
#include "ptx_hopper.cuh"
#endif
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#include "ptx_wgmma.cuh"
#endif
#else
#include "ptx.hpp"
#include "hopper.hpp"
#endif

constexpr unsigned ALL_LANES = 0xffffffffu;
constexpr float LOG2_E = 1.4426950408889634f;
constexpr float LN_2 = 0.6931471805599453f;

__device__ __forceinline__ float infinity() { return __uint_as_float(0x7f800000u); }

// True in every thread of the block that comes last of `num_blocks`, and in no other block; what the others wrote to
// global memory before they came can then be read. The ticket starts as zero and is zero again after the last block.
__device__ __forceinline__ bool is_last_block(unsigned* ticket, unsigned num_blocks) {
    __threadfence();
    __syncthreads();
    bool is_last = false;
    if (threadIdx.x == 0 && threadIdx.y == 0 && threadIdx.z == 0)
        is_last = atomicInc(ticket, num_blocks - 1) == num_blocks - 1;
    is_last = __syncthreads_or(is_last);
    __threadfence();
    return is_last;
}

// Tiles for wgmma lie in rows of `swizzle_bytes` (128, 64 or 32), 8 of which make an atom that starts at a multiple of
// its size. Within an atom 16-byte pieces change places, as a bulk load of boxes of that width with the same swizzle
// puts them. A wider tile is several panels, one behind the other.
//
// Operand whose rows run along the sum: row r of the tile is row (or column) r of the result. `start` is the tile, plus
// 2 k bytes for a product that begins at place k of the sum.
template <int swizzle_bytes>
__device__ __forceinline__ unsigned long long k_major_descriptor(const void* start) {
    constexpr unsigned long long mode = swizzle_bytes == 128 ? 1 : swizzle_bytes == 64 ? 2 : 3;
    static_assert(swizzle_bytes == 128 || swizzle_bytes == 64 || swizzle_bytes == 32);
    return (shared_address(start) & 0x3ffffu) >> 4 | 1ull << 16 | (8ull * swizzle_bytes >> 4) << 32 | mode << 62;
}

// Operand whose rows run along the result: row k of the tile is place k of the sum. `start` is the tile, plus
// k * swizzle_bytes for a product that begins at place k, which is a multiple of 8; panels are `panel_bytes` apart.
template <int swizzle_bytes>
__device__ __forceinline__ unsigned long long mn_major_descriptor(const void* start, unsigned panel_bytes) {
    const unsigned long long leading = (panel_bytes & 0x3ffffu) >> 4;
    return (k_major_descriptor<swizzle_bytes>(start) & ~0x3fff0000ull) | leading << 16;
}

// The descriptor of what starts some bytes behind, a multiple of 16.
__device__ __forceinline__ unsigned long long advanced(unsigned long long descriptor, unsigned num_bytes) {
    return descriptor + (num_bytes >> 4);
}
