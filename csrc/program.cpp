// Reading a program from its stream. Every number is checked against a range in contract_read.h, and here what ranges cannot
// say of a struct by itself; validate.cpp sees to the rest.
#include "program.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace pixelfast {
namespace {

class Reader {
 public:
  Reader(const int64_t* words, size_t word_count, const std::vector<Floats>& arrays)
      : words_(words), word_count_(word_count), arrays_(arrays) {}

  int number(const char* what, int64_t low, int64_t high) {
    const int64_t word = next(what);
    if (word < low || word > high)
      throw ProgramError(std::string(what) + " is " + std::to_string(word) + ", but must lie in " +
                         std::to_string(low) + " .. " + std::to_string(high));
    return static_cast<int>(word);
  }

  int length(const char* what) { return number(what, 0, static_cast<int64_t>(word_count_ - next_) + 1); }

  int exactly(const char* what, int count) { return number(what, count, count); }

  template <class Item, class Read>
  void list(std::vector<Item>& items, int length, Read read) {
    for (int left = length; left > 0; left--) read(items.emplace_back());
  }

  float real(const char* what) {
    const int64_t word = next(what);
    if (word < 0 || word > UINT32_MAX) throw ProgramError(std::string(what) + " is no number of 32 bits");
    const auto bits = static_cast<uint32_t>(word);
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
  }

  // One of the arrays, which must have `expected` floats; none if it is optional, and its number is -1.
  Floats array(const char* what, int64_t expected, bool optional) {
    const int64_t number = next(what), count = next(what), arrays = static_cast<int64_t>(arrays_.size());
    if (optional && number == -1 && count == 0) return {};
    if (number < 0 || number >= arrays || count != static_cast<int64_t>(arrays_[number].size()))
      throw ProgramError(std::string(what) + " is none of the program's " + std::to_string(arrays) + " arrays");
    if (count != expected)
      throw ProgramError(std::string(what) + " has " + std::to_string(count) + " floats instead of " +
                         std::to_string(expected));
    return arrays_[number];
  }

  void expect(int64_t value, const char* otherwise) {
    if (next_ >= word_count_ || words_[next_] != value) throw ProgramError(otherwise);
    next_++;
  }

  bool finished() const { return next_ == word_count_; }

  // What is being read, for bounds and sizes of its parts.
  const Program* program = nullptr;
  const Instruction* instruction = nullptr;

 private:
  int64_t next(const char* what) {
    if (next_ >= word_count_) throw ProgramError("the program ends where " + std::string(what) + " should stand");
    return words_[next_++];
  }

