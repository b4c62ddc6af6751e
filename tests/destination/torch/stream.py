"""A hand-made stream of PyTorch operators, and a model that carries it out in this process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
import torch

from avec.destination.accelerators import Accelerator
from avec.destination.executors import Answer
from avec.destination.executors.torch import TorchExecutor
from avec.destination.executors.torch.model import TorchModel
from avec.protocol import torch as protocol
from avec.protocol.torch import (
    BIND,
    FIRST_STORAGE,
    FIRST_TEMPLATE,
    FREE,
    OFFSET_BITS,
    ORIGIN,
    Arg,
    Batch,
    FloatArg,
    GeneratorArg,
    HostScalarArg,
    IntArg,
    ListArg,
    Open,
    Opened,
    Read,
    Request,
    Template,
    TensorArg,
    TensorMeta,
)
from avec.tensor import Array

encode = msgspec.msgpack.encode


def address(storage: int, offset: int = 0) -> int:
    """The address of a byte in a storage."""
    return (FIRST_STORAGE + storage << OFFSET_BITS) + ORIGIN + offset


def meta_of(tensor: torch.Tensor, device: int = 0) -> TensorMeta:
    """What a tensor is, as the host would say it."""
    return TensorMeta(str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), tensor.stride(), device)


@dataclass(frozen=True)
class Ref:
    """A tensor at the destination."""

    address: int
    meta: TensorMeta
    conj: bool = False
    neg: bool = False

    def seen(self, *shape: int, stride: tuple[int, ...], offset: int = 0, dtype: str = "") -> Ref:
        """A view of it; `offset` in bytes."""
        return Ref(self.address + offset, TensorMeta(dtype or self.meta.dtype, shape, stride, self.meta.device))


@dataclass(frozen=True)
class Integer:
    """An integer that goes with the stream, not with the template."""

    value: int


@dataclass(frozen=True)
class HostScalar:
    """A number in the host's memory that takes part as a tensor."""

    tensor: torch.Tensor


@dataclass(frozen=True)
class Generator:
    """A random number generator."""

    handle: int


Value = object


@dataclass
class Stream:
    """Records entries, and sends them as one batch."""

    model: TorchModel
    numbers: list[int] = field(default_factory=list)
    floats: list[float] = field(default_factory=list)
    payloads: list[Array] = field(default_factory=list)
    known: dict[bytes, int] = field(default_factory=dict)
    new: list[Template] = field(default_factory=list)
    epoch: int = 0
    storages: int = 0

    def call(
        self, operator: str, *args: Value, outputs: Sequence[TensorMeta | None] | None = (), **kwargs: Value
    ) -> list[Ref]:
        """Record an operator; its results get the next addresses."""
        numbers: list[int] = []
        floats: list[float] = []
        described = tuple(_arg(value, numbers, floats) for value in args)
        named = {name: _arg(value, numbers, floats) for name, value in kwargs.items()}
        whole = None if outputs is None else tuple(outputs)
        self.numbers.append(self.template(Template(operator, described, named, len(numbers), len(floats), whole)))
        refs = [Ref(self.address(meta), meta) for meta in outputs or () if meta is not None]
        places = iter(refs)
        places_or_0 = [0 if meta is None else next(places).address for meta in outputs or ()]
        self.numbers += numbers
        self.numbers += [] if operator.startswith("avec::upload") else places_or_0
        self.floats += floats
        return refs

    def one(self, operator: str, *args: Value, output: torch.Tensor, on: int = 0, **kwargs: Value) -> Ref:
        """Record an operator with one result, which is to be like `output`."""
        (ref,) = self.call(operator, *args, outputs=[meta_of(output, on)], **kwargs)
        return ref

    def template(self, template: Template) -> int:
        encoded = encode(template)
        if encoded not in self.known:
            self.known[encoded] = FIRST_TEMPLATE + len(self.known)
            self.new.append(template)
        return self.known[encoded]

    def address(self, meta: TensorMeta | None = None) -> int:
        """A new storage's address; 0 for a tensor without elements."""
        if meta is not None and meta.span == 0:
            return 0
        self.storages += 1
        return address(self.storages)

    def put(self, tensor: torch.Tensor, on: int = 0) -> Ref:
        """Record a new tensor with these contents."""
        self.payloads.append(memory_of(tensor))
        return self.one("avec::receive", output=tensor, on=on)

    def free(self, ref: Ref) -> None:
        self.numbers += [FREE, ref.address]

    def bind(self, place: int, meta: TensorMeta) -> Ref:
        ref = Ref(self.address(), meta)
        self.numbers += [BIND, place, ref.address]
        return ref

    def send(self, *reads: Ref, files: Mapping[str, Path] | None = None, forget: bool = False) -> Answer:
        """Carry out what is recorded, and read."""
        parts = [
            np.array(self.numbers, np.uint64),
            np.array(self.floats, np.float64),
            np.frombuffer(encode(self.new), np.uint8),
            *self.payloads,
        ]
        first = self.known[encode(self.new[0])] if self.new else FIRST_TEMPLATE
        self.numbers, self.floats, self.payloads, self.new = [], [], [], []
        return self.model.run(encode(Batch(self.epoch, *asked(reads), first, forget)), parts, files or {})

    def read(self, ref: Ref) -> torch.Tensor:
        """Carry out what is recorded; a tensor's elements."""
        (array,) = self.send(ref).arrays
        dtype: torch.dtype = getattr(torch, ref.meta.dtype)
        if not array.size:
            return torch.empty(ref.meta.shape, dtype=dtype)
        return torch.frombuffer(bytearray(array.tobytes()), dtype=dtype).reshape(ref.meta.shape)

    def ask(self, request: Request) -> Answer:
        return self.model.run(encode(request), [], {})

    def answer(self) -> protocol.Answer:
        """Carry out what is recorded; the answer's body."""
        return decoded(self.send())


