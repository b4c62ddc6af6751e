// Kernels on torch's CUDA dispatch key in C++: what the kernels that kernels.py generates do for a call that was seen
// before, without the interpreter.
//
// Each stands on the kernel in Python of its operator and knows no more than what that one has taught it. A call that
// is new, or out of the ordinary, goes to Python as it came.

#include "hooks.h"
#include "stream.h"

#include <ATen/DLConvertor.h>
#include <ATen/core/TensorBody.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/ivalue.h>
#include <ATen/core/stack.h>
#include <c10/core/StorageImpl.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <c10/util/Exception.h>
#include <c10/util/SmallVector.h>
#include <torch/csrc/Exceptions.h>
#include <torch/library.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

namespace avec {
namespace {

// What a kernel does with an argument; schemas.py's Kind, in its order.
enum class Kind : int {
  tensor,
  target,  // it is written to
  tensor_or_number,
  optional_tensor,
  tensors,
  number,
  numbers,
  generator,
  constant,
};

// The word that an argument's part of a key begins with.
enum class Tag : uint64_t { none = 1, tensor, bool_, int_, float_, string, device, list, current };

uint64_t tagged(Tag tag, uint64_t rest = 0) {
  return static_cast<uint64_t>(tag) | rest << 8;
}

// One output of a call.
struct Output {
  std::shared_ptr<Unused> unused;  // none for a tensor without elements
  py::object layout;               // none for what is no tensor
  c10::IValue plain;               // what stands in its place then
  caffe2::TypeMeta dtype;
  c10::Device device{c10::DeviceType::CUDA, 0};
  int64_t nbytes = 0;
  std::vector<int64_t> sizes, strides;
};

// Of tensors that are no plain ones; versions of torch before 2.13 have names for dimensions.
template <class Key>
c10::DispatchKeySet unusual_keys() {
  c10::DispatchKeySet keys({Key::Python, Key::ZeroTensor});
  if constexpr (requires { Key::Named; }) keys = keys.add(Key::Named);
  return keys;
}

// What a call that was seen before gives; kernels.py's Entry.
struct Entry {
  std::vector<uint64_t> key;
  uint64_t number = 0;  // of its template; 0 if nothing is recorded
  bool marked = false;
  std::vector<Output> outputs;

  ~Entry() {
    py::gil_scoped_acquire gil;
    outputs.clear();
  }
};

using EntryPointer = std::shared_ptr<const Entry>;

// A call while it is looked at: what it is known by, and what goes with it.
struct Call {
  c10::SmallVector<uint64_t, 64> key;
  c10::SmallVector<uint64_t, 24> numbers;  // first the template's, which is not known yet
  c10::SmallVector<double, 8> floats;

  uint64_t hash() const {
    uint64_t hash = key.size();
    for (uint64_t each : key) {
      hash = (hash ^ each) * 0x9E3779B97F4A7C15u;
      hash ^= hash >> 29;
    }
    return hash;
  }
};

void storage_died(void* struct_) {
  // As pthread_spin_unlock, the deleter of structs that went through DLPack: over the address's lower half.
  static_cast<std::atomic<uint32_t>*>(struct_)->store(1, std::memory_order_release);
}

class Kernel;

// A call that is in Python now, in this thread; kernels in Python may call others.
struct Asked {
  Kernel* kernel;
  const Call* call;  // none where nothing can be learned
  uint64_t generation;
  Asked* outer;
};

thread_local Asked* asked = nullptr;

// All kernels with what they share.
struct Shared {
  std::shared_ptr<Stream> stream;
  py::object describe, take, flush, record_marked;
  uint64_t first_address = 0;
  size_t limit = 0;  // of numbers in a batch
  uint64_t cutting = 1;  // one of so many templates ends a batch
  std::atomic<uint64_t> generation{0};  // of what was learned
};

// Call Python. What it raises goes on to whoever has called the operator, as from torch's own kernels in Python.
template <class... Args>
py::object ask_python(const py::object& function, const Args&... args) {
  try {
    return function(args...);
  } catch (py::error_already_set& error) {
    error.restore();
    throw python_error();
  }
}

class Kernel {
 public:
  Kernel(Shared* shared, const c10::OperatorHandle& op, std::string name)
      : shared_(shared), op_(op), name_(std::move(name)),
        python_(op.getComputedKernelForDispatchKey(c10::DispatchKey::CUDA)) {}

