// Log-probabilities straight from hidden states x (T, D) and an output embedding w (V, D): the logits are never stored.
//   l(t, v) = cap(x_t . w_v) / temperature, cap(z) = c tanh(z / c) or z
//   linear_lse       parts(s, t) = log of the sum of exp l(t, v) over the words v of split s, and l(t, target of t)
//   linear_gradient  g(t, v) = upstream_t cap'(z) / temperature ([v is the target] - exp(l(t, v) - lse_t)) for a range
//                    of words, as ELEMENT: times w it is what the range adds to dx, and its transpose times x is dw
// 2*T*V*D operations each. x is read once for each tile of words, w once for each tile of tokens, from the second cache
// where they fit it. Reference: tempa.ops.reference.logp and its gradient by autograd.
//
// A block of 8 warps, 2 by 4, makes tiles of 128 tokens by 128 words from three stages of 32 columns; a warp makes 64
// by 32. The stages go on through tiles: while one tile ends, the first columns of the next are on their way. Rows of a
// stage are 64 bytes, so eight rows of one column would share two of the eight groups of four banks; each 16 bytes stand
// at their column XOR half their row, which puts eight rows of load_matrix into eight groups.
// D is a multiple of 8 and rows are aligned to 16 bytes; T and V are any. Sums are float32 in a fixed order.
//
// Compiled for ELEMENT (bf16, fp16) and CAPPED 0 or 1.
#include "linear_loss.cuh"

constexpr int TOKENS = 128, WORDS = 128, DEPTH = 32, STAGES = 3, THREADS = 256;
constexpr int CHUNK = 16 / sizeof(ELEMENT);  // elements that are copied at once
constexpr int WARP_COLUMNS = 4;

struct Stage {
    ELEMENT x[TOKENS][DEPTH], w[WORDS][DEPTH];
};

struct Shared {
    Stage stages[STAGES];
};

struct Operands {
    const ELEMENT *x, *w;
    int num_tokens, depth, last_word, first_token;
};

using Tile = float[4][4][4];

__device__ __forceinline__ int swizzled(int row, int chunk) { return (chunk ^ (row / 2 % 4)) * CHUNK; }

// Zeros stand for what is outside.
__device__ __forceinline__ void copy_rows(ELEMENT (&to)[128][DEPTH], const ELEMENT* from, int first, int last, int column,
                                          int depth) {
#pragma unroll
    for (int i = 0; i < 128 * DEPTH / CHUNK / THREADS; ++i) {
        const int index = threadIdx.x + i * THREADS, row = index / (DEPTH / CHUNK), chunk = index % (DEPTH / CHUNK);
        const int at = column + chunk * CHUNK;
        const bool is_there = first + row < last && at < depth;
        copy_async<16>(&to[row][swizzled(row, chunk)], is_there ? from + (long long)(first + row) * depth + at : from,
                       is_there);
    }
}

__device__ __forceinline__ void multiply(Tile& tile, const Stage& stage) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int first_row = warp / WARP_COLUMNS * 64, first_column = warp % WARP_COLUMNS * 32;
#pragma unroll
    for (int chunk = 0; chunk < DEPTH / CHUNK; chunk += 2) {
        unsigned a[4][4], b[2][4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int row = first_row + i * 16 + lane % 16;
            load_matrix(a[i], &stage.x[row][swizzled(row, chunk + lane / 16)]);
        }
#pragma unroll
        for (int j = 0; j < 2; ++j) {
            const int row = first_column + j * 16 + lane / 16 * 8 + lane % 8;
            load_matrix(b[j], &stage.w[row][swizzled(row, chunk + lane / 8 % 2)]);
        }
#pragma unroll
        for (int i = 0; i < 4; ++i)
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                const unsigned pair[2] = {b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]};
                mma_16x8x16<ELEMENT>(tile[i][j], a[i], pair);
            }
    }
}

