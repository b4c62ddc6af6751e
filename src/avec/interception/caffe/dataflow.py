"""What a range of a net's layers reads and changes: what has to be sent before it runs, and what is stale after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from avec.protocol.caffe import BlobRef, LayerDescription, NetDescription

OWN_DIFFS = frozenset({"Split"})  # layers that share their bottom's data with their tops, and not its diff


Range: TypeAlias = tuple[str, int, int]  # what runs layers, the first and the last of them


@dataclass(frozen=True, slots=True)
class Flow:
    """Arrays by their references."""

    reads: tuple[BlobRef, ...]  # blobs whose contents from before the range count
    changes: dict[BlobRef, BlobRef]  # blob that has new contents after it → the blob to fetch them by
    changed_parameters: tuple[BlobRef, ...]


NOTHING = Flow((), {}, ())


class Flows:
    """The flows of one net, each worked out once."""

    def __init__(self, description: NetDescription) -> None:
        self._description = description
        self._groups = sharing_groups(description)
        self._diff_groups = diff_groups(description)
        self._known: dict[Range, Flow] = {}

    def of(self, layers: Range) -> Flow:
        """What running this range changes."""
        found = self._known.get(layers)
        if found is None:
            found = self._known[layers] = self._work_out(*layers)
        return found

    def _work_out(self, kind: str, start: int, end: int) -> Flow:
        match kind:
            case "forward":
                return forward_flow(self._description, self._groups, start, end)
            case "backward":
                return backward_flow(self._description, self._diff_groups, start, end)
            case "step":
                return iteration_flow(self._description, self._groups, self._diff_groups)
            case "update":
                return update_flow(self._description)
            case "observe":
                return outputs_flow(self._description)
            case _:
                return NOTHING


def sharing_groups(description: NetDescription) -> list[int]:
    """For each blob the first blob that it shares memory with, perhaps itself."""
    return _groups(description, frozenset())


def diff_groups(description: NetDescription) -> list[int]:
    """For each blob the first blob whose diff its own is, perhaps itself."""
    return _groups(description, OWN_DIFFS)


def _groups(description: NetDescription, left_out: frozenset[str]) -> list[int]:
    first = list(range(len(description.blobs)))
    for layer in description.layers:
        if layer.shares_memory and layer.type not in left_out:
            for top in layer.tops:
                first[top] = first[layer.bottoms[0]]
    return first


def given_blobs(description: NetDescription) -> frozenset[int]:
    """The blobs that no layer at the destination computes: contents and shape come from the host alone."""
    computed = {top for layer in description.layers if computes(layer) for top in layer.tops}
    return frozenset(range(len(description.blobs))) - computed


def sources(description: NetDescription) -> frozenset[int]:
    """The blobs that layers make from nothing, as DummyData does; they may be filled before the first forward."""
    return frozenset(top for layer in description.layers if computes(layer) and not layer.bottoms for top in layer.tops)


def computes(layer: LayerDescription) -> bool:
    """Whether the destination has something to do for a layer."""
    return layer.type != "Input" and not layer.external


def forward_flow(description: NetDescription, groups: Sequence[int], start: int, end: int) -> Flow:
    """Work out what a forward pass through layers start…end (inclusive) reads and changes."""
    layers = description.layers
    reads: dict[int, None] = {}
    produced: set[int] = set()
    newest: dict[int, int] = {}  # group → blob
    for layer in layers[start : end + 1]:
        reads.update(dict.fromkeys(blob for blob in layer.bottoms if blob not in produced))
        if not computes(layer):
            continue
        produced.update(layer.tops)
        if not layer.shares_memory:
            newest.update((groups[top], top) for top in layer.tops)
    return Flow(
        reads=tuple(BlobRef(blob) for blob in reads),
        changes={BlobRef(blob): BlobRef(newest[group]) for blob, group in enumerate(groups) if group in newest},
        changed_parameters=tuple(
            BlobRef(index, place)
            for place in range(start, end + 1)
            if layers[place].writes_parameters
            for index in range(len(layers[place].parameters))
        ),
    )


def backward_flow(description: NetDescription, groups: Sequence[int], start: int, end: int) -> Flow:
    """Work out what a backward pass through layers start…end (inclusive, start ≥ end) reads and changes.

    Args:
        groups: of `diff_groups`.
    """
    layers = description.layers
    ran = [place for place in range(start, end - 1, -1) if layers[place].needs_backward and computes(layers[place])]
    reads: dict[BlobRef, None] = {}
    newest: dict[int, int] = {}  # group → blob
    for place in ran:
        layer = layers[place]
        reads.update((BlobRef(blob), None) for blob in (*layer.bottoms, *layer.tops))
        reads.update((BlobRef(top, diff=True), None) for top in layer.tops if groups[top] not in newest)
        propagating = [bottom for bottom, given in zip(layer.bottoms, layer.propagates, strict=True) if given]
        newest.update((groups[bottom], bottom) for bottom in propagating)
    return Flow(
        reads=tuple(reads),
        changes={
            BlobRef(blob, diff=True): BlobRef(newest[group], diff=True)
            for blob, group in enumerate(groups)
            if group in newest
        },
        changed_parameters=tuple(
            BlobRef(index, place, diff=True) for place in ran for index in range(len(layers[place].parameters))
        ),
    )


def iteration_flow(description: NetDescription, groups: Sequence[int], groups_of_diffs: Sequence[int]) -> Flow:
    """Work out what a solver's iteration reads and changes: both passes, and all parameters."""
    last = len(description.layers) - 1
    forward = forward_flow(description, groups, 0, last)
    backward = backward_flow(description, groups_of_diffs, last, 0)
    produced = set(forward.changes)
    return Flow(
        reads=tuple(dict.fromkeys((*forward.reads, *(ref for ref in backward.reads if ref not in produced)))),
        changes=forward.changes | backward.changes,
        changed_parameters=update_flow(description).changed_parameters,
    )


def outputs_flow(description: NetDescription) -> Flow:
    """What a solver reads when it is told that the host has driven a pass: values to be displayed."""
    return Flow(tuple(BlobRef(blob) for blob in description.outputs), {}, ())


def update_flow(description: NetDescription) -> Flow:
    """What a solver's update changes: all parameters and their diffs."""
    return Flow(
        reads=(),
        changes={},
        changed_parameters=tuple(
            BlobRef(index, place, diff)
            for place, layer in enumerate(description.layers)
            for index in range(len(layer.parameters))
            for diff in (False, True)
        ),
    )
