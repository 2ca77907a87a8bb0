// Reading a program from its stream. Every number is checked against a range here; validate.cpp sees to the rest.
#include "program.h"

#include <algorithm>

namespace pixelfast {
namespace {

constexpr int64_t kMagic = 0x5049584641535431;  // "PIXFAST1"
constexpr int64_t kVersion = 3;
constexpr int64_t kReach = 1 << 20;     // rows, columns and offsets lie within +-kReach
constexpr int64_t kFeatures = 1 << 22;  // features of one buffer, or floats of one pixel

class Reader {
 public:
  Reader(const int64_t* words, size_t word_count, const float* floats, size_t float_count)
      : words_(words), word_count_(word_count), floats_(floats), float_count_(float_count) {}

  int number(const char* what, int64_t low, int64_t high) {
    if (next_ >= word_count_) throw ProgramError("the program ends where " + std::string(what) + " should stand");
    int64_t word = words_[next_++];
    if (word < low || word > high)
      throw ProgramError(std::string(what) + " is " + std::to_string(word) + ", but must lie in " +
                         std::to_string(low) + " .. " + std::to_string(high));
    return static_cast<int>(word);
  }

  int length(const char* what) { return number(what, 0, static_cast<int64_t>(word_count_ - next_) + 1); }

  void expect(const char* what, int64_t value) {
    if (next_ >= word_count_ || words_[next_] != value)
      throw ProgramError(std::string("this is no program of this version of pixelfast: wrong ") + what);
    next_++;
  }

  // Floats [offset, offset + count) of the float array, where count must be `expected` (-1: any).
  std::vector<float> array(const char* what, int64_t expected) {
    if (word_count_ - next_ < 2) throw ProgramError("the program ends where " + std::string(what) + " should stand");
    int64_t offset = words_[next_++], count = words_[next_++], size = static_cast<int64_t>(float_count_);
    if (offset < 0 || count < 0 || offset > size || count > size - offset)
      throw ProgramError(std::string(what) + " lies outside the program's " + std::to_string(size) + " floats");
    if (expected >= 0 && count != expected)
      throw ProgramError(std::string(what) + " has " + std::to_string(count) + " floats instead of " +
                         std::to_string(expected));
    return std::vector<float>(floats_ + offset, floats_ + offset + count);
  }

  bool finished() const { return next_ == word_count_; }

