"""OrtValues whose contents are at the destination, in the place of native ones.

A value "on cuda" stays there; reading it fetches a copy. A value "on the CPU" that a run gave is there until the
application looks into it; from then on it is this machine's memory, as it always is without AVEC.
"""

from __future__ import annotations

import weakref
from typing import Any, Protocol, TypeAlias

import numpy as np

from avec.errors import InvalidArgument, SessionLost, UnsupportedOperation
from avec.protocol.onnx import Allocate, Ask, Device, Fetch, Held, Info, Put, Update, Value
from avec.protocol.onnx_values import Packer, unpack
from avec.tensor import Array

from . import contents
from .library import library
from .space import Pending, Space, space

NativeValue: TypeAlias = Any  # a native OrtValue, or a RemoteValue

VIRTUAL = 1 << 62  # addresses from here on are nobody's: processors use at most 57 bits
SPACING = 1 << 40  # bytes between the virtual addresses of two values

_by_address: weakref.WeakValueDictionary[int, RemoteValue] = weakref.WeakValueDictionary()


class Production(Protocol):
    """What makes a value at the destination."""

    def info(self, value: int) -> Info | None:
        """Wait, and say what the value is; raises what the engine raised."""


class RemoteValue(contents.Elsewhere):
    """Stands for a native OrtValue; whoever asks for its class is told the native one."""

    def __init__(
        self, owner: Space, device: Device, info: Info | None = None, production: Production | None = None
    ) -> None:
        """Number a value at the destination.

        Args:
            info: what it is, where that is known already; without a production, None says that it is no dense tensor.
        """
        self.space = owner
        self.device = device
        self.number = owner.new_value()
        self._info = info
        self._production = production
        self._writes: list[Pending] = []
        self._local: Any = None  # the native value, once the contents are here
        self._memory: Array | None = None  # that it points to
        weakref.finalize(self, owner.drop, self.number).atexit = False

    @property  # type: ignore[misc]  # so that isinstance() takes it for the native one
    def __class__(self) -> Any:
        return library().native.OrtValue

    def numpy(self) -> Array:
        """A copy for a value on cuda; for one on the CPU its very memory, which is here from now on."""
        info = self.described()
        if self.device == "cuda" or info is None or info.data_type == "tensor(string)":
            fetched: Array = self._fetched(raw=False)
            return fetched
        native = self.local()
        if self._memory is not None:
            return self._memory
        array: Array = native.numpy()  # the error for a type that numpy lacks
        return array

    def shape(self) -> list[int]:
        """The shape of a tensor."""
        info = self.described()
        return list(info.shape) if info else self._ask("shape")

    def data_type(self) -> str:
        """What it is: "tensor(float)"."""
        info = self.described()
        return info.data_type if info else str(self._ask("data_type"))

    def element_type(self) -> int:
        """TensorProto.DataType of a tensor."""
        info = self.described()
        return info.element_type if info else self._ask("element_type")

    def tensor_size_in_bytes(self) -> int:
        """The size of a tensor."""
        size: int = self._ask("tensor_size_in_bytes")
        return size

    def device_name(self) -> str:
        """Where it is, as far as the application knows."""
        if self.described() is None:
            self._ask("device_name")  # the error for what is no tensor
        return "Cpu" if self.device == "cpu" else "Cuda"

    def has_value(self) -> bool:
        """Whether an optional value is there."""
        return self.described() is not None or bool(self._ask("has_value"))

    def is_tensor(self) -> bool:
        """Whether it is a dense tensor."""
        return self.described() is not None or bool(self._ask("is_tensor"))

    def is_sparse_tensor(self) -> bool:
        """Whether it is a sparse tensor."""
        return self.described() is None and bool(self._ask("is_sparse_tensor"))

    def is_tensor_sequence(self) -> bool:
        """Whether it is a sequence of tensors."""
        return self.described() is None and bool(self._ask("is_tensor_sequence"))

    def _is_webgpu_buffer(self) -> bool:
        return False

    def as_sparse_tensor(self) -> Any:
        """The sparse tensor that it is."""
        return self.local().as_sparse_tensor()

    def data_ptr(self) -> int:
        """An address here for a value on the CPU; on cuda a virtual one, which bind_input and bind_output know."""
        if self.device == "cpu":
            return int(self.local().data_ptr())
        address = VIRTUAL + self.number * SPACING
        _by_address[address] = self
        return address

    def update_inplace(self, data: object) -> None:
        """Copy an array's or another value's contents into this one's memory; does not wait."""
        if self._local is not None:
            library().update_inplace(self._local, as_array(data))
            return
        packer = contents.packer(self.space)
        packed = (
            packer.pack_array(data) if isinstance(data, np.ndarray) else contents.pack_value(data, packer, self.space)
        )
        self._writes = [each for each in self._writes if not each.done]
        pending = self.space.run("update", Update(value=self.number, contents=packed), packer.parts)
        self._writes.append(pending)
        pending.wait_sent()

    def to_dlpack(self, *args: Any, **kwargs: Any) -> Any:
        """Share a CPU value's memory."""
        return self._exported().to_dlpack(*args, **kwargs)

    def __dlpack__(self, *args: Any, **kwargs: Any) -> Any:
        return self._exported().__dlpack__(*args, **kwargs)

    def __dlpack_device__(self) -> Any:
        return self._exported().__dlpack_device__()

    def local(self) -> Any:
        """Bring a value here, once, as a native one; from then on the application may change it."""
        if self._local is None:
            fetched = self._fetched(raw=True)
            if isinstance(fetched, np.ndarray):
                self._memory = fetched
            self._local = contents.native_value(fetched)
        return self._local

    @property
    def memory(self) -> Array | None:
        """The memory on this machine that the application may have seen; None as long as it has seen none."""
        return self._memory

    def pack(self, packer: Packer, at: Space) -> Value:
        """Say what this is to a destination: its number, or what is here."""
        if self._local is not None:
            return contents.pack_native(self._local, packer)
        if self.space is not at:
            raise SessionLost("an OrtValue was lost with its session; make it again from an array")
        return Held(self.number)

    def described(self) -> Info | None:
        """Wait for what makes it; None when it is no dense tensor. Raises what making it raised."""
        if self._production is not None:
            self._info = self._production.info(self.number)
            self._production = None
        writes, self._writes = self._writes, []
        for each in writes:
            each.answer()
        return self._info

    def _fetched(self, raw: bool) -> Any:
        self.described()
        (value,), parts = self.space.run("fetch", Fetch(value=self.number, raw=raw)).values()
        return unpack(value, parts, lambda known: contents.native_object(known, parts))

    def _ask(self, accessor: str) -> Any:
        (value,), parts = self.space.run("ask", Ask(value=self.number, accessor=accessor)).values()
        return unpack(value, parts, lambda known: contents.native_object(known, parts))

    def _exported(self) -> Any:
        if self.device != "cpu":
            raise UnsupportedOperation(
                "an OrtValue on cuda is at the destination and has no memory here that DLPack could share;"
                " use numpy() for a copy"
            )
        return self.local()


