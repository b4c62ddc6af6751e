"""Operators without a kernel of AVEC's on CUDA tensors: those of known extensions go to the destination, which may have
the same extension; others are refused by name. torch would say that it was built without them.

An extension that was built for CUDA brings kernels, which would run on this machine: AVEC's take their place.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch

from avec.errors import UnsupportedOperation
from avec.interception.patching import Patches

from .kernels import Kernels

FORWARDED = frozenset({"torchvision"})
KINDS = {
    "CUDA": "",
    "SparseCUDA": "sparse ",
    "SparseCsrCUDA": "sparse ",
    "NestedTensorCUDA": "nested ",
    "QuantizedCUDA": "quantized ",
}


class Extensions:
    """Stands behind all operators, and before those that libraries bring."""

    def __init__(self, kernels: Kernels, patches: Patches) -> None:
        self._kernels = kernels
        self._libraries = [torch.library.Library("_", "IMPL")]  # type: ignore[no-untyped-call]
        for key, kind in KINDS.items():
            self._libraries[0].fallback(self._fallback(kind), key)  # type: ignore[no-untyped-call]
        self._replace_kernels(_operators_of_forwarded())
        patches.replace(torch.ops, "load_library", self._loading)

    def leave(self) -> None:
        """Take all of it away."""
        for library in self._libraries:
            library._destroy()  # type: ignore[no-untyped-call]

    def _loading(self, original: Callable[[str], None]) -> Callable[[str], None]:
        @functools.wraps(original)
        def load_library(path: str) -> None:
            before = set(torch._C._dispatch_get_all_op_names())
            original(path)
            self._replace_kernels(set(torch._C._dispatch_get_all_op_names()) - before)

        return load_library

    def _replace_kernels(self, operators: Iterable[str]) -> None:
        for qualified_name in operators:
            for key, kind in KINDS.items():
                if torch._C._dispatch_has_kernel_for_dispatch_key(qualified_name, key):
                    self._replace_kernel(qualified_name, key, kind)

    def _replace_kernel(self, qualified_name: str, key: str, kind: str) -> None:
        namespace, _, name = qualified_name.partition("::")
        library = torch.library.Library(namespace, "IMPL")  # type: ignore[no-untyped-call]
        self._libraries.append(library)
        assert library.m is not None  # for mypy
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "(?s).*overrid")
            library.m.impl(name, key, functools.partial(self._call, kind, qualified_name), False)

    def _fallback(self, kind: str) -> Callable[..., Any]:
        def call(operator: Any, *args: Any, **kwargs: Any) -> Any:
            return self._call(kind, operator.name(), *args, **kwargs)

        return call

    def _call(self, kind: str, qualified_name: str, *args: Any, **kwargs: Any) -> Any:
        namespace, _, name = qualified_name.partition("::")
        if not kind and namespace in FORWARDED:
            return self._kernels.generated(name, namespace)(*args, **kwargs)
        if namespace == "aten":
            what = f"torch has no kernel of it for {kind}tensors on a GPU, or AVEC does not forward it"
        else:
            what = "CUDA kernels of an extension run where they are called, which is on this machine, without a GPU"
        raise UnsupportedOperation(
            f"Could not run '{qualified_name}' with {kind}CUDA tensors: {what}; compute it on the CPU"
            " (`.cpu()`), or by operators that torch itself has for GPUs"
        )


def _operators_of_forwarded() -> list[str]:
    names = torch._C._dispatch_get_all_op_names()
    return [name for name in names if name.partition("::")[0] in FORWARDED]
