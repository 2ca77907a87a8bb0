// Reading a program from its stream. Every number is checked against a range here; validate.cpp sees to the rest.
#include "program.h"

#include <algorithm>

namespace pixelfast {
namespace {

constexpr int64_t kMagic = 0x5049584641535431;  // "PIXFAST1"
constexpr int64_t kVersion = 3;
constexpr int64_t kReach = 1 << 20;     // rows, columns and offsets lie within +-kReach
constexpr int kMargin = 1 << 12;        // rows and columns beyond the image in which anything runs: a run visits all of them
constexpr int64_t kMostPixels = 1 << 30;  // that attention can number, and lists or runs of them
constexpr int64_t kMostKeys = int64_t{1} << 40;
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

Mixture read_mixture(Reader& in) {
  Mixture mixture;
  mixture.components = in.number("the number of a mixture's components", 1, 65536);
  mixture.order = static_cast<Order>(in.number("an order of parameters", 0, static_cast<int64_t>(Order::mixture_major)));
  mixture.log_scale_min = in.array("the least log-scale", 1)[0];
  return mixture;
}

Cache read_cache(Reader& in, const Program& program) {
  const Slot slot = read_slot(in, program);
  return Cache{slot.buffer, slot.channel, slot.count, slot.row, slot.col};
}

Attention read_attention(Reader& in, const Program& program, const Slot& out, const Rect& rect) {
  Attention attention;
  attention.query = read_slot(in, program);
  attention.keys = read_cache(in, program);
  attention.values = read_cache(in, program);
  attention.heads = in.number("a number of heads", 1, kFeatures);
  attention.masks = in.number("a number of masks", 1, attention.heads);
  const int heads = attention.heads;
  if (attention.query.count != attention.keys.count || out.count != attention.values.count ||
      attention.query.count % heads != 0 || out.count % heads != 0)
    throw ProgramError("attention has queries and keys, or values and outputs, that do not match head by head");
  if (attention.masks != 1 && attention.masks != heads)
    throw ProgramError("attention has neither one mask nor one for each head");
  attention.scale = in.array("a scale", 1)[0];
  const int64_t pixels = static_cast<int64_t>(program.height) * program.width;
  const int64_t elements = (int64_t{rect.row1} - rect.row0) * (int64_t{rect.col1} - rect.col0);
  if (pixels > kMostPixels || elements > kMostPixels) throw ProgramError("attention over too many pixels");
  attention.offsets = list<int>(in, "the number of lists", [&] { return in.number("an offset", 0, kMostPixels); });
  attention.runs = list<Run>(in, "the number of runs", [&] {
    Run run;
    run.first = in.number("a first pixel", 0, pixels - 1);
    run.last = in.number("a last pixel", run.first + int64_t{1}, pixels);
    return run;
  });
  if (rect.row0 >= rect.row1 || rect.col0 >= rect.col1 ||
      static_cast<int64_t>(attention.offsets.size()) != elements * attention.masks + 1)
    throw ProgramError("attention has not one list of pixels for each element and mask");
  if (attention.offsets.front() != 0 || attention.offsets.back() != static_cast<int>(attention.runs.size()) ||
      !std::is_sorted(attention.offsets.begin(), attention.offsets.end()))
    throw ProgramError("the lists of attention do not hold each run once");
  int64_t keys = 0;
  for (size_t list = 0; list + 1 < attention.offsets.size(); list++)
    for (int run = attention.offsets[list]; run < attention.offsets[list + 1]; run++) {
      if (run > attention.offsets[list] && attention.runs[run].first < attention.runs[run - 1].last)
        throw ProgramError("a list of pixels is not ascending");
      keys += attention.runs[run].last - attention.runs[run].first;
      if (keys > kMostKeys) throw ProgramError("attention to too many pixels");
    }
  attention.biases = 0;
  if (in.number("whether there is a bias", 0, 1)) {
    attention.biases = in.number("a number of biases", 1, attention.masks == 1 ? heads : 1);
    if (attention.biases != 1 && attention.biases != heads)
      throw ProgramError("attention has neither one bias nor one for each head");
    attention.bias = in.array("a bias", keys * attention.biases);
  }
  return attention;
}

Instruction read_instruction(Reader& in, const Program& program) {
  Instruction instruction;
  int opcode = in.number("an instruction", 0, static_cast<int64_t>(Opcode::Attention));
  instruction.rect = read_rect(in);
  instruction.lattice = read_lattice(in);
  instruction.out = read_slot(in, program);
  instruction.sweep = in.number("a sweep", -1, 1);
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
    case Opcode::Attention:
      instruction.body = read_attention(in, program, instruction.out, instruction.rect);
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
  program.leads = list<int>(in, "the number of leads", [&] { return in.number("a lead", 0, int64_t{kMargin} + program.width); });
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
  if (program.first_row < -kMargin || program.col0 < -kMargin || program.col1 > program.width + kMargin)
    throw ProgramError("a buffer's domain reaches more than " + std::to_string(kMargin) + " pixels beyond the image");
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
      in.number("a head", 0, static_cast<int64_t>(Distribution::mixture_of_logistics)));
  if (program.head == Distribution::mixture_of_logistics) program.mixture = read_mixture(in);
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
std::vector<std::string> order_names() { return {PIXELFAST_ORDERS(PIXELFAST_NAME)}; }
std::vector<std::string> instruction_names() { return {PIXELFAST_INSTRUCTIONS(PIXELFAST_NAME)}; }
std::vector<std::string> precision_names() { return {PIXELFAST_PRECISIONS(PIXELFAST_NAME)}; }

int arguments_of(Operation operation) {
  if (operation == Operation::where) return 3;
  return operation < Operation::add ? 1 : 2;
}

}  // namespace pixelfast
