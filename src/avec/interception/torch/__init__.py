"""The front-end for PyTorch: a program that says `cuda` works as if the destination's accelerators were in it.

Python kernels on torch's own CUDA dispatch key record what the program does with CUDA tensors, which are ordinary
torch.Tensors; the destination carries the record out. It works with a torch that was built without CUDA.
"""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .activation import Activation

_activations: list[Activation] = []  # none or one


def patch(module: ModuleType) -> None:
    """Put AVEC under torch; twice is once."""
    if not _activations:
        from .activation import Activation

        _activations.append(Activation())


def unpatch(module: ModuleType) -> None:
    """Give torch back as it was."""
    if _activations:
        _activations.pop().undo()
