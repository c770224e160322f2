#include "fiber.hpp"

#include <cstdint>

#ifdef PORTABLE_FIBERS

namespace simulator {

void Fiber::start(char* stack_end, size_t stack_bytes, void (*entry)()) {
    getcontext(&fiber_);
    fiber_.uc_stack.ss_sp = stack_end - stack_bytes;
    fiber_.uc_stack.ss_size = stack_bytes;
    fiber_.uc_link = nullptr;
    makecontext(&fiber_, entry, 0);
}

void Fiber::resume() { swapcontext(&scheduler_, &fiber_); }

void Fiber::suspend() { swapcontext(&fiber_, &scheduler_); }

}  // namespace simulator

#else

// swapcontext makes two system calls a switch, and a kernel switches millions of times. What a call preserves is kept
// on the stack that is left.
extern "C" __attribute__((visibility("hidden"))) void simulator_switch_stack(void** left, void* entered);
asm(R"(
.text
.hidden simulator_switch_stack
.globl simulator_switch_stack
.type simulator_switch_stack, @function
simulator_switch_stack:
    push %rbp
    push %rbx
    push %r12
    push %r13
    push %r14
    push %r15
    mov %rsp, (%rdi)
    mov %rsi, %rsp
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbx
    pop %rbp
    ret
.size simulator_switch_stack, . - simulator_switch_stack
)");

namespace simulator {

void Fiber::start(char* stack_end, size_t, void (*entry)()) {
    constexpr int NUM_SAVED = 6;
    // As after a call: 8 bytes below a multiple of 16, with a return address that is never used.
    void** top = reinterpret_cast<void**>(reinterpret_cast<uintptr_t>(stack_end) & ~uintptr_t{15}) - 1;
    *top = nullptr;
    *--top = reinterpret_cast<void*>(entry);
    for (int i = 0; i < NUM_SAVED; ++i) *--top = nullptr;
    fiber_stack_ = top;
}

void Fiber::resume() { simulator_switch_stack(&scheduler_stack_, fiber_stack_); }

void Fiber::suspend() { simulator_switch_stack(&fiber_stack_, scheduler_stack_); }

}  // namespace simulator

#endif
