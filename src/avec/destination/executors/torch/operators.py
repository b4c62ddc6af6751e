"""Which operators a host may call: of torch's public ones those that compute, and those others that are listed.

Not here: which private ones (`private_operators`), and what a CPU's are checked for (`quirks`).
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from avec.destination.executors.torch.private_operators import PRIVATE_OPERATORS
from avec.errors import UnsupportedOperation

NAMESPACES = frozenset({"aten", "torchvision"})

# Public operators, without overloads' names, that no host may call. They read or write files, lock host memory, reach
# into another storage or into autograd's state, or change what a storage is.
DENIED = frozenset(
    "data from_file get_gradients is_pinned pin_memory record_stream requires_grad_ resize resize_ resize_as "
    "resize_as_ retain_grad set set_ set_data".split()
)
# Of other devices, quantised, and sparse: a destination has no such tensors, and their makers take indices on trust.
DENIED_PREFIXES = (
    "fbgemm_",
    "miopen_",
    "mkldnn_",
    "quantized_",
    "resize_as_sparse",
    "sparse_",
    "to_mkldnn",
    "to_sparse",
)


@dataclass(frozen=True, slots=True)
class Operator:
    """One operator of torch's, and what a template has to know of its schema."""

    name: str
    call: Callable[..., Any]
    names: tuple[str, ...]  # of its arguments
    kinds: tuple[str, ...]  # their types, "number" for torch's Scalar
    results: int  # how many tensors it gives; −1 if there are lists or other values among them
    takes_numbers: bool  # for tensors, as torch.add does
    others: tuple[str, ...]  # the names of its overloads


def resolve(name: str, host_version: str) -> Operator:
    """Find an operator by its name in the dispatcher, "aten::add.Tensor".

    Raises:
        UnsupportedOperation: it is unknown here, or no host may call it.
    """
    namespace, _, rest = name.partition("::")
    base = rest.partition(".")[0]
    if namespace in NAMESPACES and not _is_allowed(base):
        raise UnsupportedOperation(f"{name} is not carried out for a host; compute it on the CPU (`.cpu()`)")
    if namespace not in NAMESPACES or not _is_known(name.removesuffix(".default"), namespace):
        raise UnsupportedOperation(
            f"the destination's torch {torch.__version__} has no operator {name} (the host's torch is {host_version}); "
            "install the same version, and the same extensions, at the destination, or compute it on the CPU (`.cpu()`)"
        )
    operator = _described(name)
    if operator is None:
        raise UnsupportedOperation(f"{name} changes what a tensor is, not what is in it: that is the host's to do")
    return operator


@functools.cache
def _described(name: str) -> Operator | None:
    """A known operator; None for one that hosts carry out themselves."""
    namespace, _, rest = name.partition("::")
    base, _, overload = rest.partition(".")
    packet = getattr(getattr(torch.ops, namespace), base)
    found = getattr(packet, overload or "default")
    if torch.Tag.inplace_view in found.tags:
        return None
    schema = found._schema
    arguments, returns = schema.arguments, [str(each.type) for each in schema.returns]
    return Operator(
        name=found.name(),
        call=found._op,
        names=tuple(argument.name for argument in arguments),
        kinds=tuple(str(argument.type) for argument in arguments),
        results=len(returns) if all(kind == "Tensor" for kind in returns) else -1,
        takes_numbers=torch._C._should_allow_numbers_as_tensors(base),
        others=tuple(f"{namespace}::{base}.{other}" for other in packet.overloads()),
    )


def _is_allowed(base: str) -> bool:
    if base.startswith("_"):
        return base in PRIVATE_OPERATORS
    return base not in DENIED and not base.startswith(DENIED_PREFIXES)


def _is_known(name: str, namespace: str) -> bool:
    # Asked of the dispatcher: torch.ops would also give TorchScript's own functions, aten::save among them.
    if namespace == "torchvision":
        _import_extension(namespace)
    return name in _registered(namespace)


@functools.cache
def _registered(namespace: str) -> frozenset[str]:
    prefix = namespace + "::"
    names = torch._C._dispatch_get_all_op_names()
    return frozenset(name for name in names if name.startswith(prefix))


@functools.cache
def _import_extension(name: str) -> None:
    try:
        importlib.import_module(name)
    except ImportError:
        return  # its operators are unknown then, and that is said


def scalar_overload(operator: Operator, places: frozenset[int]) -> Operator | None:
    """The overload that takes numbers where this one takes tensors, remainder.Scalar for remainder.Tensor.

    A Python number weighs less in type promotion than a tensor with that number in it; only a few overloads know both.
    """
    wanted = tuple("number" if place in places else kind for place, kind in enumerate(operator.kinds))
    candidates = (_described(name) for name in operator.others)
    return next((each for each in candidates if each is not None and each.kinds == wanted), None)
