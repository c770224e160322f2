// A pack is what one thread moves with one instruction: up to 16 bytes of neighbouring elements.
#pragma once
#include "ptx.cuh"

template <class Element, int SIZE>
struct alignas(sizeof(Element) * SIZE) Pack {
    Element at[SIZE];
};

template <int SIZE, class Element>
__device__ __forceinline__ Pack<Element, SIZE> load_pack(const Element* from) {
    return *reinterpret_cast<const Pack<Element, SIZE>*>(from);
}

// The same where no thread reads the elements again.
template <int SIZE, class Element>
__device__ __forceinline__ Pack<Element, SIZE> load_pack_once(const Element* from) {
    if constexpr (sizeof(Pack<Element, SIZE>) == sizeof(uint4)) {
        const uint4 bytes = load_once(from);
        return reinterpret_cast<const Pack<Element, SIZE>&>(bytes);
    } else {
        return load_pack<SIZE>(from);
    }
}

template <int SIZE, class Element>
__device__ __forceinline__ void store_pack(Element* to, const Pack<Element, SIZE>& pack) {
    *reinterpret_cast<Pack<Element, SIZE>*>(to) = pack;
}

// The same numbers as elements of another type, each rounded once.
template <class To, class From, int SIZE>
__device__ __forceinline__ Pack<To, SIZE> converted(const Pack<From, SIZE>& pack) {
    Pack<To, SIZE> result;
#pragma unroll
    for (int i = 0; i < SIZE; ++i) from_float(to_float(pack.at[i]), result.at[i]);
    return result;
}
