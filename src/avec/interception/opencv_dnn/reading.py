"""cv2.dnn.readNet and its like: they bring the model to the destination, and have OpenCV read it there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2

from .arguments import NoSuchFile, path_of, with_files
from .net import Net, complain, method_like
from .raising import refuse
from .remote import UnsendableArgument

REFUSED = {"readNetFromModelOptimizer": "read the model from ONNX"}
_NATIVE = {name: getattr(cv2.dnn, name) for name in dir(cv2.dnn) if name.startswith("readNet")}
NAMES = tuple(_NATIVE)


def reader(name: str) -> Callable[..., Any]:
    """What stands in the place of cv2.dnn.<name>."""

    def read(*args: Any, **kwargs: Any) -> Net:
        return read_net(name, args, kwargs)

    def refused(*args: object, **kwargs: object) -> None:
        refuse(f"dnn.{name}", REFUSED[name])

    return method_like(cv2.dnn, name, refused if name in REFUSED else read)  # type: ignore[arg-type]


def read_net(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Net:
    """Have a model read at the destination; blocks.

    Raises:
        cv2.error: OpenCV cannot read it.
        DestinationError: the destination failed.
    """
    try:
        sent, sent_kwargs = with_files(args, kwargs)
        paths = [path for path in map(path_of, (*args, *kwargs.values())) if path]
        return Net.made_by(f"the net of {paths[0] if paths else 'a buffer'}", f"dnn.{name}", sent, sent_kwargs)
    except (NoSuchFile, UnsendableArgument):
        complain(_NATIVE[name], args, kwargs)
