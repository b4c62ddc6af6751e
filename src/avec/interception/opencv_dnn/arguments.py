"""What an application passes to OpenCV's readers and constructors: which of it are model files."""

from __future__ import annotations

import mmap
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

# What OpenCV takes for the name of a framework where it might also take a path. Source: readNet in dnn_read.cpp.
_FRAMEWORKS = frozenset({"", "caffe", "tensorflow", "torch", "darknet", "dldt", "openvino", "onnx", "tflite"})


class ModelFile:
    """A model file among the arguments of what makes an object: a path, or the contents."""

    def __init__(self, source: Path | bytes, written: str = "", beside: Mapping[str, Path] | None = None) -> None:
        """Take note of a file.

        Args:
            written: the path as the application wrote it.
            beside: relative path → further files that the model names.
        """
        self.source = source
        self.written = written
        self.beside = beside or {}


class Fields:
    """An object of OpenCV's that is nothing but its fields, among the arguments of what makes an object."""

    def __init__(self, kind: str, values: Mapping[str, object]) -> None:
        """Take note of the fields' values; they may be ModelFiles."""
        self.kind = kind
        self.values = values


class UnsendableArgument(TypeError):
    """An argument is nothing that OpenCV would take. Nothing was sent."""


class NoSuchFile(Exception):
    """An argument is a path that cannot be read; OpenCV itself is to say so."""


def with_files(args: Sequence[object], kwargs: Mapping[str, object]) -> tuple[list[object], dict[str, object]]:
    """Put ModelFiles in the places of paths and of buffers.

    Raises:
        NoSuchFile: a path cannot be read.
    """
    return [_argument(each) for each in args], {name: _argument(each) for name, each in kwargs.items()}


def path_of(value: object) -> str | None:
    """The path that an argument is, if it is one."""
    if isinstance(value, str | os.PathLike):
        path = os.fspath(value)
        if isinstance(path, str) and path.lower() not in _FRAMEWORKS:
            return path
    return None


def contents_of(value: object) -> bytes | None:
    """The contents of a file that an argument is, if it is such a buffer and not empty."""
    if isinstance(value, np.ndarray):
        if value.dtype in (np.uint8, np.int8) and value.ndim == 1 and value.size:
            return value.tobytes()
        return None
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value) or None
    return None


def model_file(path: str) -> ModelFile:
    """A model file with those beside it that it names.

    Raises:
        NoSuchFile: it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            names = _names_beside(path, file.fileno())
    except OSError as exc:
        raise NoSuchFile(path) from exc
    folder = Path(path).parent
    beside = {name: folder / name for name in names if _is_beside(name) and (folder / name).is_file()}
    return ModelFile(Path(path), path, beside)


def _argument(value: object) -> object:
    path = path_of(value)
    if path is not None:
        return model_file(path)
    contents = contents_of(value)
    return value if contents is None else ModelFile(contents)


def _names_beside(path: str, descriptor: int) -> list[str]:
    from avec.formats.onnx import NotProtobuf, external_data

    if not path.lower().endswith(".onnx") or not os.fstat(descriptor).st_size:
        return []
    with mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as view:
        try:
            return external_data(view)
        except NotProtobuf:
            return []  # OpenCV will say what is wrong with it


def _is_beside(name: str) -> bool:
    return not os.path.isabs(name) and ".." not in Path(name).parts
