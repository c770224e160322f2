// Attention on sm_90a, for heads of 64 or 128 elements: what the kernels of attention_*_hopper.cu share.
//
// Compiled with what attention.cuh names, and with GROUPS of 64 rows a block, STEP rows of the other side at a time and
// STAGES steps in shared memory. Rows are queries and others keys, or the other way round.
//
// One warpgroup loads boxes of the tensors to swizzled tiles, the others multiply them; what they make of scores stays
// in registers, as the left side of the next products. As many blocks as multiprocessors take tiles in turn, and the
// loads for a tile begin during the one before. Blocks beside each other have the same rows of heads that may share
// others.
#pragma once
#include "attention.cuh"
#include "warpgroup.cuh"

constexpr int ROWS_OF_GROUP = 64, ROWS = GROUPS * ROWS_OF_GROUP, THREADS = (GROUPS + 1) * WARPGROUP;
constexpr int PANEL = 64, PANELS = HEAD_DIM / PANEL;  // 128 bytes of a row, the width of a swizzle
// 65536 registers, less what a loading thread needs, shared by the threads that multiply.
constexpr int LOADING_REGISTERS = GROUPS == 2 ? 40 : 32, MULTIPLYING_REGISTERS = GROUPS == 2 ? 232 : 160;

template <int COUNT>
using TileOf = ELEMENT[PANELS][COUNT][PANEL];

// A row sees others from `before` places before to `behind` places behind its own; `num_heads` are those of the rows.
struct Batch {
    const int *row_bounds, *other_bounds;
    int num_sequences, num_rows, num_heads, before, behind;

    __device__ __forceinline__ int num_tiles() const { return (num_rows / ROWS + num_sequences + 1) * num_heads; }
};

// Rows of one head, and the steps of others that one of them sees, from `begin` on.
struct Tile {
    int head, first_token, num_rows, first_place, begin, num_steps;
    Range others;
};

// Tiles go from head to head, then to the rows behind. Some have no rows.
__device__ __forceinline__ Tile tile_of(const Batch& batch, int number) {
    Tile tile = {number % batch.num_heads};
    const int room = number / batch.num_heads;
    const int sequence = sequence_of<ROWS>(room, batch.row_bounds, batch.num_sequences);
    const Range rows = tokens_of(batch.row_bounds, batch.num_sequences, sequence, batch.num_rows);
    const int first_row = (room - rows.first / ROWS - sequence) * ROWS;
    tile.first_token = rows.first + first_row;
    tile.num_rows = min(rows.count - first_row, ROWS);
    // Rows that belong to no sequence have no others.
    tile.others = tokens_of(batch.other_bounds, batch.num_sequences, sequence, batch.other_bounds[batch.num_sequences]);
    tile.first_place = first_row + tile.others.count - rows.count;
    tile.begin = max(tile.first_place - batch.before, 0);
    const int end = min(tile.others.count, tile.first_place + tile.num_rows + batch.behind);
    tile.num_steps = max(end - tile.begin + STEP - 1, 0) / STEP;
    return tile;
}

// Calls `work` for the tiles of a block that have rows. Blocks take tiles in turn, in every second round backwards, so
// that each gets its share of long and short ones; with `last_first` the last tiles come first.
template <bool last_first, class Work>
__device__ __forceinline__ void for_each_tile(const Batch& batch, const Work& work) {
    const int num_blocks = gridDim.x, block = blockIdx.x, num_tiles = batch.num_tiles();
    for (int round = 0; round * num_blocks < num_tiles; ++round) {
        const int number = round * num_blocks + (round % 2 ? num_blocks - 1 - block : block);
        if (number >= num_tiles) continue;
        const Tile tile = tile_of(batch, last_first ? num_tiles - 1 - number : number);
        if (tile.num_rows > 0) work(tile);
    }
}

using Stage = StageOf<STAGES>;

// Starts to load rows of a head. Those behind the end of a sequence come with its last ones; masks hide their scores.
template <int COUNT>
__device__ __forceinline__ void load_rows(TileOf<COUNT>& to, const TensorMap& from, Mbarrier& full, int head,
                                          int token) {
#pragma unroll
    for (int panel = 0; panel < PANELS; ++panel) load_box(to[panel], from, full, panel * PANEL, head, token);
}

