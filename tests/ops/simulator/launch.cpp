#include "launch.hpp"

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <dlfcn.h>
#include <map>
#include <memory>

#include "schedule.hpp"

namespace simulator {
namespace {

// The same in simulator/__init__.py.
struct Argument {
    enum Kind : uint32_t { VALUE, BUFFER, TENSOR_MAP };

    char* bytes;  // what is passed, or what the buffer holds before and after
    uint64_t num_bytes;
    Kind kind;        // whether the kernel gets the bytes, the address of a copy, or a map with this address
    uint32_t offset;  // of the address, modulo 16
    const BoxMap* map;
};

struct Run {
    const char* entry;
    const Launch* launch;
    const Argument* arguments;
    size_t num_arguments;
};

Run run;

// By the bytes they are copies of, so that an argument given twice is one buffer. A run that fails leaves them behind.
std::map<char*, std::unique_ptr<GuardedMemory>> buffers;

const Kernel& kernel_named(const std::string& name) {
    const Kernel* kernel = kernels;
    while (kernel->name && kernel->name != name) ++kernel;
    if (!kernel->name) fail("the source has no entry point of this name");
    return *kernel;
}

void run_kernel() {
    const Kernel& kernel = kernel_named(run.entry);
    if (run.num_arguments != kernel.num_arguments)
        fail(format("the kernel takes %zu arguments, but %zu came", kernel.num_arguments, run.num_arguments));
    buffers.clear();
    std::vector<void*> pointers(run.num_arguments), values(run.num_arguments);
    std::vector<TensorMap> maps(run.num_arguments);
    for (size_t i = 0; i < run.num_arguments; ++i) {
        const Argument& argument = run.arguments[i];
        const size_t num_bytes = argument.kind == Argument::VALUE    ? argument.num_bytes
                                 : argument.kind == Argument::BUFFER ? sizeof(void*)
                                                                     : sizeof(TensorMap);
        if (num_bytes != kernel.argument_bytes[i])
            fail(format("argument %zu has %zu bytes, but the kernel declares %zu", i, num_bytes,
                        kernel.argument_bytes[i]));
        values[i] = argument.bytes;
        if (argument.kind == Argument::VALUE) continue;
        auto& buffer = buffers[argument.bytes];
        if (!buffer) {
            const std::string name = format("argument %zu", i);
            buffer = std::make_unique<GuardedMemory>(name, argument.num_bytes, 16, argument.offset);
            memcpy(buffer->data(), argument.bytes, argument.num_bytes);
        }
        pointers[i] = buffer->data();
        values[i] = &pointers[i];
        if (argument.kind == Argument::BUFFER) continue;
        BoxMap map = *argument.map;
        map.data = buffer->data();
        memcpy(&maps[i], &map, sizeof map);
        values[i] = &maps[i];
    }
    run_grid(*run.launch, kernel.cluster_size, [&] { kernel.call(values.data()); });
    for (const auto& [bytes, buffer] : buffers) {
        buffer->check_margins();
        memcpy(bytes, buffer->data(), buffer->size());
    }
    buffers.clear();
}

// Offset of an instruction in this library; 0 if it lies elsewhere.
size_t offset_in_library(const void* instruction) {
    Dl_info own, other;
    if (!instruction || !dladdr(kernels, &own) || !dladdr(instruction, &other) || own.dli_fbase != other.dli_fbase)
        return 0;
    return static_cast<const char*>(instruction) - static_cast<const char*>(own.dli_fbase);
}

}  // namespace
}  // namespace simulator

// Runs the kernel, copies buffers back, and writes a report of what went wrong, empty if nothing did. Returns where in
// this library the kernel touched memory it must not; 0 if that is not what went wrong.
extern "C" __attribute__((visibility("default"))) size_t simulate(
    const char* entry, const simulator::Launch* launch, const simulator::Argument* arguments, size_t num_arguments,
    int limit_s, char* report, size_t report_bytes) {
    using namespace simulator;
    simulator::run = {entry, launch, arguments, num_arguments};
    snprintf(report, report_bytes, "%s", run_guarded(run_kernel, limit_s).c_str());
    return offset_in_library(faulting_instruction());
}
