"""caffe.Net: a net that lives at the destination, with the surface and the behaviour of pycaffe's.

Source: caffe/python/caffe/pycaffe.py and the bindings of Net<float> in _caffe.cpp.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from . import python_layer, randomness, weights
from .blob import Blob
from .building import Built
from .construction import FileName, construct, copy_weights, existing, load_hdf5
from .data import MemorySource
from .host_layers import HostLayer, SourceLayer
from .memory import NetArray
from .outputs import Outputs
from .passes import Moment
from .python_layer import BlobVec

Array: TypeAlias = npt.NDArray[Any]


class Layer:
    """One layer of a net, as Net.layers shows it."""

    __slots__ = ("_blobs", "_type")

    def __init__(self, kind: str, blobs: BlobVec) -> None:
        self._type = kind
        self._blobs = blobs

    @property
    def type(self) -> str:
        """The layer's type, "Convolution" for instance."""
        return self._type

    @property
    def blobs(self) -> BlobVec:
        """The learnable parameters."""
        return self._blobs


class Net:
    """A network at the destination.

    A call on it returns when the destination has been asked; what it failed with is raised by the next call that has
    to wait. Where Caffe aborts the process, an exception of avec.errors is raised.
    """

    _built: Built
    _blobs: list[Blob]
    _layer_names: list[str]
    _blob_names: list[str]
    _inputs: list[int]
    _outputs: list[int]
    _blob_loss_weights: list[float]
    layers: list[Layer | HostLayer | python_layer.Layer]
    blobs: OrderedDict[str, Blob]
    blob_loss_weights: OrderedDict[str, float]
    params: OrderedDict[str, list[Blob]]
    layer_dict: OrderedDict[str, Layer | HostLayer | python_layer.Layer]
    inputs: list[str]
    outputs: list[str]
    top_names: OrderedDict[str, list[str]]
    bottom_names: OrderedDict[str, list[str]]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Take (network_file, phase, level=0, stages=None, weights=None), or (network_file, weights_file, phase).

        Blocks until the net is built; the weights are uploaded if the destination does not have them yet.

        Raises:
            RuntimeError: a file cannot be opened.
            InvalidModel: a file cannot be read, or the net and the weights do not fit.
            UnsupportedOperation: the destination does not know a layer's type.
        """
        self._describe(construct(*args, **kwargs))

    @classmethod
    def _of(cls, built: Built) -> Self:
        """Make the Net of what a solver has built."""
        net = cls.__new__(cls)
        net._describe(built)
        return net

    def _describe(self, built: Built) -> None:
        remote = built.remote
        description = remote.description
        self._built, self._remote, self._passes = built, remote, built.passes
        self._blobs = built.blobs
        self._blob_names = [blob.name for blob in description.blobs]
        self._layer_names = [layer.name for layer in description.layers]
        self._inputs = list(description.inputs)
        self._outputs = list(description.outputs)
        self._blob_loss_weights = [0.0] * len(self._blobs)
        for described in description.layers:
            for top, weight in zip(described.tops, described.loss_weights, strict=False):
                self._blob_loss_weights[top] = weight
        self.layers = [
            built.passes.hosted[place].layer
            if place in built.passes.hosted
            else Layer(layer.type, BlobVec(Blob(remote, array) for array in arrays))
            for place, (layer, arrays) in enumerate(zip(description.layers, remote.parameters, strict=True))
        ]
        named = list(zip(self._layer_names, self.layers, strict=True))
        self.blobs = OrderedDict(zip(self._blob_names, self._blobs, strict=True))
        self.blob_loss_weights = OrderedDict(zip(self._blob_names, self._blob_loss_weights, strict=True))
        self.layer_dict = OrderedDict(named)
        self.params = OrderedDict((name, layer.blobs) for name, layer in named if layer.blobs)
        self.inputs = [self._blob_names[index] for index in self._inputs]
        self.outputs = [self._blob_names[index] for index in self._outputs]
        self.top_names = self._names_by_layer([layer.tops for layer in description.layers])
        self.bottom_names = self._names_by_layer([layer.bottoms for layer in description.layers])
        randomness.follow(remote)

    def _names_by_layer(self, places: Iterable[Sequence[int]]) -> OrderedDict[str, list[str]]:
        names = [[self._blob_names[index] for index in each] for each in places]
        return OrderedDict(zip(self._layer_names, names, strict=True))

    def _top_ids(self, layer: int) -> list[int]:
        return list(self._remote.description.layers[layer].tops)

    def _bottom_ids(self, layer: int) -> list[int]:
        return list(self._remote.description.layers[layer].bottoms)

    def forward(
        self, blobs: list[str] | None = None, start: str | None = None, end: str | None = None, **kwargs: Array
    ) -> dict[str, Array]:
        """Run the net, or its layers from `start` to `end`, both included. Waits only where views are held.

        Args:
            blobs: names of more blobs to return.
            kwargs: input name → contents, of the input's shape; either none or all inputs.

        Returns:
            The outputs, or the tops of `end`, by name; see Outputs. They show the newest contents, as in pycaffe.
        """
        more = blobs or []
        first = 0 if start is None else self._layer_names.index(start)
        if end is None:
            last, names = len(self.layers) - 1, self.outputs + more
        else:
            last, names = self._layer_names.index(end), self.top_names[end] + more
        self._give(kwargs)
        results = Outputs({name: self.blobs[name] for name in names})
        self._forward_wanting(first, last, names, more)
        self._remote.watch(results)
        return results

    def forward_all(self, blobs: list[str] | None = None, **kwargs: Array) -> dict[str, Array]:
        """Run the net on any number of items, a batch at a time; the last batch is filled up with zeros.

        Args:
            blobs: names of more blobs to return.
            kwargs: input name → items; all inputs.

        Returns:
            Name → array with one row for each item.
        """
        collected: dict[str, list[Array]] = {name: [] for name in self.outputs + (blobs or [])}
        for batch in self._batch(kwargs):
            for name, view in self.forward(blobs, None, None, **batch).items():
                collected[name].extend(view.copy())
        count = len(next(iter(kwargs.values())))
        padding = len(next(iter(collected.values()))) - count
        return _unpadded(collected, padding)

    def backward(
        self, diffs: list[str] | None = None, start: str | None = None, end: str | None = None, **kwargs: Array
    ) -> dict[str, Array]:
        """Run the net, or its layers from `start` back to `end`, both included, backwards.

        Args:
            diffs: names of more blobs whose diffs to return.
            kwargs: output name → diff, of the output's shape; either none or all outputs.

        Returns:
            The diffs of the inputs, or of the bottoms of `end`, by name.
        """
        more = diffs or []
        first = len(self.layers) - 1 if start is None else self._layer_names.index(start)
        if end is None:
            last, names = 0, self.inputs + more
        else:
            last, names = self._layer_names.index(end), self.bottom_names[end] + more
        if kwargs:
            if kwargs.keys() != set(self.outputs):
                raise Exception("Top diff arguments do not match net outputs.")
            for name, contents in kwargs.items():
                blob = self.blobs[name]
                if contents.shape[0] != blob.shape[0]:
                    raise Exception("Diff is not batch sized")
                blob.diff[...] = contents
        results = Outputs({name: self.blobs[name] for name in names}, diff=True)
        self._passes.backward(first, last, [self.blobs[name].diff_array for name in names])
        self._remote.watch(results)
        return results

    def forward_backward_all(
        self, blobs: list[str] | None = None, diffs: list[str] | None = None, **kwargs: Array
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        """Run the net forward and backward on any number of items, a batch at a time.

        Args:
            blobs, diffs: as for forward and backward.
            kwargs: input or output name → items, or diffs of items.

        Returns:
            Name → array with one row for each item, of blobs and of diffs.
        """
        outs: dict[str, list[Array]] = {name: [] for name in self.outputs + (blobs or [])}
        gradients: dict[str, list[Array]] = {name: [] for name in self.inputs + (diffs or [])}
        inputs = self._batch({name: kwargs[name] for name in self.inputs if name in kwargs})
        tops = self._batch({name: kwargs[name] for name in self.outputs if name in kwargs})
        nothing: dict[str, Array] = {}
        for batch, top_diffs in itertools.zip_longest(inputs, tops, fillvalue=nothing):
            found = self.forward(blobs, None, None, **batch)
            found_diffs = self.backward(diffs, None, None, **top_diffs)
            for name, rows in found.items():
                outs[name].extend(rows.copy())
            for name, rows in found_diffs.items():
                gradients[name].extend(rows.copy())
        count = len(next(iter(kwargs.values())))
        padding = len(next(iter(outs.values()))) - count
        return _unpadded(outs, padding), _unpadded(gradients, padding)

    def reshape(self) -> None:
        """Let changed shapes of blobs reach all layers; does not wait."""
        self._passes.reshape()

    def copy_from(self, filename: FileName) -> None:
        """Copy parameters from a caffemodel into the layers of the same names; waits, and uploads it if needed."""
        copy_weights(self._built, existing(filename))

    def save(self, filename: FileName) -> None:
        """Write the net with its parameters as a caffemodel; waits."""
        weights.save(self._built, filename)

    def save_hdf5(self, filename: FileName) -> None:
        """Write the parameters as HDF5; waits."""
        weights.save_hdf5(self._built, filename)

    def load_hdf5(self, filename: FileName) -> None:
        """Copy parameters from an HDF5 file into the layers of the same names."""
        load_hdf5(self._built, existing(filename))

    def share_with(self, other: Net) -> None:
        """Use the parameters of another net's layers of the same names from now on; the diffs stay the net's own."""
        if not isinstance(other, Net):
            raise TypeError(f"Net.share_with takes a Net, not {type(other).__name__}")
        self._remote.share_with(other._remote)
        self._borrow(other)

    def _borrow(self, other: Net) -> None:
        """Let the parameters of layers of the same names be the other net's, as they are at the destination."""
        for name, theirs in other.layer_dict.items():
            mine = self.layer_dict.get(name)
            for blob, lent in zip(mine.blobs if mine else (), theirs.blobs, strict=False):
                blob.share_data(lent)
        self._remote.borrow(other._remote)

    def clear_param_diffs(self) -> None:
        """Set the diffs of all parameters to 0."""
        self._remote.clear_diffs()

    def set_input_arrays(self, data: Array, labels: Array) -> None:
        """Give the net's MemoryData layer, which has to be the first, the arrays to read from; they are not copied."""
        if labels.ndim == 1:
            labels = np.ascontiguousarray(labels[:, np.newaxis, np.newaxis, np.newaxis])
        self._set_input_arrays(data, labels)

    def _set_input_arrays(self, data: Array, labels: Array) -> None:
        first = self.layers[0]
        if not isinstance(first, SourceLayer) or not isinstance(first.source, MemorySource):
            raise RuntimeError("set_input_arrays may only be called if the first layer is a MemoryDataLayer")
        first.source.set_input_arrays(data, labels)

    def before_forward(self, run: Callable[[int], object]) -> None:
        """Call `run` with a layer's number before each layer runs; layers then run one by one."""
        self._hook("before_forward", run)

    def after_forward(self, run: Callable[[int], object]) -> None:
        """Call `run` with a layer's number after each layer ran; layers then run one by one."""
        self._hook("after_forward", run)

    def before_backward(self, run: Callable[[int], object]) -> None:
        """Call `run` with a layer's number before each layer runs backwards."""
        self._hook("before_backward", run)

    def after_backward(self, run: Callable[[int], object]) -> None:
        """Call `run` with a layer's number after each layer ran backwards."""
        self._hook("after_backward", run)

    def _hook(self, moment: Moment, run: Callable[[int], object]) -> None:
        self._passes.add_hook(moment, run)

    def _forward(self, start: int, end: int) -> float:
        """Run layers by number. Returns their loss; waits for it where there is one."""
        places = [place for layer in self._remote.description.layers[start : end + 1] for place in layer.tops]
        losses = [place for place in dict.fromkeys(places) if self._blob_loss_weights[place]]
        arrays = [self._blobs[place].array for place in losses]
        self._passes.forward(start, end, self._arrays(self.outputs), arrays)
        return float(sum(self._blob_loss_weights[place] * self._blobs[place].data.sum() for place in losses))

    def _backward(self, start: int, end: int) -> None:
        """Run layers by number backwards, from start down to end."""
        self._passes.backward(start, end)

    def _forward_wanting(self, start: int, end: int, names: Iterable[str], more: Iterable[str]) -> None:
        self._passes.forward(start, end, self._arrays(names), self._arrays(more))

    def _arrays(self, names: Iterable[str]) -> list[NetArray]:
        by_name = self.blobs
        return [by_name[name].array for name in names]

    def _give(self, inputs: Mapping[str, Array]) -> None:
        if not inputs:
            return
        if inputs.keys() != set(self.inputs):
            raise Exception("Input blob arguments do not match net inputs.")
        for name, contents in inputs.items():
            blob = self.blobs[name]
            if contents.shape[0] != blob.shape[0]:
                raise Exception("Input is not batch sized")
            blob.data[...] = contents

    def _batch(self, items: Mapping[str, Array]) -> Iterator[dict[str, Array]]:
        """Cut items into batches of the first blob's size, the last one filled up with zeros."""
        if not items:
            return
        count = len(next(iter(items.values())))
        size = next(iter(self.blobs.values())).shape[0]
        for begin in range(0, count, size):
            batch = {name: np.asarray(rows[begin : begin + size]) for name, rows in items.items()}
            missing = size - min(size, count - begin)
            if missing:
                batch = {
                    name: np.concatenate([rows, np.zeros((missing, *rows.shape[1:]))]) for name, rows in batch.items()
                }
            yield batch


def _unpadded(rows: Mapping[str, list[Array]], padding: int) -> dict[str, Array]:
    whole = {name: np.asarray(each) for name, each in rows.items()}
    return {name: each[:-padding] for name, each in whole.items()} if padding else whole
