// The functions of cuda/ptx_hopper.cuh and cuda/ptx_wgmma.cuh on the CPU; what each does is said there.
#pragma once
#include "ptx.hpp"

namespace simulator {

// What TensorMap holds here; the same in __init__.py.
struct BoxMap {
    static constexpr unsigned MAX_RANK = 4;

    char* data;
    unsigned rank, element_bytes, swizzle_bytes;
    unsigned sizes[MAX_RANK], box[MAX_RANK];  // innermost first, in elements
    uint64_t strides[MAX_RANK];               // in bytes
};
static_assert(sizeof(BoxMap) <= sizeof(TensorMap));

// Where a bulk copy puts what would lie at this address: 16-byte pieces change places within 8 rows of so many bytes.
inline unsigned swizzled(unsigned address, unsigned row_bytes) {
    return row_bytes ? address ^ (address >> 7 & (row_bytes / 16 - 1)) << 4 : address;
}

struct Corner {
    unsigned rank;
    int at[BoxMap::MAX_RANK];
};

char* shared_of(unsigned rank, const void* own, size_t num_bytes, const Where& where);

void mbarrier_init(Mbarrier& barrier, unsigned num_arrivals, const Where& where);
void mbarrier_arrive(const char* call, Mbarrier& barrier, unsigned num_bytes, const Where& where);
void mbarrier_wait(Mbarrier& barrier, unsigned parity, const Where& where);

void load_box(void* to, const TensorMap& map, Mbarrier& barrier, const Corner& corner, const Where& where);
void load_bytes(void* to, const void* from, unsigned num_bytes, Mbarrier& barrier, const Where& where);
void store_box(const TensorMap& map, const void* from, const Corner& corner, const Where& where);
void store_box_commit();
void store_box_wait(unsigned num_pending, const Where& where);

// One product of a warpgroup, as a lane gives it. Without `a_registers`, a is in shared memory.
struct WgmmaOperand {
    float* d;
    const unsigned* a_registers;
    uint64_t a, b;
    bool accumulates;
};

struct WgmmaShape {
    Format format;
    unsigned num_columns;
    Major a_major, b_major;
};

void wgmma_fence(const Where& where);
void wgmma(const WgmmaShape& shape, const WgmmaOperand& operand, const Where& where);
void wgmma_commit(const Where& where);
void wgmma_wait(unsigned num_pending, const Where& where);

}  // namespace simulator

inline void cluster_sync(HERE) { simulator::sync_cluster(where); }

template <class T>
T& shared_of(unsigned rank, T& own, HERE) {
    return *reinterpret_cast<T*>(simulator::shared_of(rank, &own, sizeof own, where));
}

inline bool is_elected(HERE) {
    return std::countr_zero(simulator::ballot("is_elected", 0xffffffffu, true, where)) == simulator::lane_index();
}

inline void mbarrier_init(Mbarrier& barrier, unsigned num_arrivals, HERE) {
    simulator::mbarrier_init(barrier, num_arrivals, where);
}
inline void mbarrier_arrive(Mbarrier& barrier, HERE) {
    simulator::mbarrier_arrive("mbarrier_arrive", barrier, 0, where);
}
inline void mbarrier_arrive_expecting(Mbarrier& barrier, unsigned num_bytes, HERE) {
    simulator::mbarrier_arrive("mbarrier_arrive_expecting", barrier, num_bytes, where);
}
inline void mbarrier_wait(Mbarrier& barrier, unsigned parity, HERE) {
    simulator::mbarrier_wait(barrier, parity, where);
}

// Memory is sequentially consistent.
inline void fence_mbarrier_init() {}
inline void fence_async_shared() {}

inline void prefetch_tensor_map(const TensorMap&) {}

inline void load_box(void* to, const TensorMap& map, Mbarrier& barrier, int x, int y, HERE) {
    simulator::load_box(to, map, barrier, {2, {x, y}}, where);
}
inline void load_box(void* to, const TensorMap& map, Mbarrier& barrier, int x, int y, int z, HERE) {
    simulator::load_box(to, map, barrier, {3, {x, y, z}}, where);
}
inline void load_box(void* to, const TensorMap& map, Mbarrier& barrier, int x, int y, int z, int w, HERE) {
    simulator::load_box(to, map, barrier, {4, {x, y, z, w}}, where);
}
inline void load_bytes(void* to, const void* from, unsigned num_bytes, Mbarrier& barrier, HERE) {
    simulator::load_bytes(to, from, num_bytes, barrier, where);
}

inline void store_box(const TensorMap& map, const void* from, int x, int y, HERE) {
    simulator::store_box(map, from, {2, {x, y}}, where);
}
inline void store_box(const TensorMap& map, const void* from, int x, int y, int z, HERE) {
    simulator::store_box(map, from, {3, {x, y, z}}, where);
}
inline void store_box(const TensorMap& map, const void* from, int x, int y, int z, int w, HERE) {
    simulator::store_box(map, from, {4, {x, y, z, w}}, where);
}
inline void store_box_commit() { simulator::store_box_commit(); }
template <int num_pending>
void store_box_wait(HERE) { simulator::store_box_wait(num_pending, where); }

// Registers are not counted.
template <int count>
void increase_registers() { static_assert(count % 8 == 0 && count >= 24 && count <= 256); }
template <int count>
void decrease_registers() { static_assert(count % 8 == 0 && count >= 24 && count <= 256); }
template <class Register, int count>
void pin_registers(Register (&)[count]) {}

inline void wgmma_fence(HERE) { simulator::wgmma_fence(where); }
inline void wgmma_commit(HERE) { simulator::wgmma_commit(where); }
template <int num_pending>
void wgmma_wait(HERE) { simulator::wgmma_wait(num_pending, where); }
template <int num_pending>
void wgmma_wait(float, HERE) { simulator::wgmma_wait(num_pending, where); }

template <class Element, Major a_major, Major b_major, int count>
void wgmma(float (&d)[count], unsigned long long a, unsigned long long b, bool accumulates, HERE) {
    static_assert(count % 4 == 0 && count <= 128);
    simulator::wgmma({simulator::FORMAT<Element>, 2 * count, a_major, b_major}, {d, nullptr, a, b, accumulates}, where);
}
template <class Element, Major b_major, int count>
void wgmma(float (&d)[count], const unsigned (&a)[4], unsigned long long b, bool accumulates, HERE) {
    static_assert(count % 4 == 0 && count <= 128);
    simulator::wgmma({simulator::FORMAT<Element>, 2 * count, Major::k, b_major}, {d, a, 0, b, accumulates}, where);
}