def asked(reads: Sequence[Ref]) -> tuple[Read | None, tuple[Read, ...]]:
    """The first as what is waited for, the others as what is read ahead."""
    first, *others = [Read(each.address, each.meta, each.conj, each.neg) for each in reads] or [None]
    return first, tuple(others)


def decoded(answer: Answer) -> protocol.Answer:
    return msgspec.msgpack.decode(answer.body, type=protocol.Answer)


def memory_of(tensor: torch.Tensor) -> Array:
    """A tensor's memory, from its first byte to its last."""
    if tensor.numel() == 0:
        return np.empty(0, np.uint8)
    nbytes = meta_of(tensor).span * tensor.dtype.itemsize
    flat = torch.empty(0, dtype=torch.uint8).set_(
        tensor.untyped_storage(), tensor.storage_offset() * tensor.dtype.itemsize, (nbytes,), (1,)
    )
    memory: Array = flat.numpy().copy()
    return memory


def _arg(value: Value, numbers: list[int], floats: list[float]) -> Arg:
    match value:
        case Ref():
            numbers.append(value.address)
            return TensorArg(len(numbers) - 1, value.meta, value.conj, value.neg)
        case Integer():
            numbers.append(value.value % (1 << 64))
            return IntArg(len(numbers) - 1)
        case Generator():
            numbers.append(value.handle)
            return GeneratorArg(len(numbers) - 1)
        case HostScalar():
            numbers.append(int.from_bytes(memory_of(value.tensor).tobytes(), "little"))
            return HostScalarArg(len(numbers) - 1, meta_of(value.tensor).dtype)
        case float():
            floats.append(value)
            return FloatArg(len(floats) - 1)
        case list():
            return ListArg(tuple(_arg(each, numbers, floats) for each in value))
    return value  # type: ignore[return-value]  # stands for itself


def open_model(cpu_accelerators: int = 1) -> tuple[TorchModel, Opened]:
    """A model on this machine's CPU."""
    executor = TorchExecutor(Accelerator("strict", cudnn_workspace_mb=64, cpu_accelerators=cpu_accelerators))
    model, answer = executor.load(encode(Open(str(torch.__version__))), (), {})
    return model, msgspec.msgpack.decode(answer.body, type=Opened)
