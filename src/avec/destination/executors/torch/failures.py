"""From an operator's exception to one of AVEC's, with the library's own text and where it happened."""

from __future__ import annotations

import torch

from avec.errors import AcceleratorOutOfMemory, ExecutionError, RemoteError, UnsupportedOperation

_NOTHING_REGISTERED = "Could not run '"  # c10::impl::OperatorEntry::reportError

_NO_MEMORY = "can't allocate memory", "std::bad_alloc"  # c10/core/impl/alloc_cpu.cpp; what else allocates in C++
_NO_STORAGE = "Tensor that doesn't have storage"  # c10::TensorImpl::data


def failure(exc: Exception, where: str) -> ExecutionError:
    """The exception to raise in place of `exc`; `where` says at which call."""
    text = str(exc)
    if isinstance(exc, ExecutionError):
        return type(exc)(f"{text} ({where})")
    first = text.split("\n", 1)[0]
    if is_out_of_memory(exc):
        return AcceleratorOutOfMemory(f"{first or 'no memory is left'} ({where}); use a smaller input or batch")
    if isinstance(exc, NotImplementedError) and text.startswith(_NOTHING_REGISTERED):
        sentence = first.split(". ", 1)[0]  # the others list what torch knows
        return UnsupportedOperation(
            f"{sentence} ({where}); the destination's accelerator cannot do it: use another, or compute it on the CPU"
        )
    if _NO_STORAGE in text:
        return UnsupportedOperation(
            f"a result that has no storage, such as a sparse tensor, cannot be named by an address ({where}); "
            "compute it on the CPU"
        )
    return RemoteError(f"{type(exc).__name__}: {text} ({where})")


def is_out_of_memory(exc: BaseException) -> bool:
    """Whether torch could not allocate; on the CPU it says so only in the text."""
    return isinstance(exc, torch.OutOfMemoryError | MemoryError) or any(each in str(exc) for each in _NO_MEMORY)