  void operator()(c10::DispatchKeySet keys, torch::jit::Stack* stack) {
    if (!described_.load(std::memory_order_acquire)) describe();
    // The CPU's kernels of views touch no memory.
    if (is_view_) return op_.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack);
    Call call;
    call.numbers.push_back(0);
    if (!is_learned_ || !read(torch::jit::last(*stack, kinds_.size()), call)) return in_python(keys, stack, nullptr);
    EntryPointer entry = find(call);
    if (!entry) return in_python(keys, stack, &call);
    c10::SmallVector<at::Tensor, 4> made;
    for (const Output& each : entry->outputs) made.push_back(each.layout ? make(each) : at::Tensor());
    finish(*entry, call, made, stack);
  }

  // Called from Python, in the middle of a call that this kernel has left to it.
  void learn(uint64_t number, bool marked, const py::sequence& layouts, const py::sequence& plain) {
    const Asked* now = asked;
    if (!now || now->kernel != this || !now->call || now->generation != shared_->generation) return;
    auto entry = std::make_shared<Entry>();
    entry->key.assign(now->call->key.begin(), now->call->key.end());
    entry->number = number;
    entry->marked = marked;
    for (size_t place = 0; place < layouts.size(); ++place) {
      auto output = output_of(py::object(layouts[place]), py::object(plain[place]), place);
      if (!output) return;
      entry->outputs.push_back(std::move(*output));
    }
    uint64_t hash = now->call->hash();
    Guard guard(lock());
    entries_.emplace(hash, std::move(entry));
  }

  void forget() {
    std::unordered_multimap<uint64_t, EntryPointer> forgotten;  // dies when the lock is given back: Python's is needed
    Guard guard(lock());
    forgotten.swap(entries_);
  }

 private:
  // Asked of Python at the first call, because there are more operators than any program uses.
  void describe() {
    py::gil_scoped_acquire gil;
    py::object said = ask_python(shared_->describe, py::str(name_));
    if (described_) return;  // another thread was faster; none comes between the rest
    for (py::handle each : said.attr("kinds")) kinds_.push_back(static_cast<Kind>(each.cast<int>()));
    if (!said.attr("returned").is_none()) returned_ = said.attr("returned").cast<std::vector<size_t>>();
    is_view_ = said.attr("is_view").cast<bool>();
    is_learned_ = said.attr("is_learned").cast<bool>();
    keeps_floats_ = said.attr("keeps_floats").cast<bool>();
    takes_numbers_ = said.attr("takes_numbers").cast<bool>();
    for (const auto& each : op_.schema().arguments()) on_device_ |= each.name() == "device";
    const auto& returns = op_.schema().returns();
    gives_list_ = returns.size() == 1 && returns[0].type()->kind() == c10::TypeKind::ListType;
    described_.store(true, std::memory_order_release);
  }

  void in_python(c10::DispatchKeySet keys, torch::jit::Stack* stack, const Call* call) {
    struct Scope {
      Asked now;
      explicit Scope(Asked given) : now(given) { asked = &now; }
      ~Scope() { asked = now.outer; }
    } scope({this, call, shared_->generation, asked});
    python_.callBoxed(op_, keys, stack);
  }

  EntryPointer find(const Call& call) const {
    uint64_t hash = call.hash();
    Guard guard(lock());
    auto [begin, end] = entries_.equal_range(hash);
    for (auto each = begin; each != end; ++each) {
      const auto& key = each->second->key;
      if (key.size() == call.key.size() && std::equal(key.begin(), key.end(), call.key.begin())) return each->second;
    }
    return nullptr;
  }

