// Generalised advantage estimation over responses that lie one after the other (Schulman et al., 2016):
//   d_t = r_t + gamma V_{t+1} - V_t;  A_t = d_t + decay A_{t+1};  return_t = A_t + V_t;  decay = gamma lambda
// where V and A end with the response; V_{t+1} after its last token is given. Without values (VALUES 0) the sum alone
// is left: A_t = r_t + decay A_{t+1}, which is reward-to-go.
// Moves 16 bytes a token, without values 8. All float32. Reference: tempa.ops.reference.discounted_sums.
//
// A warp takes a response, from its end in STEPS steps of 32 tokens at a time, a lane each: neighbours are 128 bytes,
// wherever the response starts, and all loads of the steps are under way together. Lanes scan by doubling distances; what
// comes after a step enters by decay to the distance. The order of additions depends on the response's length alone.
//
// Compiled for VALUES 0 or 1, STEPS, WARPS a block.
#include "ptx.cuh"

extern "C" __global__ void __launch_bounds__(WARPS * 32)
discounted_sums(float* __restrict__ sums, float* __restrict__ returns, const float* __restrict__ rewards,
                const float* __restrict__ values, const float* __restrict__ last_values,
                const long long* __restrict__ offsets, long long num_responses, float gamma, float decay) {
    const long long response = (long long)blockIdx.x * WARPS + threadIdx.x / 32;
    if (response >= num_responses) return;
    // Lane 0 has the last token of a step.
    const int lane = threadIdx.x % 32;
    const long long first = offsets[response], end = offsets[response + 1];
    const float last_value = VALUES && last_values ? last_values[response] : 0;
    float lane_decay = decay;  // to the power of lane + 1
    for (int i = 0; i < lane; ++i) lane_decay *= decay;
    float after = 0;
    for (long long last = end - 1 - lane; last + lane >= first; last -= 32 * STEPS) {
        float sum[STEPS], value[STEPS];
#pragma unroll
        for (int step = 0; step < STEPS; ++step) {
            const long long at = last - 32 * step;
            sum[step] = value[step] = 0;
            if (at < first) continue;
            sum[step] = rewards[at];
            if (VALUES) {
                value[step] = values[at];
                sum[step] += gamma * (at + 1 < end ? values[at + 1] : last_value) - value[step];
            }
        }
        float factor = decay;
#pragma unroll
        for (int distance = 1; distance < 32; distance *= 2) {
#pragma unroll
            for (int step = 0; step < STEPS; ++step) {
                const float later = __shfl_up_sync(ALL_LANES, sum[step], distance);
                if (lane >= distance) sum[step] += factor * later;
            }
            factor *= factor;
        }
#pragma unroll
        for (int step = 0; step < STEPS; ++step) {
            const long long at = last - 32 * step;
            sum[step] += lane_decay * after;
            after = __shfl_sync(ALL_LANES, sum[step], 31);
            if (at >= first) {
                sums[at] = sum[step];
                if (VALUES) returns[at] = sum[step] + value[step];
            }
        }
    }
}
