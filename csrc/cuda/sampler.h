// The cluster kernel: samples N images per cluster of blocks, from the first row to the last, in one launch.
//
// Each thread runs `Sampler<N>::run`, reading the tables' instructions in the order of pixelfast/ir/program.py. After every
// instruction the block meets, after every product the cluster: see tables.h for who computes and keeps what. A sum is
// made by the 32 lanes of one warp, each with every 32nd input, so it is the same to the last bit in any cluster.
#pragma once

#include "device.h"
#include "operations.h"
#include "tables.h"

namespace pixelfast::cuda {

constexpr int kLanes = 32;

template <int N>
class Sampler {
 public:
  PIXELFAST_DEVICE Sampler(const Tables& tables, const CallTable& call) : t(tables), call(call) {
    barriers = reinterpret_cast<uint64_t*>(shared_memory());
    weights = reinterpret_cast<float*>(shared_memory()) + t.shared_weights;
    near = reinterpret_cast<float*>(shared_memory()) + t.shared_replica;
    const int64_t block = static_cast<int64_t>(cluster()) * ranks() + rank();
    far = call.replicas + block * call.replica;
    drawn = call.drawn + block * t.height * t.width * t.channels * N;
    first_image = cluster() * N;
  }

  PIXELFAST_DEVICE void run() {
    prepare();
    for (int row = t.first_row; row < t.height; row++) {
      begin_row(row);
      cluster_barrier();  // nobody writes to a replica that is still being cleared
      execute(0, t.row_count, row, t.col0, t.col1);
      if (t.row_count) cluster_barrier();
      for (int col = t.col0; col < t.col1; col++)
        for (int step = 0; step < t.channels; step++) {
          execute(t.steps[step], t.steps[step + 1], row, col, col + 1);
          if (row < 0 || col < 0 || col >= t.width) continue;
          draw(t.draws[step], row, col);
          block_barrier();
          for (int e = t.encodes_of[step]; e < t.encodes_of[step + 1]; e++) encode(t.encodes[e], row, col);
          block_barrier();
        }
    }
    cluster_barrier();  // a block's shared memory must last as long as others may write to it
  }

 private:
  PIXELFAST_DEVICE void prepare() {
    if (thread() < 2) mbarrier_init(barriers + thread(), 1);
    for (int i = 0; i < t.buffer_count; i++) {
      const BufferEntry& b = t.buffers[i];
      clear(begin(b), b.rows * b.columns * N * b.features);
    }
    const int instructions = t.steps[t.channels];
    for (int i = t.row_count; i < instructions; i++) {
      const InstructionEntry& p = t.instructions[i];
      if (p.resident < 0) continue;
      const Part part = part_of(p.out.count);
      for (int k = thread(); k < (part.last - part.first) * p.inputs; k += threads())
        weights[p.resident + k] = t.floats[p.weights + static_cast<int64_t>(part.first) * p.inputs + k];
    }
    const int pixels = t.height * t.width * t.channels;
    for (int i = thread(); i < pixels * N; i += threads())
      drawn[i] = call.given ? call.given[static_cast<int64_t>(image(i % N)) * pixels + i / N] : -1;
  }

  PIXELFAST_DEVICE void clear(float* numbers, int count) {
    for (int i = thread(); i < count; i += threads()) numbers[i] = 0.0f;
  }

  // Buffers read as zero outside their domain.
  PIXELFAST_DEVICE void begin_row(int row) {
    for (int i = 0; i < t.buffer_count; i++) {
      const BufferEntry& b = t.buffers[i];
      if (row >= b.row_begin && row < b.row_end) continue;
      clear(begin(b) + ring(b, row) * b.columns * N * b.features, b.columns * N * b.features);
    }
  }

