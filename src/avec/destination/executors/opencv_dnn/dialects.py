"""Host and destination may have different major versions of OpenCV. What can be told from a call is evened out here.

OpenCV 5 reads a model with its new engine, which knows neither layers by their names of OpenCV 4 nor a forward pass up
to one of them; its classic engine does. OpenCV 4 knows no engines, gives the last output where 5 gives the first, and
takes inputs of all types as float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from avec.destination.executors.opencv_dnn.surface import READERS

HERE = int(cv2.__version__.partition(".")[0])
_ENGINE_POSITION = {"readNet": 3, "readNetFromONNX": 1, "readNetFromTFLite": 1, "readNetFromTensorflow": 2}


def reading(
    name: str, host: int, args: Sequence[object], kwargs: Mapping[str, object]
) -> tuple[Sequence[object], dict[str, Any]]:
    """The arguments with which a reader here does what the same call does on a host with another major version."""
    reader = name.removeprefix("dnn.")
    adapted = dict(kwargs)
    if host == HERE or reader not in READERS:
        return args, adapted
    if host > HERE:
        adapted.pop("engine", None)
        return args[: _ENGINE_POSITION.get(reader, len(args))], adapted
    if reader in _ENGINE_POSITION:
        adapted["engine"] = cv2.dnn.ENGINE_CLASSIC
    return args, adapted


def forward(net: Any, host: int) -> Callable[..., Any]:
    """The method `forward` of a net as the host's version has it."""
    if host <= HERE:
        return net.forward  # type: ignore[no-any-return]

    def forward_first(*args: object, **kwargs: object) -> Any:
        if not args and not kwargs:
            return net.forward(net.getUnconnectedOutLayersNames()[0])
        return net.forward(*args, **kwargs)

    return forward_first


def set_input(net: Any, host: int) -> Callable[..., Any]:
    """The method `setInput` of a net as the host's version has it."""
    if host >= HERE:
        return net.setInput  # type: ignore[no-any-return]

    def set_float_input(*args: object, **kwargs: object) -> Any:
        if "blob" in kwargs:
            kwargs["blob"] = _as_float(kwargs["blob"])
        return net.setInput(*map(_as_float, args[:1]), *args[1:], **kwargs)

    return set_float_input


def _as_float(value: object) -> object:
    known = isinstance(value, np.ndarray) and value.dtype.kind in "iuf" and value.dtype != np.uint32
    return value.astype(np.float32) if known else value  # type: ignore[attr-defined]
