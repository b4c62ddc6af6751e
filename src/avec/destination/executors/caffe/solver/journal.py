"""What a solver logs, in Caffe's words; numbers are fetched from the accelerator when all is told, at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Values: TypeAlias = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Entry:
    """Lines that are to be written when the values of these tensors are known."""

    tensors: Sequence[Tensor]
    write: Callable[[Values], list[str]]


def number(value: float | np.float32) -> str:
    """A number as C++ streams write it."""
    return f"{value:g}"


class Journal:
    """Collects entries; knows the smoothed loss as it will be when they are told."""

    def __init__(self, average_loss: int) -> None:
        self._average = average_loss
        self._entries: list[Entry] = []
        self._observed: list[float] = []  # losses since they were last told
        self._recent: list[np.float32] = []  # the last `average_loss` losses of this run
        self._smoothed = np.float32(0)
        self._start = 0  # the iteration at which this run began
        self._shown = (0, time.monotonic())  # iteration and time of the last display

    def begin(self, iteration: int) -> None:
        """Begin a run: the smoothed loss starts anew."""

        def write(values: Values) -> list[str]:
            self._recent, self._smoothed, self._start = [], np.float32(0), iteration
            return []

        self._shown = (self._shown[0], time.monotonic())
        self._entries.append(Entry((), write))

    def line(self, text: str) -> None:
        self._entries.append(Entry((), lambda values: [text]))

    def observe(self, loss: Tensor, iteration: int, kept: bool = True) -> None:
        """Take a loss into the smoothed one; one that is not kept is not told among the losses."""

        def write(values: Values) -> list[str]:
            self._smooth(np.float32(values[0]), iteration)
            if kept:
                self._observed.append(float(values[0]))
            return []

        self._entries.append(Entry((loss,), write))

    def _smooth(self, loss: np.float32, iteration: int) -> None:
        """Source: Solver::UpdateSmoothedLoss."""
        with np.errstate(all="ignore"):
            if len(self._recent) < self._average:
                self._recent.append(loss)
                count = np.float32(len(self._recent))
                self._smoothed = (self._smoothed * (count - np.float32(1)) + loss) / count
            else:
                place = (iteration - self._start) % self._average
                self._smoothed += (loss - self._recent[place]) / np.float32(self._average)
                self._recent[place] = loss

    def display(self, iteration: int, interval: int) -> None:
        before, began = self._shown
        now = time.monotonic()
        self._shown = (iteration, now)
        seconds = now - began
        rate = (iteration - before) / (seconds or 1)
        self._entries.append(
            Entry(
                (),
                lambda values: [
                    f"Iteration {iteration} ({number(rate)} iter/s, {number(seconds)}s/{interval} iters), "
                    f"loss = {number(self._smoothed)}"
                ],
            )
        )

    def last(self, iteration: int) -> None:
        self._entries.append(Entry((), lambda values: [f"Iteration {iteration}, loss = {number(self._smoothed)}"]))

    def test_loss(self, loss: Tensor) -> None:
        self._entries.append(Entry((loss,), lambda values: [f"Test loss: {number(values[0])}"]))

    def clipped(self, norm: Tensor, limit: float) -> None:
        def write(values: Values) -> list[str]:
            if not values[0] > limit:
                return []
            scale = np.float32(limit) / values[0]
            return [
                f"Gradient clipping: scaling down gradients (L2 norm {number(values[0])} > {number(limit)}) "
                f"by scale factor {number(scale)}"
            ]

        self._entries.append(Entry((norm,), write))

    def outputs(self, kind: str, names: Sequence[tuple[str, float]], values: Sequence[Tensor]) -> None:
        """Every value of a net's outputs, beside the loss that it makes."""
        of_each = [pair for pair, value in zip(names, values, strict=True) for _ in range(value.numel())]

        def write(found: Values) -> list[str]:
            lines = []
            for place, ((name, weight), value) in enumerate(zip(of_each, found, strict=True)):
                loss = f" (* {number(weight)} = {number(np.float32(weight) * value)} loss)" if weight else ""
                lines.append(f"    {kind} net output #{place}: {name} = {number(value)}{loss}")
            return lines

        self._entries.append(Entry(values, write))

    def tell(self) -> tuple[tuple[float, ...], tuple[str, ...]]:
        """Fetch all numbers; returns losses and lines since last told."""
        entries, self._entries = self._entries, []
        flat = [tensor.reshape(-1) for entry in entries for tensor in entry.tensors]
        values: Values = torch.cat(flat).cpu().numpy() if flat else np.empty(0, np.float32)
        lines, offset = [], 0
        for entry in entries:
            size = sum(tensor.numel() for tensor in entry.tensors)
            lines += entry.write(values[offset : offset + size])
            offset += size
        observed, self._observed = self._observed, []
        return tuple(observed), tuple(lines)
