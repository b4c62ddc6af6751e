"""Results whose shapes depend on data: described to the host, and held until it has given them addresses."""

from __future__ import annotations

import torch
from torch import Tensor

from avec.destination.executors.torch.storages import Layout, Memory
from avec.errors import InvalidArgument, UnsupportedOperation
from avec.protocol.torch import Evaluated, EvaluatedValue, TensorMeta


class Results:
    """The results of the last such operator."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._held: list[tuple[Tensor, Layout] | None] = []
        self._answer: Evaluated | None = None

    def begin(self, is_last: bool) -> None:
        """Prepare for such an operator; its answer ends the batch."""
        self.drop()
        if not is_last:
            raise InvalidArgument("an operator whose results depend on data has to be the last entry of its batch")

    def hold(self, results: object, device: int) -> None:
        """Take an operator's results and describe them."""
        sequence = isinstance(results, list)
        values = list(results) if isinstance(results, list | tuple) else [results]
        for value in values:
            self._held.append(self._own(value, device) if isinstance(value, Tensor) else None)
        described = (
            _plain(value) if held is None else EvaluatedValue(held[1].meta)
            for value, held in zip(values, self._held, strict=True)
        )
        self._answer = Evaluated(tuple(described), sequence)

    def take_answer(self) -> Evaluated | None:
        """What this batch's last operator gave, if it was such a one."""
        answer, self._answer = self._answer, None
        return answer

    def bind(self, place: int, address: int) -> None:
        """Give result `place` its address."""
        held = self._held[place] if place < len(self._held) else None
        if held is None:
            raise InvalidArgument(f"result {place} of the last evaluation is no tensor that still has no address")
        self._held[place] = None
        tensor, layout = held
        self._memory.keep(layout, address, tensor)

    @property
    def waiting(self) -> bool:
        """Whether results have no addresses yet."""
        return any(each is not None for each in self._held)

    def end_batch(self) -> None:
        """Drop what the batch after the evaluation has not bound."""
        if self._answer is None and self._held:
            self.drop()

    def _own(self, tensor: Tensor, device: int) -> tuple[Tensor, Layout]:
        """A result in a storage of its own, as it will be bound."""
        if tensor.layout is not torch.strided:
            raise UnsupportedOperation(f"a result with the layout {tensor.layout}; only strided tensors have addresses")
        tensor = tensor.resolve_conj().resolve_neg()
        # Two results may share a storage, and a view may show a small part of one: whatever is not plainly alone and
        # dense is copied.
        storage_nbytes = tensor.untyped_storage().nbytes()
        held = {each[0].data_ptr() for each in self._held if each is not None}
        if (
            self._memory.aliases(tensor)
            or storage_nbytes > tensor.numel() * tensor.dtype.itemsize
            or tensor.data_ptr() in held
        ):
            tensor = tensor.clone()
        meta = TensorMeta(str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), tensor.stride(), device)
        return tensor, self._memory.layout(meta)

    def drop(self) -> None:
        """Forget all."""
        self._held = []
        self._answer = None


def _plain(value: object) -> EvaluatedValue:
    if value is None or isinstance(value, bool | int | float | str):
        return EvaluatedValue(value=value)
    raise UnsupportedOperation(f"a result of type {type(value).__name__}, which has no form on the wire")
