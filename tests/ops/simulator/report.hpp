// How a run ends early: what went wrong, in which thread, at which line of the kernel.
#pragma once
#include <csetjmp>
#include <source_location>
#include <string>

namespace simulator {

using Where = std::source_location;

// Text as by printf.
[[gnu::format(printf, 1, 2)]] std::string format(const char* form, ...);

// "name.cu:12"
std::string place(const Where& where);

// Ends the run: leaves the stack of the fiber, or of a signal handler, for the run that failed.
[[noreturn]] void fail(const std::string& what);
[[noreturn]] void fail(const std::string& what, const Where& where);

// Calls `body` and returns the report of its failure, empty when there was none. Reports processor time above `limit_s`
// and accesses to memory that is not there as failures too. Not reentrant.
std::string run_guarded(void (*body)(), int limit_s);

// Address of the instruction that touched memory it must not, in the last run; null if there was none.
const void* faulting_instruction();

}  // namespace simulator
