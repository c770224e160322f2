// Matrices by warpgroups of cuda/ptx_wgmma.cuh. Each warp makes its 16 rows on its own, in the order of issue.
#include <deque>

#include "ptx.cuh"
#include "schedule.hpp"

namespace simulator {
namespace {

constexpr int DEPTH = 16, WARP_ROWS = 16, MAX_COLUMNS = 256;
constexpr unsigned GROUP_WARPS = 4;
constexpr int PIECE = 8;  // neighbouring elements that a swizzle keeps together

struct Product {
    WgmmaShape shape;
    WgmmaOperand operands[WARP_SIZE];
    unsigned warp;
    Where where;
    bool is_done;
};

struct WarpProducts {
    bool has_fence = false;
    std::deque<std::vector<Product>> groups;  // committed
    std::vector<Product> open;
};

std::vector<WarpProducts> warps;

const bool has_hooks = (add_hooks({
    .before_cluster = [] { warps.assign((num_threads() + WARP_SIZE - 1) / WARP_SIZE, {}); },
    .at_return = [](unsigned thread) -> std::string {
        const WarpProducts& warp = warps[thread / WARP_SIZE];
        const auto is_empty = [](const auto& group) { return group.empty(); };
        return warp.open.empty() && std::ranges::all_of(warp.groups, is_empty) ? "" : "wgmma";
    },
    .at_deadlock = nullptr,
}), true);

// A tile in shared memory, as the fields of its descriptor say.
class Tile {
public:
    Tile(uint64_t descriptor, Major major, const Where& where)
        : start_((descriptor & 0x3fff) << 4), leading_((descriptor >> 16 & 0x3fff) << 4),
          stride_((descriptor >> 32 & 0x3fff) << 4), width_(256u >> (descriptor >> 62)), major_(major), where_(where) {
        if (descriptor >> 62 == 0) fail("wgmma with a descriptor without swizzle", where);
        if (start_ & (width_ * 8 - 1) & ~127u)
            fail(format("wgmma with a tile at byte %u: not a multiple of %u", start_, width_ * 8), where);
    }

