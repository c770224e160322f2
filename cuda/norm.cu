// RMSNorm and LayerNorm over the last dimension of N rows of D elements, with gain w and bias b where there are any.
// With m = 0 (RMSNorm) or mean(x) (LayerNorm), s = 1 / sqrt(mean((x - m)^2) + eps) and u = (x - m) * s:
//   norm_forward   y  = u * w + b                                               moves 2*N*D elements (x once, y once)
//   norm_backward  dx = s * (w*dy - u * mean(w*dy * u) [- mean(w*dy)])          moves 3*N*D elements (x, dy, dx once)
//                  dw = sum over rows of dy * u, db = sum over rows of dy       and D float32 of each for each block
// RESIDUAL: x is the sum of a branch and the residual stream, rounded to ELEMENT and also written; its gradient adds
// that of the sum. Two more moves forward, one more backward. Branch and y may be 16-bit beside a float32 stream, as
// they are between matrix products under autocast; the branch then has a gradient of its own type, one more move.
// Reference: tempa.ops.reference.rms_norm and layer_norm. A row stays in registers; sums are float32, and their order
// depends on the launch shape alone, so results repeat bit for bit. The host checks that D fits and packs are aligned.
//
// Compiled for one shape: ELEMENT (float, bf16, fp16), BRANCH and OUTPUT the same or, beside float, one of 16 bits;
// VECTOR elements a pack, THREADS a row (a power of two), PACKS a thread, ROWS a block (1 if THREADS > 32);
// CENTRED, WEIGHTED, BIASED, RESIDUAL 0 or 1. Block (THREADS, ROWS).
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

__device__ __forceinline__ int column_of(int pack) { return (pack * THREADS + threadIdx.x) * VECTOR; }

// What LayerNorm takes off a row: its mean. The deviations are then summed from registers, so nothing cancels.
__device__ __forceinline__ float centre_of(const Elements (&row)[PACKS], bool is_row, int width) {
    if (!CENTRED) return 0;
    float total[1] = {0};
#pragma unroll
    for (int pack = 0; pack < PACKS; ++pack)
        if (is_row && column_of(pack) < width)
#pragma unroll
            for (int i = 0; i < VECTOR; ++i) total[0] += to_float(row[pack].at[i]);
    sum_over_row(total);
    return total[0] / width;
}

extern "C" __global__ void __launch_bounds__(THREADS * ROWS)
norm_forward(OUTPUT* __restrict__ y, ELEMENT* __restrict__ sum, const BRANCH* __restrict__ x,
             const ELEMENT* __restrict__ residual, const ELEMENT* __restrict__ weight, const ELEMENT* __restrict__ bias,
             long long num_rows, int width, float eps) {
    const long long row = (long long)blockIdx.x * ROWS + threadIdx.y;
    const bool is_row = row < num_rows;
    Elements row_x[PACKS];
#pragma unroll
    for (int pack = 0; pack < PACKS; ++pack) {
        const int column = column_of(pack);
        if (is_row && column < width) {
            row_x[pack] = converted<ELEMENT>(load_pack<VECTOR>(x + row * width + column));
            if (RESIDUAL) {
                const Elements stream = load_pack<VECTOR>(residual + row * width + column);
#pragma unroll
                for (int i = 0; i < VECTOR; ++i)
                    from_float(to_float(row_x[pack].at[i]) + to_float(stream.at[i]), row_x[pack].at[i]);
                store_pack<VECTOR>(sum + row * width + column, row_x[pack]);
            }
        }
    }
    const float centre = centre_of(row_x, is_row, width);
    float square[1] = {0};
#pragma unroll
    for (int pack = 0; pack < PACKS; ++pack) {
        if (is_row && column_of(pack) < width) {
#pragma unroll
            for (int i = 0; i < VECTOR; ++i) {
                const float value = to_float(row_x[pack].at[i]) - centre;
                square[0] += value * value;
            }
        }
    }
    sum_over_row(square);
    const float scale = rsqrtf(square[0] / width + eps);
#pragma unroll
    for (int pack = 0; pack < PACKS; ++pack) {
        const int column = column_of(pack);
        if (is_row && column < width) {
            Elements gain, shift;
            Pack<OUTPUT, VECTOR> out;
            if (WEIGHTED) gain = load_pack<VECTOR>(weight + column);
            if (BIASED) shift = load_pack<VECTOR>(bias + column);
#pragma unroll
            for (int i = 0; i < VECTOR; ++i) {
                float value = (to_float(row_x[pack].at[i]) - centre) * scale;
                if (WEIGHTED) value *= to_float(gain.at[i]);
                if (BIASED) value += to_float(shift.at[i]);
                from_float(value, out.at[i]);
            }
            store_pack<VECTOR>(y + row * width + column, out);
        }
    }
}

