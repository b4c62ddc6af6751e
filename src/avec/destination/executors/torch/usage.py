"""What a template's operator takes and where it computes, as far as a CUDA graph of it has to know."""

from __future__ import annotations

from dataclasses import dataclass

from avec.protocol.torch import HOST, DeviceArg, GeneratorArg, HostScalarArg, Template, TensorArg, all_args

CALLED_GRAPH = "avec::call_graph"


@dataclass(frozen=True, slots=True)
class Usage:
    """Of one template."""

    template: Template
    device: int | None  # the one accelerator that it computes on; None: it cannot be part of a CUDA graph
    inputs: tuple[int, ...]  # places of its tensors' numbers


def usage_of(template: Template) -> Usage:
    """Look at a template."""
    inputs: list[int] = []
    devices = {meta.device for meta in template.outputs or () if meta is not None}
    fits = not template.operator.startswith("avec::") or template.operator == CALLED_GRAPH
    for arg in all_args(template):
        match arg:
            case TensorArg():
                inputs.append(arg.place)
                devices.add(arg.meta.device)
            case DeviceArg():
                devices.add(arg.index)
            case GeneratorArg() | HostScalarArg():
                fits = False  # a graph would keep a generator's state, or the address of a number in host memory
    fits = fits and template.outputs is not None and len(devices) == 1 and HOST not in devices
    return Usage(template, devices.pop() if fits else None, tuple(inputs))
