// Written by `python -m pixelfast.ir.contract_cpp` from pixelfast/ir/contract.py: change that.
// Reading each struct from the stream: program.cpp has the Reader, and the functions that are called here.
#pragma once

namespace pixelfast {

inline void read(Reader& in, Rect& item) {
  item.row0 = in.number("a first row", -kReach, kReach);
  item.row1 = in.number("a last row", -kReach, kReach);
  item.col0 = in.number("a first column", -kReach, kReach);
  item.col1 = in.number("a last column", -kReach, kReach);
}

inline void read(Reader& in, Lattice& item) {
  item.row_step = in.number("a step of rows", 1, kReach);
  item.row_phase = in.number("a phase of rows", 0, item.row_step - 1);
  item.col_step = in.number("a step of columns", 1, kReach);
  item.col_phase = in.number("a phase of columns", 0, item.col_step - 1);
}

inline void read(Reader& in, Buffer& item) {
  item.features = in.number("a number of features", 1, kMostFeatures);
  item.rows = in.number("a number of rows", 1, kReach);
  item.col0 = in.number("a first column", -kReach, kReach);
  item.col1 = in.number("a last column", item.col0, kReach);
  read(in, item.domain);
}

inline void read(Reader& in, Field& item) {
  item.features = in.number("a number of features", 1, kMostFeatures);
  item.row0 = in.number("a first row", -kReach, kReach);
  item.col0 = in.number("a first column", -kReach, kReach);
  item.rows = in.number("a number of rows", 1, 2 * kReach);
  item.cols = in.number("a number of columns", 1, 2 * kReach);
}

inline void read(Reader& in, Slot& item) {
  item.buffer = in.number("a buffer", 0, in.program->buffers.size() - 1);
  item.channel = in.number("a first channel", 0, in.program->buffers[item.buffer].features - 1);
  item.count = in.number("a number of channels", 1, in.program->buffers[item.buffer].features - item.channel);
  item.row = in.number("a row offset", -kReach, kReach);
  item.col = in.number("a column offset", -kReach, kReach);
}

inline void read(Reader& in, FieldSlot& item) {
  item.field = in.number("a field", 0, in.program->fields.size() - 1);
  item.channel = in.number("a first channel", 0, in.program->fields[item.field].features - 1);
  item.count = in.number("a number of channels", 1, in.program->fields[item.field].features - item.channel);
}

inline void read(Reader& in, Pixel& item) {
  item.row = in.number("a row offset", -kReach, 0);
  item.col = in.number("a column offset", -kReach, kReach);
  item.channel = in.number("an image channel", 0, in.program->channels - 1);
}

inline void read(Reader& in, Cache& item) {
  item.buffer = in.number("a buffer", 0, in.program->buffers.size() - 1);
  item.channel = in.number("a first channel", 0, in.program->buffers[item.buffer].features - 1);
  item.count = in.number("a number of channels", 1, in.program->buffers[item.buffer].features - item.channel);
  item.row = in.number("a row offset", -kReach, kReach);
  item.col = in.number("a column offset", -kReach, kReach);
}

inline void read(Reader& in, Op& item) {
  item.name = static_cast<Operation>(in.number("an operation", 0, 32));
  for (int i = 0; i < arguments_of(item.name); i++) item.args[i] = in.number("an argument", 0, kMostFeatures);
}

inline void read(Reader& in, Run& item) {
  item.first = in.number("a first pixel", 0, pixels_of(*in.program) - 1);
  item.last = in.number("a last pixel", item.first + 1, pixels_of(*in.program));
}

inline void read(Reader& in, Leaf& item) {
  switch (in.number("a kind of leaf", 0, 3)) {
    case 0: read(in, item.emplace<0>()); break;
    case 1: read(in, item.emplace<1>()); break;
    case 2: item.emplace<2>(in.array("a vector", int64_t{1} * in.instruction->out.count, false)); break;
    case 3: item.emplace<3>(in.real("a number")); break;
  }
}

inline void read(Reader& in, Product& item) {
  in.list(item.taps, in.length("the number of taps"), [&](auto& part) { read(in, part); });
  item.weights = in.array("weights", int64_t{1} * channels_of(item.taps) * in.instruction->out.count, false);
  item.bias = in.array("a bias", int64_t{1} * in.instruction->out.count, true);
}

inline void read(Reader& in, Lookup& item) {
  in.list(item.taps, in.length("the number of taps"), [&](auto& part) { read(in, part); });
  item.tables = in.array("look-up tables", int64_t{1} * item.taps.size() * in.program->levels * in.instruction->out.count, false);
}

inline void read(Reader& in, Map& item) {
  in.list(item.leaves, in.length("the number of leaves"), [&](auto& part) { read(in, part); });
  in.list(item.ops, in.length("the number of operations"), [&](auto& part) { read(in, part); });
  check_expression(in, item);
}

inline void read(Reader& in, Reduce& item) {
  item.kind = static_cast<Reduction>(in.number("a reduction", 0, 5));
  in.list(item.sources, in.length("the number of sources"), [&](auto& part) { read(in, part); });
  item.correction = in.real("a correction");
  check_sources(in, item);
}

inline void read(Reader& in, Norm& item) {
  read(in, item.source);
  item.scale = in.array("a scale", int64_t{1} * item.source.count, false);
  item.shift = in.array("a shift", int64_t{1} * item.source.count, false);
  item.eps = in.real("an epsilon");
}

inline void read(Reader& in, Attention& item) {
  read(in, item.query);
  read(in, item.keys);
  read(in, item.values);
  item.heads = in.number("a number of heads", 1, kMostFeatures);
  item.masks = in.number("a number of masks", 1, item.heads);
  item.scale = in.real("a scale");
  check_heads(in, item);
  in.list(item.offsets, in.length("the number of lists"), [&](int& word) { word = in.number("an offset", 0, kMostPixels); });
  in.list(item.runs, in.length("the number of runs"), [&](auto& part) { read(in, part); });
  check_lists(in, item);
  item.biases = in.number("a number of biases", 0, item.masks == 1 ? item.heads : 1);
  check_biases(in, item);
  item.bias = in.array("a bias", int64_t{1} * item.biases * keys_of(item.runs), true);
}

inline void read(Reader& in, Body& item) {
  switch (in.number("an instruction", 0, 5)) {
    case 0: read(in, item.emplace<0>()); break;
    case 1: read(in, item.emplace<1>()); break;
    case 2: read(in, item.emplace<2>()); break;
    case 3: read(in, item.emplace<3>()); break;
    case 4: read(in, item.emplace<4>()); break;
    case 5: read(in, item.emplace<5>()); break;
  }
}

inline void read(Reader& in, Instruction& item) {
  in.instruction = &item;
  read(in, item.rect);
  read(in, item.lattice);
  read(in, item.out);
  item.sweep = in.number("a sweep", -1, 1);
  read(in, item.body);
}

inline void read(Reader& in, Mixture& item) {
  item.components = in.number("the number of a mixture's components", 1, kMostLevels);
  item.component_step = in.number("a step of components", 1, in.program->parameters);
  item.channel_step = in.number("a step of channels", 0, in.program->parameters);
  item.means = in.number("a place of means", 0, in.program->parameters - 1);
  item.scales = in.number("a place of scales", 0, in.program->parameters - 1);
  item.weights = in.number("a place of weights", -1, in.program->parameters - 1);
  item.coefficients = in.number("a place of coefficients", -1, in.program->parameters - 1);
  item.log_scale_min = in.real("the least log-scale");
  item.log_scales = in.number("a kind of scales", 0, 1);
  item.offset = in.number("an offset of values", -kMostOffset, kMostOffset);
  check_places(in, item);
}

inline void read(Reader& in, Draw& item) {
  item.channel = in.number("an image channel", 0, in.program->channels - 1);
  read(in, item.source);
}

inline void read(Reader& in, Encode& item) {
  read(in, item.out);
  item.channel = in.number("an image channel", 0, in.program->channels - 1);
  item.table = in.array("an encoding table", int64_t{1} * item.out.count * in.program->levels, false);
}

inline void read(Reader& in, Reach& item) {
  item.above = in.number("a number of rows", 1, kReach);
  item.pixels = in.number("a reach", -kReach, 2 * kReach);
  item.chunks = in.number("a reach", -kReach, 2 * kReach);
  item.rows = in.number("a reach", -kReach, 2 * kReach);
}

inline void read(Reader& in, Program& item) {
  in.program = &item;
  item.channels = in.number("the number of image channels", 1, kMostChannels);
  item.height = in.number("the height", 1, kReach);
  item.width = in.number("the width", 1, kReach);
  item.levels = in.number("the number of levels", 2, kMostLevels);
  item.parameters = in.number("the number of parameters", 1, kMostLevels);
  item.head = static_cast<Distribution>(in.number("a head", 0, 4));
  if (in.number("a mixture", 0, 1)) read(in, item.mixture);
  in.list(item.buffers, in.length("the number of buffers"), [&](auto& part) { read(in, part); });
  in.list(item.fields, in.length("the number of fields"), [&](auto& part) { read(in, part); });
  in.list(item.row, in.length("the number of instructions"), [&](auto& part) { read(in, part); });
  in.list(item.steps, in.exactly("the number of instructions", item.channels), [&](auto& list) {
    in.list(list, in.length("the number of instructions"), [&](auto& part) { read(in, part); });
  });
  in.list(item.draws, in.exactly("the number of draws", item.channels), [&](auto& part) { read(in, part); });
  in.list(item.encodes, in.exactly("the number of encodings", item.channels), [&](auto& list) {
    in.list(list, in.length("the number of encodings"), [&](auto& part) { read(in, part); });
  });
  in.list(item.known_order, in.length("the length of an order"), [&](int& word) { word = in.number("a position", 0, positions_of(item.steps) - 1); });
  check_order(in, item);
  in.list(item.leads, in.length("the number of leads"), [&](int& word) { word = in.number("a lead", 0, kMargin + item.width); });
  check_leads(in, item);
  in.list(item.reaches, in.length("the number of reaches"), [&](auto& part) { read(in, part); });
}

}  // namespace pixelfast
