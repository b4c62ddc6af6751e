"""Functions that are compiled; here: executed."""

from __future__ import annotations

import inspect
import itertools
import re
import textwrap
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch


class JITCallable:
    def __init__(self, fn: Callable[..., Any]) -> None:
        self.fn = fn
        self.signature = inspect.signature(fn)
        source = textwrap.dedent(inspect.getsource(fn))
        self.src = source[re.search(r"^def\s+\w+\s*\(", source, re.MULTILINE).start() :]
        self.__name__, self.__module__, self.__globals__ = fn.__name__, fn.__module__, fn.__globals__

    def get_capture_scope(self) -> dict[str, Any]:
        cells = zip(self.fn.__code__.co_freevars, self.fn.__closure__ or (), strict=True)
        return self.__globals__ | {name: cell.cell_contents for name, cell in cells}

    def __call__(self, *args: object) -> Any:
        return self.fn(*args)


class ConstexprFunction(JITCallable):
    pass


class JITFunction(JITCallable):
    def __init__(
        self,
        fn: Callable[..., None],
        noinline: bool | None = None,
        do_not_specialize: Sequence[int | str] | None = None,
        do_not_specialize_on_alignment: Sequence[int | str] | None = None,
    ) -> None:
        super().__init__(fn)
        self.noinline = noinline
        self.do_not_specialize = do_not_specialize or []
        self.do_not_specialize_on_alignment = do_not_specialize_on_alignment or []
        self.pre_run_hooks: list[Callable[..., None]] = []
        self.params = [
            SimpleNamespace(name=each.name, is_constexpr="constexpr" in str(each.annotation))
            for each in self.signature.parameters.values()
        ]

    def __getitem__(self, grid: object) -> Callable[..., None]:
        return lambda *args, **kwargs: self.run(*args, grid=grid, warmup=False, **kwargs)

    def run(self, *args: object, grid: Sequence[int], warmup: bool, num_warps: int = 4) -> None:
        from triton import language

        assert num_warps in (2, 4)
        values = [language.Pointer(each) if isinstance(each, torch.Tensor) else each for each in args]
        for language.program[:] in itertools.product(*(range(size) for size in grid)):
            self.fn(*values)