// Writes what each row of the block has added up, (D) of the caller's (gridDim.x, D).
__device__ __forceinline__ void write_sums(float* to, const float (&sums)[PACKS * VECTOR], int width) {
    to += (long long)blockIdx.x * width;
    if constexpr (ROWS == 1) {
#pragma unroll
        for (int i = 0; i < PACKS * VECTOR; ++i) {
            const int column = column_of(i / VECTOR) + i % VECTOR;
            if (column < width) to[column] = sums[i];
        }
    } else {
        auto& parts = static_shared<float[ROWS][THREADS * PACKS * VECTOR]>();
        __syncthreads();  // the sums before have been read
#pragma unroll
        for (int i = 0; i < PACKS * VECTOR; ++i) parts[threadIdx.y][column_of(i / VECTOR) + i % VECTOR] = sums[i];
        __syncthreads();
        for (int column = threadIdx.y * THREADS + threadIdx.x; column < width; column += THREADS * ROWS) {
            float total = 0;
            for (int row = 0; row < ROWS; ++row) total += parts[row][column];
            to[column] = total;
        }
    }
}

// Blocks take rows in turn. dweight and dbias are (gridDim.x, D): the sums of each block, added up by the caller.
// dbranch is dx in the type of the branch, or null.
extern "C" __global__ void __launch_bounds__(THREADS * ROWS)
norm_backward(ELEMENT* __restrict__ dx, BRANCH* __restrict__ dbranch, float* __restrict__ dweight,
              float* __restrict__ dbias, const OUTPUT* __restrict__ dy, const ELEMENT* __restrict__ dsum,
              const ELEMENT* __restrict__ x, const ELEMENT* __restrict__ weight, long long num_rows, int width,
              float eps) {
    float gain_sum[PACKS * VECTOR] = {}, shift_sum[PACKS * VECTOR] = {};
    for (long long first = (long long)blockIdx.x * ROWS; first < num_rows; first += (long long)gridDim.x * ROWS) {
        const long long row = first + threadIdx.y;
        const bool is_row = row < num_rows;
        Elements row_x[PACKS], row_dsum[PACKS];
        Pack<OUTPUT, VECTOR> row_dy[PACKS];
#pragma unroll
        for (int pack = 0; pack < PACKS; ++pack) {
            const int column = column_of(pack);
            if (is_row && column < width) {
                row_x[pack] = load_pack<VECTOR>(x + row * width + column);
                row_dy[pack] = load_pack<VECTOR>(dy + row * width + column);
                if (RESIDUAL) row_dsum[pack] = load_pack<VECTOR>(dsum + row * width + column);
            }
        }
        const float centre = centre_of(row_x, is_row, width);
        float sums[2 + CENTRED] = {};  // (x - m)^2, w*dy*(x - m), w*dy
#pragma unroll
        for (int pack = 0; pack < PACKS; ++pack) {
            const int column = column_of(pack);
            if (is_row && column < width) {
                Elements gain;
                if (WEIGHTED) gain = load_pack<VECTOR>(weight + column);
#pragma unroll
                for (int i = 0; i < VECTOR; ++i) {
                    const float value = to_float(row_x[pack].at[i]) - centre;
                    float grad = to_float(row_dy[pack].at[i]);
                    if (WEIGHTED) grad *= to_float(gain.at[i]);
                    sums[0] += value * value;
                    sums[1] += grad * value;
                    if (CENTRED) sums[1 + CENTRED] += grad;
                }
            }
        }
        sum_over_row(sums);
        const float scale = rsqrtf(sums[0] / width + eps);
        const float along = sums[1] * scale / width;
        const float shared = CENTRED ? sums[1 + CENTRED] / width : 0;
#pragma unroll
        for (int pack = 0; pack < PACKS; ++pack) {
            const int column = column_of(pack);
            if (is_row && column < width) {
                Elements gain, out;
                if (WEIGHTED) gain = load_pack<VECTOR>(weight + column);
#pragma unroll
                for (int i = 0; i < VECTOR; ++i) {
                    const float unit = (to_float(row_x[pack].at[i]) - centre) * scale;
                    const float upstream = to_float(row_dy[pack].at[i]);
                    const float grad = WEIGHTED ? upstream * to_float(gain.at[i]) : upstream;
                    gain_sum[pack * VECTOR + i] += upstream * unit;
                    shift_sum[pack * VECTOR + i] += upstream;
                    const float of_norm = scale * (grad - unit * along - shared);
                    from_float(RESIDUAL ? of_norm + to_float(row_dsum[pack].at[i]) : of_norm, out.at[i]);
                }
                store_pack<VECTOR>(dx + row * width + column, out);
                if (dbranch) store_pack<VECTOR>(dbranch + row * width + column, converted<BRANCH>(out));
            }
        }
    }
    if (WEIGHTED) write_sums(dweight, gain_sum, width);
    if (BIASED) write_sums(dbias, shift_sum, width);
}
