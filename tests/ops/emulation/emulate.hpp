// Runs one CUDA block at a time on the CPU: a fiber for each thread, switched at barriers and shuffles only.
// Shared memory starts as NaN in every block. A thread that waits for ever is reported as a deadlock.
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <ucontext.h>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(threads)
#define __restrict__ __restrict
// A section of its own, so that the linker names its ends and all of it can be poisoned.
#define __shared__ static __attribute__((section("shared_memory"), used))

extern char __start_shared_memory[] __attribute__((weak));
extern char __stop_shared_memory[] __attribute__((weak));

struct Index { unsigned x = 0, y = 0, z = 0; };
static Index threadIdx, blockIdx, blockDim, gridDim;

namespace emulation {

constexpr size_t STACK_BYTES = 64 << 10;

struct Barrier { unsigned arrived = 0, generation = 0; };

struct Fiber {
    ucontext_t context;
    std::unique_ptr<char[]> stack{new char[STACK_BYTES]};
    bool done = false;
};

static std::vector<Fiber> fibers;
static std::vector<Barrier> barriers;  // the block's, then one for each warp
static std::vector<float> exchange;    // one place for each thread
static ucontext_t scheduler;
static unsigned current, progress;
static const std::function<void()>* body;

static void wait(Barrier& barrier, unsigned threads) {
    ++progress;
    const unsigned generation = barrier.generation;
    if (++barrier.arrived == threads) {
        barrier.arrived = 0;
        ++barrier.generation;
    }
    while (barrier.generation == generation) swapcontext(&fibers[current].context, &scheduler);
    ++progress;
}

static unsigned warp_size(unsigned warp) {
    const unsigned rest = fibers.size() - warp * 32;
    return rest < 32 ? rest : 32;
}

static void start() {
    (*body)();
    fibers[current].done = true;
    ++progress;
}

// Returns false on a deadlock.
static bool launch(unsigned grid, unsigned x, unsigned y, const std::function<void()>& kernel) {
    body = &kernel;
    gridDim = {grid, 1, 1};
    blockDim = {x, y, 1};
    fibers = std::vector<Fiber>(x * y);
    exchange.assign(x * y, NAN);
    for (unsigned block = 0; block < grid; ++block) {
        blockIdx = {block, 0, 0};
        memset(__start_shared_memory, 0xff, __stop_shared_memory - __start_shared_memory);
        barriers.assign(1 + (x * y + 31) / 32, Barrier());
        for (Fiber& fiber : fibers) {
            fiber.done = false;
            getcontext(&fiber.context);
            fiber.context.uc_stack.ss_sp = fiber.stack.get();
            fiber.context.uc_stack.ss_size = STACK_BYTES;
            fiber.context.uc_link = &scheduler;
            makecontext(&fiber.context, start, 0);
        }
        do {
            progress = 0;
            for (current = 0; current < fibers.size(); ++current) {
                if (fibers[current].done) continue;
                threadIdx = {current % x, current / x, 0};  // all fibers share it
                swapcontext(&scheduler, &fibers[current].context);
            }
        } while (progress);
        for (const Fiber& fiber : fibers)
            if (!fiber.done) return false;
    }
    return true;
}

}  // namespace emulation

static void __syncthreads() { emulation::wait(emulation::barriers[0], emulation::fibers.size()); }

static float __shfl_xor_sync(unsigned, float value, int mask) {
    using namespace emulation;
    const unsigned self = current, warp = self / 32, size = warp_size(warp);
    exchange[self] = value;
    wait(barriers[1 + warp], size);
    const float other = exchange[warp * 32 + ((self % 32) ^ mask)];
    wait(barriers[1 + warp], size);
    return other;
}

static float __uint_as_float(unsigned bits) { float value; memcpy(&value, &bits, 4); return value; }
static float rsqrtf(float value) { return 1 / sqrtf(value); }
