"""Weights in HDF5, laid out as Net::ToHDF5 does: `data/<layer>/<place>`, and `diff/<layer>/<place>` beside it.

A blob that a layer shares with an earlier one is stored with its owner alone.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import Any, TypeAlias

from avec.errors import InvalidArgument, InvalidData
from avec.formats import hdf5
from avec.formats.caffe.caffemodel import Floats, Weights

Stored: TypeAlias = dict[str, dict[int, Floats]]  # layer → place → values
Place: TypeAlias = tuple[str, int]  # a layer's name, and the place of a blob in it


def write(file: hdf5.File, weights: Weights, shared: Collection[Place] = (), diffs: Weights | None = None) -> None:
    """Write a net's weights.

    Args:
        file: a name, or a file that is open for reading and writing in binary mode.
        weights: every layer of the net in its order, those without blobs too.
        shared: the blobs that belong to another layer: their values are left out, their diffs are not.
        diffs: of the same form as `weights`.

    Raises:
        InvalidArgument: a layer's name has a slash, which is HDF5's mark between groups.
        InvalidData: the file cannot be written.
    """
    source = os.fspath(file) if isinstance(file, (str, os.PathLike)) else "snapshot"
    for name in weights:
        if "/" in name or name in ("", "."):
            raise InvalidArgument(
                f"{source}: layer {name!r} cannot be saved as HDF5, where a name has no slash; rename the layer, or "
                "save a caffemodel (snapshot_format: BINARYPROTO)"
            )
    with hdf5.writing(file, source) as root:
        _write_groups(root.create_group("data"), weights, shared)
        if diffs is not None:
            _write_groups(root.create_group("diff"), diffs, ())


def _write_groups(group: Any, arrays: Weights, left_out: Collection[Place]) -> None:
    for name, blobs in arrays.items():
        layer = group.create_group(name)
        for place, values in enumerate(blobs):
            if (name, place) not in left_out:
                layer.create_dataset(str(place), data=values, dtype="<f4")


def read(file: hdf5.File, source: str) -> Stored:
    """Read all weights that a file holds.

    Raises:
        InvalidData: it is no HDF5 file, or not laid out as Caffe's weights.
    """
    with hdf5.reading(file, source) as root:
        data = hdf5.subgroup(root, "data", source)
        return {name: _layer(hdf5.subgroup(data, name, source), source) for name in data}


def _layer(group: Any, source: str) -> dict[int, Floats]:
    found = {}
    for name in group:
        if not name.isdecimal():
            raise InvalidData(f"{source}: {group.name}/{name} is no weight: a weight's name is its number from 0 on")
        found[int(name)] = hdf5.floats(group, name, source)
    return dict(sorted(found.items()))


def complete(stored: Stored, owners: Mapping[Place, Place], source: str) -> dict[str, list[Floats]]:
    """Weights as lists, with those that were left out filled in from the layers that own them.

    Args:
        owners: for each shared blob of the net the place of its owner.

    Raises:
        InvalidData: a layer's blobs have a gap that sharing does not explain.
    """
    whole: dict[str, list[Floats]] = {}
    for name, blobs in stored.items():
        shared = {place for layer, place in owners if layer == name}
        whole[name] = [
            _blob(stored, (name, place), owners, source) for place in range(1 + max([*blobs, *shared], default=-1))
        ]
    return whole


def _blob(stored: Stored, place: Place, owners: Mapping[Place, Place], source: str) -> Floats:
    for layer, index in (place, owners.get(place, place)):
        found = stored.get(layer, {}).get(index)
        if found is not None:
            return found
    raise InvalidData(
        f"{source}: layer {place[0]!r} lacks its weight {place[1]}: the file is incomplete, or of "
        "another net; save it anew"
    )
