"""Carries out ONNX models with the ONNX Runtime that is installed here: on CUDA where it can, else on the CPU.

Importing this package needs no onnxruntime, whose import starts threads that would not survive the zygote's fork; a
worker imports it when its host first asks for an ONNX model. Where it is not installed, the import fails, and the
destination does not offer the format.
"""

from __future__ import annotations

from importlib.util import find_spec

if find_spec("onnxruntime") is None:
    raise ImportError(
        "onnxruntime is not installed; `pip install 'avec[destination-onnx]'` brings it", name="onnxruntime"
    )

from avec.destination.executors.onnx.executor import OnnxExecutor

__all__ = ["OnnxExecutor"]
