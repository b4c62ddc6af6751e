// What torch asks its CUDA hooks about cuDNN at every convolution and normalisation, without the interpreter.
//
// grafting.py puts these functions in place. Not here: what is asked seldom.

#pragma once

#include <pybind11/pybind11.h>

#include <atomic>

namespace avec {

namespace py = pybind11;

constexpr long unknown_cudnn = -1;

inline std::atomic<long> known_cudnn{unknown_cudnn};
inline PyObject* ask_for_cudnn = nullptr;  // a function in Python; it raises nothing

inline long cudnn_version(void* /* this */) {
  long version = known_cudnn;
  if (version == unknown_cudnn) {
    py::gil_scoped_acquire gil;
    version = py::cast<long>(py::reinterpret_borrow<py::object>(ask_for_cudnn)());
    known_cudnn = version;
  }
  return version == unknown_cudnn ? 0 : version;
}

inline bool has_cudnn(void* hooks) {
  return cudnn_version(hooks) > 0;
}

// Begin anew; returns the functions' addresses.
inline py::dict answer_about_cudnn(const py::object& ask) {
  Py_XDECREF(ask_for_cudnn);
  ask_for_cudnn = py::object(ask).release().ptr();
  known_cudnn = unknown_cudnn;
  py::dict addresses;
  addresses["cudnn_version"] = reinterpret_cast<uint64_t>(&cudnn_version);
  addresses["has_cudnn"] = reinterpret_cast<uint64_t>(&has_cudnn);
  return addresses;
}

}  // namespace avec
