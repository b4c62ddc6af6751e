"""Streams and events of the destination's accelerators: torch.cuda.Stream and Event, torch.Stream and Event.

A session's operators are carried out in one order, whatever streams they were issued on: waiting of one stream for
another is always fulfilled. Events take the accelerator's time, and say when it has got that far.
"""

from __future__ import annotations

import ctypes
import heapq
import itertools
import threading
from typing import TYPE_CHECKING, Any, Self
from weakref import WeakValueDictionary

import torch

from avec.errors import UnsupportedOperation
from avec.interception.patching import Patches
from avec.protocol.torch import Elapsed, ElapsedTime, IntArg, Synchronize, Template

if TYPE_CHECKING:
    from avec.host.calls import Call

    from .devices import Devices
    from .recording import Recording

_RECORD = Template("avec::record_event", (IntArg(0), IntArg(1)), {}, 2, 0)
_CUDA = 1  # c10::DeviceType::CUDA
_PRIORITIES = (0, -5)  # least and greatest, as on current GPUs
_TorchStream: Any = torch.Stream
_TorchEvent: Any = torch.Event


class Timeline:
    """Which streams there are, which each thread uses, and the numbers of events. Thread-safe."""

    def __init__(self, recording: Recording, devices: Devices) -> None:
        self.recording = recording
        self.devices = devices
        self.priorities: dict[int, int] = {}
        self._stream_ids = itertools.count(1)
        self._current = threading.local()
        self._lock = threading.Lock()
        self._events = itertools.count(1)
        self._free: list[int] = []
        self._dropped: list[int] = []  # by __del__, which may come at any time and must take no lock
        self._templates: dict[object, Any] = recording.cache()
        self.defaults: list[Stream] = []  # which would else be made and dropped all the time
        self.streams: WeakValueDictionary[tuple[type, int, int], Stream] = WeakValueDictionary()

    def new_stream(self, priority: int) -> int:
        """Number a stream."""
        least, greatest = _PRIORITIES
        number = next(self._stream_ids)
        self.priorities[number] = min(least, max(greatest, priority))
        return number

    def current(self, device: int) -> int:
        """This thread's stream on a device."""
        return self._streams().get(device, 0)

    def set_current(self, device: int, stream: int) -> None:
        """Make a stream this thread's on its device, and the device current."""
        self._streams()[device] = stream
        self.devices.current = device

    def _streams(self) -> dict[int, int]:
        """This thread's streams by device."""
        streams: dict[int, int] = self._current.__dict__.setdefault("streams", {})
        return streams

    def record_event(self, number: int, device: int) -> int:
        """Have an accelerator note its time; give the event's number, a new one for 0."""
        if not number:
            with self._lock:
                while self._dropped:
                    heapq.heappush(self._free, self._dropped.pop())
                number = heapq.heappop(self._free) if self._free else next(self._events)
        template = self._templates.get(_RECORD.operator)
        if template is None:
            template = self._templates[_RECORD.operator] = self.recording.template(_RECORD)
        self.recording.record(template, (number, device))
        return number

    def drop_event(self, number: int) -> None:
        """Take an event's number back."""
        self._dropped.append(number)

    def elapsed_ms(self, start: int, end: int) -> float:
        """Milliseconds between two events, once both have happened."""
        answer = self.recording.ask(ElapsedTime(0, start, end))
        assert isinstance(answer, Elapsed)
        return answer.milliseconds


_timelines: list[Timeline] = []  # none or one: torch makes streams by calling their class


def _timeline() -> Timeline:
    return _timelines[0]


class _Kind(type):
    """All of torch's own streams, or events, are instances too, those of other devices and those that C++ makes."""

    torchs_own: type

    def __instancecheck__(cls, instance: object) -> bool:
        torchs_own = cls.__dict__.get("torchs_own")
        return super().__instancecheck__(instance) or torchs_own is not None and isinstance(instance, torchs_own)