 private:
  const int64_t* words_;
  size_t word_count_;
  const float* floats_;
  size_t float_count_, next_ = 0;
};

template <class Item, class Read>
std::vector<Item> list(Reader& in, const char* what, Read read) {
  std::vector<Item> items;
  for (int left = in.length(what); left > 0; left--) items.push_back(read());
  return items;
}

Rect read_rect(Reader& in) {
  Rect rect;
  rect.row0 = in.number("a first row", -kReach, kReach);
  rect.row1 = in.number("a last row", -kReach, kReach);
  rect.col0 = in.number("a first column", -kReach, kReach);
  rect.col1 = in.number("a last column", -kReach, kReach);
  return rect;
}

Lattice read_lattice(Reader& in) {
  Lattice lattice;
  lattice.row_step = in.number("a step of rows", 1, kReach);
  lattice.row_phase = in.number("a phase of rows", 0, lattice.row_step - 1);
  lattice.col_step = in.number("a step of columns", 1, kReach);
  lattice.col_phase = in.number("a phase of columns", 0, lattice.col_step - 1);
  return lattice;
}

Slot read_slot(Reader& in, const Program& program) {
  Slot slot;
  slot.buffer = in.number("a buffer", 0, static_cast<int64_t>(program.buffers.size()) - 1);
  int features = program.buffers[slot.buffer].features;
  slot.channel = in.number("a first channel", 0, features - 1);
  slot.count = in.number("a number of channels", 1, features - slot.channel);
  slot.row = in.number("a row offset", -kReach, kReach);
  slot.col = in.number("a column offset", -kReach, kReach);
  return slot;
}

int64_t total(const std::vector<Slot>& slots) {
  int64_t count = 0;
  for (const Slot& slot : slots) count += slot.count;
  return count;
}

Product read_product(Reader& in, const Program& program, const Slot& out) {
  Product product;
  product.taps = list<Slot>(in, "the number of taps", [&] { return read_slot(in, program); });
  product.weights = in.array("weights", total(product.taps) * out.count);
  if (in.number("whether there is a bias", 0, 1)) product.bias = in.array("a bias", out.count);
  return product;
}

Lookup read_lookup(Reader& in, const Program& program, const Slot& out) {
  Lookup lookup;
  lookup.taps = list<Pixel>(in, "the number of taps", [&] {
    Pixel tap;
    tap.row = in.number("a row offset", -kReach, 0);
    tap.col = in.number("a column offset", -kReach, kReach);
    tap.channel = in.number("an image channel", 0, program.channels - 1);
    return tap;
  });
  int64_t count = static_cast<int64_t>(lookup.taps.size()) * program.levels * out.count;
  lookup.tables = in.array("look-up tables", count);
  return lookup;
}

Leaf read_leaf(Reader& in, const Program& program, const Slot& out) {
  switch (in.number("a kind of leaf", 0, 3)) {
    case 0:
      return read_slot(in, program);
    case 1: {
      FieldSlot slot;
      slot.field = in.number("a field", 0, static_cast<int64_t>(program.fields.size()) - 1);
      int features = program.fields[slot.field].features;
      slot.channel = in.number("a first channel", 0, features - 1);
      slot.count = in.number("a number of channels", 1, features - slot.channel);
      return slot;
    }
    case 2:
      return in.array("a vector", out.count);
    default:
      return in.array("a number", 1)[0];
  }
}

Map read_map(Reader& in, const Program& program, const Slot& out) {
  Map map;
  map.leaves = list<Leaf>(in, "the number of leaves", [&] { return read_leaf(in, program, out); });
  int known = static_cast<int>(map.leaves.size());
  map.ops = list<Op>(in, "the number of operations", [&] {
    Op op{};
    op.name = static_cast<Operation>(in.number("an operation", 0, static_cast<int64_t>(Operation::where)));
    for (int i = 0; i < arguments_of(op.name); i++) op.args[i] = in.number("an argument", 0, known - 1);
    known++;
    return op;
  });
  if (map.leaves.empty() || (map.ops.empty() && map.leaves.size() != 1))
    throw ProgramError("an expression without operations must have exactly one leaf");
  return map;
}

Reduce read_reduce(Reader& in, const Program& program) {
  Reduce reduce;
  reduce.kind = static_cast<Reduction>(in.number("a reduction", 0, static_cast<int64_t>(Reduction::logsumexp)));
  reduce.sources = list<Slot>(in, "the number of sources", [&] { return read_slot(in, program); });
  reduce.correction = in.array("a correction", 1)[0];
  if (reduce.sources.empty()) throw ProgramError("a reduction needs at least one source");
  return reduce;
}

Norm read_norm(Reader& in, const Program& program) {
  Norm norm;
  norm.source = read_slot(in, program);
  norm.scale = in.array("a scale", norm.source.count);
  norm.shift = in.array("a shift", norm.source.count);
  norm.eps = in.array("an epsilon", 1)[0];
  return norm;
}

Instruction read_instruction(Reader& in, const Program& program) {
  Instruction instruction;
  int opcode = in.number("an instruction", 0, static_cast<int64_t>(Opcode::Norm));
  instruction.rect = read_rect(in);
  instruction.lattice = read_lattice(in);
  instruction.out = read_slot(in, program);
  switch (static_cast<Opcode>(opcode)) {
    case Opcode::Product:
      instruction.body = read_product(in, program, instruction.out);
      break;
    case Opcode::Lookup:
      instruction.body = read_lookup(in, program, instruction.out);
      break;
    case Opcode::Map:
      instruction.body = read_map(in, program, instruction.out);
      break;
    case Opcode::Reduce:
      instruction.body = read_reduce(in, program);
      break;
    case Opcode::Norm:
      instruction.body = read_norm(in, program);
      break;
  }
  return instruction;
}

void read_tables(Reader& in, Program& program) {
  program.buffers = list<Buffer>(in, "the number of buffers", [&] {
    Buffer buffer;
    buffer.features = in.number("a number of features", 1, kFeatures);
    buffer.rows = in.number("a number of rows", 1, kReach);
    buffer.col0 = in.number("a first column", -kReach, kReach);
    buffer.col1 = in.number("a last column", buffer.col0, kReach);
    buffer.domain = read_rect(in);
    return buffer;
  });
  program.fields = list<Field>(in, "the number of fields", [&] {
    Field field;
    field.features = in.number("a number of features", 1, kFeatures);
    field.row0 = in.number("a first row", -kReach, kReach);
    field.col0 = in.number("a first column", -kReach, kReach);
    field.rows = in.number("a number of rows", 1, 2 * kReach);
    field.cols = in.number("a number of columns", 1, 2 * kReach);
    return field;
  });
}

void read_lists(Reader& in, Program& program) {
  auto instructions = [&] {
    return list<Instruction>(in, "the number of instructions", [&] { return read_instruction(in, program); });
  };
  program.row = instructions();
  for (int k = 0; k < program.channels; k++) program.steps.push_back(instructions());
  for (int k = 0; k < program.channels; k++) {
    int channel = in.number("an image channel", 0, program.channels - 1);
    program.draws.push_back(Draw{channel, read_slot(in, program)});
  }
  for (int k = 0; k < program.channels; k++)
    program.encodes.push_back(list<Encode>(in, "the number of encodings", [&] {
      Encode encode;
      encode.out = read_slot(in, program);
      encode.channel = in.number("an image channel", 0, program.channels - 1);
      encode.table = in.array("an encoding table", static_cast<int64_t>(encode.out.count) * program.levels);
      return encode;
    }));
}

void read_known_order(Reader& in, Program& program) {
  int positions = 0;
  for (const auto& step : program.steps) positions += static_cast<int>(step.size()) + 1;
  program.known_order =
      list<int>(in, "the length of an order", [&] { return in.number("a position", 0, positions - 1); });
  std::vector<int> sorted = program.known_order;
  std::sort(sorted.begin(), sorted.end());
  bool repeated = std::adjacent_find(sorted.begin(), sorted.end()) != sorted.end();
  if (repeated || (!sorted.empty() && static_cast<int>(sorted.size()) != positions))
    throw ProgramError("the order of known rows does not name every instruction once");
}

void read_wavefront(Reader& in, Program& program) {
  program.leads = list<int>(in, "the number of leads", [&] { return in.number("a lead", 0, kReach); });
  if (program.leads.size() != program.row.size()) throw ProgramError("there is not one lead for each row instruction");
  program.reaches = list<Reach>(in, "the number of reaches", [&] {
    Reach reach;
    reach.above = in.number("a number of rows", 1, kReach);
    reach.pixels = in.number("a reach", -kReach, 2 * kReach);
    reach.chunks = in.number("a reach", -kReach, 2 * kReach);
    reach.rows = in.number("a reach", -kReach, 2 * kReach);
    return reach;
  });
}

void find_extent(Program& program) {
  program.first_row = program.col0 = 0;
  program.col1 = program.width;
  for (const Buffer& buffer : program.buffers) {
    program.first_row = std::min(program.first_row, buffer.domain.row0);
    program.col0 = std::min(program.col0, buffer.domain.col0);
    program.col1 = std::max(program.col1, buffer.domain.col1);
  }
}

}  // namespace

Program parse(const int64_t* words, size_t word_count, const float* floats, size_t float_count) {
  Reader in(words, word_count, floats, float_count);
  Program program;
  in.expect("magic number", kMagic);
  in.expect("version", kVersion);
  program.channels = in.number("the number of image channels", 1, 1024);
  program.height = in.number("the height", 1, kReach);
  program.width = in.number("the width", 1, kReach);
  program.levels = in.number("the number of levels", 2, 65536);
  program.parameters = in.number("the number of parameters", 1, 65536);
  program.head = static_cast<Distribution>(
      in.number("a head", 0, static_cast<int64_t>(Distribution::bernoulli_probability)));
  read_tables(in, program);
  read_lists(in, program);
  read_known_order(in, program);
  read_wavefront(in, program);
  if (!in.finished()) throw ProgramError("the program goes on after its end");
  find_extent(program);
  validate(program);
  validate_wave(program);
  return program;
}

#define PIXELFAST_NAME(name) #name,
std::vector<std::string> operation_names() { return {PIXELFAST_OPERATIONS(PIXELFAST_NAME)}; }
std::vector<std::string> reduction_names() { return {PIXELFAST_REDUCTIONS(PIXELFAST_NAME)}; }
std::vector<std::string> head_names() { return {PIXELFAST_HEADS(PIXELFAST_NAME)}; }
std::vector<std::string> instruction_names() { return {PIXELFAST_INSTRUCTIONS(PIXELFAST_NAME)}; }
std::vector<std::string> precision_names() { return {PIXELFAST_PRECISIONS(PIXELFAST_NAME)}; }

int arguments_of(Operation operation) {
  if (operation == Operation::where) return 3;
  return operation < Operation::add ? 1 : 2;
}

}  // namespace pixelfast
