// The border to Python: a kernel is called with pointers to its arguments, as the CUDA driver does.
#pragma once
#include <cstddef>
#include <type_traits>
#include <utility>

#include "ptx.cuh"

namespace simulator {

// An entry point and the sizes of its arguments.
struct Kernel {
    const char* name;
    void (*call)(void* const* arguments);
    const size_t* argument_bytes;
    size_t num_arguments;
    unsigned cluster_size;
};

template <auto entry>
struct EntryPoint;

template <class... Arguments, void (*entry)(Arguments...)>
struct EntryPoint<entry> {
    static void call(void* const* arguments) {
        [=]<size_t... I>(std::index_sequence<I...>) {
            entry(*static_cast<std::remove_cv_t<Arguments>*>(arguments[I])...);
        }(std::index_sequence_for<Arguments...>());
    }
    static constexpr size_t argument_bytes[sizeof...(Arguments) + 1] = {sizeof(Arguments)...};

    static constexpr Kernel named(const char* name, unsigned cluster_size) {
        return {name, call, argument_bytes, sizeof...(Arguments), cluster_size};
    }
};

#define ENTRY_POINT(name, cluster_size) simulator::EntryPoint<name>::named(#name, cluster_size)

// Those of the source that this library was built from; the last one has no name.
extern const Kernel kernels[];

}  // namespace simulator
