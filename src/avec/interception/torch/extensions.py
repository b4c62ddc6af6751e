"""Operators without a kernel of AVEC's on CUDA tensors: those of known extensions go to the destination, which may have
the same extension; others are refused by name. torch would say that it was built without them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from avec.errors import UnsupportedOperation

from .kernels import Kernels

FORWARDED = frozenset({"torchvision"})
KINDS = {
    "CUDA": "",
    "SparseCUDA": "sparse ",
    "SparseCsrCUDA": "sparse ",
    "NestedTensorCUDA": "nested ",
    "QuantizedCUDA": "quantized ",
}


def register(kernels: Kernels) -> torch.library.Library:
    """Stand behind all operators for tensors of these kinds."""
    library = torch.library.Library("_", "IMPL")  # type: ignore[no-untyped-call]
    for key, kind in KINDS.items():
        library.fallback(_fallback(kernels, kind), key)  # type: ignore[no-untyped-call]
    return library


def _fallback(kernels: Kernels, kind: str) -> Callable[..., Any]:
    def call(operator: Any, *args: Any, **kwargs: Any) -> Any:
        namespace, _, name = operator.name().partition("::")
        if not kind and namespace in FORWARDED:
            return kernels.generated(name, namespace)(*args, **kwargs)
        if namespace == "aten":
            what = f"torch has no kernel of it for {kind}tensors on a GPU, or AVEC does not forward it"
        else:
            what = "CUDA kernels of an extension run where they are called, which is on this machine, without a GPU"
        raise UnsupportedOperation(
            f"Could not run '{operator.name()}' with {kind}CUDA tensors: {what}; compute it on the CPU"
            " (`.cpu()`), or by operators that torch itself has for GPUs"
        )

    return call
