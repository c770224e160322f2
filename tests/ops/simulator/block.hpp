// The blocks of one cluster, mostly a single block, as their threads see them: who they are, how they wait for each other.
#pragma once
#include <cstdint>

#include "report.hpp"

struct uint3 {
    unsigned x, y, z;
};

// CUDA's built-in variables, of the thread that runs.
extern uint3 threadIdx, blockIdx, blockDim, gridDim;

namespace simulator {

constexpr unsigned WARP_SIZE = 32;
constexpr unsigned MAX_THREADS = 1024;

// The thread that runs, counted as CUDA does: x first, and the threads of a cluster's second block after those of its
// first. Its warp is this divided by 32.
unsigned current_thread();
unsigned num_threads();  // of the cluster

// The block of the thread that runs, in its cluster.
unsigned current_block();
unsigned num_blocks();

// The beginning of a report: "block (0, 0, 0), thread (5, 0, 0): ".
std::string describe_current_thread();

// What a thread waits for: the call, then details as printf prints them.
struct Purpose {
    const char* call;
    const char* details = "";
    unsigned first = 0, second = 0;
};

// Suspends the thread until another calls release() with it.
void wait(const Purpose& purpose, const Where& where);
void release(unsigned thread);

// Named barriers of the block. A count of 0 means all threads that have not returned.
struct BarrierVotes {
    unsigned num_true, num_threads;
};
BarrierVotes sync_at_barrier(unsigned id, unsigned count, bool vote, const Purpose& purpose, const Where& where);
void arrive_at_barrier(unsigned id, unsigned count, const Where& where);
// For all threads of the cluster that have not returned.
void sync_cluster(const Where& where);

// An instruction that the lanes of `mask` run together. Each brings `operand`; when the last of them has come, `run` is
// called once with the operands, null for lanes that do not take part, and all go on. Lanes that have returned are not
// waited for.
using Operands = void* const (&)[WARP_SIZE];
void meet(const char* call, unsigned mask, void* operand, void (*run)(Operands), const Where& where);

}  // namespace simulator