  const int64_t* words_;
  size_t word_count_, next_ = 0;
  const std::vector<Floats>& arrays_;
};

// What bounds and sizes of contract_read.h call.

int64_t channels_of(const std::vector<Slot>& slots) {
  int64_t count = 0;
  for (const Slot& slot : slots) count += slot.count;
  return count;
}

int64_t pixels_of(const Program& program) {
  const int64_t pixels = int64_t{program.height} * program.width;
  if (pixels > kMostPixels) throw ProgramError("attention over too many pixels");
  return pixels;
}

int64_t keys_of(const std::vector<Run>& runs) {
  int64_t keys = 0;
  for (const Run& run : runs) {
    keys += run.last - run.first;
    if (keys > kMostKeys) throw ProgramError("attention to too many pixels");
  }
  return keys;
}

int64_t positions_of(const std::vector<std::vector<Instruction>>& steps) {
  int64_t positions = 0;
  for (const auto& step : steps) positions += static_cast<int64_t>(step.size()) + 1;
  return positions;
}

// What ranges cannot refuse.

void check_places(const Reader& in, const Mixture& mixture) {
  const int64_t last = (mixture.components - int64_t{1}) * mixture.component_step +
                       (in.program->channels - int64_t{1}) * mixture.channel_step;
  if (std::max({mixture.weights, mixture.means, mixture.scales, mixture.coefficients}) + last >= in.program->parameters)
    throw ProgramError("a mixture has places beyond its " + std::to_string(in.program->parameters) + " parameters");
  if (!std::isfinite(mixture.log_scale_min)) throw ProgramError("the least log-scale of a mixture must be finite");
}

void check_expression(const Reader&, const Map& map) {
  if (map.leaves.empty() || (map.ops.empty() && map.leaves.size() != 1))
    throw ProgramError("an expression without operations must have exactly one leaf");
  for (size_t i = 0; i < map.ops.size(); i++)
    for (int a = 0; a < arguments_of(map.ops[i].name); a++)
      if (static_cast<size_t>(map.ops[i].args[a]) >= map.leaves.size() + i)
        throw ProgramError("an argument is " + std::to_string(map.ops[i].args[a]) + ", but only " +
                           std::to_string(map.leaves.size() + i) + " values are there before it");
}

void check_sources(const Reader&, const Reduce& reduce) {
  if (reduce.sources.empty()) throw ProgramError("a reduction needs at least one source");
}

void check_heads(const Reader& in, const Attention& attention) {
  const int heads = attention.heads, made = in.instruction->out.count;
  if (attention.query.count != attention.keys.count || made != attention.values.count ||
      attention.query.count % heads != 0 || made % heads != 0)
    throw ProgramError("attention has queries and keys, or values and outputs, that do not match head by head");
  if (attention.masks != 1 && attention.masks != heads)
    throw ProgramError("attention has neither one mask nor one for each head");
}

void check_lists(const Reader& in, const Attention& attention) {
  const Rect& rect = in.instruction->rect;
  const int64_t elements = (int64_t{rect.row1} - rect.row0) * (int64_t{rect.col1} - rect.col0);
  if (elements > kMostPixels) throw ProgramError("attention over too many pixels");
  const std::vector<int>& offsets = attention.offsets;
  if (rect.row0 >= rect.row1 || rect.col0 >= rect.col1 || static_cast<int64_t>(offsets.size()) != elements * attention.masks + 1)
    throw ProgramError("attention has not one list of pixels for each element and mask");
  if (offsets.front() != 0 || offsets.back() != static_cast<int>(attention.runs.size()) ||
      !std::is_sorted(offsets.begin(), offsets.end()))
    throw ProgramError("the lists of attention do not hold each run once");
  for (size_t list = 0; list + 1 < offsets.size(); list++)
    for (int run = offsets[list] + 1; run < offsets[list + 1]; run++)
      if (attention.runs[run].first < attention.runs[run - 1].last) throw ProgramError("a list of pixels is not ascending");
}

void check_biases(const Reader&, const Attention& attention) {
  if (attention.biases > 1 && attention.biases != attention.heads)
    throw ProgramError("attention has neither one bias nor one for each head");
}

void check_order(const Reader&, const Program& program) {
  std::vector<int> sorted = program.known_order;
  std::sort(sorted.begin(), sorted.end());
  const bool repeated = std::adjacent_find(sorted.begin(), sorted.end()) != sorted.end();
  if (repeated || (!sorted.empty() && static_cast<int64_t>(sorted.size()) != positions_of(program.steps)))
    throw ProgramError("the order of known rows does not name every instruction once");
}

void check_leads(const Reader&, const Program& program) {
  if (program.leads.size() != program.row.size()) throw ProgramError("there is not one lead for each row instruction");
}

}  // namespace
}  // namespace pixelfast

#include "contract_read.h"

namespace pixelfast {
namespace {

void find_extent(Program& program) {
  program.first_row = program.col0 = 0;
  program.col1 = program.width;
  for (const Buffer& buffer : program.buffers) {
    program.first_row = std::min(program.first_row, buffer.domain.row0);
    program.col0 = std::min(program.col0, buffer.domain.col0);
    program.col1 = std::max(program.col1, buffer.domain.col1);
  }
  if (program.first_row < -kMargin || program.col0 < -kMargin || program.col1 > program.width + kMargin)
    throw ProgramError("a buffer's domain reaches more than " + std::to_string(kMargin) + " pixels beyond the image");
}

}  // namespace

Program parse(const int64_t* words, size_t word_count, const std::vector<Floats>& arrays) {
  Reader in(words, word_count, arrays);
  in.expect(kMagic, "this is no program of pixelfast");
  in.expect(kContract, "this program is of another version of pixelfast than the engine that should run it: build the engine again");
  Program program;
  read(in, program);
  if (!in.finished()) throw ProgramError("the program goes on after its end");
  find_extent(program);
  validate(program);
  validate_wave(program);
  return program;
}

}  // namespace pixelfast
