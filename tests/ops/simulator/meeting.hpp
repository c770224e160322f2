// Where threads of a block meet: the lanes of a warp in one instruction, and barriers.
#pragma once
#include <string>

namespace simulator {

void reset_meetings(unsigned num_threads);
// A thread has returned: those that wait for it no longer do.
void leave_meetings(unsigned thread);
// Lines about meetings that some but not all have come to.
std::string describe_meetings();

}  // namespace simulator
