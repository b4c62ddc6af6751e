"""torch's settings that decide how an accelerator computes, on their way to the destination.

A setting goes into the stream where the program changes it, as the same call with the same value, because torch's
older and newer settings of one thing act on one another. Nothing connects for that: what is set before anything is
recorded waits for the session. Not here: what the settings mean.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from avec.interception.patching import Patches
from avec.protocol.torch import Template

from .templates import name_of

if TYPE_CHECKING:
    from .recording import Recording

Value = bool | int | str
_WORKSPACE_VARIABLE = "CUBLAS_WORKSPACE_CONFIG"


class Flags:
    """What the program has set and the destination has not got yet."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._waiting: dict[str, Value] = {}
        self._initial: tuple[object, ...] = ()
        self._precisions: dict[str, object] = {}
        self._workspace = ""

    def set(self, name: str, value: Value) -> None:
        """Send a setting with the operators before and after it."""
        if self._recording.opened or self._recording.stream:
            self._recording.record(self._template(name, value), ())
        else:
            self._waiting.pop(name, None)  # the last one counts, in the order in which they were set last
            self._waiting[name] = value

    def set_deterministic(self, mode: bool, warn_only: bool) -> None:
        """Send torch.use_deterministic_algorithms; cuBLAS has a condition for that in the environment."""
        workspace = os.environ.get(_WORKSPACE_VARIABLE, "")
        if workspace != self._workspace:
            self._workspace = workspace
            self.set("cublas_workspace_config", workspace)
        self.set("deterministic_algorithms", "off" if not mode else "warn" if warn_only else "error")

    def settle(self) -> None:
        """What is set now is what AVEC found."""
        self._initial = () if self._waiting else state()
        self._precisions = {_PRECISIONS[where]: _asked("_get_fp32_precision_getter", *where) for where in _STATED}

    def begin(self) -> None:
        """A session was opened: its stream begins with what was set before.

        How float32 is computed is said in any case: a PyTorch program decides that itself, and a destination's worker
        has begun with what the session's `numerics` say.
        """
        waiting, self._waiting = self._waiting, {}
        if state() == self._initial:  # all was set and taken back, as contexts do
            waiting = {}
        stated = {name: value for name, value in self._precisions.items() if isinstance(value, str)}
        settings = [*stated.items(), *waiting.items()]
        self._recording.begin_with([self._template(name, value) for name, value in settings])

    def _template(self, name: str, value: Value) -> int:
        return self._recording.template(Template("avec::flag", (name, value), {}, 0, 0))


def state() -> tuple[object, ...]:
    """Return all settings that are forwarded, as they are on this host."""
    return torch.get_default_dtype(), *(_asked(name, *arguments) for name, *arguments in _GETTERS)


def _getter_of(setter: str) -> str:
    """The function of torch._C that tells what another has set, if it has one of its own."""
    if "_sdp_use_" in setter:
        return setter.replace("_set_sdp_use_", "_get_") + "_sdp_enabled"
    return setter.replace("_set_", "_get_", 1)


def _asked(name: str, *arguments: str) -> object:
    getter = getattr(torch._C, name, None)
    if getter is None:
        return None
    try:
        return getter(*arguments)
    except RuntimeError:  # an older and a newer setting of one thing contradict each other
        return RuntimeError


