"""caffe._caffe: in pycaffe the compiled module, whose names some programs import from there; here the package's own.

Source: BOOST_PYTHON_MODULE in caffe/python/caffe/_caffe.cpp.
"""

from __future__ import annotations

import importlib

from .blob import Blob
from .solver import Solver

__all__ = ["Blob", "Solver"]


def __getattr__(name: str) -> object:
    if name.startswith("__") and name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    package: object = importlib.import_module(__name__.rpartition(".")[0])
    found: object = getattr(package, name)
    return found
