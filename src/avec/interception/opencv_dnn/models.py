"""cv2.dnn.Model and its kinds under AVEC: OpenCV's own model classes at the destination, over nets that are there.

A frame goes up as it is, and what was found in it comes back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import cv2

from .arguments import UnsendableArgument, path_of
from .net import Net, complain, into, method_like
from .reading import read_net

if TYPE_CHECKING:
    from .remote import Remote

_NATIVE_NET = cv2.dnn.Net  # OpenCV's own class; this module is imported before it is replaced

# Methods with a last argument that may be an array to be written into: its place, and its name.
_OUTPUTS = {"predict": (1, "outs"), "segment": (1, "mask")}


class Model:
    """A net with what is done before and after it. Used by one thread at a time."""

    _native: type  # OpenCV's own class

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        network = args[0] if args else kwargs.get("network")
        self._net = network if isinstance(network, Net) else self._read(args, kwargs)
        self.remote = _model_over(self._net.remote, self._native.__name__)

    def _read(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Net:
        if path_of(args[0] if args else kwargs.get("model")) is None:
            complain(self._native, args, kwargs)
        return read_net("readNet", args, kwargs)


def _model_over(net: Remote, name: str) -> Remote:
    from .caffe_models import CaffeModel
    from .caffe_net import CaffeNet
    from .remote import RemoteObject

    if isinstance(net, CaffeNet):
        return CaffeModel(name, net)
    opencv_net = cast(RemoteObject, net)
    made = RemoteObject(f"a {name}", (opencv_net,))
    made.make(f"dnn.{name}", (opencv_net,), {})
    return made


def model_class(native: type) -> type[Model]:
    """What stands in the place of one of OpenCV's model classes.

    Args:
        native: OpenCV's own, whose bases are its bases.
    """
    base = native.__base__
    bases = (Model,) if base in (object, None) else (model_class_of(base),)
    members: dict[str, Any] = {"_native": native, "__module__": native.__module__, "__doc__": native.__doc__}
    for name in vars(native):
        if not name.startswith("_"):
            members[name] = method_like(native, name, _method(name))
    return type(native.__name__, bases, members)


_classes: dict[type, type[Model]] = {}


def model_class_of(native: type) -> type[Model]:
    """The one class that stands for `native`."""
    if native not in _classes:
        _classes[native] = model_class(native)
    return _classes[native]


def _method(name: str) -> Callable[..., Any]:
    def call(self: Model, *args: Any, **kwargs: Any) -> Any:
        sent, sent_kwargs, output = _without_output(name, args, kwargs)
        try:
            result = into(self.remote.invoke(name, sent, sent_kwargs), output)
            return _as_umat(result) if name in _OUTPUTS and args and isinstance(args[0], cv2.UMat) else result
        except UnsendableArgument:
            complain(getattr(self._native(_NATIVE_NET()), name), args, kwargs)

    def defer(self: Model, *args: Any, **kwargs: Any) -> Model | None:
        try:
            self.remote.defer(name, args, kwargs)
        except UnsendableArgument:
            complain(getattr(self._native(_NATIVE_NET()), name), args, kwargs)
        return None if name == "setInputParams" else self

    return defer if name.startswith(("set", "enable")) else call


def _as_umat(result: Any) -> Any:
    """Results in the kind of memory that the frame is in."""
    return tuple(cv2.UMat(each) for each in result) if isinstance(result, tuple) else cv2.UMat(result)


def _without_output(
    name: str, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[Sequence[Any], Mapping[str, Any], Any]:
    place, keyword = _OUTPUTS.get(name, (len(args), ""))
    if keyword in kwargs:
        return args, {key: each for key, each in kwargs.items() if key != keyword}, kwargs[keyword]
    return args[:place], kwargs, args[place] if place < len(args) else None
