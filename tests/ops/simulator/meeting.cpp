#include "meeting.hpp"

#include <cstring>
#include <vector>

#include "block.hpp"

namespace simulator {
namespace {

constexpr unsigned NUM_BARRIERS = 16;

struct Barrier {
    unsigned expected = 0;  // 0: all that have not returned
    unsigned arrived = 0;
    std::vector<unsigned> waiting;
    unsigned num_true = 0;
    BarrierVotes result{};  // of the last time it was complete; nobody arrives again before having read it
};

struct Meeting {
    const char* call;
    Where where;
    unsigned mask, arrived;
    void* operands[WARP_SIZE];
    void (*run)(Operands);
};

struct Warp {
    unsigned live = 0;
    std::vector<Meeting> meetings;
};

struct Block {
    Barrier barriers[NUM_BARRIERS];
    unsigned num_live;
};

std::vector<Block> blocks;
std::vector<Warp> warps;
Barrier of_cluster;
bool has_met;  // all threads of the cluster, once

unsigned num_live_of_cluster() {
    unsigned count = 0;
    for (const Block& block : blocks) count += block.num_live;
    return count;
}

void complete_if_all_came(Barrier& barrier, unsigned num_live) {
    if (barrier.arrived == 0 || barrier.arrived < (barrier.expected ? barrier.expected : num_live)) return;
    barrier.result = {barrier.num_true, barrier.arrived};
    barrier.arrived = barrier.num_true = 0;
    for (unsigned thread : barrier.waiting) release(thread);
    barrier.waiting.clear();
}

void arrive(Barrier& barrier, unsigned id, unsigned count, const Where& where) {
    if (id >= NUM_BARRIERS) fail(format("barrier %u does not exist: a block has %u", id, NUM_BARRIERS), where);
    if (count % WARP_SIZE) fail(format("barrier %u for %u threads: not a multiple of %u", id, count, WARP_SIZE), where);
    if (barrier.arrived && barrier.expected != count)
        fail(format("barrier %u is for %u threads here, but %u threads came to it for %u", id, count, barrier.arrived,
                    barrier.expected),
             where);
    barrier.expected = count;
    ++barrier.arrived;
}

bool is_complete(const Meeting& meeting, const Warp& warp) {
    return (meeting.mask & warp.live & ~meeting.arrived) == 0;
}

void complete(unsigned warp, size_t place) {
    auto& meetings = warps[warp].meetings;
    const Meeting meeting = meetings[place];
    meetings.erase(meetings.begin() + place);
    meeting.run(meeting.operands);
    for (unsigned lane = 0; lane < WARP_SIZE; ++lane)
        if (meeting.arrived >> lane & 1) release(warp * WARP_SIZE + lane);
}

bool is_same_place(const Where& one, const Where& other) {
    return one.line() == other.line() && one.column() == other.column() &&
           strcmp(one.file_name(), other.file_name()) == 0;
}

}  // namespace

void reset_meetings(unsigned num_blocks, unsigned threads_of_block) {
    const unsigned num_threads = num_blocks * threads_of_block;
    blocks.assign(num_blocks, {{}, threads_of_block});
    of_cluster = {};
    has_met = false;
    warps.assign((num_threads + WARP_SIZE - 1) / WARP_SIZE, {});
    for (unsigned thread = 0; thread < num_threads; ++thread)
        warps[thread / WARP_SIZE].live |= 1u << thread % WARP_SIZE;
}

void leave_meetings(unsigned thread) {
    Block& block = blocks[current_block()];
    --block.num_live;
    const unsigned number = thread / WARP_SIZE;
    Warp& warp = warps[number];
    warp.live &= ~(1u << thread % WARP_SIZE);
    for (size_t place = warp.meetings.size(); place-- > 0;)
        if (is_complete(warp.meetings[place], warp)) complete(number, place);
    for (Barrier& barrier : block.barriers)
        if (barrier.expected == 0) complete_if_all_came(barrier, block.num_live);
    complete_if_all_came(of_cluster, num_live_of_cluster());
}

bool is_running(unsigned block) { return has_met && blocks[block].num_live > 0; }

std::string describe_meetings() {
    std::string text;
    for (const Block& block : blocks)
        for (unsigned id = 0; id < NUM_BARRIERS; ++id)
            if (const Barrier& barrier = block.barriers[id]; barrier.arrived)
                text += format("\n  barrier %u: %u of %u threads came", id, barrier.arrived,
                               barrier.expected ? barrier.expected : block.num_live);
    if (of_cluster.arrived)
        text += format("\n  barrier of the cluster: %u of %u threads came", of_cluster.arrived, num_live_of_cluster());
    return text;
}

BarrierVotes sync_at_barrier(unsigned id, unsigned count, bool vote, const Purpose& purpose, const Where& where) {
    Block& block = blocks[current_block()];
    Barrier& barrier = block.barriers[id % NUM_BARRIERS];
    arrive(barrier, id, count, where);
    barrier.num_true += vote;
    barrier.waiting.push_back(current_thread());
    complete_if_all_came(barrier, block.num_live);
    if (barrier.arrived) wait(purpose, where);
    return barrier.result;
}

void arrive_at_barrier(unsigned id, unsigned count, const Where& where) {
    Block& block = blocks[current_block()];
    Barrier& barrier = block.barriers[id % NUM_BARRIERS];
    arrive(barrier, id, count, where);
    complete_if_all_came(barrier, block.num_live);
}

void sync_cluster(const Where& where) {
    ++of_cluster.arrived;
    of_cluster.waiting.push_back(current_thread());
    complete_if_all_came(of_cluster, num_live_of_cluster());
    if (of_cluster.arrived) wait({"cluster_sync"}, where);
    has_met = true;
}

void meet(const char* call, unsigned mask, void* operand, void (*run)(Operands), const Where& where) {
    const unsigned number = current_thread() / WARP_SIZE, lane = current_thread() % WARP_SIZE;
    Warp& warp = warps[number];
    if (!(mask >> lane & 1)) fail(format("%s with mask 0x%08x leaves out the lane that calls it", call, mask), where);
    size_t place = 0;
    while (place < warp.meetings.size() &&
           !(warp.meetings[place].mask == mask && warp.meetings[place].call == call &&
             !(warp.meetings[place].arrived >> lane & 1) && is_same_place(warp.meetings[place].where, where)))
        ++place;
    if (place == warp.meetings.size()) warp.meetings.push_back({call, where, mask, 0, {}, run});
    Meeting& meeting = warp.meetings[place];
    meeting.arrived |= 1u << lane;
    meeting.operands[lane] = operand;
    if (is_complete(meeting, warp))
        complete(number, place);
    else
        wait({call, " of lanes 0x%08x", mask}, where);
}

}  // namespace simulator
