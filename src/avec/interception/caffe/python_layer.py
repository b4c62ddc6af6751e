"""caffe.Layer: what an application's own layers derive from. They run on the host, in the middle of a remote net.

Source: caffe/include/caffe/layers/python_layer.hpp; caffe/python/caffe/_caffe.cpp; layer_factory.cpp.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Self

from avec.errors import InvalidModel

from .blob import Blob, host_blob

if TYPE_CHECKING:
    from avec.formats.caffe.message import Message


class BlobVec(list[Blob]):
    """A layer's learnable parameters."""

    def add_blob(self, *shape: int, **kwargs: object) -> None:
        """Add one of this shape, zeros; in `setup` only will a net know of it."""
        if kwargs:
            raise RuntimeError("BlobVec.add_blob takes no kwargs")
        blob = host_blob(())
        blob.reshape(*shape)
        self.append(blob)


class Layer:
    """A layer in Python: derive from it and write setup, reshape, forward and backward.

    A net sets `param_str` and `phase` before it calls `setup`. What the methods raise passes to the caller of the net.
    """

    blobs: BlobVec
    param_str: str
    phase: int

    def __new__(cls, *_args: Any, **_kwargs: Any) -> Self:
        """Give the layer its parameters even where __init__ is the application's own."""
        layer = super().__new__(cls)
        layer.blobs = BlobVec()
        return layer

    def __init__(self, parameter: Any = None) -> None:
        pass

    @property
    def type(self) -> str:
        """As for all layers of this kind."""
        return "Python"

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        """Take the settings; called once."""

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        """Give the tops their shapes; called before each forward."""


def make_layer(definition: Message, phase: int) -> Layer:
    """Make the layer that a LayerParameter of type Python names; whatever the application's code raises passes.

    Raises:
        ImportError: there is no such module.
        AttributeError: the module has no such class.
        InvalidModel: it names no module or no class.
    """
    settings = definition.python_param
    if not settings.module or not settings.layer:
        raise InvalidModel(f"layer {definition.name!r} (Python): python_param needs a module and a layer")
    layer: Layer = getattr(importlib.import_module(settings.module), settings.layer)(definition)
    layer.param_str = settings.param_str
    layer.phase = phase
    return layer
