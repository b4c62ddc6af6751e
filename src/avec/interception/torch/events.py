"""Points in the accelerators' time: torch.cuda.Event and torch.Event."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

import torch

from avec.errors import UnsupportedOperation
from avec.protocol.torch import ElapsedTime

from .timeline import Kind, device_named, timeline

if TYPE_CHECKING:
    from avec.host.calls import Call

_TorchEvent: Any = torch.Event


class Event(_TorchEvent, metaclass=Kind):  # type: ignore[misc]
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
        if device is not None and device_named(device).type != "cuda":
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
        self._number = timeline().record_event(self._number, index)
        self._happened = None

    def wait(self, stream: Any = None) -> None:
        """Have what comes later on a stream wait for the event: it does."""

    def query(self) -> bool:
        """Whether all that was issued before the event has been done; does not block."""
        if not self._number or timeline().devices.is_idle(self._place):
            return True
        if not self._asked().done:
            return False
        timeline().recording.wait(self._asked())
        return True

    def synchronize(self) -> None:
        """Wait until all that was issued before the event has been done."""
        if self._number:
            timeline().recording.wait(self._asked())

    def elapsed_time(self, end_event: Any) -> float:
        """Return the milliseconds from this event to another, once both have happened."""
        if not (self._timing and end_event._timing):
            raise ValueError("Both events must be created with argument 'enable_timing=True'.")
        if not (self._number and end_event._number):
            raise ValueError("Both events must be recorded before calculating elapsed time.")
        return timeline().elapsed_ms(self._number, end_event._number)

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
            self._happened = timeline().recording.request(ElapsedTime(0, self._number, self._number))
        return self._happened

    def __del__(self) -> None:
        if self.__dict__.get("_number"):
            timeline().drop_event(self._number)


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