def _device(value: object) -> torch.device:
    """What torch takes for a device: None for the current one, a number, a name."""
    if isinstance(value, int):
        return torch.device("cuda", value)
    device: torch.device = torch.device("cuda" if value is None else value)  # type: ignore[call-overload]
    if device.type != "cuda":
        return device
    return torch.device("cuda", _timeline().devices.current if device.index is None else device.index)


class Stream(_TorchStream, metaclass=_Kind):  # type: ignore[misc]
    """Stands in for torch.Stream, whose functions C++ asks of a guard that has none for a GPU elsewhere."""

    torchs_own = torch.Stream
    _idle: tuple[Call, int] | None

    def __new__(cls, device: Any = None, priority: int = 0, **kwargs: Any) -> Any:
        """Make a stream, or find one by stream_id, device_index and device_type."""
        if "stream_id" in kwargs:
            known = _timeline().streams.get((cls, kwargs["stream_id"], kwargs.get("device_index", 0)))
            if known is not None and kwargs.get("device_type", _CUDA) == _CUDA:
                return known
            if kwargs.get("device_type", _CUDA) != _CUDA:
                return _TorchStream(**kwargs)
            number, index = kwargs["stream_id"], kwargs.get("device_index", 0)
        else:
            torch.cuda._lazy_init()  # type: ignore[no-untyped-call]
            where = _device(device)
            if where.type != "cuda":
                return _TorchStream(device, priority=priority)
            _timeline().devices.check(where.index)
            number, index = _timeline().new_stream(priority), where.index
        stream = super().__new__(cls, stream_id=number, device_index=index, device_type=_CUDA)
        stream._idle = None
        _timeline().streams[cls, number, index] = stream
        if not number:
            _timeline().defaults.append(stream)
        return stream

    @property
    def native_handle(self) -> int:
        """An opaque number."""
        number: int = self.stream_id
        return number

    def query(self) -> bool:
        """Whether all that was issued has been done; does not block."""
        recording = _timeline().recording
        recording.flush()
        if self._idle is None or self._idle[1] != recording.session.issued:
            call = recording.request(Synchronize(0, self.device_index))
            self._idle = call, recording.session.issued
        if not self._idle[0].done:
            return False
        recording.wait(self._idle[0])
        return True

    def synchronize(self) -> None:
        """Wait until all that was issued has been done."""
        _timeline().devices.synchronize(self.device_index)

    def is_capturing(self) -> bool:
        """Whether a graph is being captured."""
        return _timeline().recording.capturing

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
        timeline = _timeline()
        before = timeline.devices.current, timeline.current(self.device_index)
        self.__dict__.setdefault("_entered", []).append(before)
        timeline.set_current(self.device_index, self.stream_id)
        return self

    def __exit__(self, *exc: object) -> None:
        timeline = _timeline()
        device, stream = self.__dict__["_entered"].pop()
        timeline.set_current(self.device_index, stream)
        timeline.devices.current = device


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
        return _timeline().priorities.get(self.stream_id, 0)

    @staticmethod
    def priority_range() -> tuple[int, int]:
        """The least and the greatest priority."""
        return _PRIORITIES

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


