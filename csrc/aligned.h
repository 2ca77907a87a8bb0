// Floats that start at a cache line and are all zero at first.
#pragma once

#include <cstddef>
#include <cstring>
#include <memory>
#include <new>

namespace pixelfast {

class AlignedFloats {
 public:
  AlignedFloats() = default;
  explicit AlignedFloats(size_t count) : count_(count), data_(allocate(count)) { clear(); }

  float* data() const { return data_.get(); }
  size_t size() const { return count_; }
  void clear() const {
    if (count_) std::memset(data_.get(), 0, count_ * sizeof(float));
  }

 private:
  static constexpr std::align_val_t kLine{64};
  struct Free {
    void operator()(float* p) const { ::operator delete(p, kLine); }
  };
  static float* allocate(size_t count) {
    if (count > SIZE_MAX / sizeof(float)) throw std::bad_alloc();
    return static_cast<float*>(::operator new(count * sizeof(float), kLine));
  }

  size_t count_ = 0;
  std::unique_ptr<float, Free> data_;
};

}  // namespace pixelfast