  PIXELFAST_DEVICE void execute(int from, int to, int row, int col0, int col1) {
    for (int i = from; i < to; i++) {
      const InstructionEntry& p = t.instructions[i];
      const int first = col0 > p.col_begin ? col0 : p.col_begin, last = col1 < p.col_end ? col1 : p.col_end;
      if (row < p.row_begin || row >= p.row_end || first >= last) continue;
      switch (static_cast<Opcode>(p.opcode)) {
        case Opcode::Product: product(p, row, first, last); continue;
        case Opcode::Lookup: lookup(p, row, first, last); break;
        case Opcode::Map: map(p, row, first, last); break;
        case Opcode::Reduce: reduce(p, row, first, last); break;
        case Opcode::Norm: norm(p, row, first, last); break;
        case Opcode::Attention: break;  // refused by the planner
      }
      block_barrier();
    }
  }

  // Places.

  PIXELFAST_DEVICE float* begin(const BufferEntry& b) { return (b.shared ? near : far) + b.offset; }
  PIXELFAST_DEVICE static int ring(const BufferEntry& b, int row) {
    const int slot = row % b.rows;
    return slot < 0 ? slot + b.rows : slot;
  }
  // The first image's first channel of a slot; the next image's is `features` further.
  PIXELFAST_DEVICE float* at(const SlotEntry& s, int row, int col) {
    const BufferEntry& b = t.buffers[s.buffer];
    const int column = b.local ? 0 : col + s.col - b.col0;
    return begin(b) + (ring(b, row + s.row) * b.columns + column) * N * b.features + s.channel;
  }
  // Beyond the last image its numbers are computed again, and not kept.
  PIXELFAST_DEVICE int image(int b) const {
    const int i = first_image + b;
    return i < call.images ? i : call.images - 1;
  }
  PIXELFAST_DEVICE bool kept(int b) const { return rank() == 0 && first_image + b < call.images; }

  struct Part {
    int first, last;
  };
  PIXELFAST_DEVICE static Part part_of(int count) {
    return {count * rank() / ranks(), count * (rank() + 1) / ranks()};
  }

  // Instructions.

  PIXELFAST_DEVICE void product(const InstructionEntry& p, int row, int first, int last) {
    uint64_t* barrier = barriers + stage % 2;
    if (p.guard) cluster_barrier();
    if (p.async && thread() == 0) mbarrier_arrive(barrier, p.out.count * N * static_cast<int>(sizeof(float)));
    const Part part = part_of(p.out.count);
    const int outputs = part.last - part.first, lane = thread() % kLanes;
    for (int item = thread() / kLanes; item < outputs * (last - first); item += threads() / kLanes) {
      const int o = part.first + item % outputs, col = first + item / outputs;
      const float* w = p.resident < 0 ? t.floats + p.weights + static_cast<int64_t>(o) * p.inputs
                                      : weights + p.resident + (o - part.first) * p.inputs;
      float sums[N];
      sum_of(p, w, row, col, lane, sums);
      float* target = at(p.out, row, col) + o;
      const int features = t.buffers[p.out.buffer].features;
      for (int b = 0; b < N; b++) {
        // Read before the lanes have met, written after.
        const float start = p.bias < 0 ? target[b * features] : t.floats[p.bias + o];
        for (int lanes = kLanes / 2; lanes; lanes /= 2) sums[b] += shuffle_xor(sums[b], lanes);
        sums[b] += start;
      }
      for (int i = lane; i < N * ranks(); i += kLanes) {
        float sum = sums[0];
        for (int b = 1; b < N; b++) sum = i % N == b ? sums[b] : sum;
        send(p, target + i % N * features, i / N, sum, barrier);
      }
    }
    if (!p.async) return cluster_barrier();
    mbarrier_wait(barrier, stage / 2 % 2);
    stage++;
    block_barrier();
  }

  // This lane's part of the sums over all inputs, for each image.
  PIXELFAST_DEVICE void sum_of(const InstructionEntry& p, const float* w, int row, int col, int lane, float* sums) {
    for (int b = 0; b < N; b++) sums[b] = 0.0f;
    for (int s = p.first; s < p.first + p.count; s++) {
      const SlotEntry& tap = t.slots[s];
      const float* source = at(tap, row, col);
      const int features = t.buffers[tap.buffer].features;
      for (int k = lane; k < tap.count; k += kLanes)
        for (int b = 0; b < N; b++) sums[b] = fmaf(w[k], source[b * features + k], sums[b]);
      w += tap.count;
    }
  }

