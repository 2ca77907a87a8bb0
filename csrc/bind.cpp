// The Python module pixelfast._cpu. It checks shapes, lends arrays to the engine, and lets go of the GIL meanwhile.
//
// No Python runs above a frame of C++ here: signals and callbacks are for the Python code that waits (pixelfast/engines/native/engine.py). So where
// the interpreter ends, no frame of C++ is unwound, or left, that somebody still needs.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <exception>
#include <iterator>
#include <thread>

#ifdef _WIN32
#include <process.h>
#else
#include <unistd.h>
#endif

#include "cpu/engine.h"
#include "cpu/isa.h"

namespace py = pybind11;
using namespace pybind11::literals;

namespace pixelfast {
namespace {

template <class T>
using Array = py::array_t<T, py::array::c_style>;

using Shape = std::vector<py::ssize_t>;

void require_shape(const char* name, const py::array& array, const Shape& shape) {
  if (array.ndim() != static_cast<py::ssize_t>(shape.size()) ||
      !std::equal(shape.begin(), shape.end(), array.shape()))
    throw std::invalid_argument(std::string(name) + " has a wrong shape");
}

// Whether the interpreter has begun to end, so that nobody but the thread that ends it will get the GIL again.
bool interpreter_ends() {
#if PY_VERSION_HEX >= 0x030D0000
  return Py_IsFinalizing();
#else
  return _Py_IsFinalizing();
#endif
}

// Lets go of the GIL while `work` runs. Not by pybind11's guard: where the interpreter ends meanwhile, Python before 3.14 ends
// a thread that asks for the GIL by unwinding its stack, and the guard's destructor, which asks again, aborts the process.
// The package sees to it that no call is here by then (pixelfast/host/ending.py); a thread that it knew nothing of stays asleep, as
// all of them do from Python 3.14 on.
template <class Work>
void without_gil(Work work) {
  const bool ending = interpreter_ends();  // then it is this thread that ends it
  PyThreadState* const state = PyEval_SaveThread();
  std::exception_ptr error;
  try {
    work();
  } catch (...) {
    error = std::current_exception();
  }
  while (!ending && interpreter_ends()) std::this_thread::sleep_for(std::chrono::hours(1));
  PyEval_RestoreThread(state);
  if (error) std::rethrow_exception(error);
}

Precision precision_of(const std::string& name) {
  const auto found = std::find(std::begin(kPrecisions), std::end(kPrecisions), name);
  if (found == std::end(kPrecisions)) throw std::invalid_argument("there is no precision \"" + name + "\"");
  return static_cast<Precision>(found - std::begin(kPrecisions));
}

long process() {
#ifdef _WIN32
  return _getpid();
#else
  return getpid();
#endif
}

constexpr std::chrono::milliseconds kLookUpEvery{20};
constexpr int64_t kMostSteps = 1 << 16;  // of a wave that is asked for; threads wait for one another at each

// For tests: teams, threads of a team (0: rows one after another), one of kSplits, columns of a chunk.
using Forced = std::tuple<int, int, std::string, int>;

class Engine {
 public:
  Engine(const Array<int64_t>& words, const std::vector<Array<float>>& arrays, const std::string& isa, int cell,
         const std::string& precision) {
    if (cell != 0 && cell != 2 && cell != 4) throw std::invalid_argument("cell must be 0, 2 or 4");
    const Kernels* kernels = choose_kernels(isa);
    plan_ = make_plan(parse(words.data(), words.size(), views_of(arrays)), kernels, cell, precision_of(precision));
  }

  std::string isa() const { return plan_->kernels->name; }

  int fast_products() const {
    return static_cast<int>(std::count_if(plan_->row.begin(), plan_->row.end(), [](const Step& step) {
      return std::holds_alternative<PackedFastProduct>(step.body);
    }));
  }

  int low_products() const { return plan_->low_products; }

  // After some have been fused (cpu/fuse.cpp).
  int instructions() const {
    size_t count = plan_->row.size();
    for (const auto& list : plan_->steps) count += list.size();
    return static_cast<int>(count);
  }

  py::dict arrangement(int images, int threads, bool together) const {
    if (images < 1 || threads < 1) throw std::invalid_argument("images and threads must be positive");
    const Arrangement a = arrange(*plan_, images, threads, together);
    const char* split = kSplits[static_cast<int>(a.split)];
    return py::dict("threads"_a = a.threads, "images"_a = a.images, "team"_a = a.team, "wave"_a = a.wave,
                    "split"_a = split, "chunk"_a = a.chunk, "skew"_a = a.skew);
  }

