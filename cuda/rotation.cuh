// Rotations of the pairs of one pack, for kernels compiled with ELEMENT, VECTOR elements a pack (even) and HEAD_PACKS packs
// a head.
#pragma once
#include "pack.cuh"

using Elements = Pack<ELEMENT, VECTOR>;

// Rotations are (T, D / 2) pairs of cosine and sine in float32.
constexpr int PIECE = VECTOR < 4 ? VECTOR : 4;

struct Rotation {
    Pack<float, PIECE> pieces[VECTOR / PIECE];

    __device__ __forceinline__ void load(const float* rotations, long long token, int pack) {
        const float* from = rotations + (token * HEAD_PACKS + pack) * VECTOR;
#pragma unroll
        for (int i = 0; i < VECTOR / PIECE; ++i) pieces[i] = load_pack<PIECE>(from + i * PIECE);
    }

    // `direction` is 1, or -1 to turn back.
    __device__ __forceinline__ Elements turn(const Elements& x, float direction) const {
        Elements out;
#pragma unroll
        for (int i = 0; i < VECTOR; i += 2) {
            const float cosine = pieces[i / PIECE].at[i % PIECE];
            const float sine = pieces[i / PIECE].at[i % PIECE + 1] * direction;
            const float x0 = to_float(x.at[i]), x1 = to_float(x.at[i + 1]);
            from_float(x0 * cosine - x1 * sine, out.at[i]);
            from_float(x0 * sine + x1 * cosine, out.at[i + 1]);
        }
        return out;
    }
};