// Makes the tiles of words from `first_word` on, one after the other, and calls take(tile, word) with each.
template <class Take>
__device__ __forceinline__ void for_each_tile(const Operands& of, int first_word, Take take) {
    auto& stages = static_shared<Shared>().stages;
    const int steps_of_tile = (of.depth + DEPTH - 1) / DEPTH;
    const int num_steps = (of.last_word - first_word + WORDS - 1) / WORDS * steps_of_tile;
    int issued = 0, next_word = first_word, next_column = 0;
    const auto issue = [&] {
        if (issued < num_steps) {
            Stage& stage = stages[issued % STAGES];
            copy_rows(stage.x, of.x, of.first_token, of.num_tokens, next_column, of.depth);
            copy_rows(stage.w, of.w, next_word, of.last_word, next_column, of.depth);
            next_column += DEPTH;
            if (next_column >= of.depth) next_column = 0, next_word += WORDS;
        }
        copy_async_commit();
        ++issued;
    };
    for (int i = 0; i < STAGES - 1; ++i) issue();
    Tile tile = {};
    int word = first_word, steps_left = steps_of_tile;
    for (int step = 0; step < num_steps; ++step) {
        copy_async_wait<STAGES - 2>();
        __syncthreads();  // the stage is there for all, and the one before it is no longer read
        issue();
        multiply(tile, stages[step % STAGES]);
        if (--steps_left == 0) {
            take(tile, word);
            word += WORDS;
            steps_left = steps_of_tile;
#pragma unroll
            for (int i = 0; i < 64; ++i) tile[i / 16][i / 4 % 4][i % 4] = 0;
        }
    }
}

// Where in a tile the thread's number `half * 2 + right` of tile[i][j] is.
__device__ __forceinline__ int row_of(int i, int half) {
    return threadIdx.x / 32 / WARP_COLUMNS * 64 + i * 16 + half * 8 + threadIdx.x % 32 / 4;
}

__device__ __forceinline__ int column_of(int j, int right) {
    return threadIdx.x / 32 % WARP_COLUMNS * 32 + j * 8 + threadIdx.x % 4 * 2 + right;
}

extern "C" __global__ void __launch_bounds__(THREADS, 2)
linear_lse(float* __restrict__ parts, float* __restrict__ target_logits, const ELEMENT* __restrict__ x,
           const ELEMENT* __restrict__ w, const long long* __restrict__ targets, int num_tokens, int num_words, int depth,
           int words_of_split, float cap, float inverse_cap, float inverse_temperature) {
    const Scale scale{cap, inverse_cap, inverse_temperature};
    // Neighbouring blocks take the same words, which the second cache then has.
    const int token_tiles = (num_tokens + TOKENS - 1) / TOKENS;
    const int split = blockIdx.x / token_tiles, first_token = blockIdx.x % token_tiles * TOKENS;
    const int first_word = split * words_of_split, last_word = min(first_word + words_of_split, num_words);
    // Each thread adds up its own columns; they come together once, at the end.
    PowerSum sums[4][2];
#pragma unroll
    for (int i = 0; i < 8; ++i) sums[i / 2][i % 2] = {-infinity(), 0};
    for_each_tile({x, w, num_tokens, depth, last_word, first_token}, first_word, [&](const Tile& tile, int tile_word) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int token = first_token + row_of(i, half);
                if (token >= num_tokens) continue;
                const long long target = targets[token];
                float logits[8], highest = -infinity(), total = 0;
#pragma unroll
                for (int j = 0; j < 8; ++j) {
                    const int word = tile_word + column_of(j / 2, j % 2);
                    const float logit = scale.logit(tile[i][j / 2][half * 2 + j % 2]);
                    logits[j] = word < last_word ? logit : -infinity();
                    highest = fmaxf(highest, logits[j]);
                    if (word == target && word < last_word) target_logits[token] = logit * LN_2;
                }
                if (highest == -infinity()) continue;
#pragma unroll
                for (int j = 0; j < 8; ++j) total += exp2_approximate(logits[j] - highest);
                sums[i][half].add(highest, total);
            }
        }
    });
    __syncthreads();  // no stage is read any more
    auto& of_warps = reinterpret_cast<PowerSum(&)[TOKENS][WARP_COLUMNS]>(static_shared<Shared>());
