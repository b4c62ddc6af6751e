"""Which operators a host may call: those of torch's dispatcher that compute, by name; never a file's or a pointer's."""

from __future__ import annotations

import functools
import importlib
from typing import Any, TypeAlias

import torch

from avec.errors import UnsupportedOperation

# torch.ops.aten.relu.default. torch's stubs say nothing about them.
Operator: TypeAlias = Any

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
    "_cuda_getCurrentRawStream _dirichlet_grad_unsafe".split()
)
DENIED_PREFIXES = ("_nested_", "_make_per_", "mkldnn_", "_mkldnn_", "miopen_", "fbgemm_", "quantized_", "_vulkan")


def resolve(name: str, host_version: str) -> Operator:
    """Find an operator by its name in the dispatcher, "aten::add.Tensor".

    Raises:
        UnsupportedOperation: it is unknown here, or no host may call it.
    """
    namespace, _, rest = name.partition("::")
    base, _, overload = rest.partition(".")
    if namespace in NAMESPACES and not _is_denied(base) and _is_known(name.removesuffix(".default"), namespace):
        operator = getattr(getattr(getattr(torch.ops, namespace), base), overload or "default")
        if torch.Tag.inplace_view not in operator.tags:
            return operator
        raise UnsupportedOperation(f"{name} changes what a tensor is, not what is in it: that is the host's to do")
    if namespace in NAMESPACES and _is_denied(base):
        raise UnsupportedOperation(f"{name} is not carried out for a host; compute it on the CPU (`.cpu()`)")
    raise UnsupportedOperation(
        f"the destination's torch {torch.__version__} has no operator {name} (the host's torch is {host_version}); "
        "install the same version, and the same extensions, at the destination, or compute it on the CPU (`.cpu()`)"
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
    wanted = [
        "Scalar" if place in places else _kind(argument.type)
        for place, argument in enumerate(operator._schema.arguments)
    ]
    packet = operator.overloadpacket
    for name in packet.overloads():
        candidate = getattr(packet, name)
        if [_kind(argument.type) for argument in candidate._schema.arguments] == wanted:
            return candidate
    return None


def _kind(kind: object) -> str:
    text = str(kind)
    return "Scalar" if text == "number" else text
