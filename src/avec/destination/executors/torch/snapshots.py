"""A stream's state as bytes, and a fresh stream with the state that such bytes tell of.

Storages are saved whole, by their addresses. What the host has described (templates, traces) it describes again; graphs
and kernels it loads again. Not here: when that is to be done (the host's journal).
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import numpy as np
import torch

from avec.destination.executors.torch.devices import Devices
from avec.destination.executors.torch.events import Events
from avec.destination.executors.torch.generators import Generators
from avec.destination.executors.torch.own_operators import Surroundings, apply_setting
from avec.destination.executors.torch.storages import Memory, Storage, seen
from avec.destination.executors.torch.stream import Stream
from avec.destination.executors.torch.traces import Traces
from avec.errors import InvalidArgument
from avec.protocol.torch import HOST, Described, Saved, SavedGenerator, SavedStorage
from avec.tensor import Array

_SAVED = msgspec.msgpack.Decoder(Saved)
_DESCRIBED = msgspec.msgpack.Decoder(Described)


@dataclass(frozen=True, slots=True)
class State:
    """The parts of a stream that have state."""

    devices: Devices
    memory: Memory
    generators: Generators
    events: Events
    around: Surroundings
    stream: Stream
    traces: Traces

    def nbytes(self) -> int:
        """How many bytes the storages have."""
        return sum(storage.tensor.untyped_storage().nbytes() for storage in self.memory.storages().values())

    def save(self) -> tuple[Array, Array]:
        """Describe all that there is, and copy the storages' bytes one after the other."""
        saved, contents, place = [], np.empty(self.nbytes(), np.uint8), 0
        for address, storage in self.memory.storages().items():
            nbytes = storage.tensor.untyped_storage().nbytes()
            beside = storage.tensor.device != storage.layout.device
            saved.append(SavedStorage(address, storage.layout.meta, nbytes, beside))
            torch.from_numpy(contents[place : place + nbytes]).copy_(storage.bytes())
            place += nbytes
        generators = tuple(SavedGenerator(*each) for each in self.generators.states())
        settings = tuple((name, value) for name, value in self.around.settings if isinstance(value, bool | int | str))
        described = Saved(tuple(saved), generators, settings, self.events.recorded())
        return np.frombuffer(msgspec.msgpack.encode(described), np.uint8), contents

    def restore(self, parts: tuple[Array, ...]) -> None:
        """Take over what `save` gave elsewhere, and what the host has described to that stream.

        Raises:
            InvalidArgument: it does not fit together, or this stream has been used.
        """
        if len(parts) != 3 or any(part.dtype != np.uint8 for part in parts) or len(self.memory):
            raise InvalidArgument(f"a state with {len(parts)} parts: a fresh stream takes three, of uint8")
        try:
            saved, described = _SAVED.decode(parts[0].data), _DESCRIBED.decode(parts[2].data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
            raise InvalidArgument(f"a stream's state cannot be understood: {exc}") from exc
        for name, value in saved.settings:
            apply_setting(self.around, name, value)
        for number, template in described.templates:
            self.stream.take([template], number)
        for number, numbers, floats in described.traces:
            self.traces.keep(number, _numbers(numbers, np.uint64), _numbers(floats, np.float64).tolist())
        place = 0
        for each in saved.storages:
            self._put(each, parts[1][place : place + each.nbytes])
            place += each.nbytes
        for generator in saved.generators:
            self.generators.restore(generator.number, generator.device, np.frombuffer(generator.state, np.uint8))
        for number, device in saved.events:
            self.events.record(number, device)

    def _put(self, saved: SavedStorage, contents: Array) -> None:
        layout = self.memory.layout(saved.meta)
        if contents.nbytes != saved.nbytes or layout.nbytes > saved.nbytes:
            raise InvalidArgument(
                f"{contents.nbytes} bytes for a storage of {saved.nbytes}, in which {saved.meta} lies"
            )
        device = self.devices.device(HOST) if saved.beside else layout.device
        flat = torch.empty(saved.nbytes, dtype=torch.uint8, device=device)
        flat.copy_(torch.from_numpy(contents if contents.flags.writeable else contents.copy()))
        tensor = seen(flat.untyped_storage(), layout.dtype, device, 0, layout.shape, layout.stride)
        self.memory.begin(saved.address, Storage(tensor, layout, tensor.data_ptr()))


def _numbers(data: bytes, dtype: type[np.generic]) -> Array:
    if len(data) % 8:
        raise InvalidArgument(f"{len(data)} bytes for numbers of 8")
    return np.frombuffer(data, dtype)
