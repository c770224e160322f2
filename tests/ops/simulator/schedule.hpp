// Runs the blocks of a grid: threads as fibers in shuffled order, asynchronous work at a time that chance decides.
#pragma once
#include <algorithm>
#include <functional>
#include <random>
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

// Runs the blocks of a launch one after another.
void run_grid(const Launch& launch, const std::function<void()>& kernel);

std::mt19937_64& chance();

// Whether work issued now is done now.
bool lands_at_once();

// Asynchronous work of one thread in commit groups, such as its cp.async. `Effect` is called to do it.
template <class Effect>
class Groups {
public:
    void add(Effect effect) {
        if (lands_at_once())
            effect();
        else
            open_.push_back(std::move(effect));
    }

    void commit() { groups_.push_back(std::move(open_)), open_.clear(); }

    // Does the work of all groups but the latest `num_pending`, in any order.
    void wait(size_t num_pending) {
        std::vector<Effect> due;
        while (groups_.size() > num_pending) {
            std::move(groups_.front().begin(), groups_.front().end(), std::back_inserter(due));
            groups_.erase(groups_.begin());
        }
        std::shuffle(due.begin(), due.end(), chance());
        for (Effect& effect : due) effect();
    }

    // Whether work is left that nobody has waited for.
    bool is_pending() const {
        return !open_.empty() || std::ranges::any_of(groups_, [](const auto& group) { return !group.empty(); });
    }

private:
    std::vector<Effect> open_;
    std::vector<std::vector<Effect>> groups_;
};

// Suspends the thread until the condition is met, which may be at once.
void wait_until(const Purpose& purpose, const Where& where, const std::function<bool()>& is_met);

// Work that lands at some time without anybody's wait, such as a bulk load that signals a barrier in shared memory.
void land_later(std::function<void()> effect);

// For state of the primitives: `reset` is called before each block, and `describe` when a thread returns, to say what
// of its work nobody has waited for; empty if nothing is left.
void call_before_block(void (*reset)());
void call_at_return(std::string (*describe)(unsigned thread));

}  // namespace simulator
