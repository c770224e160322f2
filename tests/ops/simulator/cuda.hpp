// The part of CUDA that needs no header on a GPU: keywords, vector types, built-in functions.
#pragma once
#include <bit>
#include <cmath>
#include <cstring>
#include <type_traits>
#include <utility>

#include "block.hpp"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define IN_CLUSTERS_OF(size)
#define __align__(bytes) alignas(bytes)
#define __shared__ static_assert(false, "use dynamic_shared or static_shared of ptx.cuh");

struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(8) int2 { int x, y; };
struct alignas(16) int4 { int x, y, z, w; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };

inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline int2 make_int2(int x, int y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

template <class One, class Other>
constexpr std::common_type_t<One, Other> min(One one, Other other) { return other < one ? other : one; }
template <class One, class Other>
constexpr std::common_type_t<One, Other> max(One one, Other other) { return one < other ? other : one; }

inline float __uint_as_float(unsigned bits) { return std::bit_cast<float>(bits); }
inline float __int_as_float(int bits) { return std::bit_cast<float>(bits); }
inline unsigned __float_as_uint(float value) { return std::bit_cast<unsigned>(value); }
inline int __float_as_int(float value) { return std::bit_cast<int>(value); }
inline int __float2int_rn(float value) { return static_cast<int>(std::nearbyint(value)); }
inline unsigned __float2uint_rn(float value) { return static_cast<unsigned>(std::nearbyint(value)); }
inline float __fadd_rn(float one, float other) { return one + other; }
inline float __fmul_rn(float one, float other) { return one * other; }
inline float __fdiv_rn(float value, float divisor) { return value / divisor; }
inline double __dmul_rn(double one, double other) { return one * other; }
inline float __fmaf_rn(float one, float other, float added) { return std::fma(one, other, added); }
inline float __fsqrt_rn(float value) { return std::sqrt(value); }
inline float rsqrtf(float value) { return 1 / std::sqrt(value); }
inline float __expf(float value) { return std::exp(value); }
inline float __logf(float value) { return std::log(value); }
inline float __fdividef(float value, float divisor) { return value / divisor; }
inline int __popc(unsigned bits) { return std::popcount(bits); }
inline int __clz(int bits) { return std::countl_zero(static_cast<unsigned>(bits)); }
inline unsigned __umulhi(unsigned one, unsigned other) { return uint64_t{one} * other >> 32; }
inline unsigned long long __umul64hi(unsigned long long one, unsigned long long other) {
    return static_cast<unsigned __int128>(one) * other >> 64;
}
inline int __ffs(int bits) { return bits ? std::countr_zero(static_cast<unsigned>(bits)) + 1 : 0; }

// Caches are not modelled.
template <class T> T __ldg(const T* from) { return *from; }
template <class T> T __ldcg(const T* from) { return *from; }
template <class T> T __ldcs(const T* from) { return *from; }
template <class T> void __stcg(T* to, T value) { *to = value; }
template <class T> void __stcs(T* to, T value) { *to = value; }

// Memory is sequentially consistent.
inline void __threadfence() {}
inline void __threadfence_block() {}

// One thread runs at a time, so plain updates are atomic.
template <class T>
T atomicExch(T* place, std::type_identity_t<T> value) { return std::exchange(*place, value); }
template <class T>
T atomicAdd(T* place, std::type_identity_t<T> value) { return std::exchange(*place, *place + value); }
template <class T>
T atomicMax(T* place, std::type_identity_t<T> value) { return std::exchange(*place, max(*place, value)); }
template <class T>
T atomicMin(T* place, std::type_identity_t<T> value) { return std::exchange(*place, min(*place, value)); }
template <class T>
T atomicOr(T* place, std::type_identity_t<T> value) { return std::exchange(*place, *place | value); }
template <class T>
T atomicCAS(T* place, std::type_identity_t<T> expected, std::type_identity_t<T> value) {
    return std::exchange(*place, *place == expected ? value : *place);
}
inline unsigned atomicInc(unsigned* place, unsigned last) {
    return std::exchange(*place, *place >= last ? 0 : *place + 1);
}

namespace simulator {

// What a lane brings to a shuffle, and takes away.
struct Shuffle {
    uint64_t value;
    unsigned lane;  // whose value it wants
};

// Lanes read what others brought; a lane that is not there gives NaN.
void shuffle(Operands lanes);

template <class T>
T shuffle_from(const char* call, unsigned mask, T value, int lane, int width, const Where& where) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "shuffles move 4 or 8 bytes");
    if (width < 1 || width > 32 || !std::has_single_bit(static_cast<unsigned>(width)))
        fail(format("%s with a width of %d", call, width), where);
    Shuffle operand{0, static_cast<unsigned>(lane)};
    memcpy(&operand.value, &value, sizeof value);
    meet(call, mask, &operand, shuffle, where);
    memcpy(&value, &operand.value, sizeof value);
    return value;
}

