// Numbers of a program, where they lie: whoever parses it keeps them there as long as the program is used.
#pragma once

#include <cstddef>
#include <vector>

namespace pixelfast {

class Floats {
 public:
  Floats() = default;
  Floats(const float* data, size_t size) : data_(data), size_(size) {}

  const float* data() const { return data_; }
  size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  const float* begin() const { return data_; }
  const float* end() const { return data_ + size_; }
  float operator[](size_t i) const { return data_[i]; }

 private:
  const float* data_ = nullptr;
  size_t size_ = 0;
};

// Of arrays that own their numbers.
template <class Array>
std::vector<Floats> views_of(const std::vector<Array>& arrays) {
  std::vector<Floats> views;
  for (const Array& array : arrays) views.emplace_back(array.data(), static_cast<size_t>(array.size()));
  return views;
}

}  // namespace pixelfast