  PIXELFAST_DEVICE void send(const InstructionEntry& p, float* target, int to, float sum, uint64_t* barrier) {
    if (p.async)
      store_async(target, to, sum, barrier);
    else if (t.buffers[p.out.buffer].shared)
      *of_rank(target, to) = sum;
    else
      target[(to - rank()) * call.replica] = sum;
  }

  PIXELFAST_DEVICE void lookup(const InstructionEntry& p, int row, int first, int last) {
    const int count = p.out.count, features = t.buffers[p.out.buffer].features;
    for (int e = thread(); e < (last - first) * N * count; e += threads()) {
      const int channel = e % count, b = e / count % N, col = first + e / count / N;
      float* out = at(p.out, row, col) + b * features + channel;
      float total = *out;
      for (int i = 0; i < p.count; i++) {
        const PixelEntry& tap = t.pixels[p.first + i];
        const int r = row + tap.row, c = col + tap.col;
        if (r < 0 || r >= t.height || c < 0 || c >= t.width) continue;
        const int value = drawn[((r * t.width + c) * t.channels + tap.channel) * N + b];
        if (value >= 0) total += t.floats[p.weights + (static_cast<int64_t>(i) * t.levels + value) * count + channel];
      }
      *out = total;
    }
  }

  PIXELFAST_DEVICE void map(const InstructionEntry& p, int row, int first, int last) {
    const int count = p.out.count, features = t.buffers[p.out.buffer].features;
    for (int e = thread(); e < (last - first) * N * count; e += threads()) {
      const int channel = e % count, b = e / count % N, col = first + e / count / N;
      float v[kMostOperands];
      for (int i = 0; i < p.count; i++) v[i] = leaf(t.leaves[p.first + i], row, col, b, channel);
      for (int i = 0; i < p.ops; i++) {
        const OpEntry& op = t.ops[p.first_op + i];
        v[p.count + i] = operate(op.name, v[op.args[0]], v[op.args[1]], v[op.args[2]]);
      }
      at(p.out, row, col)[b * features + channel] = v[p.count + p.ops - 1];
    }
  }

  PIXELFAST_DEVICE float leaf(const LeafEntry& l, int row, int col, int b, int channel) {
    const int c = l.slot.count == 1 ? 0 : channel;
    if (l.kind == 0) return at(l.slot, row, col)[b * t.buffers[l.slot.buffer].features + c];
    if (l.kind == 2) return t.floats[l.vector + channel];
    if (l.kind == 3) return l.number;
    const FieldEntry& f = call.fields[l.slot.buffer];
    const float* numbers = call.field_values + f.offset + image(b) * f.image;
    return numbers[(row - f.row0) * f.row + (col - f.col0) * f.col + l.slot.channel + c];
  }

  PIXELFAST_DEVICE void reduce(const InstructionEntry& p, int row, int first, int last) {
    for (int e = thread(); e < (last - first) * N; e += threads()) {
      const int b = e % N, col = first + e / N;
      const Reduction kind = static_cast<Reduction>(p.kind);
      int count = 0;
      float sum = 0.0f, most = 0.0f, least = 0.0f;
      each(p, row, col, b, [&](float x) {
        most = count == 0 ? x : operate(static_cast<int>(Operation::maximum), most, x, 0);
        least = count == 0 ? x : operate(static_cast<int>(Operation::minimum), least, x, 0);
        sum += x;
        count++;
      });
      float result = kind == Reduction::amax ? most : kind == Reduction::amin ? least : sum;
      const float mean = sum / count;
      if (kind == Reduction::mean) result = mean;
      if (kind == Reduction::var) {
        float squares = 0.0f;
        each(p, row, col, b, [&](float x) { squares = fmaf(x - mean, x - mean, squares); });
        result = squares / (count - p.number);
      }
      if (kind == Reduction::logsumexp) {
        const float top = most - most == 0.0f ? most : 0.0f;  // an infinite one would give NaN
        float total = 0.0f;
        each(p, row, col, b, [&](float x) { total += expf(x - top); });
        result = top + logf(total);
      }
      at(p.out, row, col)[b * t.buffers[p.out.buffer].features] = result;
    }
  }

