"""Turns one operator call into a protocol Template and the numbers that go with it."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence

import torch

from avec.protocol.torch import (
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
)

from .storages import Layout

_BITS: dict[torch.dtype, str] = {
    torch.bool: "?", torch.uint8: "B", torch.int8: "b", torch.uint16: "H", torch.int16: "h", torch.uint32: "I",
    torch.int32: "i", torch.uint64: "Q", torch.int64: "q", torch.float16: "e", torch.float32: "f", torch.float64: "d",
}  # fmt: skip


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
        upload: Callable[[torch.Tensor], TensorArg],
        generator_handle: Callable[[torch.Generator], int | None],
    ) -> None:
        """Begin.

        Args:
            keep_floats: floats decide about shapes here, so they belong in the template.
            upload: sends a tensor of the host's that the operator wants in host memory; gives its address as place.
            generator_handle: gives the destination's handle of a random number generator; None for the host's own.
        """
        self._keep_floats = keep_floats
        self._upload = upload
        self._generator_handle = generator_handle
        self.numbers: list[int] = []
        self.floats: list[float] = []
        self.cacheable = True

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
                return DeviceArg(-1 if value.type != "cuda" else device_index(value))
            case torch.layout():
                return LayoutArg(name_of(value))
            case torch.memory_format():
                return MemoryFormatArg(name_of(value))
            case torch.Generator():
                return self._generator(value)
        raise NotImplementedError(f"an argument of type {type(value).__name__} cannot be sent to a destination")

    def template(
        self,
        operator: str,
        args: Sequence[object],
        kwargs: Mapping[str, object],
        outputs: tuple[TensorMeta | None, ...] | None,
    ) -> Template:
        """Describe a whole call; `numbers` and `floats` hold what goes with it."""
        described = tuple(self.arg(each) for each in args)
        named = {name: self.arg(each) for name, each in kwargs.items()}
        return Template(operator, described, named, len(self.numbers), len(self.floats), outputs)

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
        if tensor.dim() == 0 and tensor.dtype in _BITS:
            return HostScalarArg(self._place(bits_of(tensor.item(), tensor.dtype)), name_of(tensor.dtype))
        uploaded = self._upload(tensor)
        return TensorArg(self._place(uploaded.place), uploaded.meta)

    def _generator(self, generator: torch.Generator) -> GeneratorArg:
        handle = self._generator_handle(generator)
        if handle is None:
            raise RuntimeError(f"Expected a 'cuda' device type for generator but found '{generator.device.type}'")
        return GeneratorArg(self._place(handle))


def bits_of(value: float, dtype: torch.dtype) -> int:
    """The bits of a scalar, in the lower bytes of a number of the stream."""
    return int.from_bytes(struct.pack("<" + _BITS[dtype], value), "little")


def device_index(device: torch.device) -> int:
    """Which accelerator a device names; the current one when it does not say."""
    return torch.cuda.current_device() if device.index is None else device.index
