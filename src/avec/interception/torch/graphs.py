"""CUDA graphs: what is issued while one is captured is kept instead of sent, and recorded anew at each replay.

Everything has its address from the capture on, so a replay is the captured stretch of the stream again. While a graph
lives, the places of all storages in it are pinned: nothing else gets them. Not here: replaying faster than that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import torch

from avec.errors import UnsupportedOperation
from avec.interception.patching import Patches
from avec.protocol.torch import FIRST_ADDRESS, FIRST_TEMPLATE, FREE, Arg, ListArg, Template, TensorArg

from .memory import new_pool_id
from .rebasing import rebased
from .storages import address_of, place_of

if TYPE_CHECKING:
    from .recording import Recording


@dataclass(frozen=True, slots=True)
class _Entry:
    """One operator in a captured stretch: its place in it, its template, the storages that it takes and makes."""

    place: int
    template: Template
    inputs: frozenset[int]
    outputs: tuple[int, ...]


class Captured:
    """A stretch of the stream that can be recorded again."""

    def __init__(self, recording: Recording, numbers: list[int], floats: list[float], died: list[int]) -> None:
        """Take what `Recording.end_capture` gives."""
        self._recording = recording
        self._places: list[int] = []
        self._floats = floats
        self._generation = recording.generation
        self._entries: list[_Entry] = []
        freed: dict[int, int] = {}  # storage → where in the numbers
        for place, entry in _walk(numbers, recording.templates()):
            if entry is None:
                freed[place_of(numbers[place + 1])] = place
            else:
                self._entries.append(entry)
        made = {storage for entry in self._entries for storage in entry.outputs}
        used = made.union(*(entry.inputs for entry in self._entries))
        self._places = sorted(used)
        # What is made anew at each replay is freed: where it died in the capture, or else before the next replay.
        self._again = [each for storage in sorted(made - freed.keys()) for each in (FREE, address_of(storage))]
        strays = [place for storage, place in freed.items() if storage not in made]
        self._numbers = _without(numbers, strays)
        self._shift(strays)
        recording.arena.pin(used, [place for place in died if place in used])
        with recording.lock:
            recording.arena.give_back([place for place in died if place not in used], recording.stream)

    def replay(self) -> None:
        """Record it once more."""
        if self._generation != self._recording.generation:
            self._number_templates()
        self._recording.replay([*self._again, *self._numbers], self._floats)

    def __del__(self) -> None:
        self._recording.arena.unpin(self._places)  # others may have them

    def _number_templates(self) -> None:
        """Templates were forgotten since: they have other numbers now."""
        recording = self._recording
        with recording.lock:
            while self._generation != recording.generation:  # they may be forgotten again on the way
                self._generation = recording.generation
                for entry in self._entries:
                    self._numbers[entry.place] = recording.template(entry.template)

    def _shift(self, strays: Sequence[int]) -> None:
        """Move entries' places by what was taken away before them."""
        if strays:
            self._entries = [
                _Entry(
                    entry.place - 2 * sum(stray < entry.place for stray in strays),
                    entry.template,
                    entry.inputs,
                    entry.outputs,
                )
                for entry in self._entries
            ]


def _walk(numbers: Sequence[int], templates: dict[int, Template]) -> Iterator[tuple[int, _Entry | None]]:
    """The entries of a stretch by their places; None for one that frees."""
    place = 0
    while place < len(numbers):
        if numbers[place] == FREE:
            yield place, None
            place += 2
            continue
        assert numbers[place] >= FIRST_TEMPLATE  # nothing that binds can be captured: it would have been waited for
        template = templates[numbers[place]]
        first = place + 1
        after = first + template.numbers
        inputs = {numbers[first + number] for number in _tensor_places((*template.args, *template.kwargs.values()))}
        outputs = numbers[after : after + len(template.outputs or ())]
        yield (
            place,
            _Entry(
                place,
                template,
                frozenset(place_of(address) for address in inputs if address >= FIRST_ADDRESS),
                tuple(place_of(address) for address in outputs if address),
            ),
        )
        place = after + len(outputs)


def _tensor_places(args: Sequence[Arg]) -> Iterator[int]:
    """Which of a template's inputs are tensors' addresses."""
    for arg in args:
        if isinstance(arg, TensorArg):
            yield arg.place
        elif isinstance(arg, ListArg):
            yield from _tensor_places(arg.items)


def _without(numbers: list[int], strays: Sequence[int]) -> list[int]:
    """The numbers without the pairs at some places."""
    kept = numbers[:]
    for place in sorted(strays, reverse=True):
        del kept[place : place + 2]
    return kept