class Event(_TorchEvent, metaclass=_Kind):  # type: ignore[misc]
    """Stands in for torch.Event."""

    torchs_own = torch.Event
    _number: int  # 0 until it is recorded
    _place: int  # the device that it was recorded on
    _timing: bool
    _happened: Call | None

    def __new__(
        cls, device: Any = None, *, enable_timing: bool = False, blocking: bool = False, interprocess: bool = False
    ) -> Any:
        """Make an event."""
        if device is not None and _device(device).type != "cuda":
            return _TorchEvent(device, enable_timing=enable_timing, blocking=blocking, interprocess=interprocess)
        if interprocess:
            raise UnsupportedOperation(
                "an event for several processes: processes have sessions of their own at the destination, which do"
                " not see one another's; leave interprocess out"
            )
        event = super().__new__(cls, "cuda", enable_timing=enable_timing, blocking=blocking)
        event._number = event._place = 0
        event._timing = enable_timing
        event._happened = None
        return event

    def record(self, stream: Any = None) -> None:
        """Note the time after all that was issued."""
        index = torch.cuda.current_device() if stream is None else stream.device_index
        if self._number and index != self._place:
            raise RuntimeError(f"Event device {self._place} does not match recording stream's device {index}.")
        self._place = index
        self._number = _timeline().record_event(self._number, index)
        self._happened = None

    def wait(self, stream: Any = None) -> None:
        """Have what comes later on a stream wait for the event: it does."""

    def query(self) -> bool:
        """Whether all that was issued before the event has been done; does not block."""
        if not self._number:
            return True
        if not self._asked().done:
            return False
        _timeline().recording.wait(self._asked())
        return True

    def synchronize(self) -> None:
        """Wait until all that was issued before the event has been done."""
        if self._number:
            _timeline().recording.wait(self._asked())

    def elapsed_time(self, end_event: Any) -> float:
        """Return the milliseconds from this event to another, once both have happened."""
        if not (self._timing and end_event._timing):
            raise ValueError("Both events must be created with argument 'enable_timing=True'.")
        if not (self._number and end_event._number):
            raise ValueError("Both events must be recorded before calculating elapsed time.")
        return _timeline().elapsed_ms(self._number, end_event._number)

    @property
    def event_id(self) -> int:
        """An opaque number; 0 until it is recorded."""
        return self._number

    @property
    def device(self) -> torch.device | None:
        """Where it was recorded."""
        return torch.device("cuda", self._place) if self._number else None

    def ipc_handle(self) -> bytes:
        """Raise UnsupportedOperation."""
        raise UnsupportedOperation("an event's IPC handle: other processes have sessions of their own; use a queue")

    def _asked(self) -> Call:
        if self._happened is None:
            self._happened = _timeline().recording.request(ElapsedTime(0, self._number, self._number))
        return self._happened

    def __del__(self) -> None:
        if self.__dict__.get("_number") and _timelines:
            _timeline().drop_event(self._number)


class CudaEvent(Event):
    """Stands in for torch.cuda.Event."""

    def __new__(
        cls, enable_timing: bool = False, blocking: bool = False, interprocess: bool = False, external: bool = False
    ) -> Any:
        """Make an event."""
        return super().__new__(cls, "cuda", enable_timing=enable_timing, blocking=blocking, interprocess=interprocess)

    @classmethod
    def from_ipc_handle(cls, device: Any, handle: Any) -> Any:
        """Raise UnsupportedOperation."""
        raise UnsupportedOperation("an event of another process: processes have sessions of their own; use a queue")

    @property
    def cuda_event(self) -> int:
        """An opaque number; 0 until it is recorded."""
        return self._number

    @property
    def _as_parameter_(self) -> ctypes.c_void_p:
        return ctypes.c_void_p(self.cuda_event)

    def __repr__(self) -> str:
        return f"<torch.cuda.Event {self.cuda_event:#x}>" if self.cuda_event else "<torch.cuda.Event uninitialized>"


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
    timeline = Timeline(recording, devices)
    _timelines[:] = [timeline]

    def set_stream(stream_id: int, device_index: int, device_type: int) -> None:
        timeline.set_current(device_index, stream_id)

    def external(data_ptr: int, device: int) -> None:
        ExternalStream(data_ptr, device)

    for stand_in, name, modules in _CLASSES:
        for module in modules:
            patches.replace(module, name, lambda original, stand_in=stand_in: stand_in)
    patches.stand_in(torch._C, {
        "_cuda_getCurrentStream": lambda device: (timeline.current(device), device, _CUDA),
        "_cuda_getDefaultStream": lambda device: (0, device, _CUDA),
        "_cuda_getCurrentRawStream": lambda device: timeline.current(device),
        "_cuda_getStreamFromExternal": external,
        "_cuda_setStream": set_stream,
        "_accelerator_getStream": lambda device: Stream(
            stream_id=timeline.current(device), device_index=device, device_type=_CUDA
        ),
        "_accelerator_setStream": lambda stream: timeline.set_current(stream.device_index, stream.stream_id),
    })  # fmt: skip
