// Each primitive of ptx.cuh alone, for tests of its two back ends against plain Python. Compiled with ELEMENT (bf16,
// fp16) and the BYTES of a copy.
#include "ptx.cuh"

extern "C" __global__ void thread_numbers(int* numbers) {
    const unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    const unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    numbers[block * blockDim.x * blockDim.y * blockDim.z + thread] = block * 1000 + thread;
}

// One row of `results` for each kind of shuffle.
extern "C" __global__ void shuffles(double* results, const double* values, int argument, int width) {
    const int lane = threadIdx.x;
    results[lane] = __shfl_sync(ALL_LANES, values[lane], argument, width);
    results[32 + lane] = __shfl_xor_sync(ALL_LANES, (float)values[lane], argument, width);
    results[64 + lane] = __shfl_down_sync(ALL_LANES, (int)values[lane], argument, width);
    results[96 + lane] = __shfl_up_sync(ALL_LANES, (long long)values[lane], argument, width);
}

// The lanes below `count` vote on their own, and so do the others; lane 0 returns first.
extern "C" __global__ void votes(unsigned* results, const int* predicates, int count) {
    const int lane = threadIdx.x;
    results[lane] = __ballot_sync(ALL_LANES, predicates[lane]);
    const unsigned low = (1u << count) - 1;
    if (lane < count) {
        results[32 + lane] = __any_sync(low, predicates[lane]);
    } else {
        results[32 + lane] = __all_sync(~low, predicates[lane]);
    }
    __syncwarp();
    if (lane == 0) return;
    results[64 + lane] = __ballot_sync(ALL_LANES, 1);
}

// The lanes below `count` reduce on their own, and so do the others.
extern "C" __global__ void reductions(int* results, const int* values, int count) {
    const int lane = threadIdx.x;
    const unsigned low = (1u << count) - 1, mask = lane < count ? low : ~low;
    results[lane] = __reduce_add_sync(mask, values[lane]);
    results[32 + lane] = __reduce_min_sync(mask, values[lane]);
    results[64 + lane] = __reduce_max_sync(mask, values[lane]);
    results[96 + lane] = __match_any_sync(mask, values[lane]);
    results[128 + lane] = __reduce_max_sync(mask, (unsigned)values[lane]);
}

extern "C" __global__ void high_words(unsigned* words, unsigned long long* long_words, const unsigned* values,
                                      const unsigned long long* long_values) {
    const int i = threadIdx.x;
    words[i] = __umulhi(values[i], values[i ^ 1]);
    long_words[i] = __umul64hi(long_values[i], long_values[i ^ 1]);
}

extern "C" __global__ void block_votes(int* results, const int* predicates) {
    const int thread = threadIdx.x;
    results[thread] = __syncthreads_count(predicates[thread]);
    results[blockDim.x + thread] = __syncthreads_or(predicates[thread]);
    results[2 * blockDim.x + thread] = __syncthreads_and(predicates[thread]);
}

// Copies of BYTES bytes for each thread, zeros from thread `num_used` on.
extern "C" __global__ void copies(unsigned* to, const unsigned* from, int num_used) {
    constexpr int WORDS = BYTES / 4;
    auto& shared = dynamic_shared<uint4[64]>();
    unsigned* mine = reinterpret_cast<unsigned*>(shared) + threadIdx.x * WORDS;
    copy_async<BYTES>(mine, from + threadIdx.x * WORDS, (int)threadIdx.x < num_used);
    copy_async_commit();
    copy_async_commit();
    copy_async_wait<1>();
    for (int i = 0; i < WORDS; ++i) to[threadIdx.x * WORDS + i] = mine[i];
}

extern "C" __global__ void vectors(uint4* to, const uint4* from) {
    store_once(to + threadIdx.x, load_once(from + threadIdx.x));
}

