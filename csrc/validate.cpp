// Whether every read and write of a program stays inside what it declares, and reads nothing that is not there yet.
#include <algorithm>
#include <cmath>

#include "slots.h"

namespace pixelfast {
namespace {

bool empty(const Rect& r) { return r.row0 >= r.row1 || r.col0 >= r.col1; }

std::string text(const Rect& r) {
  return "rows " + std::to_string(r.row0) + " .. " + std::to_string(r.row1) + ", columns " + std::to_string(r.col0) +
         " .. " + std::to_string(r.col1);
}

void require(bool holds, const std::string& message) {
  if (!holds) throw ProgramError(message);
}

class Validator {
 public:
  explicit Validator(const Program& program) : program_(program), drawn_(program.channels, false) {}

  void run() {
    check_buffers();
    check_head();
    check_sweeps();
    for (const Instruction& instruction : program_.row) check(instruction, true);
    for (int k = 0; k < program_.channels; k++) {
      for (const Instruction& instruction : program_.steps[k]) check(instruction, false);
      check_draw(program_.draws[k]);
      for (const Encode& encode : program_.encodes[k]) check_encode(encode);
    }
  }

 private:
  void check_buffers() const {
    int64_t floats = 0;
    for (const Buffer& b : program_.buffers) {
      bool stored = empty(b.domain) || (b.col0 <= b.domain.col0 && b.domain.col1 <= b.col1);
      require(stored, "a buffer does not store all columns of its domain, " + text(b.domain));
      int64_t row = static_cast<int64_t>(b.col1 - b.col0) * b.features;
      require(row * b.rows <= kMostFloats - floats, "the program's buffers are too large");
      floats += row * b.rows;
    }
  }

  void check_head() const {
    int p = program_.parameters;
    switch (program_.head) {
      case Distribution::categorical:
        return require(p == program_.levels, "a categorical head needs as many parameters as levels");
      case Distribution::bernoulli_logit:
      case Distribution::bernoulli_probability:
        return require(p == 1 && program_.levels == 2, "a Bernoulli head needs one parameter and two levels");
      case Distribution::mixture_of_logistics: return check_logistics();
      default: require(program_.mixture.components > 0, "a mixture needs to know where its parameters stand");
    }
  }

  // Each channel depends on those before it in its pixel, so they must be drawn in order.
  void check_logistics() const {
    const int c = program_.channels;
    const int64_t each = c == 3 ? 10 : 3;
    require(c == 1 || c == 3, "a mixture of logistics needs 1 or 3 image channels");
    require(program_.mixture.weights >= 0 && (program_.mixture.coefficients >= 0) == (c == 3),
            "a mixture of logistics needs weights and, of three channels, coefficients");
    require(program_.parameters == each * program_.mixture.components,
            "a mixture of logistics needs " + std::to_string(each) + " parameters for each component");
    for (int k = 0; k < c; k++)
      require(program_.draws[k].channel == k, "a mixture of logistics must draw the channels of a pixel in order");
  }

  // Instructions of a sweep run together at one column after the other: what they write lies behind them, not ahead.
  void check_sweeps() const {
    const std::vector<Instruction>& row = program_.row;
    for (size_t first = 0, last; first < row.size(); first = last) {
      for (last = first + 1; last < row.size() && row[last].sweep == row[first].sweep; last++) {}
      if (row[first].sweep == 0) continue;
      for (size_t reader = first; reader < last; reader++)
        for_each_slot(row[reader], [&](const Slot& slot) {
          for (size_t writer = first; writer < last; writer++)
            require(slot.row != 0 || slot.col * row[first].sweep <= 0 || !overlap(slot, row[writer].out),
                    "a sweep reads columns that it has not come to yet");
        });
    }
  }

  // The part of a rectangle in which anything runs.
  Rect clip(const Rect& r) const {
    return Rect{std::max(r.row0, program_.first_row), std::min(r.row1, program_.height),
                std::max(r.col0, program_.col0), std::min(r.col1, program_.col1)};
  }

  void check_read(const Slot& slot, const Rect& rect) const {
    const Buffer& b = program_.buffers[slot.buffer];
    require(slot.row <= 0 && slot.row > -b.rows, "an instruction reads " + std::to_string(-slot.row) +
                                                     " rows above, but its buffer keeps " + std::to_string(b.rows));
    require(rect.col0 + slot.col >= b.col0 && rect.col1 + slot.col <= b.col1,
            "an instruction at " + text(rect) + " reads at column offset " + std::to_string(slot.col) +
                ", which its buffer does not store");
  }

  void check_write(const Slot& slot, const Rect& rect) const {
    const Rect& d = program_.buffers[slot.buffer].domain;
    require(slot.row == 0 && slot.col == 0, "an instruction writes elsewhere than at its own position");
    require(d.row0 <= rect.row0 && rect.row1 <= d.row1 && d.col0 <= rect.col0 && rect.col1 <= d.col1,
            "an instruction at " + text(rect) + " writes outside its buffer's domain, " + text(d));
  }

