// The memory a kernel sees: global buffers and shared memory, each between pages that nobody may touch.
#pragma once
#include <cstddef>
#include <string>

#include "report.hpp"

namespace simulator {

// Bytes that end where a forbidden page begins, as near as the alignment allows. What lies between them and the
// forbidden pages is filled with POISON, which must still be there at the end.
class GuardedMemory {
public:
    static constexpr int POISON = 0xff;  // NaN as float, bf16, fp16 and e4m3

    // The address modulo `alignment` (at most a page) is `offset`. `name` is what reports call it.
    GuardedMemory(std::string name, size_t num_bytes, size_t alignment, size_t offset = 0);
    ~GuardedMemory();
    GuardedMemory(const GuardedMemory&) = delete;
    GuardedMemory& operator=(const GuardedMemory&) = delete;

    char* data() const { return data_; }
    size_t size() const { return num_bytes_; }
    bool contains(const void* pointer, size_t num_bytes) const;
    void poison();
    // Fails if something was written just before or behind the bytes.
    void check_margins() const;
    // Whether the address is in it or in its forbidden pages.
    bool is_near(const void* pointer) const { return pointer >= mapping_ && pointer < mapping_ + mapping_bytes_; }
    std::string describe(const void* pointer) const;

private:
    std::string name_;
    size_t num_bytes_, mapping_bytes_;
    char *mapping_, *data_, *pages_, *pages_end_;
};

// "byte 4096 of argument 2, which has 4096 bytes"
std::string describe_address(const void* pointer);

// Fail unless the bytes are aligned and inside a buffer that the kernel was given, or inside shared memory.
void check_global(const void* pointer, size_t num_bytes, const char* call, const Where& where);
void check_shared(const void* pointer, size_t num_bytes, size_t alignment, const char* call, const Where& where);

// Shared memory of a block: static places come first, then the dynamic part.
class SharedMemory {
public:
    // The window starts above zero, so that address 0 is never valid.
    static constexpr unsigned STATIC_START = 1024, STATIC_BYTES = 48 << 10;
    static constexpr unsigned DYNAMIC_START = STATIC_START + STATIC_BYTES;
    static constexpr unsigned MAX_BYTES = 227 << 10;  // what a block can have on sm_90

    explicit SharedMemory(size_t dynamic_bytes);

    // A new block: nothing is placed, everything is NaN.
    void reset();
    char* dynamic() const { return dynamic_.data(); }
    size_t dynamic_bytes() const { return dynamic_.size(); }
    // The place for a type, named by an address that is unique to it.
    void* place_static(const void* type, size_t num_bytes, size_t alignment);
    bool contains(const void* pointer, size_t num_bytes) const;
    unsigned address(const void* pointer) const;
    // The bytes at an address of an instruction; null where there are none.
    char* at(unsigned address, size_t num_bytes) const;
    void check_margins() const { dynamic_.check_margins(); }

private:
    static constexpr int MAX_PLACES = 64;
    struct Place {
        const void* type;
        void* data;
    };

    GuardedMemory static_, dynamic_;
    Place places_[MAX_PLACES];
    int num_places_ = 0;
    size_t static_bytes_ = 0;
};

// Of the block that runs, and of another one of its cluster.
SharedMemory& shared_memory();
SharedMemory& shared_memory_of(unsigned block);
// Of something in the shared memory of any of them.
unsigned address_in_its_block(const void* pointer);

}  // namespace simulator
