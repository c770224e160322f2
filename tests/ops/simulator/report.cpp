#include "report.hpp"

#include <csignal>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <iterator>
#include <sys/time.h>
#include <ucontext.h>

#include "block.hpp"
#include "memory.hpp"

namespace simulator {
namespace {

constexpr int SIGNALS[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGVTALRM};

sigjmp_buf run_start;
std::string report;
const void* fault;
int time_limit_s;
alignas(16) char handler_stack[64 << 10];

void on_signal(int signal, siginfo_t* info, void* context) {
    if (signal == SIGVTALRM) fail(format("still running after %d s of processor time: an endless loop?", time_limit_s));
    const char* access = "touches";
#if defined(__x86_64__) && defined(REG_RIP)
    const auto& registers = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
    fault = reinterpret_cast<const void*>(registers[REG_RIP]);
    access = registers[REG_ERR] & 2 ? "writes" : "reads";
#else
    (void)context;
#endif
    if (signal == SIGFPE) fail("divides an integer by zero");
    if (signal == SIGILL) fail("does what has no meaning in C++");
    fail(format("%s %s", access, describe_address(info->si_addr).c_str()));
}

}  // namespace

std::string format(const char* form, ...) {
    char text[512];
    va_list values;
    va_start(values, form);
    vsnprintf(text, sizeof text, form, values);
    va_end(values);
    return text;
}

std::string place(const Where& where) {
    const char* slash = strrchr(where.file_name(), '/');
    return format("%s:%u", slash ? slash + 1 : where.file_name(), where.line());
}

void fail(const std::string& what) {
    report = describe_current_thread() + what;
    siglongjmp(run_start, 1);
}

void fail(const std::string& what, const Where& where) { fail(what + " at " + place(where)); }

std::string run_guarded(void (*body)(), int limit_s) {
    report.clear();
    fault = nullptr;
    time_limit_s = limit_s;
    // A stack of its own, since the fault may be that a fiber's stack is used up.
    stack_t stack{}, old_stack;
    stack.ss_sp = handler_stack;
    stack.ss_size = sizeof handler_stack;
    sigaltstack(&stack, &old_stack);
    struct sigaction action {}, old_actions[std::size(SIGNALS)];
    action.sa_sigaction = on_signal;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    for (size_t i = 0; i < std::size(SIGNALS); ++i) sigaction(SIGNALS[i], &action, &old_actions[i]);
    itimerval limit{}, none{};
    limit.it_value.tv_sec = limit_s;
    setitimer(ITIMER_VIRTUAL, &limit, nullptr);

    if (sigsetjmp(run_start, 1) == 0) body();

    setitimer(ITIMER_VIRTUAL, &none, nullptr);
    for (size_t i = 0; i < std::size(SIGNALS); ++i) sigaction(SIGNALS[i], &old_actions[i], nullptr);
    sigaltstack(&old_stack, nullptr);
    return report;
}

const void* faulting_instruction() { return fault; }

}  // namespace simulator

// With -fsanitize=bounds,alignment the compiler checks every index into an array of known size and every aligned
// access, and calls these with the place in the source.
namespace {

struct SourcePlace {
    const char* file;
    uint32_t line, column;
};

[[noreturn]] void fail_at(const std::string& what, const SourcePlace& at) {
    const char* slash = strrchr(at.file, '/');
    simulator::fail(what + simulator::format(" at %s:%u", slash ? slash + 1 : at.file, at.line));
}

}  // namespace

extern "C" {

void __ubsan_handle_out_of_bounds(const SourcePlace* at, intptr_t index) {
    fail_at(simulator::format("index %ld is outside its array", (long)index), *at);
}

struct AlignedAccess {
    SourcePlace at;
    const void* type;
    unsigned char log2_alignment, kind;
};

void __ubsan_handle_type_mismatch_v1(const AlignedAccess* access, uintptr_t address) {
    fail_at(simulator::format("an access that needs a multiple of %u bytes is misaligned: it is at %s",
                              1u << access->log2_alignment,
                              simulator::describe_address(reinterpret_cast<const void*>(address)).c_str()),
            access->at);
}
}