inline int lane_index() { return current_thread() % WARP_SIZE; }

// Combines what all lanes brought, or gives the mask of those that brought the same.
enum class Reduction { ADD, MIN, MAX, MATCH };
unsigned reduce(const char* call, Reduction reduction, unsigned mask, unsigned value, const Where& where);

// Bits of the lanes for which the predicate holds.
unsigned ballot(const char* call, unsigned mask, bool predicate, const Where& where);

}  // namespace simulator

#define HERE const simulator::Where& where = simulator::Where::current()

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, HERE) {
    const int self = simulator::lane_index();
    return simulator::shuffle_from("__shfl_sync", mask, value, self / width * width + (source & (width - 1)), width,
                                   where);
}

template <class T>
T __shfl_xor_sync(unsigned mask, T value, int flipped, int width = 32, HERE) {
    const int self = simulator::lane_index(), source = self ^ flipped;
    return simulator::shuffle_from("__shfl_xor_sync", mask, value, source / width > self / width ? self : source,
                                   width, where);
}

template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned distance, int width = 32, HERE) {
    const int self = simulator::lane_index(), source = self + distance;
    return simulator::shuffle_from("__shfl_down_sync", mask, value, source / width == self / width ? source : self,
                                   width, where);
}

template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned distance, int width = 32, HERE) {
    const int self = simulator::lane_index(), source = self - static_cast<int>(distance);
    return simulator::shuffle_from("__shfl_up_sync", mask, value, source >= self / width * width ? source : self,
                                   width, where);
}

inline unsigned __ballot_sync(unsigned mask, int predicate, HERE) {
    return simulator::ballot("__ballot_sync", mask, predicate, where);
}
inline int __any_sync(unsigned mask, int predicate, HERE) {
    return simulator::ballot("__any_sync", mask, predicate, where) != 0;
}
inline int __all_sync(unsigned mask, int predicate, HERE) {
    return simulator::ballot("__all_sync", mask, !predicate, where) == 0;
}
inline void __syncwarp(unsigned mask = 0xffffffffu, HERE) { simulator::ballot("__syncwarp", mask, false, where); }

// Signed numbers are ordered as unsigned ones whose first bit is turned over.
template <class T>
constexpr unsigned FIRST_BIT = std::is_signed_v<T> ? 0x80000000u : 0;

template <class T>
T __reduce_add_sync(unsigned mask, T value, HERE) {
    return simulator::reduce("__reduce_add_sync", simulator::Reduction::ADD, mask, value, where);
}
template <class T>
T __reduce_min_sync(unsigned mask, T value, HERE) {
    const auto reduction = simulator::Reduction::MIN;
    return simulator::reduce("__reduce_min_sync", reduction, mask, value ^ FIRST_BIT<T>, where) ^ FIRST_BIT<T>;
}
template <class T>
T __reduce_max_sync(unsigned mask, T value, HERE) {
    const auto reduction = simulator::Reduction::MAX;
    return simulator::reduce("__reduce_max_sync", reduction, mask, value ^ FIRST_BIT<T>, where) ^ FIRST_BIT<T>;
}
inline unsigned __match_any_sync(unsigned mask, unsigned value, HERE) {
    return simulator::reduce("__match_any_sync", simulator::Reduction::MATCH, mask, value, where);
}

inline void __syncthreads(HERE) { simulator::sync_at_barrier(0, 0, false, {"__syncthreads"}, where); }
inline int __syncthreads_or(int predicate, HERE) {
    return simulator::sync_at_barrier(0, 0, predicate, {"__syncthreads_or"}, where).num_true != 0;
}
inline int __syncthreads_and(int predicate, HERE) {
    return simulator::sync_at_barrier(0, 0, !predicate, {"__syncthreads_and"}, where).num_true == 0;
}
inline int __syncthreads_count(int predicate, HERE) {
    return simulator::sync_at_barrier(0, 0, predicate, {"__syncthreads_count"}, where).num_true;
}