  template <class F>
  PIXELFAST_DEVICE void each(const InstructionEntry& p, int row, int col, int b, F f) {
    for (int s = p.first; s < p.first + p.count; s++) {
      const float* x = at(t.slots[s], row, col) + b * t.buffers[t.slots[s].buffer].features;
      for (int k = 0; k < t.slots[s].count; k++) f(x[k]);
    }
  }

  // A warp for each pixel of an image.
  PIXELFAST_DEVICE void norm(const InstructionEntry& p, int row, int first, int last) {
    const SlotEntry& source = t.slots[p.first];
    const int count = source.count, lane = thread() % kLanes;
    for (int item = thread() / kLanes; item < (last - first) * N; item += threads() / kLanes) {
      const int b = item % N, col = first + item / N;
      const float* x = at(source, row, col) + b * t.buffers[source.buffer].features;
      float* out = at(p.out, row, col) + b * t.buffers[p.out.buffer].features;
      float sum = 0.0f, rests = 0.0f, squares = 0.0f;
      for (int k = lane; k < count; k += kLanes) sum += x[k];
      for (int lanes = kLanes / 2; lanes; lanes /= 2) sum += shuffle_xor(sum, lanes);
      const float mean = sum / count;
      // Of numbers that hardly differ, the mean's last bit is much: what it lacks is a mean of its own.
      for (int k = lane; k < count; k += kLanes) rests += x[k] - mean;
      for (int lanes = kLanes / 2; lanes; lanes /= 2) rests += shuffle_xor(rests, lanes);
      const float rest = rests / count;
      const auto centred = [&](int k) { return (x[k] - mean) - rest; };
      for (int k = lane; k < count; k += kLanes) squares = fmaf(centred(k), centred(k), squares);
      for (int lanes = kLanes / 2; lanes; lanes /= 2) squares += shuffle_xor(squares, lanes);
      const float scale = 1.0f / sqrtf(squares / count + p.number);
      for (int k = lane; k < count; k += kLanes)
        out[k] = centred(k) * scale * t.floats[p.weights + k] + t.floats[p.bias + k];
    }
  }

  // Values. Every block draws for itself: the replicas are the same to the last bit, and so is what is drawn.

  PIXELFAST_DEVICE void draw(const DrawEntry& d, int row, int col) {
    const int lane = thread() % kLanes;
    for (int b = thread() / kLanes; b < N; b += threads() / kLanes) {
      const float* x = at(d.source, row, col) + b * t.buffers[d.source.buffer].features;
      const int64_t place = ((static_cast<int64_t>(image(b)) * t.height + row) * t.width + col) * t.channels + d.channel;
      if (call.parameters && kept(b))
        for (int k = lane; k < t.parameters; k += kLanes) call.parameters[place * t.parameters + k] = x[k];
      int value = call.given ? call.given[place] : -1;
      if (value < 0) {
        const Drawn found = t.head == static_cast<int>(Distribution::categorical) ? categorical(x, call.noise[place], lane)
                                                                                  : bernoulli(x[0], call.noise[place]);
        value = found.value;
        if (lane == 0 && kept(b) && call.log_prob) call.log_prob[image(b)] += found.log_prob;
        if (lane == 0 && kept(b) && !found.valid) {
          const unsigned long long pixel = (static_cast<unsigned long long>(row) * t.width + col) * t.channels + d.channel;
          lower(call.failure, (pixel << 24) + image(b));
        }
      }
      if (lane == 0) drawn[((row * t.width + col) * t.channels + d.channel) * N + b] = value;
      if (lane == 0 && kept(b)) call.values[place] = value;
    }
  }

