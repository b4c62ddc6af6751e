"""Which calls of OpenCV's readers mean a Caffe net, and how such a net is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from .arguments import ModelFile, NoSuchFile, contents_of, path_of
from .caffe_net import CaffeNet, Model
from .native_readers import CAFFE_READER, NATIVE

_ENDINGS = (".prototxt", ".caffemodel")

File = str | bytes  # a path, or the contents


def caffe_files(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[File, File | None] | None:
    """The prototxt and the caffemodel that a reader is to read; None when it is not to read a Caffe net.

    Source: readNet in opencv/modules/dnn/src/dnn_read.cpp.
    """
    given = dict(enumerate(args)) | dict(kwargs)
    if name == CAFFE_READER:
        prototxt = _file(given, 0, "prototxt", "bufferProto")
        return None if prototxt is None else (prototxt, _file(given, 1, "caffeModel", "bufferModel"))
    if name != "readNet":
        return None
    first = given.get(0, given.get("framework"))
    if contents_of(given.get(1, given.get("bufferModel"))) is not None:
        model, config = _file(given, 1, "bufferModel"), _file(given, 2, "bufferConfig")
        return (config, model) if str(first).lower() == "caffe" and config is not None else None
    model, config = _file(given, 0, "model"), _file(given, 1, "config")
    framework = str(given.get(2, given.get("framework", ""))).lower()
    paths = [path for path in (model, config) if isinstance(path, str)]
    if framework != "caffe" and not any(path.lower().endswith(_ENDINGS) for path in paths):
        return None
    if (isinstance(model, str) and model.endswith(".prototxt")) or (
        isinstance(config, str) and config.endswith(".caffemodel")
    ):
        model, config = config, model
    return None if config is None else (config, model)


def read_caffe(prototxt: File, weights: File | None) -> CaffeNet:
    """Have a Caffe net built at the destination; blocks.

    Raises:
        NoSuchFile: a path cannot be read.
        cv2.error: the net cannot be built.
        DestinationError: the destination failed.
    """
    text = _contents(prototxt)
    source = prototxt if isinstance(prototxt, str) else "a prototxt"
    return CaffeNet(Model(text, _weights(weights), source, _rereading(text, weights)))


def _file(given: Mapping[Any, Any], *names: Any) -> File | None:
    for name in names:
        if (path := path_of(given.get(name))) is not None:
            return path
        if (contents := contents_of(given.get(name))) is not None:
            return contents
    return None


def _contents(file: File) -> bytes:
    if isinstance(file, bytes):
        return file
    try:
        return Path(file).read_bytes()
    except OSError as exc:
        raise NoSuchFile(file) from exc


def _weights(file: File | None) -> ModelFile | None:
    if file is None:
        return None
    if isinstance(file, bytes):
        return ModelFile(file, "a caffemodel")
    if not Path(file).is_file():
        raise NoSuchFile(file)
    return ModelFile(Path(file), file)


def _rereading(text: bytes, weights: File | None) -> Callable[[bool], Any] | None:
    """What reads the net with the host's own OpenCV, with its parameters or without; it computes nothing."""
    native = NATIVE.get(CAFFE_READER)  # OpenCV 5 has none
    if native is None:
        return None

    @cache
    def reread(weighted: bool) -> Any:
        buffers = [np.frombuffer(text, np.uint8)]
        if weighted and weights is not None:
            buffers.append(np.frombuffer(_contents(weights), np.uint8))
        return native(*buffers)

    return reread
