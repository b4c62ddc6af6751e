"""Classes of OpenCV's that keep nets inside: FaceDetectorYN, FaceRecognizerSF, and the trackers that have one.

The whole object lives at the destination: images go up, what was found in them comes back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import cv2

from .arguments import Fields, NoSuchFile, UnsendableArgument, model_file, with_files
from .net import Net, complain, into, method_like
from .raising import opencv_error

if TYPE_CHECKING:
    from .remote import RemoteObject

FACES = ("FaceDetectorYN", "FaceRecognizerSF")
TRACKERS = ("TrackerDaSiamRPN", "TrackerGOTURN", "TrackerNano", "TrackerVit")

# Methods with a last argument that may be an array to be written into: its place.
_OUTPUTS = {"detect": 1, "alignCrop": 2, "feature": 1}
_PATHS = frozenset({"model", "kernel_cls1", "kernel_r1", "modelTxt", "modelBin", "backbone", "neckhead", "net"})


class Detector:
    """An object at the destination; made by `create` only, as OpenCV's own. Used by one thread at a time."""

    remote: RemoteObject


def detector_class(name: str) -> type[Detector]:
    """What stands in the place of the class cv2.<name>."""
    native: Any = getattr(cv2, name)
    members: dict[str, Any] = {"__module__": native.__module__, "__doc__": native.__doc__}
    for method in dir(native):
        if not method.startswith("_") and method not in ("create", "Params"):
            members[method] = method_like(native, method, _LOCAL.get(method) or _method(name, method))
    if hasattr(native, "Params"):
        members["Params"] = native.Params
    made = type(name, (Detector,), members)
    create = _tracker_creator(made, name, native) if name in TRACKERS else _creator(made, name, native)
    made.create = staticmethod(method_like(native, "create", create))  # type: ignore[attr-defined]
    return made


def _match(self: Detector, face_feature1: Any, face_feature2: Any, dis_type: int = 0) -> Any:
    """Compare two features; it needs no net. Like OpenCV's own it leaves them normalised.

    Source: FaceRecognizerSF::match in opencv/modules/objdetect/src/face_recognize.cpp.
    """
    if dis_type not in (cv2.FaceRecognizerSF_FR_COSINE, cv2.FaceRecognizerSF_FR_NORM_L2):
        return self.remote.invoke("match", (face_feature1, face_feature2, dis_type))
    first, second = (cv2.normalize(each, each) for each in (face_feature1, face_feature2))
    if dis_type == cv2.FaceRecognizerSF_FR_COSINE:
        return cv2.sumElems(cv2.multiply(first, second))[0]
    return cv2.norm(first, second)


_LOCAL: dict[str, Callable[..., Any]] = {"match": _match}


def _make(kind: type[Detector], name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Detector:
    from .remote import RemoteObject

    made = kind()
    nets = [each for each in (*args, *kwargs.values()) if isinstance(each, RemoteObject)]
    made.remote = RemoteObject(f"a {name}", nets)
    made.remote.make(f"{name}.create", args, kwargs)
    return made


def _creator(kind: type[Detector], name: str, native: Any) -> Callable[..., Detector]:
    def create(*args: Any, **kwargs: Any) -> Detector:
        try:
            sent, sent_kwargs = with_files(args, kwargs)
            return _make(kind, name, sent, sent_kwargs)
        except (NoSuchFile, UnsendableArgument):
            complain(native.create, args, kwargs)

    return create


def _tracker_creator(kind: type[Detector], name: str, native: Any) -> Callable[..., Detector]:
    def create(*args: Any, **kwargs: Any) -> Detector:
        try:
            if any(isinstance(each, Net) for each in (*args, *kwargs.values())):
                nets = {key: _remote(each) for key, each in kwargs.items()}
                return _make(kind, name, [_remote(each) for each in args], nets)
            parameters = args[0] if args else kwargs.get("parameters", native.Params())
            if isinstance(parameters, native.Params) and len(args) + len(kwargs) <= 1:
                return _make(kind, name, [_fields(f"{name}_Params", parameters)], {})
        except (NoSuchFile, UnsendableArgument):
            pass  # OpenCV's own function says what is wrong
        complain(native.create, args, kwargs)

    return create


def _remote(value: object) -> object:
    return value.remote if isinstance(value, Net) else value


def _fields(kind: str, parameters: object) -> Fields:
    """The parameters of a tracker with its model files.

    Raises:
        NoSuchFile: one cannot be read.
    """
    values = {name: getattr(parameters, name) for name in dir(parameters) if not name.startswith("_")}
    return Fields(kind, {name: model_file(each) if name in _PATHS else each for name, each in values.items()})


def _method(kind: str, name: str) -> Callable[..., Any]:
    place = _OUTPUTS.get(name)

    def call(self: Detector, *args: Any, **kwargs: Any) -> Any:
        sent = args if place is None else args[:place]
        output = args[place] if place is not None and place < len(args) else None
        try:
            result = self.remote.invoke(name, sent, kwargs)
        except UnsendableArgument as exc:
            raise opencv_error(f"cv2.{kind}.{name}: an argument is of a type that OpenCV does not take: {exc}") from exc
        return (result[0], into(result[1], output)) if isinstance(result, tuple) else into(result, output)

    def defer(self: Detector, *args: Any, **kwargs: Any) -> None:
        try:
            self.remote.defer(name, args, kwargs)
        except UnsendableArgument as exc:
            raise opencv_error(f"cv2.{kind}.{name}: an argument is of a type that OpenCV does not take: {exc}") from exc

    return defer if name.startswith("set") else call
