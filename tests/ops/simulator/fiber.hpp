// A fiber is a thread of control that runs until it suspends itself: one for each CUDA thread of a block.
#pragma once
#include <cstddef>

#ifndef __x86_64__
#define PORTABLE_FIBERS
#endif
#ifdef PORTABLE_FIBERS
#include <ucontext.h>
#endif

namespace simulator {

class Fiber {
public:
    // Makes the next resume() call `entry` on the stack that ends at `stack_end`; `entry` must not return.
    void start(char* stack_end, size_t stack_bytes, void (*entry)());

    // Runs the fiber until it suspends. Only the scheduler calls this.
    void resume();

    // Goes back to the scheduler. Only the running fiber calls this.
    void suspend();

private:
#ifdef PORTABLE_FIBERS
    ucontext_t fiber_;
    ucontext_t scheduler_;
#else
    void* fiber_stack_ = nullptr;
    void* scheduler_stack_ = nullptr;
#endif
};

}  // namespace simulator
