#include "schedule.hpp"

#include <memory>
#include <numeric>
#include <sys/mman.h>
#include <unistd.h>
#include <utility>

#include "fiber.hpp"
#include "memory.hpp"
#include "meeting.hpp"

uint3 threadIdx, blockIdx, blockDim, gridDim;

namespace simulator {
namespace {

constexpr size_t STACK_BYTES = 256 << 10;
constexpr unsigned MAX_CLUSTER = 8;  // on every device that has clusters
constexpr unsigned NOBODY = ~0u;
constexpr uint64_t AS_LONG_AS_OTHERS_GO_ON = ~0ull;

struct Thread {
    Fiber fiber;
    bool is_done = false;
    bool is_blocked = false;                           // until release()
    const std::function<bool()>* condition = nullptr;  // or until it is met
    uint64_t lingers_until = 0;                        // or until this round
    Purpose purpose{};
    Where where;
};

struct AsyncWork {
    unsigned thread;
    std::function<void()> effect;
};

// Stacks of all threads of a cluster, each above a page that nobody may touch.
class Stacks {
public:
    explicit Stacks(unsigned count) : page_bytes_(sysconf(_SC_PAGESIZE)), num_bytes_(count * STACK_BYTES) {
        void* mapping = mmap(nullptr, num_bytes_, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (mapping == MAP_FAILED) fail("no memory for the stacks of the threads");
        start_ = static_cast<char*>(mapping);
        for (unsigned i = 0; i < count; ++i) mprotect(start_ + i * STACK_BYTES, page_bytes_, PROT_NONE);
    }
    ~Stacks() { munmap(start_, num_bytes_); }

    // The ends are spread over the sets of the processor's cache: all threads use the same few lines of theirs.
    char* end(unsigned thread) const { return start_ + (thread + 1) * STACK_BYTES - thread % 32 * 128; }
    size_t usable_bytes() const { return STACK_BYTES - page_bytes_ - 32 * 128; }

private:
    size_t page_bytes_, num_bytes_;
    char* start_;
};

// What a run has; it outlives a failure in the middle and goes with the next run.
struct Grid {
    Grid(const Launch& launch, unsigned cluster_size, unsigned threads_of_block, const std::function<void()>& kernel)
        : timing(launch.timing), chance{launch.seed}, threads_of_block(threads_of_block),
          stacks(cluster_size * threads_of_block), threads(cluster_size * threads_of_block), kernel(kernel) {
        while (shared.size() < cluster_size) shared.push_back(std::make_unique<SharedMemory>(launch.shared_bytes));
    }

