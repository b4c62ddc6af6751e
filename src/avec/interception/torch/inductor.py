"""Inductor where a program calls it by its own functions: what it would compile for an accelerator goes another way.

torch.compile does not come here; see `compiling`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from avec.errors import UnsupportedOperation
from avec.interception.patching import Patches

from .fx_graphs import is_on_accelerator

Compile = Callable[..., Callable[..., Any]]

_patches = Patches()
compilers: list[Compile] = []  # none or one: makes a function of a graph, inputs like those to come, and options


def patch(module: ModuleType) -> None:
    """Stand in for the functions that compile a graph."""
    _patches.replace(module, "compile_fx", _compiling)
    _patches.replace(module, "compile_fx_aot", _refusing)


def unpatch(module: ModuleType) -> None:
    """Undo `patch`."""
    _patches.restore()


def _compiling(original: Any) -> Callable[..., Any]:
    def compile_fx(model_: Any, example_inputs_: Sequence[Any], *args: Any, **kwargs: Any) -> Any:
        from torch._inductor.virtualized import V

        if V.aot_compilation or not is_on_accelerator(model_, example_inputs_):
            return original(model_, example_inputs_, *args, **kwargs)
        from torch._inductor.compile_fx import graph_returns_tuple, make_graph_return_tuple

        compile_graph = functools.partial(compilers[0], options=kwargs.get("config_patches") or {})
        if graph_returns_tuple(model_):
            return compile_graph(model_, example_inputs_)
        return make_graph_return_tuple(model_, example_inputs_, compile_graph)

    return compile_fx


def _refusing(original: Any) -> Callable[..., Any]:
    def compile_fx_aot(model_: Any, example_inputs_: Sequence[Any], *args: Any, **kwargs: Any) -> Any:
        if is_on_accelerator(model_, example_inputs_):
            raise UnsupportedOperation(
                "compiling a graph ahead of time (AOTInductor) for an accelerator that is not in this machine; compile"
                " it there, or use torch.compile, which compiles at the destination"
            )
        return original(model_, example_inputs_, *args, **kwargs)

    return compile_fx_aot
