"""An IOBinding at a destination, in the place of the native SessionIOBinding under onnxruntime's own class.

Changes are collected and go along with the next run, which nobody waits for. What the application may still change
here (arrays and CPU values of a session without CUDA) goes along with every run.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np

from avec.errors import InvalidArgument, UnsupportedOperation
from avec.protocol.onnx import (
    Bind,
    Binding,
    BindInput,
    BindOutput,
    ClearInputs,
    ClearOutputs,
    CopyOutputs,
    Device,
    Held,
    NameOutputs,
    RunBinding,
    RunSettings,
)
from avec.protocol.onnx_values import Packer, unpack, unpack_array
from avec.tensor import Array

from . import contents
from .library import library
from .production import Results
from .session import RemoteSession
from .space import Pending
from .values import NativeValue, RemoteValue, RemoteVector, device_of, value_at

CHANGES_LIMIT = 256  # in one request, so that it fits a message


class RemoteBinding:
    """Stands for a native SessionIOBinding."""

    def __init__(self, session: RemoteSession) -> None:
        self._session = session
        self._number = session.space.new_binding()
        self._changes: list[Binding] = []  # not sent yet
        self._live: dict[str, Any] = {}  # inputs whose memory is this machine's: arrays and native OrtValues
        self._outputs: dict[str, Device] = {}  # in the order of their first binding
        self._targets: dict[str, Array] = {}  # outputs that go to memory of this machine
        self._given: dict[str, list[weakref.ref[RemoteValue]]] = {}  # outputs that the application was given
        self._runs: list[Pending] = []  # not known to have succeeded
        weakref.finalize(self, session.space.unbind, session.handle, self._number).atexit = False

    @property  # type: ignore[misc]  # so that isinstance() takes it for the native one
    def __class__(self) -> Any:
        return library().binding

    def bind_input(self, name: str, *how: Any) -> None:
        """Bind an array, or memory (device, element type, shape, address). Source: SessionIOBinding.bind_input."""
        if name not in self._session.input_names:
            raise RuntimeError(f"Failed to find NodeArg with name: {name} in the def list")  # ONNX Runtime's words
        if len(how) == 1:
            self._bind_here(name, how[0])
            return
        device, element_type, shape, address = how
        if device_of(device) == "cuda" and address:
            self.bind_ortvalue_input(name, _of_shape(value_at(address), shape))
        else:
            self._bind_here(name, _memory_at(address, element_type, shape))

    def bind_ortvalue_input(self, name: str, value: NativeValue) -> None:
        """Bind an OrtValue."""
        if isinstance(value, RemoteValue) and isinstance(
            packed := value.pack(self._packer(), self._session.space), Held
        ):
            self._live.pop(name, None)
            self._change(BindInput(name, packed))
        else:
            self._bind_here(name, value.local() if isinstance(value, RemoteValue) else value)

    def bind_output(
        self, name: str, device: Any, element_type: Any = None, shape: Any = None, address: int = 0
    ) -> None:
        """Bind an output to a device, or to memory on it."""
        on = device_of(device)
        if on is None:
            raise UnsupportedOperation(
                f"output {name!r} on a device of type {device.device_type()} cannot be forwarded"
            )
        self._detach(name)
        if element_type is None:
            self._outputs[name] = on
            self._change(BindOutput(name, on))
        elif on == "cuda":
            self.bind_ortvalue_output(name, _of_shape(value_at(address), shape))
        else:
            self._bind_target(name, _memory_at(address, element_type, shape))

    def bind_ortvalue_output(self, name: str, value: NativeValue) -> None:
        """Bind an output to an OrtValue's memory."""
        if isinstance(value, RemoteValue) and isinstance(
            packed := value.pack(self._packer(), self._session.space), Held
        ):
            self._detach(name)
            self._outputs[name] = value.device
            self._change(BindOutput(name, value.device, value=packed.value))
            return
        native = value.local() if isinstance(value, RemoteValue) else value
        self._bind_target(name, native.numpy())

    def synchronize_inputs(self) -> None:
        """Inputs are there when a run begins."""

    def synchronize_outputs(self) -> None:
        """Wait for the runs, and raise what they raised."""
        self.settle()

    def clear_binding_inputs(self) -> None:
        """Forget all inputs."""
        self._live.clear()
        self._change(ClearInputs())

    def clear_binding_outputs(self) -> None:
        """Forget all outputs."""
        self._outputs.clear()
        self._targets.clear()
        self._given.clear()
        self._change(ClearOutputs())

    def get_outputs(self) -> RemoteVector:
        """The outputs of the last run, which stay at the destination; does not wait."""
        results = Results(self.settle)
        made = results.expect(self._session.space, list(self._outputs.values()))
        request = NameOutputs(binding=self._number, changes=self._taken(), results=results.numbers)
        results.sent(self._session.send("get_outputs", request))
        for name, value in zip(self._outputs, made, strict=True):
            alive = [each for each in self._given.get(name, []) if each() is not None]
            self._given[name] = [*alive, weakref.ref(value)]
        return made

    def copy_outputs_to_cpu(self) -> list[Any]:
        """Fetch the contents of all outputs."""
        request = CopyOutputs(binding=self._number, changes=self._taken())
        pending = self._session.send("copy_outputs_to_cpu", request)
        self.settle()
        packed, parts = pending.values()
        return [unpack(each, parts, lambda known: contents.native_object(known, parts)) for each in packed]

    def run(self, settings: RunSettings | None) -> None:
        """Run the session. See RemoteSession.run_with_iobinding."""
        self._raise_known()
        packer = self._packer()
        live = [BindInput(name, self._packed(value, packer)) for name, value in self._live.items()]
        targets = self._memory_to_fill()
        places = {name: place for place, name in enumerate(self._outputs)}
        request = RunBinding(
            binding=self._number,
            changes=(*self._taken(), *live),
            settings=settings,
            fetched=tuple(places[name] for name in targets),
        )
        pending = self._session.send("run_with_iobinding", request, packer.parts)
        if targets:
            self._fill(targets, pending)
            return
        self._runs.append(pending)
        if packer.parts:
            pending.wait_sent()

    def settle(self) -> None:
        """Wait for the runs so far; raises what the first failing one raised, once."""
        runs, self._runs = self._runs, []
        for each in runs:
            each.answer()

    def _raise_known(self) -> None:
        """Raise what is known to have failed, without waiting."""
        while self._runs and self._runs[0].done:
            self._runs.pop(0).answer()

    def _bind_here(self, name: str, value: Any) -> None:
        """Bind what is here: copied now, as to a GPU, or read at each run, as by the CPU."""
        if not self._session.on_cuda:
            self._live[name] = value
            self._packed(value, self._packer())  # refuses what cannot be an input in ONNX Runtime's words
            return
        packer = self._packer()
        change = BindInput(name, self._packed(value, packer))
        request = Bind(binding=self._number, changes=(*self._taken(), change))
        pending = self._session.send("bind", request, packer.parts)
        self._runs.append(pending)
        pending.wait_sent()

    def _bind_target(self, name: str, memory: Array) -> None:
        self._detach(name)
        self._targets[name] = memory
        self._outputs[name] = "cpu"
        template = library().from_numpy(memory, library().cpu)
        self._change(BindOutput(name, "cpu", allocated=contents.info_of(template)))

    def _detach(self, name: str) -> None:
        """Let go of the memory that an output had: it is bound anew."""
        self._targets.pop(name, None)
        self._given.pop(name, None)

    def _memory_to_fill(self) -> dict[str, list[Array]]:
        """The memory here that a run writes to: what was bound, and what the application holds of earlier runs."""
        filled = {name: [memory] for name, memory in self._targets.items()}
        for name, given in self._given.items():
            seen = [value.memory for each in given if (value := each()) is not None and value.memory is not None]
            if seen:
                filled.setdefault(name, []).extend(seen)
        return filled

    def _fill(self, targets: dict[str, list[Array]], pending: Pending) -> None:
        self.settle()
        packed, parts = pending.values()
        for arrays, value in zip(targets.values(), packed, strict=True):
            contents_now = unpack_array(value, parts)
            for array in arrays:
                np.copyto(array, contents_now)

    def _packed(self, value: Any, packer: Packer) -> Any:
        return (
            packer.pack(value)
            if isinstance(value, np.ndarray)
            else contents.pack_value(value, packer, self._session.space)
        )

    def _packer(self) -> Packer:
        return contents.packer(self._session.space)

    def _change(self, change: Binding) -> None:
        self._changes.append(change)
        if len(self._changes) >= CHANGES_LIMIT:
            self._runs.append(self._session.send("bind", Bind(binding=self._number, changes=self._taken())))

    def _taken(self) -> tuple[Binding, ...]:
        changes, self._changes = tuple(self._changes), []
        return changes


def _memory_at(address: int, element_type: Any, shape: Sequence[int]) -> Array:
    """View memory of this machine as an array.

    Raises:
        UnsupportedOperation: numpy has no such type.
    """
    try:
        dtype: np.dtype[Any] = np.dtype(element_type)
    except TypeError as exc:
        raise UnsupportedOperation(
            f"memory of element type {element_type} cannot be bound by its address under AVEC; bind an OrtValue"
        ) from exc
    count = int(np.prod(shape, dtype=np.int64))
    if not count:
        return np.empty(tuple(shape), dtype)
    memory = memoryview((ctypes.c_uint8 * (count * dtype.itemsize)).from_address(address))
    return np.frombuffer(memory, dtype).reshape(tuple(shape))


def _of_shape(value: RemoteValue, shape: Sequence[int]) -> RemoteValue:
    """A value that is bound by its address, which has to be bound as what it is."""
    described = value.described()
    if described is None or tuple(described.shape) != tuple(shape):
        raise InvalidArgument(
            f"memory on cuda is bound with shape {tuple(shape)}, and the OrtValue there has another; bind the OrtValue"
        )
    return value
