// Log-probabilities straight from hidden states on sm_90a: what linear_loss.cu computes, by wgmma.
// Reference: tempa.ops.reference.logp and its gradient by autograd.
//
// One warpgroup loads boxes of x and w, two multiply, each 64 tokens by 256 words, so that a stage of both serves all.
// A block goes through the words of its split tile by tile, and the loads go on while a tile ends. The exponentials of a
// tile take the special unit 2,048 clocks, its products 16 D; nothing ties the two warpgroups together but the stages,
// so one ends its tile while the other multiplies. x and w come at 48 bytes a clock of products, from the second cache,
// which is more than it gives to all multiprocessors at once: that, not the products, bounds the rate.
//
// Compiled for ELEMENT (bf16, fp16) and CAPPED 0 or 1. Grid (tiles of tokens * splits). Block (384).
#include "linear_loss.cuh"
#include "warpgroup.cuh"

constexpr int GROUPS = 2, TOKENS_OF_GROUP = 64, TOKENS = GROUPS * TOKENS_OF_GROUP, WORDS = 256;
constexpr int DEPTH = 64, STAGES = 4;  // columns of a stage: 128 bytes of a row, the width of a swizzle
// 65536 registers, less what a loading thread needs, shared by the threads that multiply.
constexpr int LOADING_REGISTERS = 40, MULTIPLYING_REGISTERS = 232;

struct alignas(1024) Shared {
    ELEMENT x[STAGES][TOKENS][DEPTH];
    ELEMENT w[STAGES][WORDS][DEPTH];
    Mbarrier full[STAGES], empty[STAGES];
};

struct Words {
    int first, last;
};

using Tile = float[WORDS / 2];
using Stage = StageOf<STAGES>;

__device__ __forceinline__ void load_tiles(Shared& shared, const TensorMap& x, const TensorMap& w, int first_token,
                                           const Words& words, int depth) {
    unsigned next = 0;
    for (int word = words.first; word < words.last; word += WORDS)
        for (int column = 0; column < depth; column += DEPTH, ++next) {
            const Stage stage(next);
            mbarrier_wait(shared.empty[stage.index], stage.parity ^ 1);
            mbarrier_arrive_expecting(shared.full[stage.index], sizeof shared.x[0] + sizeof shared.w[0]);
            load_box(shared.x[stage.index], x, shared.full[stage.index], column, first_token);
            load_box(shared.w[stage.index], w, shared.full[stage.index], column, word);
        }
}

// Calls take(tile, word) with the products of 64 tokens with each tile of words.
template <class Take>
__device__ __forceinline__ void multiply_tiles(Shared& shared, const Words& words, int depth, const Take& take) {
    const int first_row = group_of_thread() * TOKENS_OF_GROUP;
    Tile tile;
    unsigned next = 0;
    for (int word = words.first; word < words.last; word += WORDS) {
        pin_registers(tile);
        for (int column = 0; column < depth; column += DEPTH, ++next) {
            const Stage stage(next);
            mbarrier_wait(shared.full[stage.index], stage.parity);
            const unsigned long long rows = k_major_descriptor<128>(&shared.x[stage.index][first_row][0]);
            const unsigned long long columns = k_major_descriptor<128>(&shared.w[stage.index][0][0]);
            wgmma_fence();
#pragma unroll
            for (int k = 0; k < DEPTH; k += 16)
                wgmma<ELEMENT, Major::k, Major::k>(tile, advanced(rows, 2 * k), advanced(columns, 2 * k),
                                                   column + k > 0);
            wgmma_commit();
            // While these run, those of the stage before end.
            wgmma_wait<1>();
            if (column > 0) release(shared.empty[Stage(next - 1).index]);
        }
        wgmma_wait<0>();
        pin_registers(tile);
        release(shared.empty[Stage(next - 1).index]);
        take(tile, word);
    }
}

// The column of a word of the vocabulary as column_of has it, or -1 if the tile has no such word in the thread's columns.
__device__ __forceinline__ int place_in_tile(long long word, int first_word, int num_columns) {
    const long long column = word - first_word - first_column_of_thread();
    return column >= 0 && column < num_columns ? (int)column : -1;
}

// Loads in one warp, calls multiply(shared) in the warpgroups that multiply.
template <class Multiply>
__device__ __forceinline__ void share_work(const TensorMap& x, const TensorMap& w, int first_token, const Words& words,
                                           int depth, const Multiply& multiply) {
    Shared& shared = dynamic_shared<Shared>();
    if (threadIdx.x == 0) {
        for (int stage = 0; stage < STAGES; ++stage) {
            mbarrier_init(shared.full[stage], 1);
            mbarrier_init(shared.empty[stage], GROUPS * 4);
        }
        fence_mbarrier_init();
    }
    __syncthreads();
    if (group_of_thread() == GROUPS) {
        decrease_registers<LOADING_REGISTERS>();
        if (threadIdx.x % WARPGROUP < 32 && is_elected()) load_tiles(shared, x, w, first_token, words, depth);
    } else {
        increase_registers<MULTIPLYING_REGISTERS>();
        multiply(shared);
    }
}

