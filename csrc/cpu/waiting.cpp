// How the members of a team wait for one another: they spin, since what they wait for takes microseconds.
#include <thread>

#include "worker.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace pixelfast {
namespace {

constexpr int kSpins = 2000;  // about 50 microseconds; then the processor may have better things to do

inline void relax() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

void pause(int spins) {
  if (spins < kSpins) relax();
  else std::this_thread::yield();
}

}  // namespace

void Worker::wait_for(const Progress* progress, int step) const {
  for (int other = 0; other < arrangement_.team; other++) {
    if (other == member_) continue;
    for (int spins = 0; progress[other].step.load(std::memory_order_acquire) < step && !stopped(); spins++)
      pause(spins);
  }
}

void Worker::wait_for_pixels(const Progress& progress, int pixels) {
  for (int spins = 0; seen_ < pixels && !stopped(); spins++) {
    seen_ = progress.pixels.load(std::memory_order_acquire);
    if (seen_ >= pixels) return;
    pause(spins);
  }
}

}  // namespace pixelfast