// One thread makes the barriers of a block's rows and of its steps.
__device__ __forceinline__ void init_barriers(Mbarrier& rows_full, Mbarrier& rows_empty, Mbarrier (&full)[STAGES],
                                              Mbarrier (&empty)[STAGES]) {
    mbarrier_init(rows_full, 1);
    mbarrier_init(rows_empty, GROUPS * 4);
    for (int stage = 0; stage < STAGES; ++stage) {
        mbarrier_init(full[stage], 1);
        mbarrier_init(empty[stage], GROUPS * 4);
    }
    fence_mbarrier_init();
}

__device__ __forceinline__ void sync_group(int group) { barrier_sync(1 + GROUPS + group, WARPGROUP); }

// What one multiplying thread has, as warpgroup.cuh says.
using Scores = float[STEP / 2];
using Weights = unsigned[STEP / 16][4];
using Sums = float[HEAD_DIM / 2];

// scores = rows others^T, for the 64 rows of a group.
__device__ __forceinline__ void issue_scores(Scores& scores, const TileOf<ROWS>& rows, const TileOf<STEP>& others,
                                             int first_row) {
    const unsigned long long left = k_major_descriptor<128>(&rows[0][first_row][0]);
    const unsigned long long right = k_major_descriptor<128>(&others[0][0][0]);
    pin_registers(scores);
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < HEAD_DIM; i += 16) {
        const int panel = i / PANEL, bytes = i % PANEL * 2;
        wgmma<ELEMENT, Major::k, Major::k>(scores, advanced(left, panel * (int)sizeof rows[0] + bytes),
                                           advanced(right, panel * (int)sizeof others[0] + bytes), i > 0);
    }
    wgmma_commit();
}

// sums += weights others.
__device__ __forceinline__ void issue_sums(Sums& sums, Weights& weights, const TileOf<STEP>& others) {
    const unsigned long long right = mn_major_descriptor<128>(&others[0][0][0], sizeof others[0]);
    pin_registers(sums);
#pragma unroll
    for (int i = 0; i < STEP / 16; ++i) pin_registers(weights[i]);
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < STEP / 16; ++i)
        wgmma<ELEMENT, Major::mn>(sums, weights[i], advanced(right, i * 16 * PANEL * 2), true);
    wgmma_commit();
}

// Calls `hide` for the elements that a thread's rows do not see: others begin `from - before` behind the step's first
// and end behind `from + behind`, and there are `count`. For the second row, `from` is 8 more.
template <class Hide>
__device__ __forceinline__ void mask(int from, int before, int behind, int count, const Hide& hide) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const Range seen = clipped(from + half * 8 - before, min(from + half * 8 + behind, count - 1));
        const int first = seen.first - first_column_of_thread();
#pragma unroll
        for (int i = half * 2; i < STEP / 2; i += i % 2 ? 3 : 1)
            if ((unsigned)(column_of(i) - first) >= (unsigned)seen.count) hide(i);
    }
}

// Whether a group of the tile, from `first_row` on, does not see all others of a step.
__device__ __forceinline__ bool is_masked(const Batch& batch, const Tile& tile, int first_row, int step_begin) {
    const int first_place = tile.first_place + first_row, last_place = first_place + ROWS_OF_GROUP - 1;
    return step_begin + STEP > min(tile.others.count, first_place + batch.behind + 1) ||
           step_begin < last_place - batch.before;
}

__device__ __forceinline__ void pack(Weights& weights, const Scores& scores) {
#pragma unroll
    for (int i = 0; i < STEP / 4; ++i)
        weights[i / 4][i % 4] = pack_pair<ELEMENT>(scores[2 * i], scores[2 * i + 1]);
}

// Rows from `count` on become zero: weights of 0 do not hide infinities and NaNs that may stand behind a sequence. All
// groups write the same zeros, each before its own products.
__device__ __forceinline__ void clear_rows(TileOf<STEP>& tile, int count, int group) {
    constexpr int CHUNKS = PANEL / 8;
    const int thread = threadIdx.x % WARPGROUP;
#pragma unroll 1
    for (int i = count * CHUNKS + thread; i < STEP * CHUNKS; i += WARPGROUP)
#pragma unroll
        for (int panel = 0; panel < PANELS; ++panel)
            *reinterpret_cast<uint4*>(&tile[panel][i / CHUNKS][i % CHUNKS * 8]) = uint4{};
    fence_async_shared();
    sync_group(group);
}
