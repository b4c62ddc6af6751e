"""As much of Triton as tests without it need: functions are executed on tensors, one program at a time.

Names and classes are where the real package (3.9) has them, so that what works with this finds its way there.
"""

from __future__ import annotations

from collections.abc import Callable

from triton import language
from triton.runtime.jit import ConstexprFunction, JITFunction

__all__ = ["cdiv", "constexpr_function", "jit", "language"]


def jit(fn: Callable[..., None] | None = None, **options: object) -> object:
    return JITFunction(fn, **options) if fn is not None else lambda fn: JITFunction(fn, **options)


def constexpr_function(fn: Callable[..., object]) -> ConstexprFunction:
    return ConstexprFunction(fn)


def cdiv(x: int, y: int) -> int:
    return -(-x // y)
