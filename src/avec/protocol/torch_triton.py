"""A kernel that a host's program has written in Triton: what `LoadKernel` carries, encoded, in part 0.

Its source is code that runs at the destination, which therefore has to allow it. It is launched as one entry of the
stream: avec::launch_kernel(kernel, grid…, [argument…], [option, value, …]).
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

# An argument or option that is no plain value is a list that begins with one of these; of the list's rest it consists.
TUPLE = "tuple"
ELEMENT_TYPE = "dtype"  # one of triton.language's, by its name there: "fp32"

MODULES = ("triton", "math")  # that a kernel's source may name, with all that they contain


class FunctionGlobal(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Function number `place` of the kernel."""

    place: int


class ModuleGlobal(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """One of MODULES or below one, "triton.language"."""

    name: str


class MemberGlobal(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """Something in such a module."""

    module: str
    name: str


class ElementTypeGlobal(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """One of triton.language's element types, "fp32"."""

    name: str


class ConstantGlobal(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """A triton.language.constexpr of a plain value."""

    value: None | bool | int | float | str


class TupleGlobal(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """A tuple."""

    items: tuple[Global, ...]


Global: TypeAlias = (
    None
    | bool
    | int
    | float
    | str
    | FunctionGlobal
    | ModuleGlobal
    | MemberGlobal
    | ElementTypeGlobal
    | ConstantGlobal
    | TupleGlobal
)


class Function(msgspec.Struct, frozen=True, array_like=True):
    """One function with the names that its source uses; decorators are taken off."""

    name: str
    source: str
    kind: Literal["jit", "constexpr"]  # triton.jit or triton.constexpr_function
    names: dict[str, Global]
    noinline: bool = False
    do_not_specialize: tuple[int | str, ...] = ()
    do_not_specialize_on_alignment: tuple[int | str, ...] = ()


class Kernel(msgspec.Struct, frozen=True, array_like=True):
    """A kernel, function 0, with the functions that it calls."""

    functions: tuple[Function, ...]
