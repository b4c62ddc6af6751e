"""Sparse and nested tensors on the accelerator: the host keeps their structure, the destination their dense parts.

Most of torch's operators for them are one C++ function for CPUs and GPUs, composed of dense operators: these are called
as they are. The few that have a kernel of their own for GPUs are in `sparse` and `nested`; the rest is refused by name.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NoReturn

import torch

from avec.errors import UnsupportedOperation

from .nested import NESTED
from .operators import registered_operators, registered_together
from .prediction import without_numbers
from .schemas import Operator
from .sparse import COO, CSR

# The dispatch key of a kind of CUDA tensors, and that of the CPU's, whose functions may be shared.
KEYS = {"SparseCUDA": "SparseCPU", "SparseCsrCUDA": "SparseCsrCPU", "NestedTensorCUDA": "NestedTensorCPU"}
OWN = {"SparseCUDA": COO, "SparseCsrCUDA": CSR, "NestedTensorCUDA": NESTED}
# Operators on dense tensors that may give such ones, by functions that CPUs and GPUs share.
FROM_DENSE = (
    "_to_sparse", "_to_sparse.sparse_dim", "_to_sparse_csr", "_to_sparse_csc", "_to_sparse_bsr", "_to_sparse_bsc",
    "sparse_mask", "_embedding_bag_backward", "_nested_from_padded", "_nested_tensor_from_mask",
    "_nested_tensor_from_mask_left_aligned", "_nested_view_from_buffer",
    "_nested_compute_contiguous_strides_offsets",
)  # fmt: skip


def kernels(key: str) -> dict[str, Callable[..., Any]]:
    """The kernels of a kind of CUDA tensors, by the operator's name."""
    twin = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, KEYS[key]))
    found: dict[str, Callable[..., Any]] = {
        name: functools.partial(_refuse, name) for name in registered_operators(key)
    }
    for name in registered_together(KEYS[key], key):
        found[name] = _shared(name, twin)
    return found | OWN[key]


def dense_kernels() -> dict[str, Callable[..., Any]]:
    """The kernels of dense CUDA tensors that give sparse ones."""
    twin = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)
    return {name: _shared(name, twin) for name in FROM_DENSE}


def _shared(name: str, keys: Any) -> Callable[..., Any]:
    """The function that a CPU's tensors of the kind have; it is looked up when it is first called."""

    @functools.cache
    def operator() -> Operator:
        return Operator.named(name)

    def shared(*args: Any, **kwargs: Any) -> Any:
        return operator().overload.redispatch(keys, *without_numbers(operator(), args), **kwargs)

    return shared


def _refuse(name: str, *args: object, **kwargs: object) -> NoReturn:
    raise UnsupportedOperation(
        f"aten::{name} of sparse or nested CUDA tensors is not forwarded; use dense ones (`.to_dense()`,"
        " `.to_padded_tensor()`) or the CPU's (`.cpu()`)"
    )
