"""Which operators a host may call: those of torch's dispatcher that compute, by name; never a file's or a pointer's."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from avec.errors import UnsupportedOperation

NAMESPACES = frozenset({"aten", "torchvision"})

# Operators without overloads' names. They read or write files or standard output, lock host memory, reach into
# another storage or into autograd's state, or take sizes and places on trust and read there.
DENIED = frozenset(
    "from_file _print pin_memory _pin_memory is_pinned record_stream get_gradients set set_ set_data data "
    "_backward requires_grad_ retain_grad _use_count resize resize_ resize_as resize_as_ resize_as_sparse "
    "resize_as_sparse_ sparse_resize sparse_resize_ sparse_resize_and_clear sparse_resize_and_clear_ _resize_output "
    "_resize_output_ _sparse_coo_tensor_unsafe _sparse_compressed_tensor_unsafe _sparse_csr_tensor_unsafe "
    "_sparse_csc_tensor_unsafe _sparse_bsr_tensor_unsafe _sparse_bsc_tensor_unsafe _make_dual _unpack_dual "
    "_reshape_alias _reshape_alias_copy _copy_from _copy_from_and_resize to_mkldnn _test_warn_in_autograd "
    "_has_compatible_shallow_copy_type".split()
)
DENIED_PREFIXES = ("_nested_", "_make_per_", "mkldnn_", "_mkldnn_", "miopen_", "fbgemm_", "quantized_", "_vulkan")


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
    if namespace in NAMESPACES and _is_denied(base):
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


def _is_denied(base: str) -> bool:
    return base in DENIED or base.startswith(DENIED_PREFIXES)


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
