"""What a range of a net's layers reads and changes: what has to be sent before it runs, and what is stale after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from avec.protocol.caffe import LayerDescription, NetDescription


@dataclass(frozen=True, slots=True)
class Flow:
    """Places are those of NetDescription.blobs and .layers."""

    reads: tuple[int, ...]  # blobs whose contents from before the range count
    changes: dict[int, int]  # blob that has new contents after it → the blob to fetch them by
    changed_parameters: tuple[int, ...]  # layers


def sharing_groups(description: NetDescription) -> list[int]:
    """For each blob the first blob that it shares memory with, perhaps itself."""
    first = list(range(len(description.blobs)))
    for layer in description.layers:
        if layer.shares_memory:
            for top in layer.tops:
                first[top] = first[layer.bottoms[0]]
    return first


def given_blobs(description: NetDescription) -> frozenset[int]:
    """The blobs that no layer at the destination computes: contents and shape come from the host alone."""
    computed = {top for layer in description.layers if _computes(layer) for top in layer.tops}
    return frozenset(range(len(description.blobs))) - computed


def sources(description: NetDescription) -> frozenset[int]:
    """The blobs that layers make from nothing, as DummyData does; they may be filled before the first forward."""
    return frozenset(
        top for layer in description.layers if _computes(layer) and not layer.bottoms for top in layer.tops
    )


def _computes(layer: LayerDescription) -> bool:
    return layer.type != "Input" and not layer.external


def flow(layers: Sequence[LayerDescription], groups: Sequence[int], start: int, end: int) -> Flow:
    """Work out what layers start…end (inclusive) read and change."""
    reads: dict[int, None] = {}
    produced: set[int] = set()
    newest: dict[int, int] = {}  # group → blob
    for layer in layers[start : end + 1]:
        reads.update(dict.fromkeys(blob for blob in layer.bottoms if blob not in produced))
        if not _computes(layer):
            continue
        produced.update(layer.tops)
        if not layer.shares_memory:
            newest.update((groups[top], top) for top in layer.tops)
    return Flow(
        reads=tuple(reads),
        changes={blob: newest[group] for blob, group in enumerate(groups) if group in newest},
        changed_parameters=tuple(place for place in range(start, end + 1) if layers[place].writes_parameters),
    )
