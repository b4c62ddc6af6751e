"""A net's parameters in files on the host, in Caffe's two formats.

Source: Net::ToProto, Net::ToHDF5 and Net::CopyTrainedLayersFromHDF5 in caffe/src/caffe/net.cpp.
"""

from __future__ import annotations

import os

from avec.formats.caffe import caffemodel, hdf5_weights

from .building import Built
from .memory import Floats


def save(built: Built, filename: str | os.PathLike[str], diffs: bool = False) -> None:
    """Write a caffemodel; waits.

    Raises:
        OSError: the file cannot be written.
    """
    weights = _fetch(built, diff=False)
    pieces = caffemodel.encode_net(built.definition.read(), weights, _fetch(built, diff=True) if diffs else None)
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


def hdf5_as_caffemodel(built: Built, name: str) -> bytes:
    """What an HDF5 file has for the layers of a net, in the form in which it goes to a destination.

    Raises:
        InvalidData: the file cannot be read, or lacks parameters.
    """
    layers = built.remote.description.layers
    owners = {
        (layer.name, index): (layers[parameter.owner[0]].name, parameter.owner[1])
        for layer in layers
        for index, parameter in enumerate(layer.parameters)
        if parameter.owner[0] >= 0
    }
    known = {layer.name for layer in layers}
    stored = {layer: blobs for layer, blobs in hdf5_weights.read(name, name).items() if layer in known}
    return b"".join(caffemodel.encode_weights(hdf5_weights.complete(stored, owners, name)))


def _fetch(built: Built, diff: bool) -> dict[str, list[Floats]]:
    """All parameters by layer, or their diffs."""
    remote = built.remote
    sides = [[(array.diff or array) if diff else array for array in layer] for layer in remote.parameters]
    contents = iter(remote.contents([array for layer in sides for array in layer]))
    return {
        layer.name: [next(contents) for _ in arrays]
        for layer, arrays in zip(remote.description.layers, sides, strict=True)
    }
