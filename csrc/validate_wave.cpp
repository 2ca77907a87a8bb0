// Whether rows may overlap as a program's leads and reaches say. Python derives them (pixelfast/lowering/wavefront.py, which
// says what they mean); this only checks that they let no instruction read what is not there yet, as those of a damaged program
// would.
#include <algorithm>

#include "slots.h"

namespace pixelfast {
namespace {

class WaveValidator {
 public:
  explicit WaveValidator(const Program& program) : program_(program), rows_(program.buffers.size()) {
    drawn_.assign(program.buffers.size(), false);
    for (size_t i = 0; i < program.row.size(); i++) rows_[program.row[i].out.buffer].push_back(i);
    for (const auto& step : program.steps)
      for (const Instruction& instruction : step) drawn_[instruction.out.buffer] = true;
    for (const auto& encodes : program.encodes)
      for (const Encode& encode : encodes) drawn_[encode.out.buffer] = true;
  }

  void run() const {
    for (size_t i = 0; i < program_.row.size(); i++) check_caches(program_.row[i], static_cast<int>(i));
    for (const auto& step : program_.steps)
      for (const Instruction& instruction : step) check_caches(instruction, -1);
    for (size_t i = 0; i < program_.row.size(); i++)
      each_read(program_.row[i], [&](const Slot& slot) { check_row_read(slot, i); },
                [&](const Pixel& pixel) { require(pixel.row == 0 || allowed(-pixel.row, &Reach::chunks, pixel.col + lead(i))); });
    for (const auto& step : program_.steps)
      for (const Instruction& instruction : step)
        each_read(instruction, [&](const Slot& slot) { check_pixel_read(slot); },
                  [&](const Pixel& pixel) { require(pixel.row == 0 || allowed(-pixel.row, &Reach::pixels, pixel.col)); });
    for (const Draw& draw : program_.draws) check_pixel_read(draw.source);
  }

 private:
  int lead(size_t instruction) const { return program_.leads[instruction]; }

  static void require(bool holds) {
    if (!holds) throw ProgramError("the leads and reaches of the program let an instruction read what is not there yet");
  }

  // Whether the program declares that something reaches so many columns to the right, `above` rows higher.
  bool allowed(int above, int Reach::*kind, int columns) const {
    for (const Reach& reach : program_.reaches)
      if (reach.above == above && reach.*kind >= columns) return true;
    return false;
  }

  void check_row_read(const Slot& slot, size_t reader) const {
    for (size_t writer : rows_[slot.buffer]) {
      if (slot.row == 0) require(writer >= reader || lead(writer) >= lead(reader) + slot.col);
      else require(allowed(-slot.row, &Reach::rows, slot.col + lead(reader) - lead(writer)));
    }
    if (slot.row < 0 && drawn_[slot.buffer]) require(allowed(-slot.row, &Reach::chunks, slot.col + lead(reader)));
  }

  void check_pixel_read(const Slot& slot) const {
    if (slot.row < 0) require(allowed(-slot.row, &Reach::pixels, slot.col));
    else for (size_t writer : rows_[slot.buffer]) require(lead(writer) >= slot.col);
  }

  // Any column of the rows above may be read in a cache, and of its own: by pixels, or by row instruction `reader`.
  void check_caches(const Instruction& instruction, int reader) const {
    if (instruction.rect.row0 >= instruction.rect.row1) return;
    int most = -static_cast<int>(kReach);
    each_cache(instruction.body, [&](const Cache& cache) { most = std::max(most, cache.col); });
    const int ahead = reader < 0 ? 0 : lead(reader);
    const int reach = most + program_.width - 1 - instruction.rect.col0 + ahead;
    each_cache(instruction.body, [&](const Cache& cache) {
      if (reader < 0) require(allowed(1, &Reach::pixels, reach));
      else if (drawn_[cache.buffer]) require(allowed(1, &Reach::chunks, reach));
      for (size_t writer : rows_[cache.buffer]) {
        if (reader >= 0) require(allowed(1, &Reach::rows, reach - lead(writer)));
        if (reader < 0 || writer < static_cast<size_t>(reader)) require(lead(writer) >= reach);
      }
    });
  }

  template <class OfSlot, class OfPixel>
  void each_read(const Instruction& instruction, OfSlot of_slot, OfPixel of_pixel) const {
    each_slot(instruction.body, of_slot);
    each_pixel(instruction.body, of_pixel);
    if (adds(instruction.body)) of_slot(instruction.out);
  }

  const Program& program_;
  std::vector<std::vector<size_t>> rows_;  // of each buffer: the row instructions that write it
  std::vector<bool> drawn_;                // of each buffer: whether pixels write it
};

}  // namespace

void validate_wave(const Program& program) { WaveValidator(program).run(); }

}  // namespace pixelfast