  // Instructions read everything before they write. Engines work in place and in parts, so a source may overlap the
  // destination only where that makes no difference: at the same channels of the same element, or in columns that have
  // come before, one after the other.
  void check_overlap(const Slot& source, const Slot& out, bool same_allowed) const {
    bool apart = !overlap(source, out) || source.row != 0 || source.col * order_ < 0;
    bool same = source.col == 0 && source.channel == out.channel && source.count == out.count;
    require(apart || (same && same_allowed), "an instruction overwrites channels of its own sources");
  }

  void check(const Instruction& instruction, bool whole_row) {
    Rect rect = clip(instruction.rect);
    require(whole_row || instruction.sweep == 0, "an instruction of a pixel cannot be part of a sweep");
    order_ = whole_row ? instruction.sweep : program_.known_order.empty() ? 1 : 0;
    if (!empty(rect)) {
      check_write(instruction.out, rect);
      std::visit([&](const auto& body) { check_body(body, instruction.out, rect, whole_row); }, instruction.body);
    }
  }

  void check_body(const Product& product, const Slot& out, const Rect& rect, bool) const {
    for (const Slot& tap : product.taps) {
      check_read(tap, rect);
      check_overlap(tap, out, false);
    }
  }

  void check_body(const Lookup& lookup, const Slot&, const Rect&, bool whole_row) const {
    for (const Pixel& tap : lookup.taps) {
      bool known = tap.row < 0 || (!whole_row && (tap.col < 0 || (tap.col == 0 && drawn_[tap.channel])));
      require(known, "a look-up reads a value that is not drawn yet");
    }
  }

  void check_body(const Map& map, const Slot& out, const Rect& rect, bool) const {
    for (const Leaf& leaf : map.leaves) {
      int count = 1;
      if (const Slot* slot = std::get_if<Slot>(&leaf)) {
        check_read(*slot, rect);
        check_overlap(*slot, out, true);
        count = slot->count;
      } else if (const FieldSlot* field = std::get_if<FieldSlot>(&leaf)) {
        check_field(program_.fields[field->field], rect);
        count = field->count;
      }
      require(count == 1 || count == out.count, "an expression reads " + std::to_string(count) +
                                                    " channels to write " + std::to_string(out.count));
    }
  }

  void check_body(const Reduce& reduce, const Slot& out, const Rect& rect, bool) const {
    require(out.count == 1, "a reduction writes more than one channel");
    for (const Slot& source : reduce.sources) {
      check_read(source, rect);
      check_overlap(source, out, true);
    }
  }

  void check_body(const Norm& norm, const Slot& out, const Rect& rect, bool) const {
    require(out.count == norm.source.count, "a normalisation reads and writes different numbers of channels");
    check_read(norm.source, rect);
    check_overlap(norm.source, out, true);
  }

  void check_body(const Attention& attention, const Slot& out, const Rect& rect, bool) const {
    check_read(attention.query, rect);
    check_overlap(attention.query, out, false);
    for (const Cache& cache : {attention.keys, attention.values}) {
      const Buffer& b = program_.buffers[cache.buffer];
      const Rect stored{cache.row, cache.row + program_.height, cache.col, cache.col + program_.width};
      const bool holds = b.domain.row0 <= stored.row0 && stored.row1 <= b.domain.row1 &&
                         b.domain.col0 <= stored.col0 && stored.col1 <= b.domain.col1;
      require(holds, "attention looks for keys or values outside a buffer's domain, " + text(b.domain));
      require(b.rows >= program_.height - b.domain.row0, "attention looks at all rows, but a buffer keeps " +
                                                             std::to_string(b.rows));
      require(cache.buffer != out.buffer, "attention writes where its keys or values are kept");
    }
  }

  void check_field(const Field& f, const Rect& rect) const {
    bool rows = f.rows == 1 || (f.row0 <= rect.row0 && rect.row1 <= f.row0 + f.rows);
    bool cols = f.cols == 1 || (f.col0 <= rect.col0 && rect.col1 <= f.col0 + f.cols);
    require(rows && cols, "an expression at " + text(rect) + " reads a field outside its rows and columns");
  }

  void check_draw(const Draw& draw) {
    require(!drawn_[draw.channel], "an image channel is drawn twice");
    require(draw.source.count == program_.parameters, "a draw reads a wrong number of parameters");
    check_read(draw.source, Rect{0, program_.height, 0, program_.width});
    drawn_[draw.channel] = true;
  }

  void check_encode(const Encode& encode) const {
    require(drawn_[encode.channel], "a value is encoded before it is drawn");
    require(encode.out.row == 0 && encode.out.col == 0, "a value is encoded elsewhere than at its own position");
  }

  const Program& program_;
  std::vector<bool> drawn_;  // channels that the steps so far have drawn
  int order_ = 0;            // in which the columns of the instruction come: 1, -1, or 0: all at once
};

}  // namespace

void validate(const Program& program) { Validator(program).run(); }

}  // namespace pixelfast