#pragma unroll
    for (int i = 0; i < 8; ++i) {
        PowerSum& sum = sums[i / 2][i % 2];
#pragma unroll
        for (int other = 1; other < 4; other *= 2) {
            const float highest = __shfl_xor_sync(ALL_LANES, sum.highest, other);
            sum.add(highest, __shfl_xor_sync(ALL_LANES, sum.total, other));
        }
        if (threadIdx.x % 4 == 0) of_warps[row_of(i / 2, i % 2)][threadIdx.x / 32 % WARP_COLUMNS] = sum;
    }
    __syncthreads();
    const int token = first_token + threadIdx.x;
    if (threadIdx.x < TOKENS && token < num_tokens) {
        PowerSum sum = of_warps[threadIdx.x][0];
        for (int i = 1; i < WARP_COLUMNS; ++i) sum.add(of_warps[threadIdx.x][i].highest, of_warps[threadIdx.x][i].total);
        parts[(long long)split * num_tokens + token] = (sum.highest + log2_approximate(sum.total)) * LN_2;
    }
}

// What the gradient of a token needs: the column of its target in the tile, if any, and the numbers of the formula.
struct Row {
    int target_column;
    float factor, norm;
};

// Where the stages were. Rows are 256 bytes, so 16 bytes stand at their column XOR their row, and the eight rows that a
// warp writes to at once share no banks.
struct Result {
    ELEMENT at[TOKENS][WORDS];
    Row rows[TOKENS];
};

static_assert(sizeof(Result) <= sizeof(Shared) && sizeof(PowerSum) * TOKENS * WARP_COLUMNS <= sizeof(Shared));

// `gradient` has rows of `stride` elements for words from `first_word` on; what is behind the last word becomes zero.
extern "C" __global__ void __launch_bounds__(THREADS, 2)
linear_gradient(ELEMENT* __restrict__ gradient, const ELEMENT* __restrict__ x, const ELEMENT* __restrict__ w,
                const long long* __restrict__ targets, const float* __restrict__ upstream,
                const float* __restrict__ lse, int num_tokens, int first_word, int last_word, int depth, int stride,
                float cap, float inverse_cap, float inverse_temperature) {
    const Scale scale{cap, inverse_cap, inverse_temperature};
    const int token_tiles = (num_tokens + TOKENS - 1) / TOKENS;
    const int first_token = blockIdx.x % token_tiles * TOKENS, first_column = blockIdx.x / token_tiles * WORDS;
    const int tile_word = first_word + first_column, num_columns = min(WORDS, last_word - tile_word);
    auto& result = reinterpret_cast<Result&>(static_shared<Shared>());
    const Operands of{x, w, num_tokens, depth, tile_word + num_columns, first_token};
    for_each_tile(of, tile_word, [&](const Tile& tile, int) {
        __syncthreads();  // no stage is read any more
        const int own = first_token + threadIdx.x;
        if (threadIdx.x < TOKENS) {
            Row row{-1, 0, 0};
            if (own < num_tokens) {
                const long long column = targets[own] - tile_word;
                row = {column >= 0 && column < num_columns ? (int)column : -1, upstream[own] * inverse_temperature,
                       lse[own] * LOG2_E};
            }
            result.rows[threadIdx.x] = row;
        }
        __syncthreads();
#pragma unroll
        for (int i = 0; i < 4; ++i) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int at = row_of(i, half);
                const Row row = result.rows[at];
#pragma unroll
                for (int j = 0; j < 4; ++j) {
                    const int column = column_of(j, 0);
                    float pair[2];
#pragma unroll
                    for (int right = 0; right < 2; ++right) {
                        float slope;
                        const float logit = scale.logit(tile[i][j][half * 2 + right], &slope);
                        const float is_target = column + right == row.target_column ? 1 : 0;
                        const float share = is_target - exp2_approximate(logit - row.norm);
                        pair[right] = column + right < num_columns ? row.factor * slope * share : 0;
                    }
                    const int chunk = column / CHUNK ^ at % 8;
                    *reinterpret_cast<unsigned*>(&result.at[at][chunk * CHUNK + column % CHUNK]) =
                        pack_pair<ELEMENT>(pair[0], pair[1]);
                }
            }
        }
    });
    __syncthreads();
    for (int index = threadIdx.x; index < TOKENS * WORDS / CHUNK; index += THREADS) {
        const int row = index / (WORDS / CHUNK), chunk = index % (WORDS / CHUNK);
        const int token = first_token + row, column = first_column + chunk * CHUNK;
        if (token < num_tokens && column < stride)
            *reinterpret_cast<uint4*>(gradient + (long long)token * stride + column) =
                *reinterpret_cast<const uint4*>(&result.at[row][(chunk ^ row % 8) * CHUNK]);
    }
}
