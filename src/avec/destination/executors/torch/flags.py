"""torch's settings that a host may change in its worker: an allow-list, by the name below torch.backends."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import torch

from avec.errors import InvalidArgument, UnsupportedOperation

Value = bool | int | str


@dataclass(frozen=True, slots=True)
class Flag:
    """How a setting is set, and the values it may have: a type, the words, or what a text has to look like."""

    apply: Callable[[Value], object]
    allowed: type | tuple[str, ...] | re.Pattern[str]

    def allows(self, value: object) -> bool:
        """Whether a value is one of those."""
        match self.allowed:
            case tuple():
                return value in self.allowed
            case re.Pattern():
                return isinstance(value, str) and self.allowed.fullmatch(value) is not None
        return type(value) is self.allowed

    def __str__(self) -> str:
        match self.allowed:
            case tuple():
                return ", ".join(self.allowed)
            case re.Pattern():
                return self.allowed.pattern
        return self.allowed.__name__


def _attribute(path: str, allowed: type | tuple[str, ...]) -> tuple[str, Flag]:
    module, _, name = path.rpartition(".")

    def apply(value: Value) -> None:
        owner: object = importlib.import_module("torch.backends." + module.partition(".")[0])
        for part in module.split(".")[1:]:
            owner = getattr(owner, part)
        # A module takes any name. Its class is asked, because to read a setting of torch's older interface raises an
        # exception after one of the newer was set.
        if isinstance(owner, ModuleType) and name not in dir(type(owner)):
            raise AttributeError(f"it has no such setting as {name}")
        setattr(owner, name, value)

    return path, Flag(apply, allowed)


_PRECISIONS = ("none", "ieee", "tf32")


def _of_gpus(apply: Callable[[Value], object]) -> Callable[[Value], object]:
    """A setting that means nothing where the accelerator is a CPU."""
    return lambda value: apply(value) if torch.cuda.is_available() else None


_DEVICE_AND_FRACTION = re.compile(r"\d{1,2}:\d(\.\d+)?(e-\d+)?")


def _set_memory_fraction(value: Value) -> None:
    device, _, fraction = str(value).partition(":")
    torch.cuda.set_per_process_memory_fraction(float(fraction), int(device))


FLAGS: dict[str, Flag] = dict(
    [
        _attribute("cuda.matmul.allow_tf32", bool),
        _attribute("cuda.matmul.fp32_precision", _PRECISIONS),
        _attribute("cuda.matmul.allow_fp16_reduced_precision_reduction", bool),
        _attribute("cuda.matmul.allow_bf16_reduced_precision_reduction", bool),
        _attribute("cuda.matmul.allow_fp16_accumulation", bool),
        _attribute("cudnn.allow_tf32", bool),
        _attribute("cudnn.fp32_precision", _PRECISIONS),
        _attribute("cudnn.conv.fp32_precision", _PRECISIONS),
        _attribute("cudnn.rnn.fp32_precision", _PRECISIONS),
        _attribute("cudnn.deterministic", bool),
        _attribute("cudnn.benchmark", bool),
        _attribute("cudnn.benchmark_limit", int),
        _attribute("cudnn.enabled", bool),
    ]
)
FLAGS |= {
    "fp32_precision": Flag(lambda value: setattr(torch.backends, "fp32_precision", value), _PRECISIONS),
    "cuda.flash_sdp": Flag(lambda value: torch.backends.cuda.enable_flash_sdp(bool(value)), bool),
    "cuda.mem_efficient_sdp": Flag(lambda value: torch.backends.cuda.enable_mem_efficient_sdp(bool(value)), bool),
    "cuda.math_sdp": Flag(lambda value: torch.backends.cuda.enable_math_sdp(bool(value)), bool),
    "cuda.cudnn_sdp": Flag(lambda value: torch.backends.cuda.enable_cudnn_sdp(bool(value)), bool),
    "cuda.fp16_bf16_reduction_math_sdp": Flag(
        lambda value: torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(bool(value)), bool
    ),
    "cuda.preferred_linalg_library": Flag(
        _of_gpus(lambda value: torch.backends.cuda.preferred_linalg_library(str(value))),
        ("default", "cusolver", "magma"),
    ),
    "cuda.preferred_blas_library": Flag(
        _of_gpus(lambda value: torch.backends.cuda.preferred_blas_library(str(value))),
        ("default", "cublas", "cublaslt", "ck"),
    ),
    "cuda.memory_fraction": Flag(
        _of_gpus(_set_memory_fraction), re.compile(r"\d{1,2}:\d\.\d+(e-\d+)?")
    ),  # device, fraction
    # torch asks for it before deterministic algorithms and reads it at its first matrix product.
    "cublas_workspace_config": Flag(
        lambda value: os.environ.__setitem__("CUBLAS_WORKSPACE_CONFIG", str(value)), (":4096:8", ":16:8")
    ),
    # What torch.use_deterministic_algorithms does, which also imports Inductor, in 2 s.
    "deterministic_algorithms": Flag(
        lambda value: torch._C._set_deterministic_algorithms(value != "off", warn_only=value == "warn"),
        ("off", "warn", "error"),
    ),
    "fill_uninitialized_memory": Flag(
        lambda value: setattr(torch.utils.deterministic, "fill_uninitialized_memory", bool(value)), bool
    ),
    "float32_matmul_precision": Flag(
        lambda value: torch.set_float32_matmul_precision(str(value)), ("highest", "high", "medium")
    ),
}


def floating_dtype(name: object) -> torch.dtype:
    """The dtype that a host's program has made its default.

    Raises:
        InvalidArgument: there is none of that name, or it cannot be a default.
    """
    dtype = getattr(torch, name, None) if isinstance(name, str) else None
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point or dtype.itemsize == 1:
        raise InvalidArgument(f"{name!r} as the default dtype: it has to be a floating point dtype of torch's")
    return dtype


def set_flag(name: object, value: object) -> None:
    """Set one of torch's settings for this worker.

    Raises:
        UnsupportedOperation: it is not on the list, or this torch does not have it.
        InvalidArgument: it cannot have this value.
    """
    flag = FLAGS.get(name) if isinstance(name, str) else None
    if flag is None:
        raise UnsupportedOperation(
            f"torch's setting {name!r} cannot be set from a host; those that can: {', '.join(FLAGS)}"
        )
    if not flag.allows(value) or not isinstance(value, bool | int | str):
        raise InvalidArgument(f"torch's setting {name} to {value!r}; allowed: {flag}")
    try:
        flag.apply(value)
    except (AttributeError, RuntimeError, ValueError) as exc:
        raise UnsupportedOperation(
            f"setting {name} to {value!r} at the destination, torch {torch.__version__}: {exc}"
        ) from exc
