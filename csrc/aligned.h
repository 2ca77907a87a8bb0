// Floats that start at a cache line and are all zero at first.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <new>
#include <utility>
#include <vector>

#ifdef __linux__
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace pixelfast {

// In bytes. A system that promises more than it has ends the process once that is touched, which no caller can catch.
inline size_t memory_of_machine() {
#ifdef __linux__
  static const size_t bytes = static_cast<size_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<size_t>(sysconf(_SC_PAGESIZE));
  return bytes;
#else
  return SIZE_MAX / 4;
#endif
}

class AlignedFloats {
 public:
  AlignedFloats() = default;
  explicit AlignedFloats(size_t count) : count_(count) {
    if (count > memory_of_machine() / sizeof(float)) throw std::bad_alloc();
    // From calloc, since large pieces of it cost nothing until they are touched.
    const size_t bytes = count * sizeof(float), align = bytes < kHugePage ? kLine : kHugePage;
    memory_.reset(std::calloc(bytes + align, 1));
    if (!memory_) throw std::bad_alloc();
    void* start = memory_.get();
    size_t space = bytes + align;
    data_ = static_cast<float*>(std::align(align, bytes, start, space));
#ifdef MADV_HUGEPAGE
    // Weights and rows of many layers are more than the processor has translations of small pages for.
    if (align == kHugePage) madvise(data_, bytes, MADV_HUGEPAGE);
#endif
  }

  float* data() const { return data_; }
  size_t size() const { return count_; }

 private:
  static constexpr size_t kLine = 64, kHugePage = size_t{1} << 21;
  struct Free {
    void operator()(void* p) const { std::free(p); }
  };

  size_t count_ = 0;
  std::unique_ptr<void, Free> memory_;
  float* data_ = nullptr;
};

// Memory that calls hand on to each other: what the system gives costs a millisecond, a small image not many more. Nobody
// waits for it: where a process was forked while another thread was here, that would take forever.
class Pool {
 public:
  // At least `count` floats. What they hold is finite, but anything.
  AlignedFloats take(size_t count) {
    const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
    if (!lock) return AlignedFloats(count);
    for (AlignedFloats& floats : free_)
      if (floats.size() >= count && floats.size() <= 2 * count) {
        std::swap(floats, free_.back());
        AlignedFloats found = std::move(free_.back());
        free_.pop_back();
        return found;
      }
    return AlignedFloats(count);
  }

  void give_back(AlignedFloats floats) {
    const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
    if (!lock || floats.size() * sizeof(float) > kMostBytes) return;
    free_.push_back(std::move(floats));
    if (free_.size() > kMost) free_.erase(free_.begin());
  }

 private:
  static constexpr size_t kMost = 16, kMostBytes = size_t{1} << 25;
  std::mutex mutex_;
  std::vector<AlignedFloats> free_;
};

// Hands out floats, zero at first, from large pieces: what is used one after another lies so, and on huge pages.
class Arena {
 public:
  // Pieces of at least `piece` floats.
  explicit Arena(size_t piece = 0) : piece_(piece) {}

  float* take(size_t count) {
    count = (count + 15) / 16 * 16;
    if (pieces_.empty() || pieces_.back().size() - used_ < count) {
      pieces_.emplace_back(std::max(count, piece_));
      used_ = 0;
    }
    float* start = pieces_.back().data() + used_;
    used_ += count;
    return start;
  }

 private:
  size_t piece_, used_ = 0;
  std::vector<AlignedFloats> pieces_;
};

}  // namespace pixelfast
