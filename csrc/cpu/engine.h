// Runs a plan over all images of a call: tiles of images over threads that live only as long as the call.
#pragma once

#include <chrono>
#include <memory>
#include <optional>

#include "worker.h"

namespace pixelfast {

class Crew;

// A call that is under way. The thread that made it looks on: the workers know nothing of Python, and it has to come back to
// Python now and then, for signals, callbacks, and the end of the interpreter. What the call points to must outlive it.
class Running {
 public:
  // Starts the workers.
  Running(const Plan& plan, Call call, Arrangement arrangement);
  // Stops them, and waits until they have ended.
  ~Running();

  // Until everything is finished, or more rows than `reported` if the call wants that, but no longer than `most`. Gives whether
  // everything is, and how many rows are.
  std::pair<bool, int> wait(std::chrono::milliseconds most, int reported);

  // Once everything is finished: where a draw had no distribution, if one had none. Throws what a worker threw.
  std::optional<Position> failure() const;

 private:
  const Plan& plan_;
  Call call_;
  Arrangement arrangement_;
  std::unique_ptr<Crew> crew_;
  bool decided_ = false;  // whether the crew's failure is the one that counts
};

}  // namespace pixelfast
