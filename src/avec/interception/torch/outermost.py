"""Whole-graph mode: the outermost call of a module on an accelerator is captured by Dynamo and sent as graphs.

It stands in `nn.Module.__call__`, which modules call whoever calls them: no module, and no class of one, is changed.
Not here: how a call is captured (`whole_graphs`), what becomes of a graph (`compiling`).
"""

from __future__ import annotations

import functools
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import fx, nn
from torch.nn.modules import module as module_hooks
from torch.nn.parallel import DataParallel, DistributedDataParallel

if TYPE_CHECKING:
    from avec.interception.patching import Patches

    from .recording import Recording
    from .whole_graphs import WholeGraphs

Call = Callable[..., Any]

# What only passes calls on to the module in it, which is then the outermost; and what is no Python to be captured.
_PASSED_OVER = (DataParallel, DistributedDataParallel, torch.jit.ScriptModule)


class _Thread(threading.local):
    """What one thread is doing."""

    inside = False  # an outermost call


class Outermost:
    """Decides which calls of modules are captured, and by what."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._thread = _Thread()
        self._lock = threading.Lock()
        self._graphs: WholeGraphs | None = None
        # By identity, as a module's class may say that it equals others. None: this module's calls are not captured.
        self._known: dict[int, tuple[weakref.ref[nn.Module], Call | None]] = {}

    def patch(self, patches: Patches) -> None:
        """Stand in the way of all modules' calls."""
        patches.replace(nn.Module, "__call__", self._calling)

    def leave(self) -> None:
        """Undo what capturing has changed beside `patch`."""
        if self._graphs is not None:
            self._graphs.leave()

    def _calling(self, original: Any) -> Call:
        thread = self._thread

        @functools.wraps(original)
        def call(self_: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
            if thread.inside or not self._is_captured(self_, args, kwargs):
                return original(self_, *args, **kwargs)
            function = self._function(self_, original)
            if function is None:
                return original(self_, *args, **kwargs)
            thread.inside = True
            try:
                return function(self_, *args, **kwargs)
            finally:
                thread.inside = False

        call._torchdynamo_inline = original  # type: ignore[attr-defined]  # what Dynamo looks at in this one's place
        return call

    def _is_captured(self, module: nn.Module, args: Iterable[Any], kwargs: Mapping[str, Any]) -> bool:
        if isinstance(module, _PASSED_OVER) or _is_single_layer(module) or "_is_replica" in module.__dict__:
            return False
        if module._compiled_call_impl is not None or hasattr(module.forward, "_torchdynamo_orig_callable"):
            return False  # the program compiles it
        if self._recording.capturing or _is_watched():
            return False
        for parameter in module.parameters():
            return parameter.is_cuda
        return _has_cuda((*args, *kwargs.values()))

    def _function(self, module: nn.Module, original: Call) -> Call | None:
        known = self._known.get(id(module))
        if known is not None and known[0]() is module:
            return known[1]
        if any(nn.parameter.is_lazy(each) for each in module.parameters()):
            return None  # its first call changes what it consists of
        with self._lock:
            if self._graphs is None:
                from .whole_graphs import WholeGraphs

                self._graphs = WholeGraphs(self._recording, original)
            function = self._graphs.function(module)
        number, forget = id(module), self._known.pop
        self._known[number] = weakref.ref(module, lambda _: forget(number, None)), function
        return function


def _is_single_layer(module: nn.Module) -> bool:
    """Whether it is one of torch's layers, activations or losses, which is as well carried out operator by operator."""
    return not module._modules and (not module._parameters or type(module).__module__.startswith("torch.nn."))


def _is_watched() -> bool:
    """Whether this thread's operators are traced, transformed, looked at one by one, or being compiled already."""
    return (
        torch._C._dynamo.eval_frame.get_eval_frame_callback() is not None
        or torch._C._get_tracing_state() is not None
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._functorch.get_dynamic_layer_stack_depth() > 0
        or torch.autograd.forward_ad._current_level >= 0
        or fx._symbolic_trace.is_fx_symbolic_tracing()
        or torch.compiler.is_exporting()
        or module_hooks._has_any_global_hook()  # type: ignore[no-untyped-call]
    )


def _has_cuda(values: Iterable[Any]) -> bool:
    for value in values:
        if isinstance(value, torch.Tensor):
            if value.is_cuda:
                return True
        elif isinstance(value, list | tuple):
            if _has_cuda(value):
                return True
        elif isinstance(value, dict) and _has_cuda(value.values()):
            return True
    return False