// `results` is (COUNT, 32, 2) elements, `source` is (COUNT, 8, 8).
template <int COUNT, bool IS_TRANSPOSED>
__device__ void load_matrices(unsigned* results, const unsigned short* source) {
    auto& rows = static_shared<uint4[COUNT * 8]>();
    const int lane = threadIdx.x;
    for (int i = lane; i < COUNT * 8; i += 32) rows[i] = reinterpret_cast<const uint4*>(source)[i];
    __syncwarp();
    unsigned loaded[COUNT];
    if (IS_TRANSPOSED)
        load_matrix_transposed(loaded, &rows[lane % (COUNT * 8)]);
    else
        load_matrix(loaded, &rows[lane % (COUNT * 8)]);
    for (int i = 0; i < COUNT; ++i) results[i * 32 + lane] = loaded[i];
}

extern "C" __global__ void matrices(unsigned* results, const unsigned short* source) {
    load_matrices<1, false>(results, source);
    load_matrices<2, false>(results + 32, source);
    load_matrices<4, false>(results + 96, source);
    load_matrices<1, true>(results + 224, source);
    load_matrices<2, true>(results + 256, source);
    load_matrices<4, true>(results + 320, source);
}

extern "C" __global__ void products(float* d, const unsigned* a, const unsigned* b) {
    const int lane = threadIdx.x;
    float sums[4];
    unsigned left[4], right[2];
    for (int i = 0; i < 4; ++i) sums[i] = d[lane * 4 + i], left[i] = a[lane * 4 + i];
    for (int i = 0; i < 2; ++i) right[i] = b[lane * 2 + i];
    mma_16x8x16<ELEMENT>(sums, left, right);
    for (int i = 0; i < 4; ++i) d[lane * 4 + i] = sums[i];
}

extern "C" __global__ void pairs(unsigned* packed, float* unpacked, const float* wide) {
    const int i = threadIdx.x;
    packed[i] = pack_pair<ELEMENT>(wide[2 * i], wide[2 * i + 1]);
    unpack_pair<ELEMENT>(packed[i], unpacked[2 * i], unpacked[2 * i + 1]);
}

extern "C" __global__ void functions(float* results, const float* x) {
    const int i = threadIdx.x, count = blockDim.x;
    results[i] = exp2_approximate(x[i]);
    results[count + i] = log2_approximate(fabsf(x[i]));
    results[2 * count + i] = tanh_approximate(x[i]);
}

// The first warp makes what the second one uses, in rounds.
extern "C" __global__ void hand_over(int* results, int num_rounds) {
    enum { FULL = 1, EMPTY };
    auto& slots = static_shared<int[32]>();
    const int lane = threadIdx.x % 32;
    for (int round = 0; round < num_rounds; ++round) {
        if (threadIdx.x < 32) {
            if (round > 0) barrier_sync(EMPTY, 64);
            slots[lane] = round * 100 + lane;
            barrier_arrive(FULL, 64);
        } else {
            barrier_sync(FULL, 64);
            results[round * 32 + lane] = slots[lane];
            if (round + 1 < num_rounds) barrier_arrive(EMPTY, 64);
        }
    }
}

// Blocks add up their numbers; the last one writes the total.
extern "C" __global__ void last_block(float* total, float* sums, unsigned* ticket) {
    if (threadIdx.x == 0) sums[blockIdx.x] = blockIdx.x + 1;
    if (!is_last_block(ticket, gridDim.x)) return;
    float sum = 0;
    for (int i = 0; i < gridDim.x; ++i) sum += sums[i];
    if (threadIdx.x == 0) atomicAdd(total, sum);
}

extern "C" __global__ void atomics(int* results, const int* values) {
    const int value = values[threadIdx.x];
    atomicAdd(results, value);
    atomicMax(results + 1, value);
    atomicMin(results + 2, value);
    atomicOr(results + 3, value);
    for (int old = results[4], seen; (seen = atomicCAS(results + 4, old, old + value)) != old;) old = seen;
}