class RemoteVector(list[NativeValue]):
    """Stands for a native OrtValueVector."""

    @property  # type: ignore[misc]  # so that isinstance() takes it for the native one
    def __class__(self) -> Any:
        return library().vector

    def push_back(self, value: NativeValue) -> None:
        """Append a value."""
        self.append(value)

    def reserve(self, count: int) -> None:
        """Nothing is to be prepared."""

    def shrink_to_fit(self) -> None:
        """Nothing is to be given back."""

    def element_type_at(self, index: int) -> int:
        """TensorProto.DataType of one of the values."""
        return int(self[index].element_type())

    def dlpack_at(self, index: int) -> Any:
        """Share one value's memory."""
        return self[index].to_dlpack()


def as_array(data: object) -> object:
    """The contents of a value that is not here; anything else as it is."""
    return data.numpy() if isinstance(data, RemoteValue) else data


def value_at(address: int) -> RemoteValue:
    """The value on cuda that a virtual address was given out for."""
    found = _by_address.get(address)
    if found is None:
        raise UnsupportedOperation(
            f"the address {address:#x} on cuda is not that of an OrtValue made under AVEC, and other memory cannot be"
            " forwarded; bind an OrtValue"
        )
    return found


def device_of(device: Any) -> Device | None:
    """Where a native OrtDevice is; None for what AVEC does not stand for."""
    native = library().native.OrtDevice
    if device.device_type() == native.cpu():
        return "cpu"
    if device.device_type() != native.cuda():
        return None
    if device.device_id():
        raise InvalidArgument(f"cuda:{device.device_id()}: a session has one accelerator, cuda:0")
    return "cuda"


def from_numpy(array: Array, device: Any) -> NativeValue:
    """Make an OrtValue of an array. Source: OrtValue.ortvalue_from_numpy."""
    if device_of(device) != "cuda":
        return library().from_numpy(array, device)
    template = library().from_numpy(array, library().cpu)  # says what it is, or what is wrong with the array
    owner = space()
    made = RemoteValue(owner, "cuda", contents.info_of(template))
    packer = contents.packer(owner)
    put = Put(value=made.number, contents=packer.pack_array(array), device="cuda")
    owner.run("put", put, packer.parts).wait_sent()
    return made


def from_shape_and_type(shape: list[int], element_type: object, device: Any) -> NativeValue:
    """Make an OrtValue of undefined contents. Source: OrtValue.ortvalue_from_shape_and_type."""
    if device_of(device) != "cuda":
        return library().from_shape_and_type(shape, element_type, device)
    return _allocated(shape, library().from_shape_and_type([0], element_type, library().cpu))


def from_shape_and_onnx_type(shape: list[int], element_type: int, device: Any) -> NativeValue:
    """Make an OrtValue of undefined contents, of a type that only ONNX names."""
    if device_of(device) != "cuda":
        return library().from_shape_and_onnx_type(shape, element_type, device)
    return _allocated(shape, library().from_shape_and_onnx_type([0], element_type, library().cpu))


def _allocated(shape: list[int], template: Any) -> RemoteValue:
    info = Info(template.data_type(), template.element_type(), tuple(int(each) for each in shape))
    owner = space()
    made = RemoteValue(owner, "cuda", info)
    owner.run("allocate", Allocate(value=made.number, shape=info.shape, element_type=info.element_type, device="cuda"))
    return made
