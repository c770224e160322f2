// Warpgroups of a block, of which one loads tiles to shared memory in stages and the others multiply them by wgmma.
//
// What a thread holds of a product of 64 rows by 2 COUNT columns: two rows, 8 apart, and of each 8 columns two. Element i
// is in row i / 2 % 2 * 8 and column i / 4 * 8 + i % 2, from the thread's first ones on.
#pragma once
#include "ptx.cuh"

constexpr int WARPGROUP = 128;

// The same in all lanes, as the compiler then knows.
__device__ __forceinline__ int group_of_thread() { return __shfl_sync(ALL_LANES, threadIdx.x / WARPGROUP, 0); }

// Which of `count` stages a step takes, and the parity of the phase of its barriers: steps are counted over all tiles.
template <int count>
struct StageOf {
    int index;
    unsigned parity;

    __device__ __forceinline__ StageOf(unsigned step) : index(step % count), parity(step / count % 2) {}
};

// Each warp tells that it has done with a stage, once its products are.
__device__ __forceinline__ void release(Mbarrier& empty) {
    if (threadIdx.x % 32 == 0) mbarrier_arrive(empty);
}

__device__ __forceinline__ int first_row_of_thread() { return threadIdx.x % WARPGROUP / 32 * 16 + threadIdx.x % 32 / 4; }
__device__ __forceinline__ int first_column_of_thread() { return threadIdx.x % 4 * 2; }
__device__ __forceinline__ constexpr int column_of(int i) { return i / 4 * 8 + i % 2; }

// Writes rows and columns that there are, the latter a multiple of 8, each lane 16 bytes at a time: the four lanes of a
// row give each other words, first the two neighbours, then the two pairs, until each has 8 columns beside each other.
template <class Element, int COUNT>
__device__ __forceinline__ void store_rows(Element* to, int stride, int num_rows, int num_columns,
                                           const float (&sums)[COUNT]) {
    const int lane = threadIdx.x % 32, row = first_row_of_thread();
    const bool is_odd = lane % 2, is_high = lane / 2 % 2;
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
        for (int n = 0; n < COUNT / 4; n += 4) {
            unsigned words[4];
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const int first = (n + i) * 4 + half * 2;
                words[i] = pack_pair<Element>(sums[first], sums[first + 1]);
            }
#pragma unroll
            for (int i = 0; i < 4; i += 2) {
                const unsigned got = __shfl_xor_sync(ALL_LANES, is_odd ? words[i] : words[i + 1], 1);
                words[i] = is_odd ? got : words[i];
                words[i + 1] = is_odd ? words[i + 1] : got;
            }
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                const unsigned got = __shfl_xor_sync(ALL_LANES, is_high ? words[i] : words[i + 2], 2);
                words[i] = is_high ? got : words[i];
                words[i + 2] = is_high ? words[i + 2] : got;
            }
            const int column = (n + lane % 4) * 8;
            if (row + half * 8 < num_rows && column < num_columns)
                store_once(to + (long long)(row + half * 8) * stride + column,
                           uint4{words[0], words[1], words[2], words[3]});
        }
}
