// Runs the cluster kernel on a processor, by the shim, for tests: emulate REQUEST RESULT (tests/helpers/emulated_cuda.py).
//
// The request is 64-bit numbers and arrays one after another; the order is that of `Request` below. The result is the
// failure's place, what the plan came to, and the arrays of engines/request.py. Exit status 3: refused, with the reason.
#include <cstdio>
#include <fstream>
#include <iostream>
#include <limits>

#include "plan.h"
#include "sampler.h"

namespace {

using namespace pixelfast;
using namespace pixelfast::cuda;

class Input {
 public:
  explicit Input(const char* path) : file_(path, std::ios::binary) {
    if (!file_) throw std::runtime_error("the request cannot be opened");
  }
  template <class T>
  std::vector<T> array(int64_t count) {
    std::vector<T> numbers(static_cast<size_t>(count));
    file_.read(reinterpret_cast<char*>(numbers.data()), static_cast<std::streamsize>(numbers.size() * sizeof(T)));
    if (!file_) throw std::runtime_error("the request is too short");
    return numbers;
  }
  template <class T = int64_t>
  T one() {
    return array<T>(1)[0];
  }

 private:
  std::ifstream file_;
};

template <class T>
void write(std::ofstream& file, const std::vector<T>& numbers) {
  file.write(reinterpret_cast<const char*>(numbers.data()), static_cast<std::streamsize>(numbers.size() * sizeof(T)));
}

template <int N>
void run(const Tables& tables, const CallTable& call, int ranks, int threads, size_t bytes, shim::Order order, int64_t seed) {
  const int clusters = (call.images + N - 1) / N;
  for (int c = 0; c < clusters; c++) {
    cluster_number() = c;
    shim::Cluster(ranks, threads, bytes, order, static_cast<uint64_t>(seed + c)).run([&] { Sampler<N>(tables, call).run(); });
  }
}

void emulate(Input& in, std::ofstream& out) {
  const auto words_count = in.one(), array_count = in.one();
  const auto words = in.array<int64_t>(words_count);
  std::vector<std::vector<float>> arrays;
  for (const int64_t size : in.array<int64_t>(array_count)) arrays.push_back(in.array<float>(size));
  Shape shape{};
  shape.ranks = static_cast<int>(in.one());
  shape.images = static_cast<int>(in.one());
  shape.shared_bytes = static_cast<size_t>(in.one());
  const int threads = static_cast<int>(in.one());
  const auto order = static_cast<shim::Order>(in.one());
  const int64_t seed = in.one();
  const bool unguarded = in.one();  // leave the guards away, to see that they are missed
  const Program program = parse(words.data(), words.size(), views_of(arrays));
  Plan plan = make_plan(program, shape);
  if (unguarded)
    for (InstructionEntry& p : plan.instructions) p.guard = 0;

  CallTable call{};
  call.images = static_cast<int>(in.one());
  call.temperature = in.one<double>();
  const bool given_some = in.one(), want_log_prob = in.one(), want_parameters = in.one();
  const int64_t pixels = int64_t{program.height} * program.width * program.channels, places = call.images * pixels;
  const auto noise = in.array<float>(places);
  const auto given = in.array<int32_t>(given_some ? places : 0);
  std::vector<FieldEntry> fields;
  std::vector<float> field_values;
  for (const Field& field : program.fields) {
    const auto sizes = in.array<int64_t>(4);
    fields.push_back(field_entry(field, sizes.data(), static_cast<int64_t>(field_values.size())));
    const auto numbers = in.array<float>(sizes[0] * sizes[1] * sizes[2] * sizes[3]);
    field_values.insert(field_values.end(), numbers.begin(), numbers.end());
  }
  std::vector<int32_t> values(static_cast<size_t>(places), -1);
  std::vector<double> log_prob(want_log_prob ? call.images : 0);
  std::vector<float> parameters(want_parameters ? places * program.parameters : 0);
  unsigned long long failure = std::numeric_limits<unsigned long long>::max();
  const int64_t blocks = int64_t{(call.images + shape.images - 1) / shape.images} * shape.ranks;
  std::vector<float> replicas(static_cast<size_t>(blocks * plan.replica), std::numeric_limits<float>::quiet_NaN());
  std::vector<int32_t> drawn(static_cast<size_t>(blocks * pixels * shape.images), -2);
  call.noise = noise.data(), call.given = given_some ? given.data() : nullptr;
  call.fields = fields.data(), call.field_values = field_values.data();
  call.values = values.data(), call.log_prob = want_log_prob ? log_prob.data() : nullptr;
  call.parameters = want_parameters ? parameters.data() : nullptr;
  call.failure = &failure, call.replicas = replicas.data(), call.replica = plan.replica, call.drawn = drawn.data();

  const Tables tables = plan.on_host();
  const auto with = shape.images == 1 ? run<1> : shape.images == 2 ? run<2> : shape.images == 4 ? run<4> : run<8>;
  with(tables, call, shape.ranks, threads, plan.shared_bytes, order, seed);
  int guards = 0, asyncs = 0;
  for (const InstructionEntry& p : plan.instructions) guards += p.guard, asyncs += p.async;
  write(out, std::vector<int64_t>{static_cast<int64_t>(failure), plan.products, plan.resident, guards, asyncs,
                                  static_cast<int64_t>(plan.shared_bytes), plan.replica});
  write(out, values);
  write(out, log_prob);
  write(out, parameters);
}

}  // namespace

int main(int count, char** arguments) {
  try {
    if (count != 3) throw std::runtime_error("emulate REQUEST RESULT");
    Input in(arguments[1]);
    std::ofstream out(arguments[2], std::ios::binary);
    emulate(in, out);
    return 0;
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 3;
  }
}
