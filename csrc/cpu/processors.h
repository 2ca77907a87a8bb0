// Which processor a thread runs on. Two threads that wait for each other must not share one, and the system
// may leave them together for a while. How often that happens has not been measured.
#pragma once

namespace pixelfast {

// -1 where the system does not tell.
int current_processor();

// Moves the calling thread to another of the processors that it may use, if there is one; it stays free to move on.
void leave_processor();

}  // namespace pixelfast
