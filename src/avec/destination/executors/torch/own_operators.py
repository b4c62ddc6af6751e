"""The operators of the namespace avec, which torch does not have: payloads, random seeds, settings, events."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from avec.destination.executors.torch.devices import Devices
from avec.destination.executors.torch.events import Events
from avec.destination.executors.torch.flags import floating_dtype, set_flag
from avec.destination.executors.torch.generators import Generators
from avec.destination.executors.torch.graphs import Graphs
from avec.destination.executors.torch.storages import Layout, Memory
from avec.destination.executors.torch.transfers import Transfers
from avec.destination.executors.torch.triton_kernels import TritonKernels
from avec.errors import InvalidArgument
from avec.protocol.torch import Arg
from avec.tensor import Array


@dataclass
class Surroundings:
    """What the own operators work on; payloads and files are the running batch's."""

    devices: Devices
    memory: Memory
    generators: Generators
    events: Events
    transfers: Transfers
    graphs: Graphs
    kernels: TritonKernels
    payloads: Sequence[Array] = ()
    files: Mapping[str, Path] = field(default_factory=dict)
    next_payload: int = 0
    settings: tuple[tuple[str, object], ...] = ()  # all that were made, by which CUDA graphs are told apart
    default_dtype: torch.dtype = torch.float32  # the stream's own: the worker's other models have torch's

    def payload(self) -> Array:
        """The next payload part."""
        place, self.next_payload = self.next_payload, self.next_payload + 1
        if place >= len(self.payloads):
            raise InvalidArgument(f"payload {place} of a batch that has {len(self.payloads)}")
        return self.payloads[place]


@dataclass(frozen=True, slots=True)
class OwnOperator:
    """One row: called with the surroundings, the layouts of its outputs, and the template's arguments."""

    function: Callable[..., Any]
    outputs: int | None = 0  # metas that its template states; None: as many as it gives
    makes: bool = False  # the outputs are new tensors
    answers: bool = False  # what it gives is sent back; its template states no outputs, and ends its batch
    # Sees a template's arguments before it is used, and raises where they make no sense.
    check: Callable[[Surroundings, Sequence[Arg]], None] | None = None


def _upload(around: Surroundings, layouts: Sequence[Layout], target: object) -> None:
    around.transfers.copy(_tensor(target), around.transfers.source(layouts[0], around.payload()))


def _upload_file(around: Surroundings, layouts: Sequence[Layout], target: object, number: object) -> None:
    path = around.files.get(str(_integer(number)))
    if path is None:
        raise InvalidArgument(f"model file {number} did not come with the batch, which has {sorted(around.files)}")
    source = around.transfers.file(layouts[0], path)
    if not around.memory.adopt(_tensor(target), source):  # beside a CPU: processes with the same file have it once
        around.transfers.copy(_tensor(target), source)


def _receive(around: Surroundings, layouts: Sequence[Layout]) -> Tensor:
    return around.transfers.made(layouts[0], around.transfers.source(layouts[0], around.payload()))


def _seed(around: Surroundings, layouts: Sequence[Layout], generator: object, seed: object) -> None:
    _generator(generator).manual_seed(_integer(seed))


def _new_generator(around: Surroundings, layouts: Sequence[Layout], number: object, device: object) -> None:
    around.generators.make(_integer(number), _integer(device))


def _set_generator(around: Surroundings, layouts: Sequence[Layout], generator: object) -> None:
    around.generators.set_state(_generator(generator), around.payload())


def _copy_generator(around: Surroundings, layouts: Sequence[Layout], generator: object, source: object) -> None:
    around.generators.copy_state(_generator(generator), _generator(source))


def _flag(around: Surroundings, layouts: Sequence[Layout], name: object, value: object) -> None:
    apply_setting(around, name, value)


def apply_setting(around: Surroundings, name: object, value: object) -> None:
    """Make one of torch's settings, and take note of it."""
    if name == "default_dtype":
        around.default_dtype = floating_dtype(value)
        torch.set_default_dtype(around.default_dtype)
    else:
        set_flag(name, value)
        if name == "cuda.memory_fraction":
            device, _, fraction = str(value).partition(":")
            around.devices.limit_fraction(int(device), float(fraction))
    around.settings = tuple(sorted({**dict(around.settings), str(name): value}.items()))