  // The rest is about arguments: false wherever one is out of the ordinary.

  bool read(c10::ArrayRef<c10::IValue> args, Call& call) const {
    for (size_t place = 0; place < kinds_.size(); ++place) {
      if (!read(args[place], kinds_[place], call)) return false;
    }
    if (on_device_) {  // what a device without an index means
      auto current = c10::impl::getDeviceGuardImpl(c10::DeviceType::CUDA)->getDevice();
      call.key.push_back(tagged(Tag::current, current.index()));
    }
    return true;
  }

  bool read(const c10::IValue& value, Kind kind, Call& call) const {
    switch (kind) {
      case Kind::tensor:
      case Kind::target:
        return value.isTensor() && read_tensor(value.toTensor(), kind, call);
      case Kind::tensor_or_number: {
        if (!value.isTensor()) return false;
        const at::Tensor& tensor = value.toTensor();
        if (!tensor.defined()) return false;
        if (!tensor.unsafeGetTensorImpl()->is_wrapped_number()) return read_tensor(tensor, kind, call);
        return takes_numbers_ && tensor.is_cpu() && read_wrapped(tensor, call);
      }
      case Kind::optional_tensor:
        return read_optional(value, kind, call);
      case Kind::tensors: {
        if (!value.isList()) return false;
        auto list = value.toListRef();
        call.key.push_back(tagged(Tag::list, list.size()));
        for (const c10::IValue& each : list) {
          if (!read_optional(each, kind, call)) return false;
        }
        return true;
      }
      case Kind::number:
        return read_number(value, call);
      case Kind::numbers: {
        if (value.isNone()) return read_constant(value, call);
        if (!value.isList()) return false;
        auto list = value.toListRef();
        call.key.push_back(tagged(Tag::list, list.size()));
        for (const c10::IValue& each : list) {
          if (!read_number(each, call)) return false;
        }
        return true;
      }
      case Kind::generator:
        return value.isNone() && read_constant(value, call);
      case Kind::constant:
        return read_constant(value, call);
    }
    return false;
  }

  bool read_optional(const c10::IValue& value, Kind kind, Call& call) const {
    if (value.isNone() || (value.isTensor() && !value.toTensor().defined())) {
      call.key.push_back(tagged(Tag::none));
      return true;
    }
    return value.isTensor() && read_tensor(value.toTensor(), kind, call);
  }

  bool read_tensor(const at::Tensor& tensor, Kind kind, Call& call) const {
    if (!tensor.defined()) return false;
    const c10::TensorImpl* impl = tensor.unsafeGetTensorImpl();
    c10::DispatchKeySet keys = impl->key_set();
    if (!impl->is_cuda() || impl->layout() != c10::kStrided || impl->has_symbolic_sizes_strides() ||
        keys.has_any(unusual_keys<c10::DispatchKey>())) {
      return false;
    }
    auto address = reinterpret_cast<uint64_t>(tensor.const_data_ptr());
    // One without elements has address 0; as the target of `out=` it will have to grow.
    if (address < shared_->first_address && (address || kind == Kind::target || kind == Kind::tensors)) return false;
    auto sizes = impl->sizes();
    auto strides = impl->strides();
    uint64_t bits = keys.has(c10::DispatchKey::Conjugate) | keys.has(c10::DispatchKey::Negative) << 1;
    auto device = static_cast<uint8_t>(impl->device().index());
    call.key.push_back(tagged(
        Tag::tensor, sizes.size() | static_cast<uint64_t>(tensor.scalar_type()) << 16 |
                         static_cast<uint64_t>(device) << 32 | bits << 40));
    call.key.append(sizes.begin(), sizes.end());
    call.key.append(strides.begin(), strides.end());
    call.numbers.push_back(address);
    return true;
  }

