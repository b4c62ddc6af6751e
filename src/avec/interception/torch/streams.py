"""Streams of the destination's accelerators: torch.cuda.Stream and torch.Stream."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any, Self

import torch

from avec.errors import UnsupportedOperation
from avec.interception.patching import Patches

from .events import CudaEvent, Event
from .timeline import PRIORITIES, Kind, Timeline, device_named, timeline, use

if TYPE_CHECKING:
    from .devices import Devices
    from .recording import Recording

_CUDA = 1  # c10::DeviceType::CUDA
_TorchStream: Any = torch.Stream


class Stream(_TorchStream, metaclass=Kind):  # type: ignore[misc]
    """Stands in for torch.Stream, whose functions C++ asks of a guard that has none for a GPU elsewhere."""

    torchs_own = torch.Stream

    def __new__(cls, device: Any = None, priority: int = 0, **kwargs: Any) -> Any:
        """Make a stream, or find one by stream_id, device_index and device_type."""
        if "stream_id" in kwargs:
            known = timeline().streams.get((cls, kwargs["stream_id"], kwargs.get("device_index", 0)))
            if known is not None and kwargs.get("device_type", _CUDA) == _CUDA:
                return known
            if kwargs.get("device_type", _CUDA) != _CUDA:
                return _TorchStream(**kwargs)
            number, index = kwargs["stream_id"], kwargs.get("device_index", 0)
        else:
            torch.cuda._lazy_init()  # type: ignore[no-untyped-call]
            where = device_named(device)
            if where.type != "cuda":
                return _TorchStream(device, priority=priority)
            timeline().devices.check(where.index)
            number, index = timeline().new_stream(priority), where.index
        stream = super().__new__(cls, stream_id=number, device_index=index, device_type=_CUDA)
        timeline().streams[cls, number, index] = stream
        if not number:
            timeline().defaults.append(stream)
        return stream

    @property
    def native_handle(self) -> int:
        """An opaque number."""
        number: int = self.stream_id
        return number

    def query(self) -> bool:
        """Whether all that was issued has been done; does not block."""
        return timeline().devices.query(self.device_index)

    def synchronize(self) -> None:
        """Wait until all that was issued has been done."""
        timeline().devices.synchronize(self.device_index)

    def is_capturing(self) -> bool:
        """Whether a graph is being captured."""
        return timeline().recording.capturing

    def wait_event(self, event: Any) -> None:
        """Have what comes later wait for an event: it does."""
        event.wait(self)

    def wait_stream(self, stream: Any) -> None:
        """Have what comes later wait for another stream: it does."""

    def record_event(self, event: Any = None) -> Any:
        """Note the time after all that was issued."""
        event = Event() if event is None else event
        event.record(self)
        return event

    def __enter__(self) -> Self:
        now = timeline()
        before = now.devices.current, now.current(self.device_index)
        self.__dict__.setdefault("_entered", []).append(before)
        now.set_current(self.device_index, self.stream_id)
        return self

    def __exit__(self, *exc: object) -> None:
        now = timeline()
        device, stream = self.__dict__["_entered"].pop()
        now.set_current(self.device_index, stream)
        now.devices.current = device


class CudaStream(Stream):
    """Stands in for torch.cuda.Stream."""

    def __new__(cls, device: Any = None, priority: int = 0, **kwargs: Any) -> Any:
        """Make a stream."""
        if kwargs.get("stream_ptr"):
            raise UnsupportedOperation(
                "torch.cuda.ExternalStream: a stream that another library made is in the memory of a GPU of this"
                " machine, not of the destination's; use torch.cuda.Stream()"
            )
        return super().__new__(cls, device, priority, **kwargs)

    @property
    def cuda_stream(self) -> int:
        """An opaque number; 0 for the default stream."""
        return self.native_handle

    @property
    def priority(self) -> int:
        """What it was made with, within `priority_range`."""
        return timeline().priorities.get(self.stream_id, 0)

    @staticmethod
    def priority_range() -> tuple[int, int]:
        """The least and the greatest priority."""
        return PRIORITIES

    @property
    def _as_parameter_(self) -> ctypes.c_void_p:
        return ctypes.c_void_p(self.cuda_stream)

    def record_event(self, event: Any = None) -> Any:
        """Note the time after all that was issued."""
        return super().record_event(CudaEvent() if event is None else event)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CudaStream) and bool(super().__eq__(other))

    def __hash__(self) -> int:
        return hash((self.cuda_stream, self.device))

    def __repr__(self) -> str:
        return f"<torch.cuda.Stream device={self.device} cuda_stream={self.cuda_stream:#x}>"

    def __cuda_stream__(self) -> tuple[int, int]:
        raise UnsupportedOperation(
            "a stream of the destination cannot be given to another CUDA library in this process; compute in torch"
        )


class ExternalStream(CudaStream):
    """Stands in for torch.cuda.ExternalStream, which is refused."""

    def __new__(cls, stream_ptr: int, device: Any = None, **kwargs: Any) -> Any:
        """Raise UnsupportedOperation."""
        return super().__new__(cls, device, stream_ptr=stream_ptr or -1, **kwargs)


# (stand-in, what it stands in for, with the modules that know it by that name)
_CLASSES = (
    (Stream, "Stream", (torch,)),
    (Event, "Event", (torch,)),
    (CudaStream, "Stream", (torch.cuda, torch.cuda.streams)),
    (ExternalStream, "ExternalStream", (torch.cuda, torch.cuda.streams)),
    (CudaEvent, "Event", (torch.cuda, torch.cuda.streams)),
)
for _stand_in, _name, _modules in _CLASSES:
    _stand_in.__name__ = _stand_in.__qualname__ = _name
    _stand_in.__module__ = _modules[-1].__name__


def patch(patches: Patches, recording: Recording, devices: Devices) -> None:
    """Give torch the streams and events of the destination."""
    now = Timeline(recording, devices)
    use(now)

    def set_stream(stream_id: int, device_index: int, device_type: int) -> None:
        now.set_current(device_index, stream_id)

    def external(data_ptr: int, device: int) -> None:
        ExternalStream(data_ptr, device)

    for stand_in, name, modules in _CLASSES:
        for module in modules:
            patches.replace(module, name, lambda original, stand_in=stand_in: stand_in)
    patches.stand_in(torch._C, {
        "_cuda_getCurrentStream": lambda device: (now.current(device), device, _CUDA),
        "_cuda_getDefaultStream": lambda device: (0, device, _CUDA),
        "_cuda_getCurrentRawStream": lambda device: now.current(device),
        "_cuda_getStreamFromExternal": external,
        "_cuda_setStream": set_stream,
        "_accelerator_getStream": lambda device: Stream(
            stream_id=now.current(device), device_index=device, device_type=_CUDA
        ),
        "_accelerator_setStream": lambda stream: now.set_current(stream.device_index, stream.stream_id),
    })  # fmt: skip
