"""Makes torch's own Python classes anew over other bases: their code stays, what it calls in C++ is AVEC's.

A class of torch's may derive from one that C++ makes, and its `super()` means that one for good, because the compiler
has put the class into each method. Here methods are copied with another class in that place.
"""

from __future__ import annotations

from types import CellType, FunctionType
from typing import Any

_OF_THE_CLASS_ITSELF = ("__dict__", "__weakref__", "__slots__")


def rebased(original: type, base: type) -> Any:
    """Return a class with all that is written in another, deriving from `base` alone."""
    made = type(base)(original.__name__, (base,), {})
    made.__qualname__ = original.__qualname__
    cell = CellType(made)
    for name, value in vars(original).items():
        if name not in _OF_THE_CLASS_ITSELF:
            setattr(made, name, _with_class(value, cell))
    return made


def _with_class(value: Any, cell: CellType) -> Any:
    """The same attribute, with another class for `super()`."""
    if isinstance(value, staticmethod | classmethod):
        return type(value)(_with_class(value.__func__, cell))
    if isinstance(value, property):
        fget, fset, fdel = (_with_class(each, cell) for each in (value.fget, value.fset, value.fdel))
        return property(fget, fset, fdel, value.__doc__)
    if not isinstance(value, FunctionType) or "__class__" not in value.__code__.co_freevars:
        return value
    names, cells = value.__code__.co_freevars, value.__closure__ or ()
    closure = tuple(cell if name == "__class__" else each for name, each in zip(names, cells, strict=True))
    copy = FunctionType(value.__code__, value.__globals__, value.__name__, value.__defaults__, closure)
    copy.__kwdefaults__ = value.__kwdefaults__
    copy.__dict__.update(value.__dict__)
    for name in ("__doc__", "__qualname__", "__module__", "__annotations__"):
        setattr(copy, name, getattr(value, name))
    return copy
