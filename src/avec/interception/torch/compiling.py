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

from . import dynamo, triton_kernels
from .fx_calls import GraphCall
from .fx_graphs import NotCaptured, capture
from .fx_pieces import split

if TYPE_CHECKING:
    from avec.interception.patching import Patches

    from .recording import Recording

Options: TypeAlias = Mapping[str, bool]
Function: TypeAlias = Callable[..., Any]

log = logging.getLogger("avec.interception")


def patch(patches: Patches, recording: Recording) -> None:
    """Stand in for Inductor where it would compile for an accelerator."""

    def make(original: Any) -> Function:
        def compile_graph(self: Any, model_: fx.GraphModule, inputs_: Sequence[Any], **kwargs: Any) -> Function:
            if not _is_on_accelerator(model_, inputs_):
                function: Function = original(self, model_, inputs_, **kwargs)
                return function
            patches: Mapping[str, Any] = kwargs.get("config_patches") or {}
            return compiled(recording, model_, inputs_, _chosen({**self.config, **patches}))

        return compile_graph

    patches.replace(torch._TorchCompileInductorWrapper, "__call__", make)
    dynamo.attend(functools.partial(compiled, recording, options=None))
    triton_kernels.attend(recording)
    # Inductor's module of CUDA graphs, which Dynamo imports to reset it, wants this name where torch.cuda is built.
    patches.replace(torch._C, "_cuda_CUDAAllocator_AllocatorState", lambda original: original or _AllocatorState)


def leave() -> None:
    """Undo what `patch` has done beside its patches."""
    dynamo.leave()
    triton_kernels.leave()


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


def _chosen(options: Mapping[str, Any]) -> Options:
    """Of Inductor's settings those that a destination takes: this call's, and what the application has set for all."""
    from torch._inductor import config

    inductor: Any = config
    changed = {name for name in COMPILER_OPTIONS if hasattr(inductor, name) and not inductor._is_default(name)}
    chosen: dict[str, Any] = {name: getattr(inductor, name) for name in changed}
    chosen.update((name, value) for name, value in options.items() if name in COMPILER_OPTIONS)
    return dict(sorted(chosen.items()))


def _is_on_accelerator(module: fx.GraphModule, inputs: Sequence[Any]) -> bool:
    values = [*inputs, *(node.meta.get("example_value") for node in module.graph.nodes)]
    flat = [one for each in values for one in (each if isinstance(each, list | tuple) else (each,))]
    return any(isinstance(each, torch.Tensor) and each.is_cuda for each in flat)
