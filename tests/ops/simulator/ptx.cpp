#include "ptx.cuh"

#include "schedule.hpp"

namespace simulator {

float fp16_to_float(uint16_t bits) {
    // An fp16 moved into place is a float that is 2^112 too small, denormal numbers included.
    const float scaled = __uint_as_float((bits & 0x7fffu) << 13) * 0x1p112f;
    unsigned wide = __float_as_uint(scaled) | (bits & 0x8000u) << 16;
    if (scaled >= 65536.0f) wide |= 0x7f800000u;
    return __uint_as_float(wide);
}

uint16_t float_to_fp16(float value) {
    const unsigned bits = __float_as_uint(value), sign = bits >> 16 & 0x8000u;
    const float magnitude = std::fabs(value);
    if (std::isnan(value)) return 0x7fff;
    if (magnitude >= 65520.0f) return sign | 0x7c00u;
    // Added to 0.5, the last bit of a denormal number is the last of the float.
    if (magnitude < 0x1p-14f) return sign | (__float_as_uint(magnitude + 0.5f) - __float_as_uint(0.5f));
    const unsigned wide = bits & 0x7fffffffu;
    return sign | (((wide + 0xfffu + (wide >> 13 & 1u)) >> 13) - (112u << 10));
}

uint16_t float_to_bf16(float value) {
    const unsigned bits = __float_as_uint(value);
    return std::isnan(value) ? 0x7fffu : (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
}

// A lane that wants the value of one that is not there gets NaN: CUDA leaves it undefined.
void shuffle(Operands lanes) {
    uint64_t brought[WARP_SIZE];
    for (unsigned lane = 0; lane < WARP_SIZE; ++lane)
        brought[lane] = lanes[lane] ? static_cast<Shuffle*>(lanes[lane])->value : ~uint64_t{0};
    for (void* operand : lanes)
        if (auto* shuffled = static_cast<Shuffle*>(operand)) shuffled->value = brought[shuffled->lane % WARP_SIZE];
}

namespace {

struct Reduced {
    Reduction reduction;
    unsigned value, result;
};

void reduce_lanes(Operands lanes) {
    for (void* mine : lanes) {
        if (!mine) continue;
        auto& [reduction, value, result] = *static_cast<Reduced*>(mine);
        result = reduction == Reduction::MIN ? ~0u : 0;
        for (unsigned lane = 0; lane < WARP_SIZE; ++lane) {
            if (!lanes[lane]) continue;
            const unsigned other = static_cast<Reduced*>(lanes[lane])->value;
            switch (reduction) {
            case Reduction::ADD: result += other; break;
            case Reduction::MIN: result = min(result, other); break;
            case Reduction::MAX: result = max(result, other); break;
            case Reduction::MATCH: result |= (other == value) << lane; break;
            }
        }
    }
}

}  // namespace

unsigned reduce(const char* call, Reduction reduction, unsigned mask, unsigned value, const Where& where) {
    Reduced operand{reduction, value, 0};
    meet(call, mask, &operand, reduce_lanes, where);
    return operand.result;
}

unsigned ballot(const char* call, unsigned mask, bool predicate, const Where& where) {
    unsigned votes = predicate;
    meet(call, mask, &votes, [](Operands lanes) {
        unsigned all = 0;
        for (unsigned lane = 0; lane < WARP_SIZE; ++lane)
            if (lanes[lane] && *static_cast<unsigned*>(lanes[lane])) all |= 1u << lane;
        for (void* operand : lanes)
            if (operand) *static_cast<unsigned*>(operand) = all;
    }, where);
    return votes;
}

namespace {

struct Copy {
    void* to;
    const void* from;
    unsigned num_bytes;
    bool is_used;

    void operator()() const {
        if (is_used)
            memcpy(to, from, num_bytes);
        else
            memset(to, 0, num_bytes);
    }
};

std::vector<Groups<Copy>> copies;  // of each thread

const bool has_hooks = (add_hooks({.before_cluster = [] { copies.assign(num_threads(), {}); },
                                   .at_return = nullptr,
                                   .at_deadlock = nullptr}),
                        true);

}  // namespace

void copy_async(void* to, const void* from, unsigned num_bytes, bool is_used, const Where& where) {
    check_shared(to, num_bytes, num_bytes, "copy_async to shared memory", where);
    if (is_used) check_global(from, num_bytes, "copy_async", where);
    copies[current_thread()].add({to, from, num_bytes, is_used});
}

void copy_async_commit() { copies[current_thread()].commit(); }

void copy_async_wait(unsigned num_pending, const Where& where) {
    copies[current_thread()].wait(num_pending, {"copy_async_wait"}, where);
}

namespace {

constexpr int MATRIX_ROWS = 8;

struct MatrixLoad {
    unsigned* to;
    const void* row;
    int count;
    bool is_transposed;
};

void load_matrices(Operands lanes) {
    const auto load = [&](int lane) { return static_cast<const MatrixLoad*>(lanes[lane]); };
    for (int matrix = 0; matrix < load(0)->count; ++matrix) {
        uint16_t elements[MATRIX_ROWS][MATRIX_ROWS];
        for (int row = 0; row < MATRIX_ROWS; ++row)
            memcpy(elements[row], load(matrix * MATRIX_ROWS + row)->row, sizeof elements[row]);
        for (int lane = 0; lane < 32; ++lane) {
            const int row = lane / 4, column = lane % 4 * 2;
            const bool is_transposed = load(lane)->is_transposed;
            const unsigned low = is_transposed ? elements[column][row] : elements[row][column];
            const unsigned high = is_transposed ? elements[column + 1][row] : elements[row][column + 1];
            load(lane)->to[matrix] = low | high << 16;
        }
    }
}

struct Product {
    float* d;
    const unsigned *a, *b;
};

template <float to_float(uint16_t)>
void multiply(Operands lanes) {
    float a[16][16], b[16][8];
    for (int lane = 0; lane < 32; ++lane) {
        const Product& product = *static_cast<const Product*>(lanes[lane]);
        const int row = lane / 4, column = lane % 4 * 2;
        for (int half = 0; half < 2; ++half) {
            for (int i = 0; i < 4; ++i)
                a[row + i % 2 * 8][column + i / 2 * 8 + half] = to_float(product.a[i] >> 16 * half);
            for (int i = 0; i < 2; ++i) b[column + i * 8 + half][row] = to_float(product.b[i] >> 16 * half);
        }
    }
    float d[16][8] = {};
    for (int row = 0; row < 16; ++row)
        for (int k = 0; k < 16; ++k)
            for (int column = 0; column < 8; ++column) d[row][column] += a[row][k] * b[k][column];
    for (int lane = 0; lane < 32; ++lane)
        for (int i = 0; i < 4; ++i)
            static_cast<const Product*>(lanes[lane])->d[i] += d[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2];
}

}  // namespace

void load_matrix(const char* call, unsigned* to, int count, bool is_transposed, const void* row, const Where& where) {
    if (lane_index() < count * MATRIX_ROWS) check_shared(row, 16, 16, call, where);
    MatrixLoad load{to, row, count, is_transposed};
    meet(call, ALL_LANES, &load, load_matrices, where);
}

void mma_16x8x16(float* d, const unsigned* a, const unsigned* b, Format format, const Where& where) {
    Product product{d, a, b};
    meet("mma_16x8x16", ALL_LANES, &product, format == Format::BF16 ? multiply<bf16_to_float> : multiply<fp16_to_float>,
         where);
}

}  // namespace simulator