def _record_event(around: Surroundings, layouts: Sequence[Layout], number: object, device: object) -> None:
    around.events.record(_integer(number), _integer(device))


def _check_graph(around: Surroundings, args: Sequence[Arg]) -> None:
    around.graphs.check(args)


def _call_graph(
    around: Surroundings, layouts: Sequence[Layout | None], number: object, *inputs: object
) -> Sequence[Tensor]:
    return around.graphs.call(number, layouts, inputs)


def _forget_graph(around: Surroundings, layouts: Sequence[Layout], number: object) -> None:
    around.graphs.forget(_integer(number))


def _sleep(around: Surroundings, layouts: Sequence[Layout], cycles: object, device: object) -> None:
    around.devices.sleep(_integer(cycles), _integer(device))


def _sdp_choice(
    around: Surroundings,
    layouts: Sequence[Layout],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    dropout_p: float,
    is_causal: bool,
    scale: float | None,
    enable_gqa: bool,
    gradients: Sequence[bool],
    order: Sequence[int],
) -> int:
    """Which kernel torch chooses for an attention whose gradients may be wanted. See torch._fused_sdp_choice."""
    given = [query, key, value] if mask is None else [query, key, value, mask]
    if len(given) != len(gradients):
        raise InvalidArgument(f"{len(gradients)} tensors, where {len(given)} were given")
    previous = torch._C._get_sdp_priority_order()
    torch._C._set_sdp_priority_order(list(order))
    try:
        with torch.inference_mode(False), torch.enable_grad():
            # Tensors of another mode cannot ask for gradients.
            asked = [
                torch.empty_strided(each.shape, each.stride(), dtype=each.dtype, device=each.device) for each in given
            ]
            for each, wanted in zip(asked, gradients, strict=True):
                each.requires_grad_(bool(wanted))
            asked_mask = None if mask is None else asked[3]
            return torch._fused_sdp_choice(
                asked[0], asked[1], asked[2], asked_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
            )
    finally:
        torch._C._set_sdp_priority_order(previous)


def _launch_kernel(
    around: Surroundings,
    layouts: Sequence[Layout],
    number: object,
    x: object,
    y: object,
    z: object,
    arguments: object,
    options: object,
) -> None:
    around.kernels.launch(number, [_integer(size) for size in (x, y, z)], arguments, options)


OWN_OPERATORS = {
    "avec::sdp_choice": OwnOperator(_sdp_choice, answers=True),
    "avec::upload": OwnOperator(_upload, outputs=1),
    "avec::upload_file": OwnOperator(_upload_file, outputs=1),
    "avec::receive": OwnOperator(_receive, outputs=1, makes=True),
    "avec::seed": OwnOperator(_seed),
    "avec::new_generator": OwnOperator(_new_generator),
    "avec::set_generator": OwnOperator(_set_generator),
    "avec::copy_generator": OwnOperator(_copy_generator),
    "avec::flag": OwnOperator(_flag),
    "avec::record_event": OwnOperator(_record_event),
    "avec::sleep": OwnOperator(_sleep),
    "avec::call_graph": OwnOperator(_call_graph, outputs=None, makes=True, check=_check_graph),
    "avec::forget_graph": OwnOperator(_forget_graph),
    "avec::launch_kernel": OwnOperator(_launch_kernel),
}


def _tensor(value: object) -> Tensor:
    if not isinstance(value, Tensor):
        raise InvalidArgument(f"a tensor is needed, not {value!r}")
    return value


def _generator(value: object) -> torch.Generator:
    if not isinstance(value, torch.Generator):
        raise InvalidArgument(f"a random number generator is needed, not {value!r}")
    return value


def _integer(value: object) -> int:
    if not isinstance(value, int):
        raise InvalidArgument(f"an integer is needed, not {value!r}")
    return value
