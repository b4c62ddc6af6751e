"""AVEC runs the accelerator part of an unmodified deep-learning program on another machine.

`avec run app.py` needs nothing from here. `intercept` and `release` do the same from within a program that
cannot be started that way, such as a notebook; `pipeline` keeps a destination busy. Names are resolved at first
use: importing this module must cost nothing, because under `avec run` every Python process that imports an
intercepted library runs it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from avec.errors import AvecError as AvecError
    from avec.interception import intercept as intercept
    from avec.interception import release as release
    from avec.pipelining import pipeline as pipeline

__version__ = "0.1.0"

_HOMES = {
    "AvecError": "avec.errors",
    "intercept": "avec.interception",
    "pipeline": "avec.pipelining",
    "release": "avec.interception",
}

__all__ = ["AvecError", "__version__", "intercept", "pipeline", "release"]


def __getattr__(name: str) -> object:
    """Resolve a public name at its first use. Source: PEP 562."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value: object = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
