// Runs a plan over all images of a call: tiles of images over threads that live only as long as the call.
#pragma once

#include <optional>

#include "worker.h"

namespace pixelfast {

// What the calling thread does while the workers run. Either may throw: the workers then stop, and it is passed on.
struct Watcher {
  virtual void poll() = 0;            // every 20 ms
  virtual void row_finished(int) = 0;  // once for each row, in order, if Call::by_row
 protected:
  ~Watcher() = default;
};

// Returns where a draw had no distribution, if one had none. Safe to call from several threads at once.
std::optional<Position> sample(const Plan& plan, const Call& call, const Arrangement& arrangement, Watcher& watcher);

}  // namespace pixelfast
