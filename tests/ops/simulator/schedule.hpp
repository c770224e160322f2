// Runs the blocks of a grid: threads as fibers in shuffled order, asynchronous work at a time that chance decides.
#pragma once
#include <algorithm>
#include <deque>
#include <functional>
#include <utility>
#include <vector>

#include "block.hpp"

namespace simulator {

// When asynchronous work happens: as it is issued, as late as the waits allow, or by chance one or the other.
enum class Timing { EARLY, LATE, MIXED };

struct Launch {
    unsigned grid[3], block[3];
    unsigned shared_bytes;
    Timing timing;
    uint64_t seed;
};

// Runs the clusters of a launch, each of so many neighbouring blocks, one after another.
void run_grid(const Launch& launch, unsigned cluster_size, const std::function<void()>& kernel);

// Random numbers by Steele, Lea and Flood's SplitMix64, for std::shuffle too.
struct Chance {
    using result_type = uint64_t;

    uint64_t state;

    static constexpr uint64_t min() { return 0; }
    static constexpr uint64_t max() { return ~0ull; }

    uint64_t operator()() {
        uint64_t mixed = state += 0x9e3779b97f4a7c15ull;
        mixed = (mixed ^ mixed >> 30) * 0xbf58476d1ce4e5b9ull;
        mixed = (mixed ^ mixed >> 27) * 0x94d049bb133111ebull;
        return mixed ^ mixed >> 31;
    }
};

Chance& chance();

// Whether work issued now is done now.
bool lands_at_once();

// Called before work that the thread waits for is done: lets others go on for a while, or as long as they can.
void linger(const Purpose& purpose, const Where& where);

// Asynchronous work in commit groups, such as the cp.async of a thread. `Effect` is called to do it.
template <class Effect>
class Groups {
public:
    void add(Effect effect) {
        open_.has_work = true;
        if (lands_at_once())
            effect();
        else
            open_.due.push_back(std::move(effect));
    }

    void commit() { groups_.push_back(std::exchange(open_, {})); }

    // Does the work of all groups but the latest `num_pending`, in any order.
    void wait(size_t num_pending, const Purpose& purpose, const Where& where) {
        if (groups_.size() > num_pending) linger(purpose, where);
        std::vector<Effect> due;
        for (; groups_.size() > num_pending; groups_.pop_front())
            std::ranges::move(groups_.front().due, std::back_inserter(due));
        std::shuffle(due.begin(), due.end(), chance());
        for (Effect& effect : due) effect();
    }

    // Whether there was work that nobody has waited for, done or not.
    bool is_pending() const { return open_.has_work || std::ranges::any_of(groups_, &Group::has_work); }

private:
    struct Group {
        bool has_work = false;
        std::vector<Effect> due;
    };

    Group open_;
    std::deque<Group> groups_;
};

// Suspends the thread until the condition is met, which may be at once.
void wait_until(const Purpose& purpose, const Where& where, const std::function<bool()>& is_met);

// Work that lands at some time without anybody's wait, such as a bulk load that signals a barrier in shared memory.
void land_later(std::function<void()> effect);

// For what a group of primitives keeps of a cluster; null where there is nothing to do.
struct Hooks {
    void (*before_cluster)();
    std::string (*at_return)(unsigned thread);  // what nobody has waited for; empty if nothing is left
    std::string (*at_deadlock)();               // lines of the report
};
void add_hooks(const Hooks& hooks);

}  // namespace simulator
