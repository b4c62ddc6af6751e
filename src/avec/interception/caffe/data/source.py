"""What a data layer is to the net that it feeds, and what a kind of data has to offer to become one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Protocol, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from avec.errors import InvalidArgument
from avec.formats.caffe.message import Message

Floats: TypeAlias = npt.NDArray[np.float32]
Shape: TypeAlias = tuple[int, ...]

TRAIN = 0  # of Caffe's enum Phase
TEST = 1


class Source(ABC):
    """An endless sequence of batches; used by one thread at a time."""

    @abstractmethod
    def shapes(self) -> list[Shape]:
        """The shapes of the layer's tops as it is set up."""

    @abstractmethod
    def next_batch(self) -> list[Floats]:
        """One array for each top; they are the caller's. Their shapes may differ from those of the batch before.

        Raises:
            InvalidData: what was to be read is missing or damaged; so does every later call.
        """

    @abstractmethod
    def close(self) -> None:
        """Release files and threads; further calls are errors, closing again is not."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Reader(Protocol):
    """One kind of data, read by whoever asks; never by two threads at once."""

    def shapes(self) -> list[Shape]:
        """The shapes of the layer's tops as it is set up."""

    def read(self) -> list[Floats]:
        """Read one batch into new arrays."""

    def close(self) -> None:
        """Release what is open."""


def described(layer: Message) -> str:
    """A layer as messages name it."""
    return f"layer {layer.name!r} ({layer.type})"


def positive(layer: Message, holder: str, field: str) -> int:
    """A layer's setting that has to be above zero.

    Raises:
        InvalidArgument: it is not.
    """
    value = int(getattr(getattr(layer, holder), field))
    if value <= 0:
        raise InvalidArgument(f"{described(layer)}: {field} is {value}; set {holder} {{ {field}: … }} above zero")
    return value
