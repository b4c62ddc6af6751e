"""From a function that a program has decorated with triton.jit to the protocol's Kernel: sources, and what they name.

Not here: how it is launched (`triton_kernels`).
"""

from __future__ import annotations

import ast
import builtins
from types import CodeType, ModuleType
from typing import Any

from avec.errors import UnsupportedOperation
from avec.protocol.torch_triton import (
    MODULES,
    ConstantGlobal,
    ElementTypeGlobal,
    Function,
    FunctionGlobal,
    Global,
    Kernel,
    MemberGlobal,
    ModuleGlobal,
    TupleGlobal,
)


def kernel_of(function: Any) -> Kernel:
    """Collect a triton.JITFunction with all that it calls.

    Raises:
        UnsupportedOperation: it names something that cannot be sent.
    """
    sources = _Sources()
    sources.place(function)
    return Kernel(tuple(each for each in sources.functions if each is not None))


class _Sources:
    def __init__(self) -> None:
        self.functions: list[Function | None] = []
        self._places: dict[int, int] = {}

    def place(self, function: Any) -> int:
        """The number of a function, which is collected if it is new."""
        place = self._places.get(id(function))
        if place is None:
            place = self._places[id(function)] = len(self.functions)
            self.functions.append(None)
            self.functions[place] = self._function(function)
        return place

    def _function(self, function: Any) -> Function:
        names = {}
        scope = function.get_capture_scope()
        for name in sorted(_names_in(function.src, function.fn.__code__)):
            if name in scope and name != function.__name__:
                names[name] = self._global(scope[name], name, function)
        from triton.runtime.jit import JITFunction

        return Function(
            name=function.fn.__name__,
            source=function.src,
            kind="jit" if isinstance(function, JITFunction) else "constexpr",
            names=names,
            noinline=bool(getattr(function, "noinline", False)),
            do_not_specialize=tuple(getattr(function, "do_not_specialize", ())),
            do_not_specialize_on_alignment=tuple(getattr(function, "do_not_specialize_on_alignment", ())),
        )

    def _global(self, value: Any, name: str, function: Any) -> Global:
        import triton.language as tl
        from triton.runtime.jit import JITCallable

        if isinstance(value, JITCallable) and value.__module__.partition(".")[0] != "triton":
            return FunctionGlobal(self.place(value))
        match value:
            case tl.constexpr(value=None | bool() | int() | float() | str()):
                return ConstantGlobal(value.value)
            case tl.dtype():
                return ElementTypeGlobal(str(value))
            case None | bool() | int() | float() | str():
                return value
            case tuple():
                return TupleGlobal(tuple(self._global(each, name, function) for each in value))
            case ModuleType() if value.__name__.partition(".")[0] in MODULES:
                return ModuleGlobal(value.__name__)
        module, member = getattr(value, "__module__", None), getattr(value, "__name__", None)
        if isinstance(module, str) and module.partition(".")[0] in MODULES and isinstance(member, str):
            return MemberGlobal(module, member)
        raise UnsupportedOperation(
            f"the Triton kernel {function.__name__} uses {name!r}, of type {type(value).__name__}: one that goes to a"
            " destination may use functions of triton.jit, the modules triton and math, and plain values"
        )


def _names_in(source: str, code: CodeType) -> set[str]:
    """The names that a function takes from around it, for its body and for its signature."""
    tree = ast.parse(source)
    definition = next(node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))
    signature = [definition.args] if definition.returns is None else [definition.args, definition.returns]
    return _loaded(tree) & _outer(code) | {name for part in signature for name in _loaded(part)} - set(dir(builtins))


def _loaded(tree: ast.AST) -> set[str]:
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}


def _outer(code: CodeType) -> set[str]:
    """What is neither a parameter nor a local; attributes' names are among it."""
    inner = [_outer(each) for each in code.co_consts if isinstance(each, CodeType)]
    return {*code.co_names, *code.co_freevars}.union(*inner)
