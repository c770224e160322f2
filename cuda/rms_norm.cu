// RMSNorm over the last dimension of N rows of D elements, gain w optional, s = 1 / sqrt(mean(x^2) + eps):
//   forward   y  = x * s * w                                      moves 2*N*D elements (x once, y once)
//   backward  dx = s * (w*dy - x*s * mean(w*dy * x*s))            moves 3*N*D elements (x, dy, dx once)
//             dw = sum over rows of dy * x*s                      and D float32 for each block
// Reference: tempa.ops.reference.rms_norm. A row stays in registers; sums are float32, and their order depends on
// the launch shape alone, so results repeat bit for bit. The host checks that D fits and that packs are aligned.
//
// Compiled for one shape: ELEMENT (float, bf16, fp16), VECTOR elements a pack, THREADS a row (a power of two),
// PACKS a thread, ROWS a block (1 if THREADS > 32), WEIGHTED 0 or 1. Block (THREADS, ROWS).
#include "pack.cuh"

constexpr int LANES = THREADS < 32 ? THREADS : 32;
constexpr int WARPS = THREADS / LANES;

using Elements = Pack<ELEMENT, VECTOR>;

// Sums each of the values over the threads of one row; every thread gets the totals.
template <int COUNT>
__device__ __forceinline__ void sum_over_row(float (&values)[COUNT]) {
#pragma unroll
    for (int i = 0; i < COUNT; ++i) {
#pragma unroll
        for (int offset = LANES / 2; offset > 0; offset /= 2)
            values[i] += __shfl_xor_sync(ALL_LANES, values[i], offset);
    }
    if constexpr (WARPS > 1) {
        auto& parts = static_shared<float[COUNT][WARPS]>();
        const int warp = threadIdx.x / 32;
        __syncthreads();  // the parts of the row before have been read
        if (threadIdx.x % 32 == 0)
            for (int i = 0; i < COUNT; ++i) parts[i][warp] = values[i];
        __syncthreads();
#pragma unroll
        for (int i = 0; i < COUNT; ++i) {
            values[i] = 0;
            for (int part = 0; part < WARPS; ++part) values[i] += parts[i][part];
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS * ROWS)
rms_norm_forward(ELEMENT* __restrict__ y, const ELEMENT* __restrict__ x, const ELEMENT* __restrict__ weight,
                 long long num_rows, int width, float eps) {
    const long long row = (long long)blockIdx.x * ROWS + threadIdx.y;
    const bool is_row = row < num_rows;
    Elements row_x[PACKS];
    float square[1] = {0};
#pragma unroll
    for (int pack = 0; pack < PACKS; ++pack) {
        const int column = (pack * THREADS + threadIdx.x) * VECTOR;
        if (is_row && column < width) {
            row_x[pack] = load_pack<VECTOR>(x + row * width + column);
#pragma unroll
            for (int i = 0; i < VECTOR; ++i) {
                const float value = to_float(row_x[pack].at[i]);
                square[0] += value * value;
            }
        }
    }
    sum_over_row(square);
    const float scale = rsqrtf(square[0] / width + eps);
#pragma unroll
    for (int pack = 0; pack < PACKS; ++pack) {
        const int column = (pack * THREADS + threadIdx.x) * VECTOR;
        if (is_row && column < width) {
            Elements gain, out;
            if (WEIGHTED) gain = load_pack<VECTOR>(weight + column);
#pragma unroll
            for (int i = 0; i < VECTOR; ++i) {
                const float unit = to_float(row_x[pack].at[i]) * scale;
                from_float(WEIGHTED ? unit * to_float(gain.at[i]) : unit, out.at[i]);
            }
            store_pack<VECTOR>(y + row * width + column, out);
        }
    }
}

// Blocks take rows in turn. dweight is (gridDim.x, D): the sum over the rows of each block, added up by the caller.
extern "C" __global__ void __launch_bounds__(THREADS * ROWS)
rms_norm_backward(ELEMENT* __restrict__ dx, float* __restrict__ dweight, const ELEMENT* __restrict__ dy,
                  const ELEMENT* __restrict__ x, const ELEMENT* __restrict__ weight, long long num_rows, int width,
                  float eps) {
    float gain_sum[PACKS * VECTOR] = {};
    for (long long first = (long long)blockIdx.x * ROWS; first < num_rows; first += (long long)gridDim.x * ROWS) {
        const long long row = first + threadIdx.y;
        const bool is_row = row < num_rows;
        Elements row_x[PACKS], row_dy[PACKS];
        float sums[2] = {0, 0};  // x^2 and w*dy*x
#pragma unroll
        for (int pack = 0; pack < PACKS; ++pack) {
            const int column = (pack * THREADS + threadIdx.x) * VECTOR;
            if (is_row && column < width) {
                row_x[pack] = load_pack<VECTOR>(x + row * width + column);
                row_dy[pack] = load_pack<VECTOR>(dy + row * width + column);
                Elements gain;
                if (WEIGHTED) gain = load_pack<VECTOR>(weight + column);
#pragma unroll
                for (int i = 0; i < VECTOR; ++i) {
                    const float value = to_float(row_x[pack].at[i]);
                    const float grad = to_float(row_dy[pack].at[i]);
                    sums[0] += value * value;
                    sums[1] += (WEIGHTED ? grad * to_float(gain.at[i]) : grad) * value;
                }
            }
        }
        sum_over_row(sums);
        const float scale = rsqrtf(sums[0] / width + eps);
        const float along = sums[1] * scale / width;
#pragma unroll
        for (int pack = 0; pack < PACKS; ++pack) {
            const int column = (pack * THREADS + threadIdx.x) * VECTOR;
            if (is_row && column < width) {
                Elements gain, out;
                if (WEIGHTED) gain = load_pack<VECTOR>(weight + column);
#pragma unroll
                for (int i = 0; i < VECTOR; ++i) {
                    const float unit = to_float(row_x[pack].at[i]) * scale;
                    const float grad = to_float(row_dy[pack].at[i]);
                    gain_sum[pack * VECTOR + i] += grad * unit;
                    from_float(scale * ((WEIGHTED ? grad * to_float(gain.at[i]) : grad) - unit * along), out.at[i]);
                }
                store_pack<VECTOR>(dx + row * width + column, out);
            }
        }
    }
    if (!WEIGHTED) return;
    float* sums_of_block = dweight + (long long)blockIdx.x * width;
    if constexpr (ROWS == 1) {
#pragma unroll
        for (int i = 0; i < PACKS * VECTOR; ++i) {
            const int column = (i / VECTOR * THREADS + threadIdx.x) * VECTOR + i % VECTOR;
            if (column < width) sums_of_block[column] = gain_sum[i];
        }
    } else {
        auto& parts = static_shared<float[ROWS][THREADS * PACKS * VECTOR]>();
#pragma unroll
        for (int i = 0; i < PACKS * VECTOR; ++i)
            parts[threadIdx.y][(i / VECTOR * THREADS + threadIdx.x) * VECTOR + i % VECTOR] = gain_sum[i];
        __syncthreads();
        for (int column = threadIdx.y * THREADS + threadIdx.x; column < width; column += THREADS * ROWS) {
            float total = 0;
            for (int row = 0; row < ROWS; ++row) total += parts[row][column];
            sums_of_block[column] = total;
        }
    }
}
