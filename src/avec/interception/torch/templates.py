"""Turns one operator call into a protocol Template and the numbers that go with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec
import torch
from msgspec import structs

from avec.protocol.torch import (
    HOST,
    Arg,
    ComplexArg,
    DeviceArg,
    DTypeArg,
    FloatArg,
    GeneratorArg,
    HostScalarArg,
    LayoutArg,
    ListArg,
    MemoryFormatArg,
    Template,
    TensorArg,
    TensorMeta,
    listed,
)

from .schemas import WRITING, Operator
from .storages import Layout

_NUMBER_NBYTES = 8  # of one number of the stream
_ENCODER = msgspec.msgpack.Encoder()


def name_of(value: torch.dtype | torch.layout | torch.memory_format) -> str:
    """torch.float32 → "float32"."""
    return str(value).removeprefix("torch.")


def meta_of(tensor: torch.Tensor) -> TensorMeta:
    """Describe a tensor without its place."""
    return TensorMeta(name_of(tensor.dtype), tuple(tensor.shape), tuple(tensor.stride()), max(0, tensor.get_device()))


def meta_of_layout(layout: Layout) -> TensorMeta:
    """Describe what a layout makes."""
    return TensorMeta(name_of(layout.dtype), layout.shape, layout.stride, layout.device)


class Description:
    """One call on its way to being a Template: arguments are described one after the other.

    `cacheable` says afterwards whether a call that looks the same may use the same template with its own numbers.
    """

    def __init__(
        self,
        keep_floats: bool,
        upload: Callable[[torch.Tensor], torch.Tensor],
        generator_handle: Callable[[torch.Generator], int | None],
    ) -> None:
        """Begin.

        Args:
            keep_floats: floats decide about shapes here, so they belong in the template.
            upload: sends a tensor of the host's that the operator wants in host memory; gives one for its address.
            generator_handle: gives the destination's handle of a random number generator; None for the host's own.
        """
        self._keep_floats = keep_floats
        self._upload = upload
        self._generator_handle = generator_handle
        self.numbers: list[int] = []
        self.floats: list[float] = []
        self.cacheable = True
        self._held: list[torch.Tensor] = []  # what was sent for this call alone, until it is recorded
        self._args: tuple[Arg, ...] = ()
        self._kwargs: dict[str, Arg] = {}

    def arg(self, value: object) -> Arg:
        """Describe one argument.

        Raises:
            NotImplementedError: it is of a type that cannot be sent.
        """
        match value:
            case torch.Tensor():
                return self._tensor(value)
            case bool() | None | str():
                return value
            case int():
                return int(value)
            case float():
                return value if self._keep_floats else self._float(value)
            case complex():
                self.cacheable = False
                return ComplexArg(value.real, value.imag)
            case list() | tuple():
                return ListArg(tuple(self.arg(each) for each in value))
            case torch.dtype():
                return DTypeArg(name_of(value))
            case torch.device():
                return DeviceArg(HOST if value.type != "cuda" else device_index(value))
            case torch.layout():
                return LayoutArg(name_of(value))
            case torch.memory_format():
                return MemoryFormatArg(name_of(value))
            case torch.Generator():
                return self._generator(value)
        raise NotImplementedError(f"an argument of type {type(value).__name__} cannot be sent to a destination")

    def describe(self, args: Sequence[object], kwargs: Mapping[str, object]) -> None:
        """Describe all arguments of a call; `numbers` and `floats` hold what goes with them."""
        self._args = tuple(self.arg(each) for each in args)
        self._kwargs = {name: self.arg(each) for name, each in kwargs.items()}

    def template(self, operator: str, outputs: tuple[TensorMeta | None, ...] | None) -> Template:
        """What was described, as the destination gets it."""
        return Template(operator, self._args, self._kwargs, len(self.numbers), len(self.floats), outputs)

    def key(self, operator: str, device: int) -> bytes:
        """What was described, without what goes with it: calls of one key have the same results."""
        return _ENCODER.encode((operator, device, self._args, self._kwargs))

    def _place(self, number: int) -> int:
        self.numbers.append(number)
        return len(self.numbers) - 1

    def _float(self, value: float) -> FloatArg:
        self.floats.append(value)
        return FloatArg(len(self.floats) - 1)

    def _tensor(self, tensor: torch.Tensor) -> Arg:
        if tensor.is_cuda:
            place = self._place(tensor.data_ptr())
            return TensorArg(place, meta_of(tensor), tensor.is_conj(), tensor.is_neg())
        self.cacheable = False
        if tensor.dim() == 0 and tensor.dtype.itemsize <= _NUMBER_NBYTES:
            return HostScalarArg(self._place(bits_of(tensor)), name_of(tensor.dtype))
        held = self._upload(tensor)
        self._held.append(held)
        return TensorArg(self._place(held.data_ptr()), structs.replace(meta_of(held), device=HOST))

    def _generator(self, generator: torch.Generator) -> GeneratorArg:
        handle = self._generator_handle(generator)
        if handle is None:
            raise RuntimeError(f"Expected a 'cuda' device type for generator but found '{generator.device.type}'")
        return GeneratorArg(self._place(handle))


def written_places(template: Template) -> list[int]:
    """The places among the inputs of the tensors that an operator may write to: all, where no schema says which."""
    namespace, _, name = template.operator.partition("::")
    try:
        # Not asked of AVEC's own: torch.ops would have a namespace of that name then.
        written = None if namespace == "avec" else Operator.named(name, namespace).written
    except AttributeError:  # one of another library's, which this process has not loaded
        written = None
    args: dict[int | str, Arg] = dict(enumerate(template.args))
    args.update(template.kwargs)
    if written is None or any(part in name for part in WRITING):
        written = tuple(args)
    return [each.place for each in listed(args[at] for at in written if at in args) if isinstance(each, TensorArg)]


def bits_of(scalar: torch.Tensor) -> int:
    """The bits of a tensor of no dimension on the host, in the lower bytes of a number of the stream."""
    values = scalar.detach().resolve_conj().resolve_neg().reshape(1).view(torch.uint8)
    return int.from_bytes(values.numpy().tobytes(), "little")


def device_index(device: torch.device) -> int:
    """Which accelerator a device names; the current one when it does not say."""
    return torch.cuda.current_device() if device.index is None else device.index
