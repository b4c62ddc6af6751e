"""A net's parameters in files on the host, in Caffe's two formats.

Source: Net::ToProto, Net::ToHDF5 and Net::CopyTrainedLayersFromHDF5 in caffe/src/caffe/net.cpp.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from avec.errors import InvalidModel
from avec.formats.caffe import caffemodel, hdf5_weights

from .building import Built
from .memory import Floats, NetArray


def save(built: Built, filename: str | os.PathLike[str], diffs: bool = False) -> None:
    """Write a caffemodel; waits.

    Raises:
        OSError: the file cannot be written.
    """
    weights = _fetch(built, diff=False)
    pieces = caffemodel.encode_net(built.definition(), weights, _fetch(built, diff=True) if diffs else None)
    with open(filename, "wb") as file:
        file.writelines(pieces)


def save_hdf5(built: Built, filename: str | os.PathLike[str], diffs: bool = False) -> None:
    """Write the parameters as HDF5; waits."""
    layers = built.remote.description.layers
    shared = [
        (layer.name, index)
        for layer in layers
        for index, parameter in enumerate(layer.parameters)
        if parameter.owner[0] >= 0
    ]
    hdf5_weights.write(
        os.fspath(filename), _fetch(built, diff=False), shared, _fetch(built, diff=True) if diffs else None
    )


def load_hdf5(built: Built, name: str) -> None:
    """Copy parameters from an HDF5 file into the layers of the same names; they are sent with the next request.

    Raises:
        InvalidData: the file cannot be read.
        InvalidModel: a layer has other parameters in it.
    """
    remote = built.remote
    layers = remote.description.layers
    owners = {
        (layer.name, index): (layers[parameter.owner[0]].name, parameter.owner[1])
        for layer in layers
        for index, parameter in enumerate(layer.parameters)
        if parameter.owner[0] >= 0
    }
    stored = hdf5_weights.read(name, name)
    known = {layer.name for layer in layers}
    whole = hdf5_weights.complete({key: value for key, value in stored.items() if key in known}, owners, name)
    for layer, arrays in zip(layers, remote.parameters, strict=True):
        if layer.name in whole:
            _check(layer.name, arrays, whole[layer.name], name)
    for layer, arrays in zip(layers, remote.parameters, strict=True):
        for array, values in zip(arrays, whole.get(layer.name, ()), strict=False):
            remote.put_parameter(array, values)


def _check(layer: str, arrays: Sequence[NetArray], found: Sequence[Floats], name: str) -> None:
    if len(found) < len(arrays):
        raise InvalidModel(
            f"{name}: layer {layer!r} has {len(found)} parameters there and {len(arrays)} in the net; "
            "rename the layer to learn it anew, or give the net the layer that the file has"
        )
    for index, (array, values) in enumerate(zip(arrays, found, strict=False)):
        if values.shape != array.shape:
            raise InvalidModel(
                f"{name}: parameter {index} of layer {layer!r} has the shape {values.shape} there and {array.shape} "
                "in the net; rename the layer to learn it anew, or give the net the layer that the file has"
            )


def _fetch(built: Built, diff: bool) -> dict[str, list[Floats]]:
    """All parameters by layer, or their diffs."""
    remote = built.remote
    sides = [[(array.diff or array) if diff else array for array in layer] for layer in remote.parameters]
    contents = iter(remote.contents([array for layer in sides for array in layer]))
    return {
        layer.name: [next(contents) for _ in arrays]
        for layer, arrays in zip(remote.description.layers, sides, strict=True)
    }
