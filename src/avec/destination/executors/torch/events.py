"""Points in an accelerator's time that the host may ask the distance of. Source: torch.cuda.Event."""

from __future__ import annotations

import time

import torch

from avec.destination.executors.torch.devices import Devices
from avec.errors import InvalidArgument, RemoteError

LIMIT = 1 << 16


class Events:
    """A session's events by the host's numbers."""

    def __init__(self, devices: Devices) -> None:
        self._devices = devices
        self._events: dict[int, torch.cuda.Event | float] = {}
        self._on: dict[int, int] = {}  # their devices

    def record(self, number: int, device: int) -> None:
        """Note the time at which an accelerator has done what was asked of it so far."""
        self._devices.check(device)
        if number not in self._events and len(self._events) >= LIMIT:
            raise InvalidArgument(f"event {number} beside {len(self._events)} others, which is the limit")
        self._on[number] = device
        if not self._devices.cuda:
            self._events[number] = time.perf_counter()
            return
        event = self._events.get(number)
        # The host uses numbers again; torch keeps an event to the device that it was first recorded on.
        if not isinstance(event, torch.cuda.Event) or event.device != self._devices.device(device):
            event = self._events[number] = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._devices.device(device)))

    def recorded(self) -> tuple[tuple[int, int], ...]:
        """All events: number and device."""
        return tuple(self._on.items())

    def elapsed_ms(self, start: int, end: int) -> float:
        """Milliseconds between two events; waits for both."""
        match self._find(start), self._find(end):
            case float() as begun_s, float() as ended_s:
                return (ended_s - begun_s) * 1000
            case torch.cuda.Event() as begun, torch.cuda.Event() as ended:
                return _elapsed_ms(begun, ended)
        raise InvalidArgument(f"events {start} and {end} are of different kinds of accelerators")

    def close(self) -> None:
        """Forget all."""
        self._events.clear()

    def _find(self, number: int) -> torch.cuda.Event | float:
        event = self._events.get(number)
        if event is None:
            raise InvalidArgument(f"event {number} was never recorded")
        return event


def _elapsed_ms(begun: torch.cuda.Event, ended: torch.cuda.Event) -> float:
    try:
        begun.synchronize()
        ended.synchronize()
        elapsed: float = begun.elapsed_time(ended)
    except (RuntimeError, ValueError) as exc:
        raise RemoteError(f"the time between two events: {exc}") from exc
    return elapsed
