// Rotary positions with the write of keys and values to a cache of bytes:
//   queries and keys are turned as in rope.cu; each turned key and each value x, a row of D elements, is kept as
//   b = round(x / s) with s = max |x| / 127 for int8, or the nearest e4m3 with s = max |x| / 448
// A row of numbers too small for s to be a normal number, or not finite, is kept as zeros with its s.
// A block of the cache is Hkv * block_size rows of D bytes, then a float32 s for each; slot s of head h is row
// h * block_size + s % block_size of block s / block_size. A slot that is not in the cache, such as -1, is left out.
// Without rotations nothing is turned.
// Moves (2*H + 3*Hkv)*T*D elements, 2*Hkv*T*(D + 4) bytes kept and, mostly from the first cache, 4*D bytes of rotations
// a row. Reference: tempa.ops.scaled.quantised, which is what the CPU's decoder keeps.
//
// LANES lanes take a row, of query, key or value, and find its largest number together. Inputs may have gaps between
// tokens and between heads. The host checks strides, and that packs and scales are aligned.
//
// Compiled for ELEMENT (float, bf16, fp16), KEPT (int8, e4m3), VECTOR elements a pack (even), HEAD_PACKS a head,
// LANES (a power of two up to 32), THREADS.
#include "rotation.cuh"

using int8 = signed char;

constexpr int PACKS = (HEAD_PACKS + LANES - 1) / LANES;
constexpr float MIN_NORMAL = 0x1p-126f;

template <class Kept> constexpr float LARGEST = 127.0f;
template <> constexpr float LARGEST<e4m3> = 448.0f;

__device__ __forceinline__ void keep(float value, int8& to) { to = __float2int_rn(value); }

__device__ __forceinline__ void keep(float value, e4m3& to) { from_float(value, to); }

extern "C" __global__ void __launch_bounds__(THREADS)
rope_to_scaled_cache(ELEMENT* __restrict__ q_out, ELEMENT* __restrict__ k_out, KEPT* __restrict__ keys,
                     KEPT* __restrict__ values, const ELEMENT* __restrict__ q, const ELEMENT* __restrict__ k,
                     const ELEMENT* __restrict__ v, const float* __restrict__ rotations,
                     const long long* __restrict__ slots, unsigned num_tokens, int num_heads, int num_kv_heads,
                     long long q_token_stride, long long q_head_stride, long long k_token_stride,
                     long long k_head_stride, long long v_token_stride, long long v_head_stride, unsigned num_slots,
                     unsigned block_size) {
    constexpr int WIDTH = HEAD_PACKS * VECTOR;
    const int heads = num_heads + 2 * num_kv_heads, lane = threadIdx.x % LANES;
    const long long row = ((long long)blockIdx.x * THREADS + threadIdx.x) / LANES;
    const bool is_row = row < (long long)num_tokens * heads;
    const long long token = is_row ? row / heads : 0;
    const int head = is_row ? row % heads : 0, kv_head = head - num_heads, value_head = kv_head - num_kv_heads;
    const ELEMENT* from = kv_head < 0 ? q + token * q_token_stride + head * q_head_stride
                          : value_head < 0 ? k + token * k_token_stride + kv_head * k_head_stride
                                           : v + token * v_token_stride + value_head * v_head_stride;
    Elements packs[PACKS];
    unsigned largest = 0;  // without signs, bits have the order of the numbers, with NaN behind infinity
#pragma unroll
    for (int i = 0; i < PACKS; ++i) {
        const int pack = i * LANES + lane;
        if (!is_row || pack >= HEAD_PACKS) continue;
        packs[i] = load_pack_once<VECTOR>(from + pack * VECTOR);
        if (rotations && value_head < 0) {
            Rotation rotation;
            rotation.load(rotations, token, pack);
            packs[i] = rotation.turn(packs[i], 1.0f);
        }
#pragma unroll
        for (int at = 0; at < VECTOR; ++at)
            largest = max(largest, __float_as_uint(to_float(packs[i].at[at])) & 0x7fffffffu);
    }
#pragma unroll
    for (int offset = LANES / 2; offset > 0; offset /= 2)
        largest = max(largest, __shfl_xor_sync(ALL_LANES, largest, offset));
    if (!is_row) return;
    if (value_head < 0) {
        ELEMENT* to = kv_head < 0 ? q_out + (token * num_heads + head) * WIDTH
                                  : k_out + (token * num_kv_heads + kv_head) * WIDTH;
#pragma unroll
        for (int i = 0; i < PACKS; ++i)
            if (i * LANES + lane < HEAD_PACKS) store_pack<VECTOR>(to + (i * LANES + lane) * VECTOR, packs[i]);
    }
    const long long slot = slots[token];
    if (kv_head < 0 || slot < 0 || slot >= num_slots) return;
    const float scale = __uint_as_float(largest) / LARGEST<KEPT>;
    const bool is_scaled = scale > MIN_NORMAL && scale < infinity();
    const float inverse = is_scaled ? 1.0f / scale : 0.0f;
    const long long rows = (long long)num_kv_heads * block_size;
    const long long kept_row = (value_head < 0 ? kv_head : value_head) * (long long)block_size + slot % block_size;
    KEPT* block = (value_head < 0 ? keys : values) + slot / block_size * rows * (WIDTH + (int)sizeof(float));
#pragma unroll
    for (int i = 0; i < PACKS; ++i) {
        const int pack = i * LANES + lane;
        if (pack >= HEAD_PACKS) continue;
        Pack<KEPT, VECTOR> kept;
#pragma unroll
        for (int at = 0; at < VECTOR; ++at) keep(is_scaled ? to_float(packs[i].at[at]) * inverse : 0.0f, kept.at[at]);
        store_pack<VECTOR>(block + kept_row * WIDTH + pack * VECTOR, kept);
    }
    if (lane == 0) reinterpret_cast<float*>(block + rows * WIDTH)[kept_row] = scale;
}
