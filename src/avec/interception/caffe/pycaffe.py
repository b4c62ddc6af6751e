"""caffe.Net: a net that lives at the destination, with the surface and the behaviour of pycaffe's.

Source: caffe/python/caffe/pycaffe.py and the bindings of Net<float> in _caffe.cpp. Not here yet: backward, saving
and sharing of parameters, hooks, input arrays, solvers.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from avec.interception.active import session

from .blob import Blob
from .construction import FileName, construct, existing, provide_weights
from .memory import NetArray
from .outputs import Outputs
from .remote import RemoteNet

Array: TypeAlias = npt.NDArray[Any]


class Layer:
    """One layer of a net, as Net.layers shows it."""

    __slots__ = ("_blobs", "_type")

    def __init__(self, kind: str, blobs: list[Blob]) -> None:
        self._type = kind
        self._blobs = blobs

    @property
    def type(self) -> str:
        """The layer's type, "Convolution" for instance."""
        return self._type

    @property
    def blobs(self) -> list[Blob]:
        """The learnable parameters."""
        return self._blobs


class Net:
    """A network at the destination.

    A call on it returns when the destination has been asked; what it failed with is raised by the next call that has
    to wait. Where Caffe aborts the process, an exception of avec.errors is raised.
    """

    _remote: RemoteNet
    _blobs: list[Blob]
    _layer_names: list[str]
    _blob_names: list[str]
    _inputs: list[int]
    _outputs: list[int]
    layers: list[Layer]
    blobs: OrderedDict[str, Blob]
    params: OrderedDict[str, list[Blob]]
    layer_dict: OrderedDict[str, Layer]
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
        self._remote = construct(*args, **kwargs)
        self._describe(self._remote)

    def _describe(self, remote: RemoteNet) -> None:
        description = remote.description
        self._blobs = [Blob(remote, array) for array in remote.blobs]
        self._blob_names = [blob.name for blob in description.blobs]
        self._layer_names = [layer.name for layer in description.layers]
        self._inputs = list(description.inputs)
        self._outputs = list(description.outputs)
        self.layers = [
            Layer(layer.type, [Blob(remote, array) for array in arrays])
            for layer, arrays in zip(description.layers, remote.parameters, strict=True)
        ]
        named = list(zip(self._layer_names, self.layers, strict=True))
        self.blobs = OrderedDict(zip(self._blob_names, self._blobs, strict=True))
        self.layer_dict = OrderedDict(named)
        self.params = OrderedDict((name, layer.blobs) for name, layer in named if layer.blobs)
        self.inputs = [self._blob_names[index] for index in self._inputs]
        self.outputs = [self._blob_names[index] for index in self._outputs]
        self.top_names = self._names_by_layer([layer.tops for layer in description.layers])
        self.bottom_names = self._names_by_layer([layer.bottoms for layer in description.layers])

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
        whole = {name: np.asarray(rows) for name, rows in collected.items()}
        return {name: rows[:-padding] for name, rows in whole.items()} if padding else whole

    def reshape(self) -> None:
        """Let changed shapes of blobs reach all layers; does not wait."""
        self._remote.reshape()

    def copy_from(self, filename: FileName) -> None:
        """Copy parameters from a caffemodel into the layers of the same names; waits, and uploads it if needed."""
        name = existing(filename)
        self._remote.copy_from(provide_weights(session(), name), name)

    def _forward(self, start: int, end: int) -> float:
        """Run layers by number. Returns the loss, which is 0 for a net without loss layers."""
        self._forward_wanting(start, end, self.outputs, ())
        return 0.0

    def _forward_wanting(self, start: int, end: int, names: Iterable[str], more: Iterable[str]) -> None:
        self._remote.forward(start, end, self._arrays(names), self._arrays(more))

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

    def __getattr__(self, name: str) -> Any:
        if name in _NOT_YET:
            raise AttributeError(f"Net.{name} is not there yet: AVEC's Caffe runs nets forward and does not train them")
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


_NOT_YET = frozenset(
    {"backward", "_backward", "forward_backward_all", "share_with", "save", "save_hdf5", "load_hdf5",
     "clear_param_diffs", "set_input_arrays", "_set_input_arrays", "before_forward", "after_forward",
     "before_backward", "after_backward", "blob_loss_weights", "_blob_loss_weights"}
)  # fmt: skip
