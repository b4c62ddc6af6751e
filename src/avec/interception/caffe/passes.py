"""Forward and backward passes through a net whose layers run at the destination and on the host, and hooks on them.

Layers at the destination run in ranges as long as they can be: a range ends before a layer of the host's that reads
blobs. A layer of the host's without bottoms is run while the destination still computes what came before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import index
from typing import Literal, TypeAlias

from avec.errors import InvalidArgument

from .dataflow import computes
from .host_layers import Hosted
from .memory import NetArray
from .remote import RemoteNet

Hook: TypeAlias = Callable[[int], object]
Moment: TypeAlias = Literal["before_forward", "after_forward", "before_backward", "after_backward"]


class Passes:
    """Runs one net."""

    def __init__(self, remote: RemoteNet, hosted: Mapping[int, Hosted]) -> None:
        self._remote = remote
        self._layers = remote.description.layers
        self.hosted = hosted
        self._hooks: dict[Moment, list[Hook]] = {}

    @property
    def at_destination(self) -> bool:
        """Whether the destination can run the whole net with nothing from the host."""
        return not self.hosted and not self._hooks

    @property
    def fed(self) -> bool:
        """Whether layers of the host's only feed the net, so that it can run in one piece."""
        return not self._hooks and not any(hosted.bottoms for hosted in self.hosted.values())

    def add_hook(self, moment: Moment, hook: Hook) -> None:
        """Call `hook` with the place of each layer that runs."""
        self._hooks.setdefault(moment, []).append(hook)

    def feed(self) -> None:
        """Run the layers that have no bottoms."""
        for hosted in self.hosted.values():
            if not hosted.bottoms:
                hosted.forward()

    def forward(self, start: int, end: int, results: Sequence[NetArray] = (), asked: Sequence[NetArray] = ()) -> None:
        """Run layers start…end (inclusive); see RemoteNet.forward."""
        start, end = self._checked(start, end)
        if self.at_destination:
            self._remote.forward(start, end, results, asked)
            return
        pending = start
        for place in range(start, end + 1):
            self._call("before_forward", place)
            hosted = self.hosted.get(place)
            if hosted is not None and hosted.bottoms:
                self._forward(pending, place - 1, results, [*asked, *(blob.array for blob in hosted.bottoms)])
                pending = place + 1
            if hosted is not None:
                hosted.forward()
            if self._hooks:
                self._forward(pending, place, results, asked)
                pending = place + 1
            self._call("after_forward", place)
        self._forward(pending, end, results, asked)
        if start == 0 and end == len(self._layers) - 1:
            self._remote.all_ran()

    def backward(self, start: int, end: int, results: Sequence[NetArray] = ()) -> None:
        """Run layers start…end (inclusive, start ≥ end) backwards; see RemoteNet.backward."""
        start, end = self._checked(start, end)
        if self.at_destination:
            self._remote.backward(start, end, results)
            return
        pending = start
        for place in range(start, end - 1, -1):
            self._call("before_backward", place)
            hosted = self.hosted.get(place) if self._layers[place].needs_backward else None
            if hosted is not None:
                self._backward(pending, place + 1, results, [blob.diff_array for blob in hosted.tops])
                pending = place - 1
                hosted.backward()
            elif self._hooks:
                self._backward(pending, place, results, ())
                pending = place - 1
            self._call("after_backward", place)
        self._backward(pending, end, results, ())

    def reshape(self) -> None:
        """Let changed shapes reach all layers."""
        start = 0
        for place, hosted in self.hosted.items():
            if hosted.bottoms:
                self._remote.reshape(start, place - 1)
                hosted.reshape()
                start = place + 1
        if start < len(self._layers):
            self._remote.reshape(start)

    def _forward(self, start: int, end: int, results: Iterable[NetArray], asked: Iterable[NetArray]) -> None:
        if any(computes(layer) for layer in self._layers[start : end + 1]):
            self._remote.forward(start, end, results, asked)

    def _backward(self, start: int, end: int, results: Iterable[NetArray], asked: Iterable[NetArray]) -> None:
        if any(layer.needs_backward and computes(layer) for layer in self._layers[end : start + 1]):
            self._remote.backward(start, end, results, asked)

    def _call(self, moment: Moment, place: int) -> None:
        for hook in self._hooks.get(moment, ()):
            hook(place)

    def _checked(self, start: int, end: int) -> tuple[int, int]:
        """Both as plain integers, and in the net; else Caffe aborts the process."""
        start, end, count = index(start), index(end), len(self._layers)
        if not 0 <= start < count or not 0 <= end < count:
            raise InvalidArgument(f"layers {start} to {end} of a net with {count}: they are numbered 0 to {count - 1}")
        return start, end
