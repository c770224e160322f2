#include "memory.hpp"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <sys/mman.h>
#include <unistd.h>
#include <vector>

namespace simulator {
namespace {

// A miss by less than this is traced to its buffer.
constexpr size_t FORBIDDEN_BYTES = 1 << 20;

std::vector<const GuardedMemory*>& all_memory() {
    static std::vector<const GuardedMemory*> all;
    return all;
}

size_t round_up(size_t number, size_t multiple) { return (number + multiple - 1) / multiple * multiple; }

}  // namespace

GuardedMemory::GuardedMemory(std::string name, size_t num_bytes, size_t alignment, size_t offset)
    : name_(std::move(name)), num_bytes_(num_bytes) {
    const size_t usable_bytes = round_up(num_bytes + alignment, sysconf(_SC_PAGESIZE));
    mapping_bytes_ = usable_bytes + 2 * FORBIDDEN_BYTES;
    void* mapping = mmap(nullptr, mapping_bytes_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapping == MAP_FAILED) fail(format("no memory for %s", name_.c_str()));
    mapping_ = static_cast<char*>(mapping);
    pages_ = mapping_ + FORBIDDEN_BYTES;
    pages_end_ = pages_ + usable_bytes;
    mprotect(pages_, usable_bytes, PROT_READ | PROT_WRITE);
    const size_t slack = (reinterpret_cast<uintptr_t>(pages_end_ - num_bytes) - offset) % alignment;
    data_ = pages_end_ - num_bytes - slack;
    memset(pages_, POISON, usable_bytes);
    all_memory().push_back(this);
}

GuardedMemory::~GuardedMemory() {
    munmap(mapping_, mapping_bytes_);
    std::erase(all_memory(), this);
}

bool GuardedMemory::contains(const void* pointer, size_t num_bytes) const {
    const char* start = static_cast<const char*>(pointer);
    return start >= data_ && start + num_bytes <= data_ + num_bytes_;
}

void GuardedMemory::poison() { memset(data_, POISON, num_bytes_); }

void GuardedMemory::check_margins() const {
    const auto is_poison = [](char byte) { return static_cast<unsigned char>(byte) == POISON; };
    const char* end = data_ + num_bytes_;
    // Enough to notice a miss: the margin before the bytes may be most of a page.
    const char* before = std::max(pages_, data_ - 256);
    if (const char* hit = std::find_if_not(before, const_cast<const char*>(data_), is_poison); hit != data_)
        fail("something wrote " + describe(hit));
    if (const char* hit = std::find_if_not(end, const_cast<const char*>(pages_end_), is_poison); hit != pages_end_)
        fail("something wrote " + describe(hit));
}

std::string GuardedMemory::describe(const void* pointer) const {
    return format("byte %td of %s, which has %zu bytes", static_cast<const char*>(pointer) - data_, name_.c_str(),
                  num_bytes_);
}

std::string describe_address(const void* pointer) {
    for (const GuardedMemory* memory : all_memory())
        if (memory->is_near(pointer)) return memory->describe(pointer);
    return format("address %p, which is no memory of the kernel", pointer);
}

void check_global(const void* pointer, size_t num_bytes, const char* call, const Where& where) {
    for (const GuardedMemory* memory : all_memory())
        if (memory->contains(pointer, num_bytes) && !shared_memory().contains(pointer, num_bytes)) {
            if (reinterpret_cast<uintptr_t>(pointer) % std::min<size_t>(num_bytes, 16))
                fail(format("%s is not aligned to %zu bytes: it is at %s", call, num_bytes,
                            memory->describe(pointer).c_str()),
                     where);
            return;
        }
    fail(format("%s of %zu bytes is outside global memory: it starts at %s", call, num_bytes,
                describe_address(pointer).c_str()),
         where);
}

void check_shared(const void* pointer, size_t num_bytes, size_t alignment, const char* call, const Where& where) {
    if (!shared_memory().contains(pointer, num_bytes))
        fail(format("%s of %zu bytes is outside shared memory: it starts at %s", call, num_bytes,
                    describe_address(pointer).c_str()),
             where);
    if (shared_memory().address(pointer) % alignment)
        fail(format("%s is not aligned to %zu bytes: it is at %s", call, alignment, describe_address(pointer).c_str()),
             where);
}

SharedMemory::SharedMemory(size_t dynamic_bytes)
    : static_("static shared memory", STATIC_BYTES, 1024), dynamic_("dynamic shared memory", dynamic_bytes, 1024) {}

void SharedMemory::reset() {
    num_places_ = 0;
    static_bytes_ = 0;
    static_.poison();
    dynamic_.poison();
}

void* SharedMemory::place_static(const void* type, size_t num_bytes, size_t alignment) {
    for (int i = 0; i < num_places_; ++i)
        if (places_[i].type == type) return places_[i].data;
    const size_t start = round_up(static_bytes_, alignment);
    if (num_places_ == MAX_PLACES || start + num_bytes > static_.size())
        fail(format("static_shared: %zu bytes more than the %zu there are, or more than %d types", start + num_bytes,
                    static_.size(), MAX_PLACES));
    static_bytes_ = start + num_bytes;
    return (places_[num_places_++] = {type, static_.data() + start}).data;
}

bool SharedMemory::contains(const void* pointer, size_t num_bytes) const {
    return dynamic_.contains(pointer, num_bytes) || static_.contains(pointer, num_bytes);
}

unsigned SharedMemory::address(const void* pointer) const {
    const char* place = static_cast<const char*>(pointer);
    return static_.contains(pointer, 0) ? STATIC_START + (place - static_.data())
                                        : DYNAMIC_START + (place - dynamic_.data());
}

char* SharedMemory::at(unsigned address, size_t num_bytes) const {
    char* place = address < DYNAMIC_START ? static_.data() + (static_cast<ptrdiff_t>(address) - STATIC_START)
                                          : dynamic_.data() + (address - DYNAMIC_START);
    return contains(place, num_bytes) ? place : nullptr;
}

}  // namespace simulator
