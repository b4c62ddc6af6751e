"""The front-end for ONNX Runtime: its sessions compute at a destination, and values on cuda stay there.

The installed onnxruntime stays what the application uses. Under its Python classes the native ones are replaced by
what forwards to a destination; OrtValues on the CPU, options and exceptions stay native.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

from avec.errors import UnsupportedOperation
from avec.interception.patching import Patches

from . import values
from .binding import RemoteBinding
from .library import CPU, CUDA, Library, find
from .options import record_options
from .session import RemoteSession
from .values import RemoteVector, as_array

# Native classes that would compute on this host, where a build has them, and why they are not forwarded.
REFUSED_CLASSES = {
    "CheckpointState": "onnxruntime.training trains where its parameters are",
    "GradientGraphBuilder": "onnxruntime.training trains where its parameters are",
    "ModelCompiler": "a compiled model is made for this machine's execution providers",
    "Module": "onnxruntime.training trains where its parameters are",
    "Optimizer": "onnxruntime.training trains where its parameters are",
    "OrtModuleGraphBuilder": "onnxruntime.training trains where its parameters are",
    "TrainingAgent": "onnxruntime.training trains where its parameters are",
    "TrainingSession": "onnxruntime.training trains where its parameters are",
}

_patches: Patches | None = None


def patch(module: ModuleType) -> None:
    """Stand under onnxruntime; again is harmless."""
    global _patches
    if _patches is not None:
        return
    library = find(module)
    _patches = Patches()
    _replace_classes(_patches, library)
    _refuse_classes(_patches, library.native)
    _replace_values(_patches, library.native)
    record_options(_patches, library.native)


def unpatch(module: ModuleType) -> None:
    """Give onnxruntime back as it was."""
    global _patches
    if _patches is not None:
        patches, _patches = _patches, None
        patches.restore()


def _replace_classes(patches: Patches, library: Library) -> None:
    """Replace names in the native module, and in the package where it has them too."""
    replaced: dict[str, object] = {
        "InferenceSession": RemoteSession,
        "SessionIOBinding": RemoteBinding,
        "OrtValueVector": RemoteVector,
        "get_available_providers": lambda: [CUDA, CPU],
        "get_device": lambda: "GPU",
    }
    extension = importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state")  # some import it from there
    for name, replacement in replaced.items():
        for owner in (library.native, extension):
            patches.replace(owner, name, lambda original, replacement=replacement: replacement)
        if name != "InferenceSession" and hasattr(library.module, name):  # the package's own is the Python class
            patches.replace(library.module, name, lambda original, replacement=replacement: replacement)


def _refuse_classes(patches: Patches, native: Any) -> None:
    for name, reason in REFUSED_CLASSES.items():
        if hasattr(native, name):
            patches.replace(native, name, lambda original, name=name, reason=reason: _refusal(name, reason))
    if hasattr(native, "ModelPackageComponentContext"):
        owner = native.ModelPackageComponentContext
        patches.replace(owner, "_create_session", lambda original: _refusal("ModelPackage", "it chooses among devices"))


def _refusal(name: str, reason: str) -> Callable[..., object]:
    def refuse(*args: object, **kwargs: object) -> object:
        raise UnsupportedOperation(f"onnxruntime's {name} cannot be forwarded to a destination: {reason}")

    return refuse


def _replace_values(patches: Patches, native: Any) -> None:
    """Replace what makes OrtValues on cuda, and what copies between values."""
    makers = {
        "ortvalue_from_numpy": values.from_numpy,
        "ortvalue_from_shape_and_type": values.from_shape_and_type,
        "ortvalue_from_shape_and_onnx_type": values.from_shape_and_onnx_type,
    }
    for name, maker in makers.items():
        patches.replace(native.OrtValue, name, lambda original, maker=maker: staticmethod(maker))
    patches.replace(
        native.OrtValue,
        "update_inplace",
        lambda original: lambda self, data: original(self, as_array(data)),
    )
    if hasattr(native, "copy_tensors"):
        patches.replace(native, "copy_tensors", lambda original: _copy_tensors)


def _copy_tensors(sources: list[Any], targets: list[Any], stream: object = None) -> None:
    for source, target in zip(sources, targets, strict=True):
        target.update_inplace(as_array(source))
