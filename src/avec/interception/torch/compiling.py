"""torch.compile: what its default compiler would make code of is sent as a graph and compiled at the destination.

Dynamo and AOTAutograd work on the host as ever, and give graphs of aten operators, forward and backward; each becomes
one entry of the stream. Graphs without tensors on an accelerator are the host's own. Other compilers than "inductor"
are the application's affair. Not here: how a graph is described (`fx_graphs`) and called (`fx_calls`).
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import fx

from avec import config
from avec.protocol.torch_graph import COMPILER_OPTIONS

from . import dynamo, inductor, triton_kernels
from .fx_calls import GraphCall
from .fx_graphs import NotCaptured, capture, is_on_accelerator
from .fx_pieces import split
from .imports import Awaited

if TYPE_CHECKING:
    from avec.interception.patching import Patches

    from .recording import Recording

Options: TypeAlias = Mapping[str, bool]
Function: TypeAlias = Callable[..., Any]

log = logging.getLogger("avec.interception")


_AWAITED = Awaited(
    {
        "torch._dynamo": dynamo.__name__,
        "torch._inductor.compile_fx": inductor.__name__,
        "triton": triton_kernels.__name__,
    }
)


def patch(patches: Patches, recording: Recording) -> None:
    """Stand in for Inductor where it would compile for an accelerator."""

    def compile_graph(module: fx.GraphModule, inputs: Sequence[Any], options: Mapping[str, Any]) -> Function:
        return compiled(recording, module, inputs, chosen(options))

    dynamo.by_name.update(inductor=_inductor, cudagraphs=functools.partial(compiled, recording, options=None))
    inductor.compilers[:] = [compile_graph]
    triton_kernels.recordings[:] = [recording]
    patches.replace(torch._TorchCompileInductorWrapper, "__call__", functools.partial(_calling, compile_graph))
    # Inductor's module of CUDA graphs, which Dynamo imports to reset it, wants this name where torch.cuda is built.
    patches.replace(torch._C, "_cuda_CUDAAllocator_AllocatorState", lambda original: original or _AllocatorState)
    _AWAITED.attend()


def leave() -> None:
    """Undo what `patch` has done beside its patches."""
    _AWAITED.leave()
    dynamo.by_name.clear()
    inductor.compilers.clear()
    triton_kernels.recordings.clear()


def _calling(compile_graph: Function, original: Any) -> Function:
    @functools.wraps(original)
    def call(self: Any, model_: fx.GraphModule, inputs_: Sequence[Any], **kwargs: Any) -> Any:
        if is_on_accelerator(model_, inputs_):
            return compile_graph(model_, inputs_, {**self.config, **(kwargs.get("config_patches") or {})})
        return original(self, model_, inputs_, **kwargs)

    return call


def _inductor(module: fx.GraphModule, inputs: Sequence[Any], **kwargs: Any) -> Function:
    """What "inductor" stands for as a name, with torch.compile's mode and options."""
    wrapper: Any = torch._TorchCompileInductorWrapper
    function: Function = wrapper(kwargs.get("mode"), kwargs.get("options"), None)(module, inputs)
    return function


class _AllocatorState:
    """Stands for a class of CUDA builds; nobody here makes one."""


def compiled(recording: Recording, module: fx.GraphModule, inputs: Sequence[Any], options: Options | None) -> Function:
    """Make a function of a graph of Dynamo's: its forward and backward graphs are the destination's to carry out.

    Args:
        options: the compiler's; None: it is not to be compiled there.
    """
    if config.load().torch_compile == "eager":
        return module.forward
    from torch._dynamo.backends.common import aot_autograd
    from torch._functorch import config as aot_config
    from torch._functorch.partitioners import min_cut_rematerialization_partition

    compiler = aot_autograd(
        fw_compiler=functools.partial(_sent, recording, options),
        partition_fn=min_cut_rematerialization_partition,
        keep_inference_input_mutations=True,
    )
    settings: Any = aot_config
    with settings.patch(graphsafe_rng_functionalization=False):  # it wants generators that are native throughout
        function: Function = compiler(module, inputs)
    return function


def _sent(recording: Recording, options: Options | None, module: fx.GraphModule, inputs: Sequence[Any]) -> Function:
    """Make a function of a graph of operators, in the form that AOTAutograd wants of a compiler."""
    try:
        return GraphCall(recording, capture(module, options))
    except NotCaptured as exc:
        log.debug("a graph of %d nodes is carried out in pieces: it has %s", len(module.graph.nodes), exc)
    in_pieces = split(recording, options, module)

    def by_pieces(args: list[Any]) -> Any:
        values = tuple(args)
        args.clear()
        return in_pieces(*values)

    by_pieces._boxed_call = True  # type: ignore[attr-defined]
    return by_pieces


def chosen(options: Mapping[str, Any]) -> Options:
    """Of Inductor's settings those that a destination takes: this call's, and what the application has set for all."""
    from torch._inductor import config as inductor_config

    settings: Any = inductor_config
    changed = [name for name in COMPILER_OPTIONS if hasattr(settings, name) and not settings._is_default(name)]
    chosen: dict[str, Any] = {name: getattr(settings, name) for name in changed}
    chosen.update((name, value) for name, value in options.items() if name in COMPILER_OPTIONS)
    return dict(sorted(chosen.items()))
