"""A Caffe net behind cv2.dnn.Net. It is computed by the destination's Caffe executor, which uses the accelerator and
needs no importer of OpenCV's: that of OpenCV 4 computes on the CPU in most builds, and OpenCV 5 has none.

It answers what a RemoteObject would answer of a net of OpenCV's own.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from inspect import signature
from typing import Any, NoReturn, cast

import cv2
import msgspec
import numpy as np

from avec import config
from avec.errors import ExecutionError, SessionLost, UnsupportedOperation
from avec.host.calls import Call
from avec.host.journal import CHANGES, READS, Effect, Thing
from avec.host.models import provide
from avec.interception import session
from avec.protocol.caffe import (
    WEIGHTS,
    BlobRef,
    Forward,
    LoadNet,
    NetDescription,
    NetRequest,
    Read,
    Reshaped,
)
from avec.tensor import Array

from .arguments import ModelFile, UnsendableArgument
from .caffe_layers import INPUT_NAME, INPUT_TYPE, Layer, Layers, NotFound, types_of
from .failures import as_opencv
from .raising import opencv_error, refuse
from .remote import COPY_LIMIT, Pending

FORMAT = "caffe"

_ENCODER = msgspec.msgpack.Encoder()
_DESCRIPTIONS = msgspec.msgpack.Decoder(NetDescription)
_IGNORED = frozenset({"enableFusion", "enableWinograd", "setPreferableBackend", "setPreferableTarget"})
_FORMS = frozenset({"outputName", "outputBlobs", "outBlobNames"})  # keywords of forward
_WEIGHTED = frozenset({"getFLOPS", "getLayersShapes", "getMemoryConsumption"})  # what depends on layers' parameters


@dataclass(frozen=True, slots=True)
class Model:
    """The two files of a Caffe net."""

    prototxt: bytes
    weights: ModelFile | None
    source: str  # the prototxt's name, for messages
    reread: Callable[..., Any] | None  # reads these files with the host's OpenCV, if it has an importer


class CaffeNet:
    """One net at the destination; its handle is released when nobody refers to this any more."""

    def __init__(self, model: Model) -> None:
        """Have the net built; blocks.

        Raises:
            cv2.error: it cannot be built.
            DestinationError: the destination failed.
        """
        self._model = model
        self._session = session()
        self._process = os.getpid()
        self._handle = self._session.new_handle()
        self._written: set[Thing] = set()  # what requests have overwritten apart from passes
        self._passes_are_alone = False  # none depends on one before it, as its inputs are what was given
        weakref.finalize(self, self._session.release, self._handle).atexit = False
        with as_opencv():
            self.layers = Layers(self._load())
        self._shapes = {index: self._description.blobs[index].shape for index in self.layers.inputs.values()}
        self._inputs: dict[int, Array] = {}  # not sent yet
        self._reshaped: dict[int, tuple[int, ...]] = {}
        self._last: Call | None = None  # the last forward pass

    @property
    def input_shapes(self) -> list[tuple[int, ...]]:
        """The shapes of the inputs, in the net's order."""
        return list(self._shapes.values())

    def invoke(self, method: str, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> object:
        """Do what a method of cv2.dnn.Net does; blocks for its result. Raises as Remote.invoke."""
        if method in _IGNORED:
            return None
        answer = getattr(type(self), f"_{method.replace('().', '_')}", None)
        if answer is None:
            return self._ask_opencv(method, args, kwargs or {})
        check_arguments(answer, self, args, kwargs or {})
        try:
            return cast(object, answer(self, *args, **kwargs or {}))
        except NotFound as exc:
            self._complain(exc)

    def defer(self, method: str, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> None:
        """Do what a method does that gives nothing."""
        self.invoke(method, args, kwargs)

    def issue(self, method: str, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> Pending:
        """Begin a forward pass; gives its result to come."""
        if method != "forward":
            refuse(f"dnn.Net.{method}", "without waiting for it")
        try:
            return self._issue_forward(*args, **kwargs or {})
        except NotFound as exc:
            self._complain(exc)

    def flush(self) -> None:
        """Nothing waits here for another call."""

    # What follows are the methods of cv2.dnn.Net, by their names.

    def _empty(self) -> bool:
        return not self.layers.all

    def _setInput(self, blob: Any, name: str = "", scalefactor: float = 1.0, mean: Any = ()) -> None:
        index = self.layers.input(name)
        values = _normalised(blob, scalefactor, mean)
        if values.shape != self._shapes[index]:
            self._shapes[index] = self._reshaped[index] = values.shape
        self._inputs[index] = values
        if values.nbytes > COPY_LIMIT:
            self._run("opencv.setInput", lambda writes, reshaped: Read(writes, reshaped)).wait_sent()
        elif isinstance(blob, np.ndarray) and np.may_share_memory(values, blob):
            self._inputs[index] = values.copy()

    def _forward(self, first: Any = None, second: Any = None, **kwargs: Any) -> object:
        return self._issue_forward(first, second, **kwargs).wait()

    def _issue_forward(self, first: Any = None, second: Any = None, **kwargs: Any) -> Pending:
        """All forms of Net::forward: a name or none gives one array; names, or room for arrays, a tuple of them."""
        if not kwargs.keys() <= _FORMS or not isinstance(first, str | list | tuple | None):
            raise UnsendableArgument("cv2: forward takes the names of layers")
        several = "outputBlobs" in kwargs or isinstance(first, list | tuple)
        names = kwargs.get("outBlobNames") or (first if isinstance(first, list | tuple) else ())
        if names:
            return self._outputs([(self.layers.find(name), (0,)) for name in names], tuple)
        name = kwargs.get("outputName") or (second if several else first)
        layer = self.layers.find(name) if name else self.layers.all[-1]
        if several:
            return self._outputs([(layer, range(len(layer.described.tops)))], tuple)
        return self._outputs([(layer, (0,))], lambda arrays: arrays[0])

    def _forwardAndRetrieve(self, outBlobNames: Sequence[str]) -> object:
        layers = [self.layers.find(name) for name in outBlobNames]

        def grouped(arrays: list[Array]) -> object:
            given = iter(arrays)
            return tuple(tuple(next(given) for _ in layer.described.tops) for layer in layers)

        return self._outputs([(layer, range(len(layer.described.tops))) for layer in layers], grouped).wait()

    def _getLayerNames(self) -> tuple[str, ...]:
        return tuple(layer.described.name for layer in self.layers.all)

    def _getLayerId(self, layer: str) -> int:
        return self.layers.number(layer)

    def _getLayer(self, layer: int | str) -> dict[str, object]:
        if layer in (0, INPUT_NAME):
            return {"name": INPUT_NAME, "type": "", "preferableTarget": 0}
        found = self.layers.find(layer).described
        return {"name": found.name, "type": found.type, "preferableTarget": 0}

    def _getLayer_blobs(self, layer: int | str) -> tuple[Array, ...]:
        found = () if layer == INPUT_NAME else self.layers.find(layer).described.parameters
        return tuple(self._getParam(layer, index) for index in range(len(found)))

    def _getLayer_outputNameToIndex(self, layer: str, outputName: str) -> int:
        tops = self.layers.find(layer).described.tops
        names = [self._description.blobs[top].name for top in tops]
        return names.index(outputName) if outputName in names else -1

    def _getLayerTypes(self) -> tuple[str, ...]:
        return tuple(types_of(self.layers.all))

    def _getLayersCount(self, layerType: str) -> int:
        if layerType == INPUT_TYPE:
            return 1
        return sum(layer.described.type == layerType for layer in self.layers.all)

    def _getUnconnectedOutLayers(self) -> Array:
        return np.array([layer.number for layer in self.layers.unconnected()], np.int32)

    def _getUnconnectedOutLayersNames(self) -> tuple[str, ...]:
        return tuple(layer.described.name for layer in self.layers.unconnected())

    def _getParam(self, layer: int | str, numParam: int = 0) -> Array:
        found = self.layers.find(layer)
        request = Read(wanted=(BlobRef(numParam, found.place),))
        with as_opencv():
            values = self._call("opencv.getParam", request).wait().arrays[0]
        if values.ndim > 1:
            return values
        # OpenCV keeps biases as columns, but those of InnerProduct as rows. Source: fully_connected_layer.cpp.
        return values.reshape((1, -1) if found.described.type == "InnerProduct" else (-1, 1))

    def _setParam(self, layer: int | str, numParam: int, blob: Any) -> None:
        found = self.layers.find(layer)
        values = np.ascontiguousarray(blob, np.float32)
        with as_opencv():
            self._call("opencv.setParam", Read(writes=(BlobRef(numParam, found.place),)), [values]).wait()

    def _getPerfProfile(self) -> tuple[int, Array]:
        """The destination's time for the last forward pass, in ticks; it is not known for each layer."""
        timings = self._last.progress.timings if self._last is not None and self._last.done else None
        ticks = timings.compute_ns * cv2.getTickFrequency() / 1e9 if timings is not None else 0.0
        return int(ticks), np.array([ticks])

    def _ask_opencv(self, method: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> object:
        """What is known from the files alone, the host's OpenCV says, without computing anything."""
        reread = self._model.reread
        if reread is None or method not in (*_WEIGHTED, "dump", "getInputDetails", "getOutputDetails"):
            refuse(f"dnn.Net.{method}", "of a Caffe net it is not known")
        return cast(object, getattr(reread(method in _WEIGHTED), method)(*args, **kwargs))

    def _complain(self, exc: NotFound) -> NoReturn:
        """Say that there is no such layer or input, in OpenCV's own words if it can read the net here."""
        method, args = exc.asked
        if self._model.reread is not None:
            getattr(self._model.reread(False), method)(*args)
        raise opencv_error(str(exc), exc.code, method) from exc

    def _outputs(self, wanted: Sequence[tuple[Layer, Sequence[int]]], make: Callable[[list[Array]], object]) -> Pending:
        """Run the net as far as layers' tops are wanted; in stretches where later layers would overwrite them."""
        tops = {(layer.place, top): layer.described.tops[top] for layer, which in wanted for top in which}
        ends = sorted({layer.place for layer, _ in wanted})
        layers = {layer.place: layer for layer, _ in wanted}
        stops = [end for end in ends[:-1] if self.layers.changes_between(layers[end], ends[-1])] + ends[-1:]
        calls: list[tuple[Call, list[tuple[int, int]]]] = []
        start = 0
        for stop in stops:
            keys = [key for key in tops if start <= key[0] <= stop]
            refs = tuple(BlobRef(tops[key]) for key in keys)
            calls.append((self._run_layers(start, stop, refs), keys))
            start = stop + 1
        order = [(layer.place, top) for layer, which in wanted for top in which]

        def finish() -> object:
            found: dict[tuple[int, int], Array] = {}
            failures: list[ExecutionError] = []
            with as_opencv():
                for call, keys in calls:
                    try:
                        found.update(zip(keys, call.wait().arrays, strict=True))
                    except ExecutionError as exc:  # all are waited for, or the next pass would raise the rest of them
                        failures.append(exc)
                if failures:
                    raise failures[0]
            return make([found[key] for key in order])

        self._last = calls[-1][0]
        return Pending(self._last, finish)

    def _run_layers(self, start: int, stop: int, wanted: tuple[BlobRef, ...]) -> Call:
        return self._run("opencv.forward", lambda writes, reshaped: Forward(writes, reshaped, start, stop, wanted))

    def _run(self, name: str, make: Callable[[tuple[BlobRef, ...], tuple[Reshaped, ...]], NetRequest]) -> Call:
        """Send a request with the inputs that have not been sent yet."""
        inputs, self._inputs = self._inputs, {}
        reshaped, self._reshaped = self._reshaped, {}
        request = make(
            tuple(BlobRef(index) for index in inputs),
            tuple(Reshaped(index, shape) for index, shape in reshaped.items()),
        )
        return self._call(name, request, list(inputs.values()))

    def _call(self, name: str, request: NetRequest, parts: Sequence[Array] = ()) -> Call:
        if os.getpid() != self._process:
            raise SessionLost(
                f"the net of {self._model.source} belongs to process {self._process}, and this is its child "
                f"{os.getpid()}; read the model in the process that uses it"
            )
        return self._session.run(self._handle, name, _ENCODER.encode(request), parts, effect=self._effect(request))

    def _effect(self, request: NetRequest) -> Effect:
        """What a request does to the net: a pass makes those before it needless."""
        given: set[Thing] = {(self._handle, ref) for ref in request.writes}
        given |= {(self._handle, ("shape", each.index)) for each in request.reshaped}
        match request:
            case Read() if not given:
                return READS
            case Read(reshaped=()) if all(ref.layer < 0 for ref in request.writes):
                self._written |= given
                return Effect(frozenset(given), frozenset())
            case Forward() if self._passes_are_alone:
                self._written |= given
                passed: Thing = (self._handle, ("pass", request.start, request.end))
                return Effect(frozenset(given | {passed}), None if request.start else frozenset(self._written - given))
        return CHANGES

    def _load(self) -> NetDescription:
        weights = self._model.weights
        request = LoadNet(self._model.source, weights.written if weights is not None else "")
        files = {}
        if weights is not None:
            files[WEIGHTS] = provide(self._session, weights.source, config.load())
        prototxt = np.frombuffer(self._model.prototxt, np.uint8)
        reply = self._session.load(self._handle, FORMAT, _ENCODER.encode(request), [prototxt], files).wait()
        self._description = _DESCRIPTIONS.decode(reply.arrays[0].data)
        inputs = set(self._description.inputs)
        self._passes_are_alone = not any(
            layer.remembers or (layer.type != "Input" and not inputs.isdisjoint(layer.tops))
            for layer in self._description.layers
        )
        if self._description.awaiting >= 0:
            layer = self._description.layers[self._description.awaiting]
            raise UnsupportedOperation(
                f"{self._model.source}: layer {layer.name!r} of the type {layer.type} needs this host; "
                "OpenCV's nets have no such layers under AVEC"
            )
        return self._description


_signature = cache(signature)


def check_arguments(
    function: Callable[..., Any], owner: object, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> None:
    """Raise UnsendableArgument unless a method has such parameters."""
    try:
        _signature(function).bind(owner, *args, **kwargs)
    except TypeError as exc:
        raise UnsendableArgument(f"cv2: {function.__name__.lstrip('_')}: {exc}") from exc


def _normalised(blob: Any, scalefactor: float, mean: Any) -> Array:
    """An input's values as the net's first layers get them. Source: DataLayer::forward in dnn/src/layer_internals.hpp.

    Raises:
        UnsendableArgument: it is no array of numbers.
        cv2.error: a mean for each of more than four channels is asked for.
    """
    given = blob.get() if isinstance(blob, cv2.UMat) else blob
    if not isinstance(given, np.ndarray) or given.dtype.kind not in "iuf" or not isinstance(scalefactor, int | float):
        raise UnsendableArgument("cv2: setInput takes an array of numbers")
    values = np.ascontiguousarray(given, np.float32)
    means = four_numbers(mean)
    if scalefactor == 1.0 and not means.any():
        return values
    channels = values.shape[1] if values.ndim > 1 else 1
    if channels > len(means) and len(set(means.tolist())) > 1:
        raise opencv_error(f"setInput: a mean for each channel of {channels} cannot be given")
    shape = (1, channels) + (1,) * (values.ndim - 2) if values.ndim > 1 else (1,)
    offsets = means[:channels].reshape(shape) if channels <= len(means) else means[0]
    return (values - offsets) * np.float32(scalefactor)


def four_numbers(given: Any) -> Array:
    """A cv::Scalar of up to four numbers, as OpenCV takes it.

    Raises:
        UnsendableArgument: they are no numbers.
    """
    four = np.zeros(4, np.float32)
    try:
        numbers = np.atleast_1d(np.asarray(() if given is None else given, np.float32))
        four[: numbers.size] = numbers[:4]
    except (TypeError, ValueError) as exc:
        raise UnsendableArgument(f"cv2: {given!r} stands where numbers should") from exc
    return four
