// What every operator touches, shared by the kernels in C++ and by Python: stream.py's Stream and Unused.
//
// Not here: torch.

#pragma once

#include <Python.h>
#include <pthread.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

namespace avec {

namespace py = pybind11;

// One lock for all that is shared. It is held for some instructions at a time and never while Python code runs, so that
// it may be waited for with or without the interpreter's lock. A fork waits for it, so that a child finds it free.
inline std::mutex& lock() {
  static std::mutex* mutex = [] {
    static auto* made = new std::mutex;
    pthread_atfork([] { made->lock(); }, [] { made->unlock(); }, [] { made->unlock(); });
    return made;
  }();
  return *mutex;
}

using Guard = std::lock_guard<std::mutex>;

// A Python number; raises what Python raises for one that does not fit.
inline uint64_t number_of(py::handle value) {
  auto index = py::reinterpret_steal<py::object>(PyNumber_Index(value.ptr()));
  if (!index) throw py::error_already_set();
  uint64_t number = PyLong_AsUnsignedLongLong(index.ptr());
  if (number == UINT64_MAX && PyErr_Occurred()) throw py::error_already_set();
  return number;
}

inline std::vector<uint64_t> numbers_of(const py::iterable& values) {
  std::vector<uint64_t> numbers;
  for (py::handle each : values) numbers.push_back(number_of(each));
  return numbers;
}

class Stream {
 public:
  std::atomic<size_t> least{0};  // numbers from which on a batch may end

  size_t size() const {
    Guard guard(lock());
    return numbers_.size();
  }

  // Returns how many numbers there are then.
  size_t add(const uint64_t* numbers, size_t count, const double* floats, size_t float_count) {
    Guard guard(lock());
    numbers_.insert(numbers_.end(), numbers, numbers + count);
    floats_.insert(floats_.end(), floats, floats + float_count);
    return numbers_.size();
  }

  void extend(const py::iterable& values) {
    auto numbers = numbers_of(values);
    add(numbers.data(), numbers.size(), nullptr, 0);
  }

  void add_python(const py::sequence& values, const py::sequence& float_values) {
    auto numbers = numbers_of(values);
    std::vector<double> floats;
    for (py::handle each : float_values) {
      floats.push_back(PyFloat_AsDouble(each.ptr()));
      if (PyErr_Occurred()) throw py::error_already_set();
    }
    add(numbers.data(), numbers.size(), floats.data(), floats.size());
  }

  void begin_with(const py::sequence& values) {
    auto numbers = numbers_of(values);
    Guard guard(lock());
    numbers_.insert(numbers_.begin(), numbers.begin(), numbers.end());
  }

  py::tuple recorded() const {
    Guard guard(lock());
    return py::make_tuple(bytes_of(numbers_), bytes_of(floats_));
  }

  void drop(const std::pair<size_t, size_t>& counts) {
    Guard guard(lock());
    numbers_.erase(numbers_.begin(), numbers_.begin() + std::min(counts.first, numbers_.size()));
    floats_.erase(floats_.begin(), floats_.begin() + std::min(counts.second, floats_.size()));
  }

  py::tuple take() {
    std::vector<uint64_t> numbers;
    std::vector<double> floats;
    {
      Guard guard(lock());
      numbers.swap(numbers_);
      floats.swap(floats_);
    }
    py::list number_list, float_list;
    for (uint64_t each : numbers) number_list.append(py::int_(each));
    for (double each : floats) float_list.append(py::float_(each));
    return py::make_tuple(number_list, float_list);
  }

 private:
  template <class T>
  static py::bytes bytes_of(const std::vector<T>& values) {
    return py::bytes(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
  }

  std::vector<uint64_t> numbers_;
  std::vector<double> floats_;
};

// Structs by their addresses, the highest first: the last one is given.
class Unused {
 public:
  size_t size() const {
    Guard guard(lock());
    return structs_.size();
  }

  // 0 where there is none.
  uint64_t take() {
    Guard guard(lock());
    if (structs_.empty()) return 0;
    uint64_t taken = structs_.back();
    structs_.pop_back();
    return taken;
  }

  uint64_t pop() {
    uint64_t taken = take();
    if (!taken) throw py::index_error("pop from empty list");
    return taken;
  }

  void give(const py::sequence& values) {
    auto structs = numbers_of(values);
    Guard guard(lock());
    structs_.insert(structs_.end(), structs.begin(), structs.end());
    sort();
  }

  // The caller holds the lock.
  void append(uint64_t struct_) { structs_.push_back(struct_); }
  void sort() { std::sort(structs_.begin(), structs_.end(), std::greater<>()); }

  void clear() {
    Guard guard(lock());
    structs_.clear();
  }

  py::list list() const {
    std::vector<uint64_t> structs;
    {
      Guard guard(lock());
      structs = structs_;
    }
    py::list found;
    for (uint64_t each : structs) found.append(py::int_(each));
    return found;
  }

 private:
  std::vector<uint64_t> structs_;
};

// How the arena of storages.py numbers its structs, and what the stream says of one that has died.
struct Numbering {
  uint64_t base;  // address of the first struct
  uint64_t struct_nbytes;
  uint64_t free;  // FREE of the protocol, as the rest
  uint64_t first_storage, offset_bits, origin;
  py::str forgotten{"forgotten"}, unused{"free"};  // a layout's attributes
};

// Arena.sweep: find the storages that have died among all there are, record that, take their marks away and give their
// structs back to their layouts. Returns the places of those whose layouts are forgotten.
inline py::list sweep(Stream& stream, const py::list& layouts, const Numbering& known) {
  py::list spare;
  std::vector<uint32_t*> dead;
  std::vector<uint64_t> numbers;
  std::vector<std::pair<Unused*, uint64_t>> given;
  py::handle layout;  // of the last: neighbours often share one
  Unused* unused = nullptr;  // nullptr: it is forgotten
  for (ssize_t place = 0; place < PyList_GET_SIZE(layouts.ptr()); ++place) {
    uint64_t struct_ = known.base + place * known.struct_nbytes;
    auto* mark = reinterpret_cast<uint32_t*>(struct_);
    if (*mark >= known.origin) continue;
    dead.push_back(mark);
    numbers.push_back(known.free);
    numbers.push_back((known.first_storage + place) << known.offset_bits | known.origin);
    py::handle its = PyList_GET_ITEM(layouts.ptr(), place);
    if (its.ptr() != layout.ptr()) {
      bool forgotten = py::getattr(its, known.forgotten).ptr() == Py_True;
      unused = forgotten ? nullptr : py::getattr(its, known.unused).cast<Unused*>();
      layout = its;
    }
    if (unused != nullptr) {
      given.emplace_back(unused, struct_);
    } else {
      spare.append(place);
    }
  }
  if (dead.empty()) return spare;
  // Recorded first: another thread may take a struct as soon as it is free, and record what it puts there.
  stream.add(numbers.data(), numbers.size(), nullptr, 0);
  for (uint32_t* mark : dead) *mark = static_cast<uint32_t>(known.origin);
  std::sort(given.begin(), given.end());  // by layout
  Guard guard(lock());
  for (size_t each = 0; each < given.size(); ++each) {
    given[each].first->append(given[each].second);
    if (each + 1 == given.size() || given[each + 1].first != given[each].first) given[each].first->sort();
  }
  return spare;
}

}  // namespace avec