_PRECISIONS = {
    ("cuda", "matmul"): "cuda.matmul.fp32_precision",
    ("cuda", "all"): "cudnn.fp32_precision",
    ("cuda", "conv"): "cudnn.conv.fp32_precision",
    ("cuda", "rnn"): "cudnn.rnn.fp32_precision",
    ("generic", "all"): "fp32_precision",
}
_STATED = (("cuda", "matmul"), ("cuda", "conv"), ("cuda", "rnn"))
_SWITCHES = {
    "_set_cudnn_enabled": "cudnn.enabled",
    "_set_cudnn_benchmark": "cudnn.benchmark",
    "_set_cudnn_deterministic": "cudnn.deterministic",
    "_set_cudnn_allow_tf32": "cudnn.allow_tf32",
    "_set_cublas_allow_tf32": "cuda.matmul.allow_tf32",
    "_set_cublas_allow_fp16_accumulation": "cuda.matmul.allow_fp16_accumulation",
    "_set_cublas_allow_fp16_reduced_precision_reduction": "cuda.matmul.allow_fp16_reduced_precision_reduction",
    "_set_cublas_allow_bf16_reduced_precision_reduction": "cuda.matmul.allow_bf16_reduced_precision_reduction",
    "_set_sdp_use_flash": "cuda.flash_sdp",
    "_set_sdp_use_mem_efficient": "cuda.mem_efficient_sdp",
    "_set_sdp_use_math": "cuda.math_sdp",
    "_set_sdp_use_cudnn": "cuda.cudnn_sdp",
    "_set_math_sdp_allow_fp16_bf16_reduction": "cuda.fp16_bf16_reduction_math_sdp",
    "_set_deterministic_fill_uninitialized_memory": "fill_uninitialized_memory",
}
_CHOICES = {
    "_set_linalg_preferred_backend": "cuda.preferred_linalg_library",
    "_set_blas_preferred_backend": "cuda.preferred_blas_library",
}
# What tells whether a setting has changed. torch's older names for TF32 are not among them: to read them raises an
# exception, or warns, once the newer have been used; all of them show in these.
_GETTERS: tuple[tuple[str, ...], ...] = (
    ("_get_cudnn_enabled",), ("_get_cudnn_benchmark",), ("_get_cudnn_deterministic",),
    ("_get_cublas_allow_fp16_accumulation",), ("_get_cublas_allow_fp16_reduced_precision_reduction",),
    ("_get_cublas_allow_bf16_reduced_precision_reduction",),
    ("_get_flash_sdp_enabled",), ("_get_mem_efficient_sdp_enabled",), ("_get_math_sdp_enabled",),
    ("_get_cudnn_sdp_enabled",), ("_get_math_sdp_allow_fp16_bf16_reduction",),
    ("_get_linalg_preferred_backend",), ("_get_blas_preferred_backend",),
    ("_get_deterministic_fill_uninitialized_memory",),
    ("_get_deterministic_algorithms",), ("_get_deterministic_algorithms_warn_only",),
    ("_get_float32_matmul_precision",), *(("_get_fp32_precision_getter", *where) for where in _PRECISIONS),
)  # fmt: skip