    Timing timing;
    Chance chance;
    unsigned threads_of_block;
    std::vector<std::unique_ptr<SharedMemory>> shared;  // of each block
    uint3 first_block{};
    Stacks stacks;
    std::vector<Thread> threads;
    std::function<void()> kernel;
    std::vector<AsyncWork> async;
    unsigned running = NOBODY;
    unsigned num_live = 0;
    uint64_t round = 0;
};

std::unique_ptr<Grid> grid;

std::vector<Hooks>& all_hooks() {
    static std::vector<Hooks> all;
    return all;
}

void set_running(unsigned thread) {
    grid->running = thread;
    blockIdx = grid->first_block;
    blockIdx.x += thread / grid->threads_of_block;
    const unsigned place = thread % grid->threads_of_block, row = place / blockDim.x;
    threadIdx = {place % blockDim.x, row % blockDim.y, row / blockDim.y};
}

void run_thread() {
    grid->kernel();
    const unsigned thread = grid->running;
    for (const Hooks& hooks : all_hooks())
        if (const std::string left = hooks.at_return ? hooks.at_return(thread) : ""; !left.empty())
            fail("returns without having waited for " + left);
    grid->threads[thread].is_done = true;
    --grid->num_live;
    leave_meetings(thread);
    grid->threads[thread].fiber.suspend();
}

void suspend(const Purpose& purpose, const Where& where) {
    Thread& self = grid->threads[grid->running];
    self.purpose = purpose;
    self.where = where;
    self.fiber.suspend();
}

void land_one() {
    const size_t place = grid->chance() % grid->async.size();
    AsyncWork work = std::move(grid->async[place]);
    grid->async.erase(grid->async.begin() + place);
    set_running(work.thread);
    work.effect();
}

// Threads in the order of their numbers, neighbours that wait for the same in one line.
[[noreturn]] void report_deadlock() {
    std::string text = "no thread can go on";
    const auto purpose = [](const Thread& thread) {
        const auto& [call, details, first, second] = thread.purpose;
        return call + format(details, first, second) + " at " + place(thread.where);
    };
    const auto& threads = grid->threads;
    for (unsigned first = 0, end; first < threads.size(); first = end) {
        end = first + 1;
        if (threads[first].is_done) continue;
        const std::string wanted = purpose(threads[first]);
        while (end < threads.size() && !threads[end].is_done && purpose(threads[end]) == wanted) ++end;
        text += format(end - first > 1 ? "\n  threads %u-%u wait in " : "\n  thread %u waits in ", first, end - 1);
        text += wanted;
    }
    if (grid->num_live < threads.size())
        text += format("\n  %zu threads have returned", threads.size() - grid->num_live);
    grid->running = NOBODY;
    text += describe_meetings();
    for (const Hooks& hooks : all_hooks())
        if (hooks.at_deadlock) text += hooks.at_deadlock();
    fail("deadlock: " + text);
}

// When no thread can go on: lands work that is on its way, or ends the wait of a thread that lingers.
void let_time_pass() {
    std::vector<Thread*> lingering;
    for (Thread& thread : grid->threads)
        if (!thread.is_done && thread.lingers_until > grid->round) lingering.push_back(&thread);
    const size_t num_choices = lingering.size() + grid->async.size();
    if (num_choices == 0) report_deadlock();
    if (const size_t choice = grid->chance() % num_choices; choice < lingering.size())
        lingering[choice]->lingers_until = 0;
    else
        land_one();
}

// Some warps stand still for a while, so that others run far ahead of them, as far as barriers allow.
class Pauses {
public:
    void begin_round() {
        if (rounds_left_-- > 0) return;
        rounds_left_ = 1 << grid->chance() % 8;
        paused_ = static_cast<uint32_t>(grid->chance());
    }
    bool is_paused(unsigned thread) const { return paused_ >> thread / WARP_SIZE % 32 & 1; }
    // Whether there were any.
    bool end() { return std::exchange(paused_, 0) != 0; }

private:
    int rounds_left_ = 0;
    uint32_t paused_ = 0;  // a bit for each warp, and for every 32nd after it
};

void run_cluster() {
    auto& threads = grid->threads;
    for (auto& shared : grid->shared) shared->reset();
    grid->async.clear();
    grid->num_live = threads.size();
    reset_meetings(num_blocks(), grid->threads_of_block);
    for (const Hooks& hooks : all_hooks()) hooks.before_cluster();
    for (unsigned thread = 0; thread < threads.size(); ++thread) {
        threads[thread].is_done = threads[thread].is_blocked = false;
        threads[thread].condition = nullptr;
        threads[thread].lingers_until = 0;
        threads[thread].fiber.start(grid->stacks.end(thread), grid->stacks.usable_bytes(), run_thread);
    }
    std::vector<unsigned> order(threads.size());
    std::iota(order.begin(), order.end(), 0);
    Pauses pauses;
    while (grid->num_live) {
        std::shuffle(order.begin(), order.end(), grid->chance);
        pauses.begin_round();
        ++grid->round;
        bool has_progressed = false;
        for (unsigned number : order) {
            Thread& thread = threads[number];
            if (thread.is_done || thread.is_blocked || pauses.is_paused(number)) continue;
            if (thread.lingers_until > grid->round || (thread.condition && !(*thread.condition)())) continue;
            thread.condition = nullptr;
            has_progressed = true;
            set_running(number);
            thread.fiber.resume();
        }
        if (!has_progressed && !pauses.end()) let_time_pass();
        while (grid->timing == Timing::MIXED && !grid->async.empty() && grid->chance() % 2) land_one();
        std::erase_if(order, [&](unsigned number) { return threads[number].is_done; });
    }
    grid->running = NOBODY;
    if (!grid->async.empty()) fail(format("the block ends while %zu bulk loads are on their way", grid->async.size()));
    for (auto& shared : grid->shared) shared->check_margins();
}

}  // namespace

SharedMemory& shared_memory() { return *grid->shared[current_block()]; }

SharedMemory& shared_memory_of(unsigned block) { return *grid->shared[block]; }

unsigned address_in_its_block(const void* pointer) {
    for (const auto& shared : grid->shared)
        if (shared->contains(pointer, 0)) return shared->address(pointer);
    return 0;
}

Chance& chance() { return grid->chance; }

bool lands_at_once() {
    return grid->timing == Timing::EARLY || (grid->timing == Timing::MIXED && grid->chance() % 2);
}

unsigned current_thread() { return grid->running; }

unsigned num_threads() { return grid->threads.size(); }

unsigned current_block() { return grid->running == NOBODY ? 0 : grid->running / grid->threads_of_block; }

unsigned num_blocks() { return grid->shared.size(); }

std::string describe_current_thread() {
    if (!grid || blockDim.x == 0) return "";
    std::string text = format("block (%u, %u, %u)", blockIdx.x, blockIdx.y, blockIdx.z);
    if (grid->running != NOBODY) text += format(", thread (%u, %u, %u)", threadIdx.x, threadIdx.y, threadIdx.z);
    return text + ": ";
}

void wait(const Purpose& purpose, const Where& where) {
    grid->threads[grid->running].is_blocked = true;
    suspend(purpose, where);
}

void release(unsigned thread) { grid->threads[thread].is_blocked = false; }

void wait_until(const Purpose& purpose, const Where& where, const std::function<bool()>& is_met) {
    if (is_met()) return;
    grid->threads[grid->running].condition = &is_met;
    suspend(purpose, where);
}

void linger(const Purpose& purpose, const Where& where) {
    if (grid->timing == Timing::EARLY) return;
    const uint64_t until = grid->timing == Timing::LATE ? AS_LONG_AS_OTHERS_GO_ON : grid->round + grid->chance() % 64;
    grid->threads[grid->running].lingers_until = until;
    suspend(purpose, where);
}

void land_later(std::function<void()> effect) {
    if (grid->timing == Timing::EARLY)
        effect();
    else
        grid->async.push_back({grid->running, std::move(effect)});
}

void add_hooks(const Hooks& hooks) { all_hooks().push_back(hooks); }

void run_grid(const Launch& launch, unsigned cluster_size, const std::function<void()>& kernel) {
    blockDim = {0, 0, 0};
    const auto [block_x, block_y, block_z] = launch.block;
    const auto [grid_x, grid_y, grid_z] = launch.grid;
    const uint64_t num_threads = uint64_t{block_x} * block_y * block_z;
    const uint64_t num_blocks = uint64_t{grid_x} * grid_y * grid_z, num_clusters = num_blocks / cluster_size;
    if (num_threads == 0 || num_threads > MAX_THREADS)
        fail(format("a block has 1 to %u threads, not %lu", MAX_THREADS, num_threads));
    if (num_blocks == 0 || grid_y > 65535 || grid_z > 65535)
        fail(format("a grid of (%u, %u, %u) blocks cannot be launched", grid_x, grid_y, grid_z));
    if (launch.shared_bytes > SharedMemory::MAX_BYTES)
        fail(format("%u bytes of shared memory exceed %u", launch.shared_bytes, SharedMemory::MAX_BYTES));
    if (cluster_size < 1 || cluster_size > MAX_CLUSTER || grid_x % cluster_size)
        fail(format("%u blocks cannot be clusters of %u", grid_x, cluster_size));
    if (cluster_size > 1 && num_threads % WARP_SIZE)
        fail(format("blocks of %lu threads in clusters: whole warps are simulated", num_threads));
    grid = std::make_unique<Grid>(launch, cluster_size, num_threads, kernel);
    gridDim = {grid_x, grid_y, grid_z};
    blockDim = {block_x, block_y, block_z};
    std::vector<uint64_t> order(num_clusters);
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), grid->chance);
    for (uint64_t cluster : order) {
        const uint64_t block = cluster * cluster_size;
        blockIdx = {static_cast<unsigned>(block % grid_x), static_cast<unsigned>(block / grid_x % grid_y),
                    static_cast<unsigned>(block / grid_x / grid_y)};
        grid->first_block = blockIdx;
        run_cluster();
    }
    grid.reset();
}

}  // namespace simulator
