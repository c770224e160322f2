// Shared memory of other blocks, barriers in shared memory and bulk copies of cuda/ptx_hopper.cuh.
#include <map>

#include "meeting.hpp"
#include "ptx.cuh"
#include "schedule.hpp"

namespace simulator {
namespace {

// What lies in the barrier's own bytes; anything else means that somebody wrote over it.
constexpr uint64_t MARK = 0x72656972726162ull;
constexpr unsigned MAX_ARRIVALS = (1u << 20) - 1;

struct BarrierState {
    unsigned num_arrivals;  // of a phase
    unsigned missing_arrivals;
    int64_t missing_bytes = 0;  // below zero while bytes come before they are announced
    unsigned phase = 0;

    void end_phase_if_complete() {
        if (missing_arrivals || missing_bytes) return;
        missing_arrivals = num_arrivals;
        ++phase;
    }
};

std::map<const Mbarrier*, BarrierState> barriers;

BarrierState& state_of(const char* call, const Mbarrier& barrier, const Where& where) {
    check_shared(&barrier, sizeof barrier, sizeof barrier, call, where);
    const auto found = barriers.find(&barrier);
    if (found == barriers.end()) fail(format("%s of a barrier that was not initialised", call), where);
    if (barrier.state != MARK) fail(format("%s of a barrier that something wrote over", call), where);
    return found->second;
}

void add_bytes(Mbarrier& barrier, unsigned num_bytes, const Where& where) {
    BarrierState& state = state_of("a bulk load", barrier, where);
    state.missing_bytes -= num_bytes;
    state.end_phase_if_complete();
}

}  // namespace

char* shared_of(unsigned rank, const void* own, size_t num_bytes, const Where& where) {
    check_shared(own, num_bytes, 1, "shared_of", where);
    if (rank >= num_blocks()) fail(format("shared_of block %u of a cluster of %u", rank, num_blocks()), where);
    if (rank != current_block() && !is_running(rank))
        fail(format("shared_of block %u, which may not have begun or has returned", rank), where);
    return shared_memory_of(rank).at(shared_memory().address(own), num_bytes);
}

void mbarrier_init(Mbarrier& barrier, unsigned num_arrivals, const Where& where) {
    check_shared(&barrier, sizeof barrier, sizeof barrier, "mbarrier_init", where);
    if (num_arrivals == 0 || num_arrivals > MAX_ARRIVALS)
        fail(format("mbarrier_init for %u arrivals", num_arrivals), where);
    if (!barriers.insert({&barrier, {num_arrivals, num_arrivals}}).second)
        fail("mbarrier_init of a barrier that is one already", where);
    barrier.state = MARK;
}

void mbarrier_arrive(const char* call, Mbarrier& barrier, unsigned num_bytes, const Where& where) {
    BarrierState& state = state_of(call, barrier, where);
    if (state.missing_arrivals == 0)
        fail(format("%s is more than the %u arrivals of phase %u, which still misses %ld bytes", call,
                    state.num_arrivals, state.phase, static_cast<long>(state.missing_bytes)),
             where);
    --state.missing_arrivals;
    state.missing_bytes += num_bytes;
    state.end_phase_if_complete();
}

void mbarrier_wait(Mbarrier& barrier, unsigned parity, const Where& where) {
    if (parity > 1) fail(format("mbarrier_wait for parity %u", parity), where);
    const BarrierState& state = state_of("mbarrier_wait", barrier, where);
    wait_until({"mbarrier_wait", " for parity %u of the barrier at byte %u", parity, shared_memory().address(&barrier)},
               where, [&] { return state.phase % 2 != parity; });
}

namespace {

std::string describe_barriers() {
    std::string text;
    for (const auto& [barrier, state] : barriers)
        text += format("\n  barrier at byte %u: phase %u misses %u of %u arrivals and %ld bytes",
                       address_in_its_block(barrier), state.phase, state.missing_arrivals, state.num_arrivals,
                       static_cast<long>(state.missing_bytes));
    return text;
}

constexpr unsigned PIECE_BYTES = 16;

const BoxMap& read_map(const char* call, const TensorMap& map, const Corner& corner, const Where& where) {
    const auto& box = reinterpret_cast<const BoxMap&>(map);
    if (box.rank != corner.rank)
        fail(format("%s with %u coordinates of a tensor of %u dimensions", call, corner.rank, box.rank), where);
    return box;
}

unsigned box_bytes(const BoxMap& map) {
    unsigned num_bytes = map.element_bytes;
    for (unsigned axis = 0; axis < map.rank; ++axis) num_bytes *= map.box[axis];
    return num_bytes;
}

// Calls `move` with each element's place in the tensor, null outside of it, and in shared memory.
template <class Move>
void for_each_element(const BoxMap& map, const Corner& corner, char* shared, const Move& move) {
    const unsigned start = shared_memory().address(shared);
    unsigned index[BoxMap::MAX_RANK] = {};
    for (unsigned offset = 0; offset < box_bytes(map); offset += map.element_bytes) {
        char* element = map.data;
        for (unsigned axis = 0; axis < map.rank; ++axis) {
            const int64_t at = int64_t{corner.at[axis]} + index[axis];
            const bool is_inside = at >= 0 && at < map.sizes[axis];
            element = element && is_inside ? element + at * static_cast<int64_t>(map.strides[axis]) : nullptr;
        }
        const unsigned place = swizzled(start + offset, map.swizzle_bytes);
        move(element, shared + (static_cast<int>(place) - static_cast<int>(start)));
        for (unsigned axis = 0; axis < map.rank && ++index[axis] == map.box[axis]; ++axis) index[axis] = 0;
    }
}

using BoxStore = std::function<void()>;
std::vector<Groups<BoxStore>> stores;  // of each thread

const bool has_hooks = (add_hooks({
    .before_cluster = [] { barriers.clear(), stores.assign(num_threads(), {}); },
    .at_return = [](unsigned thread) -> std::string {
        return stores[thread].is_pending() ? "store_box to read its shared memory" : "";
    },
    .at_deadlock = describe_barriers,
}), true);

}  // namespace

void load_box(void* to, const TensorMap& map, Mbarrier& barrier, const Corner& corner, const Where& where) {
    const BoxMap box = read_map("load_box", map, corner, where);
    check_shared(to, box_bytes(box), 128, "load_box", where);
    state_of("load_box", barrier, where);
    land_later([=, &barrier] {
        for_each_element(box, corner, static_cast<char*>(to), [&](const char* element, char* place) {
            if (element)
                memcpy(place, element, box.element_bytes);
            else
                memset(place, 0, box.element_bytes);
        });
        add_bytes(barrier, box_bytes(box), where);
    });
}

void load_bytes(void* to, const void* from, unsigned num_bytes, Mbarrier& barrier, const Where& where) {
    if (num_bytes % PIECE_BYTES) fail(format("load_bytes of %u bytes: not a multiple of 16", num_bytes), where);
    check_shared(to, num_bytes, PIECE_BYTES, "load_bytes", where);
    check_global(from, num_bytes, "load_bytes", where);
    state_of("load_bytes", barrier, where);
    land_later([=, &barrier] {
        memcpy(to, from, num_bytes);
        add_bytes(barrier, num_bytes, where);
    });
}

void store_box(const TensorMap& map, const void* from, const Corner& corner, const Where& where) {
    const BoxMap box = read_map("store_box", map, corner, where);
    check_shared(from, box_bytes(box), 128, "store_box", where);
    char* shared = static_cast<char*>(const_cast<void*>(from));
    stores[current_thread()].add([=] {
        for_each_element(box, corner, shared, [&](char* element, const char* place) {
            if (element) memcpy(element, place, box.element_bytes);
        });
    });
}

void store_box_commit() { stores[current_thread()].commit(); }

void store_box_wait(unsigned num_pending, const Where& where) {
    stores[current_thread()].wait(num_pending, {"store_box_wait"}, where);
}

}  // namespace simulator