_recordings: list[Recording] = []  # none or one: torch makes graphs by calling their class


class NativeGraph:
    """Stands in for torch._C._CUDAGraph, on which torch's own Python class for graphs is built."""

    _captured: Captured | None
    _id: tuple[int, int]

    def __new__(cls, keep_graph: bool = False, **_: Any) -> Any:
        """Make an empty graph."""
        graph = super().__new__(cls)
        graph._captured = None
        graph._id = new_pool_id()
        return graph

    def __init__(self, keep_graph: bool = False, **_: Any) -> None:
        """Do nothing: captured graphs are all kept."""

    def capture_begin(self, pool: Any = None, capture_error_mode: str = "global") -> None:
        """Begin to keep what is issued."""
        recording = _recordings[0]
        if self._captured is not None:
            raise RuntimeError(
                "This CUDAGraph instance already owns a captured graph. To capture a new graph, create a new instance."
            )
        if recording.capturing:
            raise RuntimeError("a CUDA graph is being captured already; only one can be at a time")
        if not torch.cuda.current_stream().stream_id:
            raise RuntimeError(
                "CUDA graphs must be captured on a non-default stream. (However, after capture, it's ok to replay them"
                " on the default stream.)"
            )
        if pool is not None:
            self._id = tuple(pool)
        recording.begin_capture()

    def capture_end_pre(self) -> None:
        """End the capture."""
        recording = _recordings[0]
        if not recording.capturing:
            raise RuntimeError("capture_end() called before capture_begin()")
        numbers, floats, died = recording.end_capture()
        self._captured = Captured(recording, numbers, floats, died)

    def capture_end_post(self) -> None:
        """Do nothing: there is no template to be given up."""

    def capture_end(self) -> None:
        """End the capture, in torch before 2.14."""
        NativeGraph.capture_end_pre(self)

    def instantiate(self) -> None:
        """Do nothing: a captured graph can be replayed."""
        self._existing()

    @property
    def _has_graph_exec(self) -> bool:
        return self._captured is not None

    def replay(self) -> None:
        """Have all that was captured be done once more."""
        self._existing().replay()

    def reset(self) -> None:
        """Forget what was captured."""
        self._captured = None

    def pool(self) -> tuple[int, int]:
        """Return the name of the pool that the graph's memory is in."""
        return self._id

    def pools(self) -> list[tuple[int, int]]:
        """Return the names of all its pools."""
        return [self._id]

    def _retain_pool(self, pool: Any) -> None:
        """Do nothing: what a graph uses is kept as long as the graph."""

    def register_generator_state(self, generator: Any) -> None:
        """Do nothing: replays draw random numbers as eager mode would."""

    def enable_debug_mode(self) -> None:
        """Do nothing: there is no graph of CUDA's to show."""

    def debug_dump(self, *_: Any, **__: Any) -> NoReturn:
        """Raise UnsupportedOperation."""
        raise _no_native_graph("debug_dump")

    def raw_cuda_graph(self) -> NoReturn:
        """Raise UnsupportedOperation."""
        raise _no_native_graph("raw_cuda_graph")

    def raw_cuda_graph_exec(self) -> NoReturn:
        """Raise UnsupportedOperation."""
        raise _no_native_graph("raw_cuda_graph_exec")

    def _existing(self) -> Captured:
        if self._captured is None:
            raise RuntimeError("Called CUDAGraph::replay without a preceding successful capture.")
        return self._captured


def _no_native_graph(name: str) -> UnsupportedOperation:
    return UnsupportedOperation(
        f"CUDAGraph.{name}: there is no CUDA graph in this process; capture and replay() work without it"
    )


def patch(patches: Patches, recording: Recording) -> None:
    """Give torch graphs of the destination's."""
    _recordings[:] = [recording]
    cuda_graph = rebased(torch.cuda.graphs.CUDAGraph, NativeGraph)
    for module in (torch.cuda, torch.cuda.graphs):
        patches.replace(module, "CUDAGraph", lambda original: cuda_graph)
    if hasattr(torch.accelerator, "Graph"):  # since torch 2.12
        graph = rebased(torch.accelerator.graphs.Graph, NativeGraph)
        for owner in (torch.accelerator, torch.accelerator.graphs):
            patches.replace(owner, "Graph", lambda original: graph)
    for owner in (torch._C, torch.cuda.graphs):
        patches.replace(owner, "_cuda_isCurrentStreamCapturing", lambda original: lambda: recording.capturing)
        patches.replace(owner, "_graph_pool_handle", lambda original: new_pool_id)
