"""cv2.dnn.Net as an application sees it under AVEC: a net that OpenCV has at the destination.

It is no subclass of OpenCV's own class, so that no code of OpenCV's can take it for a net of this host's and compute
here: whatever would, is either replaced too or refuses it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, cast

import cv2
import numpy as np

from avec.tensor import Array

from .arguments import UnsendableArgument
from .raising import opencv_error, refuse

if TYPE_CHECKING:
    from .remote import Pending, Remote

Native = cv2.dnn.Net  # OpenCV's own class; this module is imported before it is replaced
WRITES_OUTPUTS_IN_PLACE = int(cv2.__version__.partition(".")[0]) >= 5  # OpenCV 4 does it only where outputs are named

_DEFERRED = frozenset({"enableFusion", "enableWinograd", "setPreferableBackend", "setPreferableTarget"})
_REFUSED = {
    "dumpToPbtxt": "use dump or dumpToFile",
    "printPerfProfile": "it would print at the destination; use getPerfProfile",
    "setHalideScheduler": "there is no Halide at the destination",
}


class Net:
    """A net at the destination. One net is used by one thread at a time, as in OpenCV."""

    def __init__(self) -> None:
        self._object: Remote | None = None  # nothing until something is asked of an empty net
        self._known_inputs: set[tuple[object, ...]] = set()

    def __getattr__(self, name: str) -> NoReturn:
        """Say that there is no such attribute, as a type of OpenCV's does; a class in Python has a shorter name."""
        raise AttributeError(f"'{Native.__module__}.Net' object has no attribute {name!r}", name=name, obj=self)

    @property
    def remote(self) -> Remote:
        """The net at the destination; an empty one is made there when it is needed first."""
        if self._object is None:
            from .remote import RemoteObject

            made = RemoteObject("an empty net")
            made.make("dnn.Net", (), {})
            self._object = made
        return self._object

    @classmethod
    def of(cls, remote: Remote) -> Net:
        """A net whose work something else does."""
        net = cls()
        net._object = remote
        return net

    def empty(self) -> bool:
        """Whether there are no layers in the net. Source: Net::empty."""
        return self._object is None or bool(self._object.invoke("empty"))

    def setInput(self, *args: Any, **kwargs: Any) -> None:
        """Set a new value for an input. It is waited for when an input of this name and type comes first.

        Source: Net::setInput.
        """
        key = _kind_of_input(*args, **kwargs)
        try:
            if key is not None and key in self._known_inputs:
                self.remote.defer("setInput", args, kwargs)
                return
            self.remote.invoke("setInput", args, kwargs)
        except UnsendableArgument:
            complain(Native().setInput, args, kwargs)
        if key is not None:
            self._known_inputs.add(key)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the net and give outputs; blocks until they are here. Source: Net::forward."""
        sent, sent_kwargs, outputs = without_outputs(args, kwargs)
        try:
            results = self.remote.invoke("forward", sent, sent_kwargs)
        except UnsendableArgument:
            complain(Native().forward, args, kwargs)
        return into(results, outputs)

    def forwardAsync(self, outputName: str = "") -> AsyncArray:
        """Run the net without waiting; the result is waited for when it is looked at. Source: Net::forwardAsync."""
        if not isinstance(outputName, str):
            complain(Native().forwardAsync, (outputName,), {})
        return AsyncArray(self.remote.issue("forward", (outputName,) if outputName else ()))

    def getLayer(self, *args: Any, **kwargs: Any) -> Layer:
        """One layer by its number or name. Source: Net::getLayer."""
        return Layer(self, cast("dict[str, Any]", _forwarded(self, "getLayer", args, kwargs)))

    def dumpToFile(self, path: str) -> None:
        """Write the structure of the net to a file in the format of Graphviz. Source: Net::dumpToFile."""
        Path(path).write_text(cast(str, self.remote.invoke("dump")), "utf-8")

    def quantize(self, *args: Any, **kwargs: Any) -> Net:
        """A quantized net made from this one. Source: Net::quantize (OpenCV 4)."""
        from .remote import RemoteObject

        if not isinstance(self.remote, RemoteObject):
            refuse("dnn.Net.quantize", "of a Caffe net; convert the model to ONNX")
        made = RemoteObject("a quantized net")
        made.make("dnn.Net.quantize", (self.remote, *args), kwargs)
        return Net.of(made)

    @staticmethod
    def readFromModelOptimizer(*args: object, **kwargs: object) -> Net:
        """Refused: models of OpenVINO's need OpenCV's plug-in for it."""
        refuse("dnn.Net.readFromModelOptimizer", "read the model from ONNX")


class Layer:
    """One layer of a net at the destination. Source: cv2.dnn.Layer."""

    def __init__(self, net: Net, described: Mapping[str, Any]) -> None:
        self._net = net
        self.name: str = described["name"]
        self.type: str = described["type"]
        self.preferableTarget: int = described["preferableTarget"]

    @property
    def blobs(self) -> tuple[Array, ...]:
        """The learned parameters, fetched each time."""
        return cast("tuple[Array, ...]", self._net.remote.invoke("getLayer().blobs", (self.name,)))

    def outputNameToIndex(self, outputName: str) -> int:
        """The place of an output among the layer's. Source: Layer::outputNameToIndex."""
        return cast(int, self._net.remote.invoke("getLayer().outputNameToIndex", (self.name, outputName)))