  const Plan& plan() const { return *plan_; }

  // What a call says, checked; it points into the arrays.
  Call call(const Array<float>& noise, const std::optional<Array<int32_t>>& given, const std::vector<Array<float>>& fields,
            Array<int32_t>& values, std::optional<Array<double>>& log_prob, std::optional<Array<float>>& parameters,
            double temperature, int threads, bool by_row) const {
    Call call{};
    if (noise.ndim() != 4 || noise.shape(0) < 1 || noise.shape(0) > (1 << 24))
      throw std::invalid_argument("noise has a wrong shape");
    call.images = static_cast<int>(noise.shape(0));
    const Shape shape{call.images, plan_->height, plan_->width, plan_->channels};
    require_shape("noise", noise, shape);
    require_shape("values", values, shape);
    call.noise = noise.data();
    call.values = values.mutable_data();
    if (given) call.given = check_given(*given, shape);
    if (log_prob) {
      require_shape("log_prob", *log_prob, {call.images});
      call.log_prob = log_prob->mutable_data();
    }
    if (parameters) {
      require_shape("parameters", *parameters, {shape[0], shape[1], shape[2], shape[3], plan_->parameters});
      call.parameters = parameters->mutable_data();
    }
    call.fields = check_fields(fields, call.images);
    if (!(temperature > 0 && std::isfinite(temperature))) throw std::invalid_argument("temperature must be positive");
    if (threads < 1 || threads > kMostThreads)
      throw std::invalid_argument("threads must lie in 1 .. " + std::to_string(kMostThreads));
    call.temperature = temperature;
    call.threads = threads;
    call.by_row = by_row;
    return call;
  }

  Arrangement arranged(const Call& call, const std::optional<Forced>& forced) const {
    if (!forced) return arrange(*plan_, call.images, call.threads, call.by_row);
    const auto& [teams, team, split, chunk] = *forced;
    if (team == 0) return one_after_another(call.images, call.threads, call.by_row);
    const auto found = std::find(std::begin(kSplits), std::end(kSplits), split);
    const Split how = static_cast<Split>(found - std::begin(kSplits));
    const bool fits = how == Split::none ? team == 1 : team > 1;
    const bool possible = plan_->waves || how == Split::parts;
    if (found == std::end(kSplits) || !possible || teams < 1 || std::max(teams, team) > kMostThreads || chunk < 1 || chunk > 1024 ||
        !fits)
      throw std::invalid_argument("there is no such arrangement");
    if (how == Split::parts) return in_parts(call.images, teams, team);
    const Arrangement wave = as_wave(*plan_, call.images, teams, team, how, chunk);
    if (static_cast<int64_t>(wave.skew) * plan_->height > kMostSteps) throw std::invalid_argument("there is no such arrangement");
    return wave;
  }

 private:
  const int32_t* check_given(const Array<int32_t>& given, const Shape& shape) const {
    require_shape("given", given, shape);
    const int32_t* data = given.data();
    for (py::ssize_t i = 0; i < given.size(); i++)
      if (data[i] < -1 || data[i] >= plan_->levels) throw std::invalid_argument("a given value is out of range");
    return data;
  }

  std::vector<FieldView> check_fields(const std::vector<Array<float>>& arrays, int images) const {
    if (arrays.size() != plan_->fields.size()) throw std::invalid_argument("wrong number of fields");
    std::vector<FieldView> views;
    for (size_t i = 0; i < arrays.size(); i++) {
      const Field& field = plan_->fields[i];
      const Array<float>& array = arrays[i];
      const Shape most{images, field.rows, field.cols, field.features};
      if (array.ndim() != 4) throw std::invalid_argument("a field has a wrong shape");
      for (int axis = 0; axis < 4; axis++)
        if (array.shape(axis) != most[axis] && (array.shape(axis) != 1 || axis == 3))
          throw std::invalid_argument("a field has a wrong shape");
      auto stride = [&](int axis, py::ssize_t inner) { return array.shape(axis) == 1 ? 0 : inner; };
      const py::ssize_t cols = array.shape(2) * array.shape(3), rows = array.shape(1) * cols;
      views.push_back(FieldView{array.data(), stride(0, rows), stride(1, cols), stride(2, array.shape(3))});
    }
    return views;
  }