  // A number of the program's, which torch has made a tensor of.
  bool read_wrapped(const at::Tensor& tensor, Call& call) const {
    switch (tensor.scalar_type()) {
      case c10::ScalarType::Double:
        return read_number(*tensor.const_data_ptr<double>(), call);
      case c10::ScalarType::Long:
        return read_number(*tensor.const_data_ptr<int64_t>(), call);
      case c10::ScalarType::Bool:
        return read_number(*tensor.const_data_ptr<bool>(), call);
      default:
        return false;
    }
  }

  bool read_number(const c10::IValue& value, Call& call) const {
    if (!value.isDouble() || keeps_floats_) return read_constant(value, call);
    call.key.push_back(tagged(Tag::float_));
    call.floats.push_back(value.toDouble());
    return true;
  }

  static bool read_constant(const c10::IValue& value, Call& call) {
    if (value.isNone()) {
      call.key.push_back(tagged(Tag::none));
    } else if (value.isBool()) {
      call.key.push_back(tagged(Tag::bool_, value.toBool()));
    } else if (value.isInt()) {
      call.key.push_back(tagged(Tag::int_));
      call.key.push_back(static_cast<uint64_t>(value.toInt()));
    } else if (value.isDouble()) {
      double number = value.toDouble();
      call.key.push_back(tagged(Tag::float_));
      std::memcpy(&call.key.emplace_back(), &number, sizeof number);
    } else if (value.isString()) {
      const std::string& text = value.toStringRef();
      call.key.push_back(tagged(Tag::string, text.size()));
      for (char each : text) call.key.push_back(static_cast<uint8_t>(each));
    } else if (value.isDevice()) {
      auto device = value.toDevice();
      auto index = static_cast<uint8_t>(device.index());
      call.key.push_back(tagged(Tag::device, static_cast<uint64_t>(device.type()) << 8 | index));
    } else if (value.isList()) {
      auto list = value.toListRef();
      call.key.push_back(tagged(Tag::list, list.size()));
      for (const c10::IValue& each : list) {
        if (!read_constant(each, call)) return false;
      }
    } else {
      return false;
    }
    return true;
  }

  // The rest is about results.

  std::optional<Output> output_of(const py::object& layout, const py::object& plain, size_t place) const {
    Output output;
    const auto& returns = op_.schema().returns();
    if (!gives_list_ && place >= returns.size()) return std::nullopt;
    auto kind = gives_list_ ? c10::TypeKind::TensorType : returns[place].type()->kind();
    if (layout.is_none()) {
      bool is_number = kind == c10::TypeKind::IntType || kind == c10::TypeKind::SymIntType;
      if (kind == c10::TypeKind::TensorType && plain.is_none()) {
        output.plain = at::Tensor();
      } else if (is_number && py::isinstance<py::int_>(plain)) {
        output.plain = plain.cast<int64_t>();
      } else {
        return std::nullopt;
      }
      return output;
    }
    if (kind != c10::TypeKind::TensorType) return std::nullopt;
    output.layout = layout;
    auto [code, bits] = layout.attr("dlpack_dtype").cast<std::pair<uint8_t, uint8_t>>();
    output.dtype = c10::scalarTypeToTypeMeta(at::toScalarType(DLDataType{code, bits, 1}));
    output.device = {c10::DeviceType::CUDA, layout.attr("device").cast<c10::DeviceIndex>()};
    output.nbytes = layout.attr("nbytes").cast<int64_t>();
    output.sizes = integers(layout.attr("shape"));
    output.strides = integers(layout.attr("stride"));
    if (layout.attr("numel").cast<int64_t>()) output.unused = layout.attr("free").cast<std::shared_ptr<Unused>>();
    return output;
  }

  static std::vector<int64_t> integers(const py::object& values) {
    std::vector<int64_t> found;
    for (py::handle each : values) found.push_back(each.cast<int64_t>());
    return found;
  }

