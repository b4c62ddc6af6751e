"""The application's own ONNX Runtime: its native module, and what the front-end has replaced in it.

Its Python layer (InferenceSession, IOBinding, OrtValue) stays as it is in each version and is the upper half of what
the application uses; under it, the native module's names are replaced by what computes at a destination.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from avec.errors import RemoteError

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


@dataclass(frozen=True, slots=True)
class Library:
    """One onnxruntime with its native module, and the native originals that the front-end goes on using."""

    module: ModuleType
    native: Any  # onnxruntime.capi._pybind_state
    session: Any  # the native InferenceSession
    binding: Any  # the native SessionIOBinding
    vector: Any  # the native OrtValueVector
    from_numpy: Any  # OrtValue.ortvalue_from_numpy, and so on: makers of OrtValues on the CPU
    from_numpy_with_onnx_type: Any
    from_shape_and_type: Any
    from_shape_and_onnx_type: Any
    update_inplace: Any
    cpu: Any  # the native device

    def raised(self, exception: str, text: str) -> Exception:
        """What the engine at the destination raised, as this library's own exception."""
        kind = getattr(self.native, exception, None) or _BUILTINS.get(exception)
        if isinstance(kind, type) and issubclass(kind, Exception):
            return kind(text)
        return RemoteError(f"{exception}: {text}")


_BUILTINS: dict[str, type[Exception]] = {
    each.__name__: each
    for each in (
        ArithmeticError, AttributeError, BufferError, IndexError, KeyError, MemoryError, NotImplementedError, OSError,
        OverflowError, RuntimeError, SystemError, TypeError, ValueError,
    )
}  # fmt: skip

_found: Library | None = None


def find(module: ModuleType) -> Library:
    """Take the originals from a library that is not patched."""
    global _found
    native: Any = importlib.import_module("onnxruntime.capi._pybind_state")
    value = native.OrtValue
    _found = Library(
        module=module,
        native=native,
        session=native.InferenceSession,
        binding=native.SessionIOBinding,
        vector=native.OrtValueVector,
        from_numpy=value.ortvalue_from_numpy,
        from_numpy_with_onnx_type=value.ortvalue_from_numpy_with_onnx_type,
        from_shape_and_type=value.ortvalue_from_shape_and_type,
        from_shape_and_onnx_type=value.ortvalue_from_shape_and_onnx_type,
        update_inplace=value.update_inplace,
        cpu=native.OrtDevice(native.OrtDevice.cpu(), native.OrtDevice.default_memory(), 0),
    )
    return _found


def library() -> Library:
    """The library that the front-end stands under."""
    if _found is None:
        raise RuntimeError("the front-end for onnxruntime is used before it was patched in")
    return _found
