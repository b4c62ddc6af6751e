"""Which engine computes a model: said in the log, in the session's description, and by the host where it is the CPU."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch

from avec.destination.executors.onnx.engine import OnnxRuntime
from avec.destination.executors.onnx.torch_engine.session import TorchSession
from avec.errors import AcceleratorOutOfMemory, AvecError, InvalidModel, UnsupportedOperation
from avec.protocol.onnx import LoadSession

FATAL = 4  # onnxruntime's severity: refusals of made-up inputs are no errors

log = logging.getLogger("avec.destination")


def choose(engine: OnnxRuntime, native: Any, model: Path, folder: Path | None, request: LoadSession) -> tuple[Any, str]:
    """Take the native session, or one of the torch engine's that was verified against it; say why.

    Raises:
        UnsupportedOperation: only torch may compute here, and it does not have this model.
    """
    if engine.torch_device is None:
        return native, ""
    name = request.source or "a model given as bytes"
    try:
        session, difference = _torch_session(engine, engine.torch_device, native, model, folder, request)
    except (UnsupportedOperation, InvalidModel) as exc:
        if engine.choice == "torch":
            raise UnsupportedOperation(f"{exc}; the destination's setting onnx_engine allows no other") from exc
        log.warning("%s is computed by onnxruntime on the CPU: %s", name, exc)
        return native, f"computed by onnxruntime on the destination's CPU: {exc}"
    note = f"computed by torch, which differed from onnxruntime by {difference:.1e} when the model was loaded"
    log.info("%s is %s", name, note)
    return session, note


def _torch_session(
    engine: OnnxRuntime, device: torch.device, native: Any, model: Path, folder: Path | None, request: LoadSession
) -> tuple[TorchSession, float]:
    options = request.options
    if options.initializers or options.memory_files or options.dimensions_by_name or options.dimensions_by_denotation:
        raise UnsupportedOperation("the torch engine does not have initializers and dimensions of the application's")
    # Imported here, because it needs the package onnx, which a destination with onnxruntime for CUDA can do without.
    try:
        from avec.destination.executors.onnx.torch_engine.program import load
        from avec.destination.executors.onnx.torch_engine.verification import verify
    except ImportError as exc:
        raise UnsupportedOperation(f"the torch engine needs the package onnx: {exc}") from exc
    try:
        program = load(model, folder, device)
        quiet = engine.native.RunOptions()
        quiet.log_severity_level = FATAL
        return TorchSession(program, native, engine), verify(program, native, engine.fast, quiet)
    except AvecError:
        raise
    except torch.cuda.OutOfMemoryError as exc:
        reason = str(exc).split("\n", 1)[0]
        raise AcceleratorOutOfMemory(f"loading {request.source or 'an ONNX model'}: {reason}") from exc
    except Exception as exc:  # a form of a graph that nobody has thought of: onnxruntime has it, for it has loaded it
        raise UnsupportedOperation(f"the torch engine failed: {exc!r}") from exc
