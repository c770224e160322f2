// What the kernels of linear_loss.cu and linear_loss_hopper.cu share: logits, and sums of their exponentials.
//
// Compiled for CAPPED 0 or 1.
#pragma once
#include "ptx.cuh"

struct Scale {
    float cap, inverse_cap, inverse_temperature;

    // The logit by which words are drawn, in units of log 2; the slope of the cap where it is asked for.
    __device__ __forceinline__ float logit(float product, float* slope = nullptr) const {
        if (CAPPED) {
            // tanh by the exponential, whose error is absolute: that of tanh.approx would be 0.015 of a logit at cap 30.
            const float bounded = 1 - __fdividef(2.0f, 1 + exp2_approximate(2 * LOG2_E * inverse_cap * product));
            if (slope) *slope = 1 - bounded * bounded;
            product = cap * bounded;
        } else if (slope) {
            *slope = 1;
        }
        return product * (inverse_temperature * LOG2_E);
    }
};

// The sum of some 2^l as 2^highest * total.
struct PowerSum {
    float highest, total;

    __device__ __forceinline__ void add(float other_highest, float other_total) {
        const float both = fmaxf(highest, other_highest);
        if (both == -infinity()) return;
        total = total * exp2_approximate(highest - both) + other_total * exp2_approximate(other_highest - both);
        highest = both;
    }
};