  struct Drawn {
    int value;
    double log_prob;
    bool valid;
  };

  // By inverse CDF, in float64: lane i has the i-th part of the levels, so that sums run in their order.
  PIXELFAST_DEVICE Drawn categorical(const float* x, float noise, int lane) {
    const int levels = t.levels, each = (levels + kLanes - 1) / kLanes;
    const int first = lane * each < levels ? lane * each : levels, last = first + each < levels ? first + each : levels;
    double most = -INFINITY, invalid = 0.0;
    for (int k = first; k < last; k++) {
      if (!(x[k] < INFINITY)) invalid = 1.0;
      most = fmax(most, x[k] / call.temperature);
    }
    for (int lanes = kLanes / 2; lanes; lanes /= 2) {
      most = fmax(most, shuffle(most, lane ^ lanes));
      invalid += shuffle(invalid, lane ^ lanes);
    }
    if (invalid > 0.0 || most == -INFINITY) return {0, 0.0, false};
    double total = 0.0;
    for (int k = first; k < last; k++) total += exp(x[k] / call.temperature - most);
    for (int lanes = kLanes / 2; lanes; lanes /= 2) total += shuffle(total, lane ^ lanes);
    const double normaliser = most + log(total);
    double below = 0.0;  // of this lane's levels, then of all before them
    for (int k = first; k < last; k++) below += exp(x[k] / call.temperature - normaliser);
    const double own = below;
    for (int lanes = 1; lanes < kLanes; lanes *= 2) {
      const double other = shuffle(below, lane >= lanes ? lane - lanes : lane);
      if (lane >= lanes) below += other;
    }
    double edge = below - own;
    double passed = 0.0;
    for (int k = first; k < last; k++) {
      edge += exp(x[k] / call.temperature - normaliser);
      if (k < levels - 1 && edge <= noise) passed += 1.0;
    }
    for (int lanes = kLanes / 2; lanes; lanes /= 2) passed += shuffle(passed, lane ^ lanes);
    const int value = static_cast<int>(passed);
    return {value, x[value] / call.temperature - normaliser, true};
  }

  PIXELFAST_DEVICE Drawn bernoulli(float parameter, float noise) {
    const bool probability = t.head == static_cast<int>(Distribution::bernoulli_probability);
    const bool valid = probability ? parameter >= 0.0f && parameter <= 1.0f : parameter - parameter == 0.0f;
    if (!valid) return {0, 0.0, false};
    const double p = parameter, logit = (probability ? log(p / (1.0 - p)) : p) / call.temperature;
    const double rest = log1p(exp(-fabs(logit)));
    const double zero = fmin(-logit, 0.0) - rest, one = fmin(logit, 0.0) - rest;
    const int value = exp(zero) <= noise ? 1 : 0;
    return {value, value ? one : zero, true};
  }

  PIXELFAST_DEVICE void encode(const EncodeEntry& e, int row, int col) {
    const BufferEntry& buffer = t.buffers[e.out.buffer];
    if (row < buffer.row_begin || row >= buffer.row_end || col < buffer.col_begin || col >= buffer.col_end) return;
    for (int i = thread(); i < N * e.out.count; i += threads()) {
      const int b = i / e.out.count, f = i % e.out.count;
      const int value = drawn[((row * t.width + col) * t.channels + e.channel) * N + b];
      at(e.out, row, col)[b * buffer.features + f] = t.floats[e.table + static_cast<int64_t>(f) * t.levels + value];
    }
  }

  const Tables& t;
  const CallTable& call;
  uint64_t* barriers;
  float *weights, *near, *far;
  int32_t* drawn;
  int first_image;
  unsigned stage = 0;  // products that were sent asynchronously: two mbarriers take turns
};

}  // namespace pixelfast::cuda