  at::Tensor make(const Output& output) const {
    uint64_t struct_ = 0;
    if (output.unused) {
      struct_ = output.unused->take();
      if (!struct_) {
        py::gil_scoped_acquire gil;
        struct_ = ask_python(shared_->take, output.layout).cast<uint64_t>();
      }
    }
    auto* place = reinterpret_cast<void*>(struct_);
    void* address = struct_ ? *static_cast<void**>(place) : nullptr;
    at::DataPtr data(address, place, struct_ ? &storage_died : &c10::detail::deleteNothing, output.device);
    auto storage = c10::make_intrusive<c10::StorageImpl>(
        c10::StorageImpl::use_byte_size_t(), output.nbytes, std::move(data), nullptr, false);
    auto tensor = at::detail::make_tensor<c10::TensorImpl>(
        c10::Storage(std::move(storage)), c10::DispatchKeySet(c10::DispatchKey::CUDA), output.dtype);
    tensor.unsafeGetTensorImpl()->set_sizes_and_strides(output.sizes, output.strides);
    return tensor;
  }

  void finish(const Entry& entry, Call& call, c10::SmallVector<at::Tensor, 4>& made, torch::jit::Stack* stack) const {
    call.numbers[0] = entry.number;
    for (size_t place = 0; place < made.size(); ++place) {
      call.numbers.push_back(made[place].defined() ? reinterpret_cast<uint64_t>(made[place].const_data_ptr()) : 0);
    }
    c10::SmallVector<c10::IValue, 4> results;
    if (returned_) {
      auto args = torch::jit::last(*stack, kinds_.size());
      for (size_t place : *returned_) results.push_back(args[place]);
    } else if (gives_list_) {
      c10::List<at::Tensor> list;
      for (at::Tensor& each : made) list.push_back(std::move(each));
      results.emplace_back(std::move(list));
    } else {
      for (size_t place = 0; place < made.size(); ++place) {
        const Output& output = entry.outputs[place];
        results.push_back(output.layout ? c10::IValue(std::move(made[place])) : output.plain);
      }
    }
    if (entry.number) record(entry, call);
    torch::jit::drop(*stack, kinds_.size());
    for (c10::IValue& each : results) stack->push_back(std::move(each));
  }

  void record(const Entry& entry, const Call& call) const {
    size_t size;
    if (entry.marked) {
      py::gil_scoped_acquire gil;
      ask_python(shared_->record_marked, list_of<py::int_>(call.numbers), list_of<py::float_>(call.floats));
      size = shared_->stream->size();
    } else {
      size = shared_->stream->add(call.numbers.data(), call.numbers.size(), call.floats.data(), call.floats.size());
    }
    if (size > shared_->stream->least && (entry.number % shared_->cutting == 0 || size > shared_->limit)) {
      py::gil_scoped_acquire gil;
      ask_python(shared_->flush);
    }
  }

  template <class Value, class Values>
  static py::list list_of(const Values& values) {
    py::list list;
    for (auto each : values) list.append(Value(each));
    return list;
  }

  Shared* shared_;
  c10::OperatorHandle op_;
  std::string name_;
  c10::SafeKernelFunction python_;
  std::atomic<bool> described_{false};
  std::vector<Kind> kinds_;
  std::optional<std::vector<size_t>> returned_;  // the arguments that it returns, when it makes nothing
  bool is_view_ = false, is_learned_ = false, keeps_floats_ = false, takes_numbers_ = false;
  bool on_device_ = false, gives_list_ = false;
  std::unordered_multimap<uint64_t, EntryPointer> entries_;
};

// What torch calls: one functor for each registered kernel.
struct Recorded : c10::OperatorKernel {
  explicit Recorded(Kernel* kernel) : kernel(kernel) {}
  void operator()(const c10::OperatorHandle&, c10::DispatchKeySet keys, torch::jit::Stack* stack) {
    (*kernel)(keys, stack);
  }
  Kernel* kernel;
};

// Torch tells that a kernel stands on another, which is meant here.
struct Quiet : c10::WarningHandler {
  void process(const c10::Warning&) override {}
};

class Kernels {
 public:
  Kernels(std::shared_ptr<Stream> stream, uint64_t first_address, size_t limit, uint64_t cutting, py::object describe,
          py::object take, py::object flush, py::object record_marked)
      : library_(new torch::Library(torch::Library::IMPL, "aten", c10::DispatchKey::CUDA, __FILE__, __LINE__)) {
    shared_->stream = std::move(stream);
    shared_->first_address = first_address;
    shared_->limit = limit;
    shared_->cutting = cutting;
    shared_->describe = std::move(describe);
    shared_->take = std::move(take);
    shared_->flush = std::move(flush);
    shared_->record_marked = std::move(record_marked);
  }

