// The functions of cuda/ptx.cuh on the CPU; what each does is said there.
#pragma once
#include "cuda.hpp"
#include "memory.hpp"

namespace simulator {

inline float bf16_to_float(uint16_t bits) { return __uint_as_float(static_cast<unsigned>(bits) << 16); }
float fp16_to_float(uint16_t bits);
uint16_t float_to_fp16(float value);
uint16_t float_to_bf16(float value);

enum class Format { BF16, FP16 };

template <class Element>
constexpr Format FORMAT = std::is_same_v<Element, bf16> ? Format::BF16 : Format::FP16;

void copy_async(void* to, const void* from, unsigned num_bytes, bool is_used, const Where& where);
void copy_async_commit();
void copy_async_wait(unsigned num_pending, const Where& where);
void load_matrix(const char* call, unsigned* to, int count, bool is_transposed, const void* row, const Where& where);
void mma_16x8x16(float* d, const unsigned* a, const unsigned* b, Format format, const Where& where);

}  // namespace simulator

inline float to_float(float value) { return value; }
inline float to_float(bf16 value) { return simulator::bf16_to_float(value.bits); }
inline float to_float(fp16 value) { return simulator::fp16_to_float(value.bits); }
inline float to_float(e4m3 value) { return e4m3_to_float_by_bits(value.bits); }

inline void from_float(float value, float& to) { to = value; }
inline void from_float(float value, bf16& to) { to.bits = simulator::float_to_bf16(value); }
inline void from_float(float value, fp16& to) { to.bits = simulator::float_to_fp16(value); }
inline void from_float(float value, e4m3& to) { to.bits = float_to_e4m3_by_bits(value); }

template <class Element>
unsigned pack_pair(float low, float high) {
    Element first, second;
    from_float(low, first);
    from_float(high, second);
    return first.bits | static_cast<unsigned>(second.bits) << 16;
}

template <class Element>
void unpack_pair(unsigned pair, float& low, float& high) {
    low = to_float(Element{static_cast<uint16_t>(pair)});
    high = to_float(Element{static_cast<uint16_t>(pair >> 16)});
}

inline unsigned e4m3_pair_to_fp16(unsigned short pair) {
    return pack_pair<fp16>(to_float(e4m3{static_cast<uint8_t>(pair)}), to_float(e4m3{static_cast<uint8_t>(pair >> 8)}));
}

inline float exp2_approximate(float x) { return std::exp2(x); }
inline float log2_approximate(float x) { return std::log2(x); }
inline float tanh_approximate(float x) { return std::tanh(x); }

template <class Layout>
Layout& dynamic_shared(HERE) {
    static_assert(alignof(Layout) <= 1024);
    if (sizeof(Layout) > simulator::shared_memory().dynamic_bytes())
        simulator::fail(simulator::format("dynamic_shared needs %zu bytes, but the launch gave %zu", sizeof(Layout),
                                          simulator::shared_memory().dynamic_bytes()),
                        where);
    return *reinterpret_cast<Layout*>(simulator::shared_memory().dynamic());
}

template <class Layout>
Layout& static_shared() {
    static const char place_of_type = 0;
    return *static_cast<Layout*>(
        simulator::shared_memory().place_static(&place_of_type, sizeof(Layout), alignof(Layout)));
}

inline unsigned shared_address(const void* pointer, HERE) {
    simulator::check_shared(pointer, 0, 1, "shared_address", where);
    return simulator::shared_memory().address(pointer);
}

template <int num_bytes>
void copy_async(void* to, const void* from, bool is_used = true, HERE) {
    static_assert(num_bytes == 4 || num_bytes == 8 || num_bytes == 16);
    simulator::copy_async(to, from, num_bytes, is_used, where);
}
inline void copy_async_commit() { simulator::copy_async_commit(); }
template <int num_pending>
void copy_async_wait(HERE) { simulator::copy_async_wait(num_pending, where); }

inline uint4 load_once(const void* from, HERE) {
    simulator::check_global(from, 16, "load_once", where);
    return *static_cast<const uint4*>(from);
}
inline void store_once(void* to, uint4 value, HERE) {
    simulator::check_global(to, 16, "store_once", where);
    *static_cast<uint4*>(to) = value;
}

inline void barrier_sync(unsigned id, unsigned num_threads, HERE) {
    simulator::sync_at_barrier(id, num_threads, false, {"barrier_sync", "(%u, %u)", id, num_threads}, where);
}
inline void barrier_arrive(unsigned id, unsigned num_threads, HERE) {
    simulator::arrive_at_barrier(id, num_threads, where);
}

template <int count>
void load_matrix(unsigned (&to)[count], const void* row, HERE) {
    static_assert(count == 1 || count == 2 || count == 4);
    simulator::load_matrix("load_matrix", to, count, false, row, where);
}
template <int count>
void load_matrix_transposed(unsigned (&to)[count], const void* row, HERE) {
    static_assert(count == 1 || count == 2 || count == 4);
    simulator::load_matrix("load_matrix_transposed", to, count, true, row, where);
}

template <class Element>
void mma_16x8x16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], HERE) {
    static_assert(std::is_same_v<Element, bf16> || std::is_same_v<Element, fp16>);
    simulator::mma_16x8x16(d, a, b, simulator::FORMAT<Element>, where);
}
