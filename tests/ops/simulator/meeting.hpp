// Where threads of a block meet: the lanes of a warp in one instruction, and barriers.
#pragma once
#include <string>

namespace simulator {

void reset_meetings(unsigned num_blocks, unsigned threads_of_block);
// A thread has returned: those that wait for it no longer do.
void leave_meetings(unsigned thread);
// Whether some threads of a block of the cluster have not returned, and all of its blocks are known to have begun.
bool is_running(unsigned block);
// Lines about meetings that some but not all have come to.
std::string describe_meetings();

}  // namespace simulator
