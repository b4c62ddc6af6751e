"""What a template's operator takes, writes and gives, as far as a CUDA graph of it has to know."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from avec.destination.executors.torch.operators import Operator, resolve
from avec.protocol.torch import HOST, Arg, DeviceArg, GeneratorArg, HostScalarArg, ListArg, Template, TensorArg

CALLED_GRAPH = "avec::call_graph"


@dataclass(frozen=True, slots=True)
class Usage:
    """Of one template."""

    template: Template
    device: int | None  # the one accelerator that it computes on; None: it cannot be part of a CUDA graph
    inputs: tuple[tuple[int, bool], ...]  # places of its tensors' numbers, and whether it may write to them


def usage_of(template: Template) -> Usage:
    """Look at a template that has been carried out before."""
    own = template.operator.startswith("avec::")
    operator = None if own else resolve(template.operator, "")
    inputs: list[tuple[int, bool]] = []
    devices = {meta.device for meta in template.outputs or () if meta is not None}
    fits = template.outputs is not None and (not own or template.operator == CALLED_GRAPH)
    for written, arg in _arguments(template, operator):
        match arg:
            case TensorArg():
                inputs.append((arg.place, written))
                devices.add(arg.meta.device)
            case DeviceArg():
                devices.add(arg.index)
            case GeneratorArg() | HostScalarArg():
                fits = False  # a graph would keep a generator's state, or the address of a number in host memory
    device = next(iter(devices)) if fits and len(devices) == 1 and HOST not in devices else None
    return Usage(template, device, tuple(inputs))


def _arguments(template: Template, operator: Operator | None) -> Iterator[tuple[bool, Arg]]:
    """Each argument, and whether it may be written to; lists unfolded."""
    for place, arg in enumerate(template.args):
        yield from _unfolded(arg, operator is None or operator.writes[place])
    for name, arg in template.kwargs.items():
        yield from _unfolded(arg, operator is None or operator.writes[operator.names.index(name)])


def _unfolded(arg: Arg, written: bool) -> Iterator[tuple[bool, Arg]]:
    if isinstance(arg, ListArg):
        for each in arg.items:
            yield from _unfolded(each, written)
    else:
        yield written, arg
