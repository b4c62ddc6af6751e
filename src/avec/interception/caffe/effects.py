"""What requests do to a net at the destination, so that a pass makes those before it needless where it does.

Of a net that runs forward again and again the last pass is all that another worker would have to make again. What is
not sure to be so is taken for a change of anything.
"""

from __future__ import annotations

from collections.abc import Sequence

from avec.host.journal import CHANGES, READS, Effect, Thing
from avec.protocol.caffe import Forward, NetDescription, NetRequest, Read, Reshape, Reshaped, SolverRequest

from .dataflow import Flows


class Effects:
    """The effects of requests on one net."""

    def __init__(self, handle: int, description: NetDescription, flows: Flows) -> None:
        self._handle = handle
        self._flows = flows
        self._last = len(description.layers) - 1
        self._blobs = range(len(description.blobs))
        self._remembers = any(layer.remembers or layer.writes_parameters for layer in description.layers)
        self._written: set[Thing] = set()  # what requests have overwritten apart from passes
        self.shared = False  # parameters are those of another net as well

    def of(self, request: NetRequest | SolverRequest) -> Effect:
        """What a request does to the net."""
        if isinstance(request, Read) and not request.writes and not request.reshaped:
            return READS
        if self.shared or isinstance(request, SolverRequest):
            return CHANGES
        contents, shapes = self._contents(request), self._shapes(request.reshaped)
        match request:
            case Read(reshaped=()):
                self._written |= contents
                return Effect(frozenset(contents), reads=frozenset())
            case Reshape(writes=(), start=0, end=-1) if shapes:
                self._written |= shapes
                return Effect(frozenset(shapes), reads=frozenset({self._shape(each) for each in self._blobs} - shapes))
            case Forward() if not self._remembers and self._overwrites_all(request):
                given = contents | shapes
                self._written |= given
                passed: Thing = (self._handle, ("pass", request.start, request.end))
                return Effect(frozenset(given | {passed}), None if request.start else frozenset(self._written - given))
        return CHANGES

    def _overwrites_all(self, request: Forward) -> bool:
        """Whether a pass depends on no blob that it changes itself, and shapes reach all layers if any is new."""
        end = self._last if request.end == -1 else request.end
        if request.reshaped and (request.start > 0 or end < self._last):
            return False
        flow = self._flows.of(("forward", request.start, end))
        return not any(ref in flow.changes and ref not in request.writes for ref in flow.reads)

    def _contents(self, request: NetRequest) -> set[Thing]:
        return {(self._handle, ref) for ref in request.writes}

    def _shapes(self, reshaped: Sequence[Reshaped]) -> set[Thing]:
        return {self._shape(each.index) for each in reshaped}

    def _shape(self, index: int) -> Thing:
        return self._handle, ("shape", index)
