// The Python module pixelfast._cuda: it checks shapes and lends arrays to the engine. It imports without a driver.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cmath>

#include "engine.h"

namespace py = pybind11;
using namespace pybind11::literals;

namespace pixelfast::cuda {
namespace {

template <class T>
using Array = py::array_t<T, py::array::c_style>;
using Sizes = std::vector<py::ssize_t>;

void require_shape(const char* name, const py::array& array, const Sizes& shape) {
  if (array.ndim() != static_cast<py::ssize_t>(shape.size()) || !std::equal(shape.begin(), shape.end(), array.shape()))
    throw std::invalid_argument(std::string(name) + " has a wrong shape");
}

class BoundEngine {
 public:
  BoundEngine(const Array<int64_t>& words, std::vector<Array<float>> arrays)
      : arrays_(std::move(arrays)), program_(parse(words.data(), words.size(), views_of(arrays_))), engine_(program_) {}

  // How the program lies in a cluster of this shape; no device is needed.
  py::dict plan(int ranks, int images, size_t shared_bytes) const {
    const Plan plan = make_plan(program_, {ranks, images, shared_bytes});
    return py::dict("products"_a = plan.products, "resident"_a = plan.resident, "shared_bytes"_a = plan.shared_bytes,
                    "replica"_a = plan.replica);
  }

  py::object sample(const Array<float>& noise, const std::optional<Array<int32_t>>& given, const std::vector<Array<float>>& fields,
                    Array<int32_t> values, std::optional<Array<double>> log_prob, std::optional<Array<float>> parameters,
                    double temperature) const {
    if (noise.ndim() != 4 || noise.shape(0) >= (1 << 24)) throw std::invalid_argument("noise has a wrong shape");
    if (!(temperature > 0 && std::isfinite(temperature))) throw std::invalid_argument("temperature must be positive");
    HostCall call{};
    call.images = static_cast<int>(noise.shape(0)), call.temperature = temperature;
    const Sizes shape{call.images, program_.height, program_.width, program_.channels};
    require_shape("noise", noise, shape);
    require_shape("values", values, shape);
    call.noise = noise.data(), call.values = values.mutable_data();
    if (given) {
      require_shape("given", *given, shape);
      for (py::ssize_t i = 0; i < given->size(); i++)
        if (given->data()[i] < -1 || given->data()[i] >= program_.levels) throw std::invalid_argument("a given value is out of range");
      call.given = given->data();
    }
    if (log_prob) {
      require_shape("log_prob", *log_prob, {call.images});
      call.log_prob = log_prob->mutable_data();
    }
    if (parameters) {
      require_shape("parameters", *parameters, {shape[0], shape[1], shape[2], shape[3], program_.parameters});
      call.parameters = parameters->mutable_data();
    }
    call.fields = checked(fields, call.images);
    std::optional<Failure> failure;
    {
      py::gil_scoped_release release;
      failure = engine_.sample(call);
    }
    if (!failure) return py::none();
    return py::make_tuple(failure->image, failure->row, failure->col, failure->channel);
  }

 private:
  std::vector<HostField> checked(const std::vector<Array<float>>& fields, int images) const {
    if (fields.size() != program_.fields.size()) throw std::invalid_argument("wrong number of fields");
    std::vector<HostField> found;
    for (size_t i = 0; i < fields.size(); i++) {
      const Field& field = program_.fields[i];
      const int64_t most[] = {images, field.rows, field.cols, field.features};
      HostField host{fields[i].data(), {}};
      if (fields[i].ndim() != 4) throw std::invalid_argument("a field has a wrong shape");
      for (int axis = 0; axis < 4; axis++) {
        host.sizes[axis] = fields[i].shape(axis);
        if (host.sizes[axis] != most[axis] && (host.sizes[axis] != 1 || axis == 3)) throw std::invalid_argument("a field has a wrong shape");
      }
      found.push_back(host);
    }
    return found;
  }

  std::vector<Array<float>> arrays_;  // the program refers to them
  Program program_;
  Engine engine_;
};

}  // namespace
}  // namespace pixelfast::cuda

PYBIND11_MODULE(_cuda, m) {
  using namespace pixelfast::cuda;
  m.doc() = "The CUDA engine of pixelfast; use it through pixelfast.engines.cuda.";
  m.attr("contract") = pixelfast::kContract;
  m.def("unavailable", &unavailable, "Why no device can be used; empty if one can.");
  py::register_exception<DeviceError>(m, "DeviceError", PyExc_RuntimeError);
  py::register_exception<Unsupported>(m, "Unsupported", PyExc_ValueError);
  py::class_<BoundEngine>(m, "Engine")
      .def(py::init<const Array<int64_t>&, std::vector<Array<float>>>(), py::arg("words"), py::arg("arrays"))
      .def("plan", &BoundEngine::plan, py::arg("ranks"), py::arg("images"), py::arg("shared_bytes"))
      .def("sample", &BoundEngine::sample, py::kw_only(), py::arg("noise").noconvert(), py::arg("given").noconvert(),
           py::arg("fields"), py::arg("values").noconvert(), py::arg("log_prob").noconvert(),
           py::arg("parameters").noconvert(), py::arg("temperature"));
}