    // PIECE elements from (row, place): neighbours along the sum, or along the row index if it is the major one.
    void read(int row, int place, uint16_t (&to)[PIECE]) const {
        const int slow = major_ == Major::k ? row : place, fast = major_ == Major::k ? place : row;
        const int panel_elements = width_ / 2;
        const unsigned offset = fast / panel_elements * leading_ + fast % panel_elements * 2 + slow / 8 * stride_ +
                                slow % 8 * width_;
        const char* bytes = shared_memory().at(swizzled(start_ + offset, width_), sizeof to);
        if (!bytes) fail(format("wgmma reads byte %u of shared memory, where nothing is", start_ + offset), where_);
        memcpy(to, bytes, sizeof to);
    }

private:
    unsigned start_, leading_, stride_, width_;
    Major major_;
    Where where_;
};

// Calls `place` for where each element of a tile goes, by its row and its place along the sum.
template <float to_float(uint16_t), class Place>
void read_all(const Tile& tile, Major major, int first_row, int num_rows, const Place& place) {
    uint16_t piece[PIECE];
    for (int slow = 0; slow < (major == Major::k ? num_rows : DEPTH); ++slow)
        for (int fast = 0; fast < (major == Major::k ? DEPTH : num_rows); fast += PIECE) {
            tile.read(first_row + (major == Major::k ? slow : fast), major == Major::k ? fast : slow, piece);
            for (int i = 0; i < PIECE; ++i)
                (major == Major::k ? place(slow, fast + i) : place(fast + i, slow)) = to_float(piece[i]);
        }
}

template <float to_float(uint16_t)>
void multiply(const Product& product) {
    float a[WARP_ROWS][DEPTH], b[DEPTH][MAX_COLUMNS];
    const auto& [shape, operands, warp, where, is_done] = product;
    const int num_columns = shape.num_columns;
    if (operands[0].a_registers) {
        for (int lane = 0; lane < 32; ++lane)
            for (int i = 0; i < 8; ++i)
                a[lane / 4 + i / 2 % 2 * 8][lane % 4 * 2 + i / 4 * 8 + i % 2] =
                    to_float(operands[lane].a_registers[i / 2] >> 16 * (i % 2));
    } else {
        const Tile tile(operands[0].a, shape.a_major, where);
        const int first_row = warp % GROUP_WARPS * WARP_ROWS;
        read_all<to_float>(tile, shape.a_major, first_row, WARP_ROWS,
                           [&](int row, int k) -> float& { return a[row][k]; });
    }
    const Tile tile(operands[0].b, shape.b_major, where);
    read_all<to_float>(tile, shape.b_major, 0, num_columns,
                       [&](int column, int k) -> float& { return b[k][column]; });
    float d[WARP_ROWS][MAX_COLUMNS];
    for (int row = 0; row < WARP_ROWS; ++row) {
        std::fill_n(d[row], num_columns, 0.0f);
        for (int k = 0; k < DEPTH; ++k)
            for (int column = 0; column < num_columns; ++column) d[row][column] += a[row][k] * b[k][column];
    }
    for (int lane = 0; lane < 32; ++lane)
        for (int i = 0; i < num_columns / 2; ++i) {
            float& sum = operands[lane].d[i];
            const float added = d[lane / 4 + i % 4 / 2 * 8][i / 4 * 8 + lane % 4 * 2 + i % 2];
            sum = operands[lane].accumulates ? sum + added : added;
        }
}

void finish(std::vector<Product>& group) {
    for (Product& product : group)
        if (!std::exchange(product.is_done, true))
            product.shape.format == Format::BF16 ? multiply<bf16_to_float>(product) : multiply<fp16_to_float>(product);
}

void finish_all(WarpProducts& warp) {
    for (auto& group : warp.groups) finish(group);
    finish(warp.open);
}

// What a lane brings to the instruction.
struct Issue {
    const WgmmaShape* shape;
    const WgmmaOperand* operand;
    const Where* where;
};

void issue(Operands lanes) {
    const auto& first = *static_cast<const Issue*>(lanes[0]);
    const unsigned warp = current_thread() / WARP_SIZE;
    WarpProducts& products = warps[warp];
    if (!products.has_fence) fail("wgmma without a wgmma_fence since the last wgmma_commit", *first.where);
    Product product{*first.shape, {}, warp, *first.where, false};
    for (unsigned lane = 0; lane < WARP_SIZE; ++lane) {
        const WgmmaOperand& operand = product.operands[lane] = *static_cast<const Issue*>(lanes[lane])->operand;
        if (operand.a != first.operand->a || operand.b != first.operand->b ||
            operand.accumulates != first.operand->accumulates)
            fail("wgmma with descriptors that differ between lanes", *first.where);
    }
    products.open.push_back(product);
    if (lands_at_once()) finish_all(products);
}

// A call of a whole warp that concerns its products.
void meet_warp(const char* call, unsigned number, void (*run)(WarpProducts&, unsigned number), const Where& where) {
    struct Call {
        unsigned number;
        void (*run)(WarpProducts&, unsigned);
    } operand{number, run};
    meet(call, ALL_LANES, &operand, [](Operands lanes) {
        const auto& [number, run] = *static_cast<const Call*>(lanes[0]);
        run(warps[current_thread() / WARP_SIZE], number);
    }, where);
}

}  // namespace

void wgmma_fence(const Where& where) {
    meet_warp("wgmma_fence", 0, [](WarpProducts& warp, unsigned) { warp.has_fence = true; }, where);
}

void wgmma(const WgmmaShape& shape, const WgmmaOperand& operand, const Where& where) {
    if (num_threads() < (current_thread() / WARP_SIZE / GROUP_WARPS + 1) * GROUP_WARPS * WARP_SIZE)
        fail("wgmma in a warp that is not one of four", where);
    Issue brought{&shape, &operand, &where};
    meet("wgmma", ALL_LANES, &brought, issue, where);
}

void wgmma_commit(const Where& where) {
    meet_warp("wgmma_commit", 0, [](WarpProducts& warp, unsigned) {
        warp.has_fence = false;
        warp.groups.push_back(std::move(warp.open));
        warp.open.clear();
    }, where);
}

void wgmma_wait(unsigned num_pending, const Where& where) {
    if (lane_index() == 0 && warps[current_thread() / WARP_SIZE].groups.size() > num_pending)
        linger({"wgmma_wait"}, where);
    meet_warp("wgmma_wait", num_pending, [](WarpProducts& warp, unsigned num_pending) {
        for (; warp.groups.size() > num_pending; warp.groups.pop_front()) finish(warp.groups.front());
    }, where);
}

}  // namespace simulator