extern "C" __global__ void __launch_bounds__((GROUPS + 1) * WARPGROUP, 1)
linear_lse_hopper(float* __restrict__ parts, float* __restrict__ target_logits, const __grid_constant__ TensorMap x,
                  const __grid_constant__ TensorMap w, const long long* __restrict__ targets, int num_tokens,
                  int num_words, int depth, int words_of_split, float cap, float inverse_cap,
                  float inverse_temperature) {
    const Scale scale{cap, inverse_cap, inverse_temperature};
    // Neighbouring blocks take the same words, which the second cache then has.
    const int token_tiles = (num_tokens + TOKENS - 1) / TOKENS;
    const int split = blockIdx.x / token_tiles, first_token = blockIdx.x % token_tiles * TOKENS;
    const int first_word = split * words_of_split;
    const Words words{first_word, min(first_word + words_of_split, num_words)};
    share_work(x, w, first_token, words, depth, [&](Shared& shared) {
        const int token = first_token + group_of_thread() * TOKENS_OF_GROUP + first_row_of_thread();
        long long target[2];
        PowerSum sums[2];  // of the thread's own columns
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            target[half] = token + half * 8 < num_tokens ? targets[token + half * 8] : -1;
            sums[half] = {-infinity(), 0};
        }
        multiply_tiles(shared, words, depth, [&](Tile& tile, int word) {
            const int num_columns = min(words.last - word, WORDS) - first_column_of_thread();
            const int target_columns[2] = {place_in_tile(target[0], word, num_columns),
                                           place_in_tile(target[1], word, num_columns)};
#pragma unroll
            for (int i = 0; i < WORDS / 2; ++i) {
                const int half = i / 2 % 2;
                tile[i] = column_of(i) < num_columns ? scale.logit(tile[i]) : -infinity();
                if (column_of(i) == target_columns[half]) target_logits[token + half * 8] = tile[i] * LN_2;
            }
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                // Two chains each, as every step waits for the one before.
                float highest[2] = {-infinity(), -infinity()}, totals[2] = {};
#pragma unroll
                for (int i = half * 2; i < WORDS / 2; i += i % 2 ? 3 : 1)
                    highest[i % 2] = fmaxf(highest[i % 2], tile[i]);
                const float most = fmaxf(highest[0], highest[1]);
                if (most == -infinity()) continue;
#pragma unroll
                for (int i = half * 2; i < WORDS / 2; i += i % 2 ? 3 : 1)
                    totals[i % 2] += exp2_approximate(tile[i] - most);
                sums[half].add(most, totals[0] + totals[1]);
            }
        });
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            PowerSum& sum = sums[half];
#pragma unroll
            for (int other = 1; other < 4; other *= 2) {
                const float highest = __shfl_xor_sync(ALL_LANES, sum.highest, other);
                sum.add(highest, __shfl_xor_sync(ALL_LANES, sum.total, other));
            }
            if (threadIdx.x % 4 == 0 && token + half * 8 < num_tokens)
                parts[(long long)split * num_tokens + token + half * 8] =
                    (sum.highest + log2_approximate(sum.total)) * LN_2;
        }
    });
}

// `gradient` has rows of `stride` elements for words from `first_word` on; what is behind the last word becomes zero.
extern "C" __global__ void __launch_bounds__((GROUPS + 1) * WARPGROUP, 1)
linear_gradient_hopper(ELEMENT* __restrict__ gradient, const __grid_constant__ TensorMap x,
                       const __grid_constant__ TensorMap w, const long long* __restrict__ targets,
                       const float* __restrict__ upstream, const float* __restrict__ lse, int num_tokens, int first_word,
                       int last_word, int depth, int stride, int words_of_split, float cap, float inverse_cap,
                       float inverse_temperature) {
    const Scale scale{cap, inverse_cap, inverse_temperature};
    const int token_tiles = (num_tokens + TOKENS - 1) / TOKENS;
    const int first_token = blockIdx.x % token_tiles * TOKENS;
    const int first_of_split = first_word + blockIdx.x / token_tiles * words_of_split;
    const Words words{first_of_split, min(first_of_split + words_of_split, last_word)};
    share_work(x, w, first_token, words, depth, [&](Shared& shared) {
        const int first_row = first_token + group_of_thread() * TOKENS_OF_GROUP;
        const int token = first_row + first_row_of_thread();
        long long target[2];
        float factor[2], norm[2];
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int row = token + half * 8;
            const bool is_row = row < num_tokens;
            target[half] = is_row ? targets[row] : -1;
            factor[half] = is_row ? upstream[row] * inverse_temperature : 0;
            norm[half] = is_row ? lse[row] * LOG2_E : 0;
        }
        multiply_tiles(shared, words, depth, [&](Tile& tile, int word) {
            const int num_columns = min(words.last - word, WORDS) - first_column_of_thread();
            const int target_columns[2] = {place_in_tile(target[0], word, num_columns),
                                           place_in_tile(target[1], word, num_columns)};
#pragma unroll
            for (int i = 0; i < WORDS / 2; ++i) {
                const int half = i / 2 % 2;
                float slope;
                const float logit = scale.logit(tile[i], &slope);
                const float is_target = column_of(i) == target_columns[half] ? 1 : 0;
                const float share = is_target - exp2_approximate(logit - norm[half]);
                tile[i] = column_of(i) < num_columns ? factor[half] * slope * share : 0;
            }
            const int column = word - first_word;
            store_rows(gradient + (long long)first_row * stride + column, stride, num_tokens - first_row,
                       stride - column, tile);
        });
    });
}