class AsyncArray:
    """The result of a forward pass that may still be under way. Source: cv2.AsyncArray."""

    def __init__(self, pending: Pending) -> None:
        self._pending: Pending | None = pending

    def get(self, timeoutNs: object = None, dst: Array | None = None) -> Any:
        """Wait for the result: get([dst]) gives it, get(timeoutNs[, dst]) whether it came in time, and it."""
        if timeoutNs is None or isinstance(timeoutNs, np.ndarray):
            return into(self._valid().wait(), timeoutNs if dst is None else dst)
        if not self.wait_for(timeoutNs):
            return False, None
        return True, into(self._valid().wait(), dst)

    def wait_for(self, timeoutNs: Any) -> bool:
        """Wait at most that many nanoseconds; give whether the result is here. A negative time has no end."""
        pending = self._valid()
        pending.wait_ended(None if timeoutNs < 0 else timeoutNs / 1e9)
        return pending.done

    def valid(self) -> bool:
        """Whether there is a result to wait for."""
        return self._pending is not None

    def release(self) -> None:
        """Do without the result."""
        self._pending = None

    def _valid(self) -> Pending:
        if self._pending is None:
            raise opencv_error("cv2.AsyncArray: there is no result; it was released")
        return self._pending


def complain(method: Callable[..., Any], args: Sequence[object], kwargs: Mapping[str, object]) -> NoReturn:
    """Let OpenCV itself say what is wrong with arguments that cannot even be sent: it does so before all else."""
    method(*args, **kwargs)
    raise opencv_error(f"cv2: {method.__name__}: AVEC cannot send an argument of such a type to a destination")


def without_outputs(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Sequence[Any], dict[str, Any], Any]:
    """Split the arguments of a forward pass from arrays that OpenCV would write into."""
    given, named = list(args), dict(kwargs)
    outputs: Any = named.pop("outputBlobs", None)
    if (given and _are_names(given[0])) or "outBlobNames" in named:
        place = 0 if "outBlobNames" in named else 1
        return given[:place], named, given[place] if len(given) > place else outputs
    if given and isinstance(given[0], Sequence) and not isinstance(given[0], str):
        outputs, given[0] = given[0], []
    elif "outputBlobs" in kwargs:
        named["outputBlobs"] = []
    return given, named, outputs if WRITES_OUTPUTS_IN_PLACE else None


def _are_names(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and bool(value) and isinstance(value[0], str)


def into(results: Any, outputs: Any) -> Any:
    """Give results in the arrays that the application meant for them, as OpenCV does where they fit."""
    if outputs is None:
        return results
    if isinstance(results, np.ndarray):
        return _into_one(results, outputs)
    if not isinstance(results, tuple):
        return results
    given = [*outputs, *[None] * len(results)]
    return tuple(_into_one(each, output) for each, output in zip(results, given, strict=False))


def _into_one(result: Array, output: object) -> Array:
    if isinstance(output, np.ndarray) and output.shape == result.shape and output.dtype == result.dtype:
        output[...] = result
        return output
    return result


def _kind_of_input(*args: Any, **kwargs: Any) -> tuple[object, ...] | None:
    """What decides whether OpenCV takes an input, so that it is asked about each kind once; None: it is to be asked."""
    blob = args[0] if args else kwargs.get("blob")
    others = (*args[1:], *kwargs.values())
    name = args[1] if len(args) > 1 else kwargs.get("name", "")
    if not isinstance(blob, np.ndarray) or not isinstance(name, str):
        return None
    return name, blob.dtype.str, blob.ndim, len(others), *kwargs


def method_like(native: object, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    """A method with the name and the documentation of OpenCV's own."""
    return wraps(getattr(native, name), assigned=("__name__", "__doc__"), updated=())(call)


def _forwarded(net: Net, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> object:
    try:
        return net.remote.invoke(name, args, kwargs)
    except UnsendableArgument:
        complain(getattr(Native(), name), args, kwargs)


def _forwarding(name: str) -> Callable[..., Any]:
    def call(self: Net, *args: Any, **kwargs: Any) -> Any:
        return _forwarded(self, name, args, kwargs)

    def defer(self: Net, *args: Any, **kwargs: Any) -> None:
        try:
            self.remote.defer(name, args, kwargs)
        except UnsendableArgument:
            complain(getattr(Native(), name), args, kwargs)

    def refused(self: Net, *args: Any, **kwargs: Any) -> None:
        refuse(f"dnn.Net.{name}", _REFUSED[name])

    return refused if name in _REFUSED else defer if name in _DEFERRED else call


def _complete() -> None:
    """Give the class every method that the installed OpenCV's has, and none that it has not."""
    for name in vars(Native):
        if name.startswith("_"):
            continue
        if name not in vars(Net):
            setattr(Net, name, method_like(Native, name, _forwarding(name)))
        elif not isinstance(vars(Net)[name], staticmethod):
            vars(Net)[name].__doc__ = getattr(Native, name).__doc__
    if not hasattr(Native, "quantize"):
        del Net.quantize
    Net.__module__, Net.__doc__ = Native.__module__, Native.__doc__


_complete()