  void stand_on(const std::string& name) {
    auto dot = name.find('.');
    std::string base = "aten::" + name.substr(0, dot), overload = dot == std::string::npos ? "" : name.substr(dot + 1);
    auto op = c10::Dispatcher::singleton().findSchemaOrThrow(base.c_str(), overload.c_str());
    auto* kernel = new Kernel(shared_, op, name);  // never freed: a thread of torch's may be in it
    kernels_.emplace(name, kernel);
    Quiet quiet;
    c10::WarningUtils::WarningHandlerGuard guard(&quiet);
    library_->impl(name.c_str(), torch::CppFunction::makeFromBoxedFunctor(std::make_unique<Recorded>(kernel)));
  }

  void learn(const std::string& name, uint64_t number, bool marked, const py::sequence& layouts,
             const py::sequence& plain) {
    auto found = kernels_.find(name);
    if (found != kernels_.end()) found->second->learn(number, marked, layouts, plain);
  }

  void forget() {
    shared_->generation += 1;
    for (auto& each : kernels_) each.second->forget();
  }

  void leave() {
    forget();
    delete std::exchange(library_, nullptr);
  }

 private:
  Shared* shared_ = new Shared;  // never freed, as the kernels that look at it
  torch::Library* library_;  // not freed at the end of the process, when threads of torch's may call it yet
  std::unordered_map<std::string, Kernel*> kernels_;
};

}  // namespace
}  // namespace avec

PYBIND11_MODULE(avec_native, module) {
  using namespace avec;
  module.def("answer_about_cudnn", &answer_about_cudnn);
  py::class_<Stream, std::shared_ptr<Stream>>(module, "Stream")
      .def(py::init<>())
      .def("__len__", &Stream::size)
      .def_property("least", [](const Stream& self) { return self.least.load(); },
                    [](Stream& self, size_t least) { self.least = least; })
      .def("extend", &Stream::extend)
      .def("add", &Stream::add_python)
      .def("begin_with", &Stream::begin_with)
      .def("recorded", &Stream::recorded)
      .def("drop", &Stream::drop)
      .def("taking", [](py::object self, size_t numbers, size_t floats) {
        return py::module_::import("builtins").attr("map")(
            self.attr("drop"), py::make_tuple(py::make_tuple(numbers, floats)));
      })
      .def("take", &Stream::take);
  py::class_<Unused, std::shared_ptr<Unused>>(module, "Unused")
      .def(py::init<>())
      .def("__len__", &Unused::size)
      .def("__iter__", [](const Unused& self) { return py::iter(self.list()); })
      .def("pop", &Unused::pop)
      .def("give", &Unused::give)
      .def("clear", &Unused::clear);
  py::class_<Numbering>(module, "Numbering")
      .def(py::init([](uint64_t base, uint64_t struct_nbytes, uint64_t free, uint64_t first_storage,
                       uint64_t offset_bits, uint64_t origin) {
        return Numbering{base, struct_nbytes, free, first_storage, offset_bits, origin};
      }));
  module.def("sweep", &sweep);
  py::class_<Kernels>(module, "Kernels")
      .def(py::init<std::shared_ptr<Stream>, uint64_t, size_t, uint64_t, py::object, py::object, py::object, py::object>())
      .def("stand_on", &Kernels::stand_on)
      .def("learn", &Kernels::learn)
      .def("clear", &Kernels::forget)
      .def("leave", &Kernels::leave);
}
