"""The host's side of a net's arrays, made from its description: which share memory, and what they hold at first."""

from __future__ import annotations

from collections.abc import Sequence

from avec.protocol.caffe import BlobRef, NetDescription

from .dataflow import diff_groups, given_blobs, sharing_groups, sources
from .memory import Memory, NetArray


def blob_arrays(description: NetDescription) -> list[NetArray]:
    """The blobs, each with its diff."""
    groups, given, filled = sharing_groups(description), given_blobs(description), sources(description)
    # Before the first forward all other blobs are zeros, on both sides.
    data = _arrays(description, groups, [index in filled for index in range(len(groups))], diff=False)
    # So are their diffs, but that a loss's diff is its weight.
    weighted = {
        top
        for layer in description.layers
        for top, weight in zip(layer.tops, layer.loss_weights, strict=False)
        if weight
    }
    groups = diff_groups(description)
    stale = {groups[index] for index in weighted}
    diffs = _arrays(description, groups, [index in stale for index in range(len(groups))], diff=True)
    for index, (array, diff) in enumerate(zip(data, diffs, strict=True)):
        array.given, array.diff = index in given, diff
    return data


def _arrays(description: NetDescription, groups: Sequence[int], stale: Sequence[bool], diff: bool) -> list[NetArray]:
    arrays: list[NetArray] = []
    for index, blob in enumerate(description.blobs):
        ref, group = BlobRef(index, diff=diff), groups[index]
        memory = Memory(ref, blob.shape, stale[index]) if group == index else arrays[group].memory
        arrays.append(NetArray(ref, blob.shape, memory))
    return arrays


def parameter_arrays(description: NetDescription) -> list[list[NetArray]]:
    """Each layer's parameters, each with its diff."""
    arrays: list[list[NetArray]] = []
    for place, layer in enumerate(description.layers):
        arrays.append([])
        for index, parameter in enumerate(layer.parameters):
            ref, (owner, its_index) = BlobRef(index, place), parameter.owner
            found = arrays[owner][its_index] if owner >= 0 else None
            diff_ref = BlobRef(index, place, diff=True)
            diff = NetArray(
                diff_ref,
                parameter.shape,
                found.diff.memory if found and found.diff else Memory(diff_ref, parameter.shape, stale=True),
                given=True,
            )
            memory = found.memory if found else Memory(ref, parameter.shape, stale=True)
            arrays[-1].append(NetArray(ref, parameter.shape, memory, given=True, diff=diff))
    return arrays


def known_so_far(blobs: Sequence[NetArray], description: NetDescription) -> None:
    """Give arrays the shapes that a description of a net under construction has by now."""
    for array, blob in zip(blobs, description.blobs, strict=True):
        if array.shape != blob.shape:
            array.resize(blob.shape)


def awaited_arrays(description: NetDescription) -> list[NetArray]:
    """Arrays of a net under construction: each has memory of its own until the net is complete."""
    arrays = []
    for index, blob in enumerate(description.blobs):
        memory, diff = (Memory(BlobRef(index, diff=each), blob.shape, stale=False) for each in (False, True))
        arrays.append(NetArray(memory.origin, blob.shape, memory, diff=NetArray(diff.origin, blob.shape, diff)))
    return arrays