  std::unique_ptr<const Plan> plan_;
};

// A call that is under way, and all that it points to.
class Sampling {
 public:
  Sampling(py::object owner, Array<float> noise, std::optional<Array<int32_t>> given, std::vector<Array<float>> fields,
           Array<int32_t> values, std::optional<Array<double>> log_prob, std::optional<Array<float>> parameters,
           double temperature, int threads, bool by_row, const std::optional<Forced>& arrangement)
      : owner_(std::move(owner)),
        noise_(std::move(noise)),
        given_(std::move(given)),
        fields_(std::move(fields)),
        values_(std::move(values)),
        log_prob_(std::move(log_prob)),
        parameters_(std::move(parameters)) {
    const auto& engine = owner_.cast<const Engine&>();
    Call call = engine.call(noise_, given_, fields_, values_, log_prob_, parameters_, temperature, threads, by_row);
    const Arrangement how = engine.arranged(call, arrangement);
    run_ = std::make_unique<Running>(engine.plan(), std::move(call), how);
  }

  // In a forked child, the workers are the parent's: nobody would ever join them.
  ~Sampling() {
    if (forked()) run_.release();
  }

  // Whether all is finished, and how many rows are, after a while at most.
  std::pair<bool, int> wait(int reported) {
    Running& run = running();
    std::pair<bool, int> news;
    without_gil([&] { news = run.wait(kLookUpEvery, reported); });
    return news;
  }

  // None, or (image, row, col, channel) where the parameters describe no distribution.
  py::object failure() {
    const std::optional<Position> failure = running().failure();
    if (!failure) return py::none();
    return py::make_tuple(failure->image, failure->row, failure->col, failure->channel);
  }

  // Stops what still runs; the call is over.
  void stop() {
    if (!run_ || forked()) return;
    without_gil([&] { run_.reset(); });
  }

 private:
  bool forked() const { return process_ != process(); }

  Running& running() {
    if (forked())
      throw std::runtime_error("this process was forked while it sampled, and the threads that did are in its parent only: sample anew");
    if (!run_) throw std::runtime_error("the call is over");
    return *run_;
  }

  py::object owner_;
  Array<float> noise_;
  std::optional<Array<int32_t>> given_;
  std::vector<Array<float>> fields_;
  Array<int32_t> values_;
  std::optional<Array<double>> log_prob_;
  std::optional<Array<float>> parameters_;
  const long process_ = process();
  std::unique_ptr<Running> run_;  // last, so that it ends first
};

}  // namespace
}  // namespace pixelfast

PYBIND11_MODULE(_cpu, m) {
  using namespace pixelfast;
  m.doc() = "The native CPU engine of pixelfast; use it through pixelfast.engines.native.";
  m.attr("contract") = kContract;
  m.def("isas", &available_isas, "Instruction sets that run here, best first.");
  py::class_<Engine>(m, "Engine")
      .def(py::init<const Array<int64_t>&, const std::vector<Array<float>>&, const std::string&, int, const std::string&>(),
           py::arg("words"), py::arg("arrays"), py::arg("isa") = "", py::arg("cell") = 4, py::arg("precision") = "fp32")
      .def_property_readonly("fast_products", &Engine::fast_products, "How many instructions are fast products.")
      .def_property_readonly("low_products", &Engine::low_products, "How many have weights of another precision than fp32.")
      .def_property_readonly("instructions", &Engine::instructions, "How many run at a row and at a pixel, once fused.")
      .def_property_readonly("isa", &Engine::isa)
      .def("arrangement", &Engine::arrangement, py::arg("images"), py::arg("threads"), py::arg("together") = false,
           "How a call with so many images and threads is spread over threads.");
  py::class_<Sampling>(m, "Sampling", "A call that is under way.")
      .def(py::init<py::object, Array<float>, std::optional<Array<int32_t>>, std::vector<Array<float>>, Array<int32_t>,
                    std::optional<Array<double>>, std::optional<Array<float>>, double, int, bool, const std::optional<Forced>&>(),
           py::arg("engine"), py::kw_only(), py::arg("noise").noconvert(), py::arg("given").noconvert(), py::arg("fields"),
           py::arg("values").noconvert(), py::arg("log_prob").noconvert(), py::arg("parameters").noconvert(),
           py::arg("temperature"), py::arg("threads"), py::arg("by_row"), py::arg("arrangement") = py::none())
      .def("wait", &Sampling::wait, py::arg("reported"), "Whether all is finished, and how many rows are.")
      .def("failure", &Sampling::failure, "Where the parameters described no distribution, or None.")
      .def("stop", &Sampling::stop);
}