def patch(patches: Patches, recording: Recording) -> None:
    """Forward torch's settings from now on, and what was set already."""
    flags = Flags(recording)
    limit = [10]  # cudnn.benchmark_limit, which a build without cuDNN does not keep

    def forwarding(setter: str, report: Callable[..., None], original: Any) -> Callable[..., object]:
        getter = _getter_of(setter)
        alone = (getter,) in _GETTERS and (setter in _SWITCHES or setter in _CHOICES)
        look = functools.partial(_asked, getter) if alone else state

        @functools.wraps(original)
        def set_and_send(*args: Any, **kwargs: Any) -> object:
            before = look()
            result = original(*args, **kwargs)
            if look() != before:
                report(*args, **kwargs)
            return result

        return set_and_send

    def switch(name: str, value: Any, *_: Any) -> None:
        flags.set(name, bool(value))

    def choice(name: str, value: Any) -> None:
        flags.set(name, str(value).rpartition(".")[2].lower())

    def precision(where: str, operation: str, value: str) -> None:
        if (where, operation) in _PRECISIONS:
            flags.set(_PRECISIONS[where, operation], value)

    def set_default_dtype() -> None:
        recording.forget_calls()  # the dtypes of their results may be others now
        flags.set("default_dtype", name_of(torch.get_default_dtype()))

    def set_limit(value: int) -> None:
        if value != limit[0]:
            limit[0] = value
            flags.set("cudnn.benchmark_limit", value)

    reports: dict[str, Callable[..., None]] = {
        **{setter: functools.partial(switch, name) for setter, name in _SWITCHES.items()},
        **{setter: functools.partial(choice, name) for setter, name in _CHOICES.items()},
        "_set_fp32_precision_setter": precision,
        "_set_default_dtype": lambda dtype: set_default_dtype(),
        "_set_default_tensor_type": lambda tensor_type: set_default_dtype(),
        "_set_float32_matmul_precision": lambda value: flags.set("float32_matmul_precision", value),
        "_set_deterministic_algorithms": lambda mode, warn_only=False: flags.set_deterministic(mode, warn_only),
    }
    for setter, report in reports.items():
        if hasattr(torch._C, setter):
            patches.replace(torch._C, setter, functools.partial(forwarding, setter, report))
    # torch.backends.cudnn has taken some of the functions from torch._C when it was imported.
    cudnn = vars(type(torch.backends.cudnn))
    for name in ("enabled", "benchmark", "deterministic", "allow_tf32"):
        setter = f"_set_cudnn_{name}"
        patches.replace(cudnn[name], "setter", lambda original, setter=setter: getattr(torch._C, setter))
    patches.stand_in(torch._C, {
        "_cuda_get_cudnn_benchmark_limit": lambda: limit[0],
        "_cuda_set_cudnn_benchmark_limit": set_limit,
    })  # fmt: skip
    prop = type(cudnn["enabled"])
    patches.replace(type(torch.backends.cudnn), "benchmark_limit", lambda original: prop(lambda: limit[0], set_limit))
    recording.on_open.append(flags.begin)
    _report_what_is_set(reports)
    flags.settle()


def _report_what_is_set(reports: dict[str, Callable[..., None]]) -> None:
    """Send what differs from torch's defaults already: the program may have set it before AVEC came."""
    for (getter, *arguments), setter, default in _DEFAULTS:
        value = _asked(getter, *arguments)
        if value not in (default, None, RuntimeError):
            reports[setter](*arguments, *value if isinstance(value, tuple) else (value,))
    if torch.get_default_dtype() != torch.float32:
        reports["_set_default_dtype"](torch.get_default_dtype())
    if torch._C._get_deterministic_algorithms():
        reports["_set_deterministic_algorithms"](True, torch._C._get_deterministic_algorithms_warn_only())


_DEFAULTS: tuple[tuple[tuple[str, ...], str, object], ...] = (
    (("_get_cudnn_enabled",), "_set_cudnn_enabled", True),
    (("_get_cudnn_benchmark",), "_set_cudnn_benchmark", False),
    (("_get_cudnn_deterministic",), "_set_cudnn_deterministic", False),
    (("_get_cublas_allow_fp16_accumulation",), "_set_cublas_allow_fp16_accumulation", False),
    (("_get_flash_sdp_enabled",), "_set_sdp_use_flash", True),
    (("_get_mem_efficient_sdp_enabled",), "_set_sdp_use_mem_efficient", True),
    (("_get_math_sdp_enabled",), "_set_sdp_use_math", True),
    (("_get_cudnn_sdp_enabled",), "_set_sdp_use_cudnn", True),
    (("_get_math_sdp_allow_fp16_bf16_reduction",), "_set_math_sdp_allow_fp16_bf16_reduction", False),
    (("_get_deterministic_fill_uninitialized_memory",), "_set_deterministic_fill_uninitialized_memory", True),
    (("_get_float32_matmul_precision",), "_set_float32_matmul_precision", "highest"),
    *(
        (("_get_fp32_precision_getter", *where), "_set_fp32_precision_setter", default)
        for where, default in zip(_PRECISIONS, ("none", "none", "tf32", "tf32", "none"), strict=True)
    ),
    *(
        ((_getter_of(setter),), setter, (True, True))
        for setter in _SWITCHES
        if setter.endswith("_reduced_precision_reduction")
    ),
)
