"""What a range of a net's layers reads and changes: what has to be sent before it runs, and what is stale after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from avec.protocol.caffe import LayerDescription, NetDescription

_ALWAYS_SHARE = ("Split", "Flatten", "Reshape")
CHANGE_PARAMETERS = ("BatchNorm",)  # their forward pass writes parameters, in the phase TRAIN


@dataclass(frozen=True, slots=True)
class Flow:
    """Places are those of NetDescription.blobs and .layers."""

    reads: tuple[int, ...]  # blobs whose contents from before the range count
    changes: dict[int, int]  # blob that has new contents after it → the blob to fetch them by
    changed_parameters: tuple[int, ...]  # layers


def shares_memory(layer: LayerDescription) -> bool:
    """Whether a layer's tops are its first bottom's memory. Source: the users of Blob::ShareData in caffe/src."""
    if layer.type == "Concat":
        return len(layer.bottoms) == 1
    if layer.type == "Slice":
        return len(layer.tops) == 1
    return layer.type in _ALWAYS_SHARE


def sharing_groups(description: NetDescription) -> list[int]:
    """For each blob the first blob that it shares memory with, perhaps itself."""
    first = list(range(len(description.blobs)))
    for layer in description.layers:
        if shares_memory(layer):
            for top in layer.tops:
                first[top] = first[layer.bottoms[0]]
    return first


def given_blobs(description: NetDescription) -> frozenset[int]:
    """The blobs that no layer computes: tops of layers without bottoms, as Input is."""
    computed = {top for layer in description.layers if layer.bottoms for top in layer.tops}
    return frozenset(range(len(description.blobs))) - computed


def flow(layers: Sequence[LayerDescription], groups: Sequence[int], start: int, end: int, training: bool) -> Flow:
    """Work out what layers start…end (inclusive) read and change."""
    reads: dict[int, None] = {}
    produced: set[int] = set()
    newest: dict[int, int] = {}  # group → blob
    for layer in layers[start : end + 1]:
        reads.update(dict.fromkeys(blob for blob in layer.bottoms if blob not in produced))
        if not layer.bottoms:
            continue
        produced.update(layer.tops)
        if not shares_memory(layer):
            newest.update((groups[top], top) for top in layer.tops)
    return Flow(
        reads=tuple(reads),
        changes={blob: newest[group] for blob, group in enumerate(groups) if group in newest},
        changed_parameters=tuple(
            place for place in range(start, end + 1) if training and layers[place].type in CHANGE_PARAMETERS
        ),
    )
