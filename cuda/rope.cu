// Rotary positions (T tokens, H heads of D elements, pairs are neighbours, a the angle of token and pair):
//   rope            (x0, x1) -> (x0 cos a - x1 sin a, x0 sin a + x1 cos a); backward is the same by -a
//                   moves 2*T*H*D elements and 4*T*D bytes of rotations
//   rope_to_cache   turns queries and keys, and keeps the turned keys and the values in a paged cache:
//                   slot s of head h is (s / block_size, h, s % block_size) of (blocks, Hkv, block_size, D)
//                   moves (2*H + 5*Hkv)*T*D elements and 4*T*D bytes of rotations
// Reference: tempa.ops.reference.rope and LayerCache.write. A thread keeps the rotations of its pairs and turns them in
// HEADS heads; the threads of a token's other heads find them in the first cache. Inputs may have gaps between tokens
// and between heads, as parts of one product have. The host checks strides, and that packs are aligned.
//
// Compiled for ELEMENT (float, bf16, fp16), VECTOR elements a pack (even), HEAD_PACKS a head, HEADS a thread, THREADS.
#include "rotation.cuh"

// What a thread does: one pack of the heads first, first + step, ... of one token.
struct Share {
    unsigned token;
    int pack, first, step;

    __device__ __forceinline__ explicit Share(int num_heads) {
        const unsigned index = blockIdx.x * THREADS + threadIdx.x;
        step = (num_heads + HEADS - 1) / HEADS;
        pack = index % HEAD_PACKS;
        token = index / HEAD_PACKS / step;
        first = index / HEAD_PACKS % step;
    }
};

extern "C" __global__ void __launch_bounds__(THREADS)
rope(ELEMENT* __restrict__ y, const ELEMENT* __restrict__ x, const float* __restrict__ rotations, unsigned num_tokens,
     int num_heads, long long token_stride, long long head_stride, float direction) {
    const Share share(num_heads);
    if (share.token >= num_tokens) return;
    Rotation rotation;
    rotation.load(rotations, share.token, share.pack);
    const ELEMENT* from = x + share.token * token_stride + share.pack * VECTOR;
    Elements heads[HEADS];
#pragma unroll
    for (int i = 0; i < HEADS; ++i) {
        const int head = share.first + i * share.step;
        if (head < num_heads) heads[i] = load_pack_once<VECTOR>(from + head * head_stride);
    }
    ELEMENT* to = y + ((long long)share.token * num_heads * HEAD_PACKS + share.pack) * VECTOR;
#pragma unroll
    for (int i = 0; i < HEADS; ++i) {
        const int head = share.first + i * share.step;
        if (head < num_heads)
            store_pack<VECTOR>(to + (long long)head * HEAD_PACKS * VECTOR, rotation.turn(heads[i], direction));
    }
}

// Heads are counted through queries, keys and values. A slot that is not in the cache, such as -1, is left out.
extern "C" __global__ void __launch_bounds__(THREADS)
rope_to_cache(ELEMENT* __restrict__ q_out, ELEMENT* __restrict__ k_out, ELEMENT* __restrict__ keys,
              ELEMENT* __restrict__ values, const ELEMENT* __restrict__ q, const ELEMENT* __restrict__ k,
              const ELEMENT* __restrict__ v, const float* __restrict__ rotations, const long long* __restrict__ slots,
              unsigned num_tokens, int num_heads, int num_kv_heads, long long q_token_stride, long long q_head_stride,
              long long k_token_stride, long long k_head_stride, long long v_token_stride, long long v_head_stride,
              unsigned num_slots, unsigned block_size) {
    const int last_head = num_heads + 2 * num_kv_heads;
    const Share share(last_head);
    if (share.token >= num_tokens) return;
    const long long token = share.token;
    const int column = share.pack * VECTOR;
    Rotation rotation;
    rotation.load(rotations, token, share.pack);
    const long long slot = slots[token];
    Elements heads[HEADS];
#pragma unroll
    for (int i = 0; i < HEADS; ++i) {
        const int head = share.first + i * share.step, kv_head = head - num_heads, value_head = kv_head - num_kv_heads;
        if (head >= last_head) continue;
        const ELEMENT* from = kv_head < 0 ? q + token * q_token_stride + head * q_head_stride
                              : value_head < 0 ? k + token * k_token_stride + kv_head * k_head_stride
                                               : v + token * v_token_stride + value_head * v_head_stride;
        heads[i] = load_pack_once<VECTOR>(from + column);
    }
    const bool is_kept = slot >= 0 && slot < num_slots;
    const unsigned kept_slot = is_kept ? slot : 0;
    const long long block = kept_slot / block_size, place = kept_slot % block_size;
#pragma unroll
    for (int i = 0; i < HEADS; ++i) {
        const int head = share.first + i * share.step, kv_head = head - num_heads, value_head = kv_head - num_kv_heads;
        if (head >= last_head) continue;
        const Elements out = value_head < 0 ? rotation.turn(heads[i], 1.0f) : heads[i];
        if (kv_head < 0) {
            store_pack<VECTOR>(q_out + (token * num_heads + head) * HEAD_PACKS * VECTOR + column, out);
            continue;
        }
        if (value_head < 0)
            store_pack<VECTOR>(k_out + (token * num_kv_heads + kv_head) * HEAD_PACKS * VECTOR + column, out);
        const long long kept_head = value_head < 0 ? kv_head : value_head;
        const long long row = (block * num_kv_heads + kept_head) * block_size + place;
        if (is_kept) store_pack<VECTOR>((value_head < 0 ? keys : values) + row * HEAD_PACKS * VECTOR + column, out);
    }
}
