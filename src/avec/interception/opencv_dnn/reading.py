"""cv2.dnn.readNet and its like: they bring the model to the destination, and have OpenCV read it there."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import cv2

from avec.errors import UnsupportedOperation

from .arguments import NoSuchFile, UnsendableArgument, path_of, with_files
from .native_readers import CAFFE_READER, NATIVE
from .net import Net, complain, method_like
from .raising import opencv_error, refuse

if TYPE_CHECKING:
    from .caffe_reading import File

REFUSED = {"readNetFromModelOptimizer": "read the model from ONNX"}
NAMES = (*NATIVE, *({CAFFE_READER} - set(NATIVE)))  # OpenCV 5 gets its reader of Caffe nets back


def reader(name: str) -> Callable[..., Any]:
    """What stands in the place of cv2.dnn.<name>."""

    def read(*args: Any, **kwargs: Any) -> Net:
        return read_net(name, args, kwargs)

    def refused(*args: object, **kwargs: object) -> None:
        refuse(f"dnn.{name}", REFUSED[name])

    if name not in NATIVE:
        read.__name__ = name
        return read
    return method_like(cv2.dnn, name, refused if name in REFUSED else read)


def read_net(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Net:
    """Have a model read at the destination; blocks.

    Raises:
        cv2.error: it cannot be read.
        DestinationError: the destination failed.
    """
    from .caffe_reading import caffe_files

    native = NATIVE.get(name)
    try:
        files = caffe_files(name, args, kwargs)
        return _read(name, args, kwargs) if files is None else _read_caffe(name, args, kwargs, files)
    except (NoSuchFile, UnsendableArgument) as exc:
        if native is None:
            raise opencv_error(f"cv2.dnn.{name}: cannot read {exc}") from exc
        complain(native, args, kwargs)


def _read(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Net:
    from .remote import RemoteObject

    sent, sent_kwargs = with_files(args, kwargs)
    paths = [path for path in map(path_of, (*args, *kwargs.values())) if path]
    made = RemoteObject(f"the net of {paths[0] if paths else 'a buffer'}")
    made.make(f"dnn.{name}", sent, sent_kwargs)
    return Net.of(made)


def _read_caffe(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], files: tuple[File, File | None]) -> Net:
    """A net for the destination's Caffe executor; one that has layers of OpenCV's own, for its OpenCV if that can."""
    from .caffe_reading import read_caffe

    try:
        return Net.of(read_caffe(*files))
    except cv2.error as exc:
        if isinstance(exc.__cause__, UnsupportedOperation):
            try:
                return _read(name, args, kwargs)
            except cv2.error as also:
                raise exc from also
        if CAFFE_READER in NATIVE:
            NATIVE[name](*args, **kwargs)  # OpenCV's own words, if it cannot read it either
        raise
