// What the sampler computes of single tokens, as rust/core/src/sample does: operations that could be fused or rounded
// in another way are spelled out, so every bit is the same. mass.rs, cut.rs and rng.rs say what they are.
#pragma once
#include "ptx.cuh"

using u64 = unsigned long long;

constexpr float LARGEST = 3.402823466e38f;

// Bits that order like the logit, -0 as 0, and back.
__device__ __forceinline__ unsigned ordered(float x) {
    const unsigned bits = __float_as_uint(__fadd_rn(x, 0.0f));
    return bits ^ (bits >> 31 ? 0xffffffffu : 0x80000000u);
}

__device__ __forceinline__ float from_ordered(unsigned bits) {
    return __uint_as_float(bits >> 31 ? bits ^ 0x80000000u : ~bits);
}

// Orders tokens: larger majors first, then lower ids. No token has the key 0.
__device__ __forceinline__ u64 key_of(unsigned major, int id) { return (u64)major << 32 | (0xffffffffu - id); }
__device__ __forceinline__ unsigned major_of(u64 key) { return (unsigned)(key >> 32); }
__device__ __forceinline__ int id_of(u64 key) { return (int)(0xffffffffu - (unsigned)key); }

// The last token, by (logit descending, id ascending), that may be drawn.
struct Limit {
    float logit;
    int id;

    __device__ bool keeps(float x, int at) const { return x > logit || (x >= logit && at <= id); }
};

__device__ __forceinline__ Limit limit_at(u64 key) { return {from_ordered(major_of(key)), id_of(key)}; }

__device__ __forceinline__ Limit tighter(Limit one, Limit other) {
    return other.keeps(one.logit, one.id) ? one : other;
}

// What turns the logits of a row into levels and masses.
struct Scale {
    float max, factor;
    static constexpr float FLOOR = -41.0f;

    __device__ float level(float x) const { return __fmul_rn(__fadd_rn(x, -max), factor); }

    __device__ u64 mass(float x) const {
        constexpr float ROUND = 12582912.0f;
        const float deep = level(x), clamped = deep > -63.0f ? deep : -63.0f;
        const float shifted = __fadd_rn(clamped, ROUND), r = __fadd_rn(clamped, -__fadd_rn(shifted, -ROUND));
        float p = 1.5353308e-4f;
        p = __fadd_rn(__fmul_rn(p, r), 1.339894e-3f);
        p = __fadd_rn(__fmul_rn(p, r), 9.618438e-3f);
        p = __fadd_rn(__fmul_rn(p, r), 5.5503324e-2f);
        p = __fadd_rn(__fmul_rn(p, r), 0.24022648f);
        p = __fadd_rn(__fmul_rn(p, r), LN_2);
        p = __fadd_rn(__fmul_rn(p, r), 1.0f);
        const unsigned digits = (unsigned)(int)__fmul_rn(p, 16777216.0f);
        const unsigned shift = __float_as_uint(ROUND) - __float_as_uint(shifted);
        return ((u64)digits << 16) >> (shift & 63u);
    }

    // The smallest logit for which `is_enough` holds, as it then does for all above it.
    template <class Test>
    __device__ float lowest(Test is_enough) const {
        unsigned low = ordered(-infinity()), high = ordered(max);
        while (low < high) {
            const unsigned middle = low + (high - low) / 2;
            if (is_enough(from_ordered(middle)))
                high = middle;
            else
                low = middle + 1;
        }
        return from_ordered(high);
    }

    // All tokens below this logit have no mass.
    __device__ float lowest_with_mass() const {
        return lowest([&](float x) { return level(x) > FLOOR; });
    }

    __device__ float logp(float x, u64 total) const {
        const double nats = __dmul_rn((double)x - (double)max, __dmul_rn((double)factor, 0.693147180559945309));
        return (float)(nats - log((double)total / 1099511627776.0));
    }
};

// How tokens are ordered and what they weigh while their weights are added up: by logit or, for typical-p, by the
// distance of their level to the mean; each as one, or by mass.
struct Order {
    Scale scale;
    Limit limit;  // what is behind it weighs nothing
    bool is_counted, is_typical;
    float mean;

    __device__ float distance(float x) const { return fabsf(__fadd_rn(scale.level(x), -mean)); }

    __device__ u64 key(float x, int id) const {
        return key_of(is_typical ? ~__float_as_uint(distance(x)) : ordered(x), id);
    }

    __device__ u64 weight(float x, int id) const {
        if (!limit.keeps(x, id)) return 0;
        return is_counted ? x > -infinity() : scale.mass(x);
    }

    // A bin that never falls while keys fall: all masses lie within 41 levels.
    __device__ int bin(float x, int num_bins) const {
        const float depth = is_typical ? distance(x) : -scale.level(x), place = depth * (num_bins / 41);
        return place < (float)(num_bins - 1) ? (int)place : num_bins - 1;
    }
};

// The fewest units that hold the share `p` of `total`, at least one.
__device__ __forceinline__ u64 share_of(double p, u64 total) {
    const u64 units = (u64)ceil(__dmul_rn(p, (double)total));
    return max((u64)1, min(units, max(total, (u64)1)));
}

// The floor of (high 2^64 + low) / total, which is below 2^23.
__device__ __forceinline__ unsigned quotient(u64 high, u64 low, u64 total) {
    unsigned found = 0;
    for (unsigned bit = 1u << 22; bit > 0; bit /= 2) {
        const u64 over = __umul64hi(total, found | bit), product = total * (found | bit);
        if (over < high || (over == high && product <= low)) found |= bit;
    }
    return found;
}

// 64 bits of Philox4x32-10 under (seed, stream of draws, position).
__device__ __forceinline__ u64 random_bits(u64 seed, u64 position) {
    constexpr u64 STREAM = 0x73616d706c65;
    unsigned a = (unsigned)position, b = (unsigned)(position >> 32), c = (unsigned)STREAM, d = (unsigned)(STREAM >> 32);
    unsigned low = (unsigned)seed, high = (unsigned)(seed >> 32);
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        const u64 one = (u64)0xd2511f53u * a, other = (u64)0xcd9e8d57u * c;
        a = (unsigned)(other >> 32) ^ b ^ low;
        b = (unsigned)other;
        c = (unsigned)(one >> 32) ^ d ^ high;
        d = (unsigned)one;
        low += 0x9e3779b9u;
        high += 0xbb67ae85u;
    }
    return (u64)b << 32 | a;
}
