// The clipped policy loss of responses that lie one after the other, and its gradient, in one pass:
//   loss = sum over t of w (-min(rho_t A_t, clip(rho_t, low, high) A_t) + kl_coef kl_t)
// rho is exp(d_t), d_t = now_t - old_t held within +-20; with `is_sequence`, of the mean of d over the response. kl_t is
// e^2 / 2 (`kl_kind` 2) or exp(-e) - 1 + e (3), e_t = now_t - ref_t held within +-20; without a reference it is 0.
// w is `weight`, or 1 / length of the response where that is 0. No clip: low and high are infinite.
// Moves 25 bytes a token, with a reference 29; with `is_sequence` 20 of them are read again. All float32.
// Reference: tempa.align.policy_loss and its gradient by autograd, which NaN passes through here as there.
//
// A block takes a response, THREADS tokens at a time: neighbours are 128 bytes a warp, wherever the response starts.
// Each response has a sum of its own, and the order of additions depends on the response's length alone.
//
// Compiled for THREADS, a multiple of 32.
#include "ptx.cuh"

constexpr float MAX_LOG_RATIO = 20.0f;  // as in tempa.align.policy_loss

__device__ __forceinline__ float held(float value, float low, float high) {
    return value < low ? low : value > high ? high : value;
}

// Times -1, as all of the loss is: the smaller of both products, its derivative by the log-ratio, and which it is.
struct Surrogate {
    float loss, slope;
    bool is_clipped;
};

__device__ __forceinline__ Surrogate surrogate(float log_ratio, float advantage, float low, float high) {
    const float ratio = expf(held(log_ratio, -MAX_LOG_RATIO, MAX_LOG_RATIO));
    const float free = ratio * advantage, clipped = held(ratio, low, high) * advantage;
    const bool is_clipped = clipped < free;
    return {is_clipped ? -clipped : -free, is_clipped || fabsf(log_ratio) > MAX_LOG_RATIO ? 0 : -free, is_clipped};
}

__device__ __forceinline__ float sum_over_block(float value) {
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(ALL_LANES, value, offset);
    auto& parts = static_shared<float[THREADS / 32]>();
    __syncthreads();  // the parts of the sum before have been read
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = value;
    __syncthreads();
    value = 0;
    for (int part = 0; part < THREADS / 32; ++part) value += parts[part];
    return value;
}

extern "C" __global__ void __launch_bounds__(THREADS)
policy_loss(float* __restrict__ losses, float* __restrict__ gradient, float* __restrict__ log_ratios,
            bool* __restrict__ is_clipped, float* __restrict__ kl, const float* __restrict__ logps,
            const float* __restrict__ old_logps, const float* __restrict__ advantages,
            const float* __restrict__ ref_logps, const long long* __restrict__ offsets, int is_sequence, float low,
            float high, float weight, int kl_kind, float kl_coef) {
    const long long first = offsets[blockIdx.x], end = offsets[blockIdx.x + 1];
    const float length = end - first;
    if (weight == 0) weight = 1 / length;
    float mean = 0, shared_slope = 0;
    if (is_sequence) {
        for (long long at = first + threadIdx.x; at < end; at += THREADS) mean += logps[at] - old_logps[at];
        mean = sum_over_block(mean) / length;
        // Each token moves the ratio of all, so it has the slopes of all.
        for (long long at = first + threadIdx.x; at < end; at += THREADS)
            shared_slope += surrogate(mean, advantages[at], low, high).slope;
        shared_slope = sum_over_block(shared_slope) / length;
    }
    float loss = 0;
    for (long long at = first + threadIdx.x; at < end; at += THREADS) {
        const float now = logps[at], log_ratio = now - old_logps[at];
        const Surrogate of = surrogate(is_sequence ? mean : log_ratio, advantages[at], low, high);
        float term = of.loss, slope = is_sequence ? shared_slope : of.slope, divergence = 0;
        if (ref_logps) {
            const float apart = now - ref_logps[at], e = held(apart, -MAX_LOG_RATIO, MAX_LOG_RATIO);
            const float falling = expm1f(-e);
            divergence = kl_kind == 2 ? 0.5f * e * e : falling + e;
            term += kl_coef * divergence;
            if (!(fabsf(apart) > MAX_LOG_RATIO)) slope += kl_coef * (kl_kind == 2 ? e : -falling);
        }
        loss += weight * term;
        gradient[at] = weight * slope;
        log_ratios[at] = log_ratio;
        is_clipped[at] = of.is_clipped;
        kl[at] = divergence;
    }
    loss = sum_over_block(loss);
    if (threadIdx.x == 0) losses[blockIdx.x] = loss;
}
