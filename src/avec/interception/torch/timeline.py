"""What streams and events have in common: their numbers, which stream each thread uses, and what is asked about them.

A session's operators are carried out in one order, whatever streams they were issued on: waiting of one stream for
another is always fulfilled.
"""

from __future__ import annotations

import heapq
import itertools
import threading
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import torch

from avec.protocol.torch import Elapsed, ElapsedTime, IntArg, Template

if TYPE_CHECKING:
    from .devices import Devices
    from .recording import Recording

PRIORITIES = (0, -5)  # least and greatest, as on current GPUs
_RECORD = Template("avec::record_event", (IntArg(0), IntArg(1)), {}, 2, 0)


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
        self.defaults: list[Any] = []  # which would else be made and dropped all the time
        self.streams: WeakValueDictionary[tuple[type, int, int], Any] = WeakValueDictionary()

    def new_stream(self, priority: int) -> int:
        """Number a stream."""
        least, greatest = PRIORITIES
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


def timeline() -> Timeline:
    """Return the one that is used now."""
    return _timelines[0]


def use(timeline: Timeline) -> None:
    """Use this one from now on."""
    _timelines[:] = [timeline]


class Kind(type):
    """All of torch's own streams, or events, are instances too, those of other devices and those that C++ makes."""

    torchs_own: type

    def __instancecheck__(cls, instance: object) -> bool:
        torchs_own = cls.__dict__.get("torchs_own")
        return super().__instancecheck__(instance) or torchs_own is not None and isinstance(instance, torchs_own)


def device_named(value: object) -> torch.device:
    """What torch takes for a device: None for the current one, a number, a name."""
    if isinstance(value, int):
        return torch.device("cuda", value)
    device: torch.device = torch.device("cuda" if value is None else value)  # type: ignore[call-overload]
    if device.type != "cuda":
        return device
    return torch.device("cuda", timeline().devices.current if device.index is None else device.index)
