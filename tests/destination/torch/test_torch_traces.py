"""Stretches that are kept and repeated: with other floats, payloads and names of storages; what is wrong is refused."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from avec.destination.executors import Answer
from avec.errors import InvalidArgument, RemoteError
from avec.protocol.torch import FIRST_STORAGE, OFFSET_BITS, Batch
from destination.torch.stream import Ref, Stream, asked, encode, memory_of, meta_of, open_model

X = torch.tensor([1.0, 2.0, 3.0])


class Traced(Stream):
    """Also sends what is recorded as a trace."""

    def keep(self, trace: int, *reads: Ref) -> list[int]:
        """Send it to be kept; the storages in it, in the order in which they first appear."""
        names = list(dict.fromkeys(each >> OFFSET_BITS for each in self.numbers if each >> OFFSET_BITS))
        parts = [np.array(self.numbers, np.uint64), np.array(self.floats, np.float64)]
        parts += [np.frombuffer(encode(self.new), np.uint8), *self.payloads]
        first = self.known[encode(self.new[0])] if self.new else 16
        self.numbers, self.floats, self.payloads, self.new = [], [], [], []
        self.model.run(encode(Batch(self.epoch, *asked(reads), first, trace=trace)), parts, {})
        return names

    def repeat(
        self,
        trace: int,
        floats: Sequence[float] = (),
        names: Sequence[int] = (),
        payloads: Sequence[torch.Tensor] = (),
        reads: Sequence[Ref] = (),
    ) -> Answer:
        """Send a trace's number."""
        parts = [np.array(names, np.uint64), np.array(floats, np.float64), np.empty(0, np.uint8)]
        parts += [memory_of(each) for each in payloads]
        return self.model.run(encode(Batch(self.epoch, *asked(reads), trace=trace, repeat=True)), parts, {})


@pytest.fixture
def stream() -> Traced:
    return Traced(open_model()[0])


def _kept(stream: Traced) -> tuple[Ref, Ref, list[int]]:
    """A trace 1 that adds to an x from before, 2.5 at first; x, the result, and the names."""
    x = stream.put(X)
    stream.send()
    y = stream.one("aten::add.Scalar", x, 2.5, output=X)
    return x, y, stream.keep(1)


def _values(answer: Answer) -> list[float]:
    return torch.frombuffer(bytearray(answer.arrays[0].tobytes()), dtype=torch.float32).tolist()


def test_it_is_carried_out_with_other_floats(stream: Traced) -> None:
    _, y, _ = _kept(stream)
    stream.free(y)
    stream.send()
    assert _values(stream.repeat(1, [10.0], reads=[y])) == [11.0, 12.0, 13.0]


def test_it_is_carried_out_with_other_storages(stream: Traced) -> None:
    _, _, names = _kept(stream)
    other = stream.put(X * 2)
    stream.send()
    made = Ref(stream.address(), meta_of(X))
    names = [other.address >> OFFSET_BITS, made.address >> OFFSET_BITS]
    assert _values(stream.repeat(1, [10.0], names, reads=[made])) == [12.0, 14.0, 16.0]


def test_payloads_are_those_of_the_time(stream: Traced) -> None:
    x = stream.put(X)
    stream.keep(1)
    stream.free(x)
    stream.send()
    assert _values(stream.repeat(1, payloads=[X * 3], reads=[x])) == [3.0, 6.0, 9.0]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ([FIRST_STORAGE + 1], "1 names of storages, for a trace that has 2"),
        ([FIRST_STORAGE + 1, FIRST_STORAGE + 1], "2 names of storages, for a trace that has 2"),
        ([FIRST_STORAGE + 1, 7], "names of storages go from"),
        ([FIRST_STORAGE + 1, 1 << 60], "names of storages go from"),
    ],
)
def test_wrong_names_are_refused(stream: Traced, names: list[int], said: str) -> None:
    _kept(stream)
    with pytest.raises(InvalidArgument, match=said):
        stream.repeat(1, [1.0], names)


def test_a_trace_that_was_not_kept_is_refused(stream: Traced) -> None:
    with pytest.raises(InvalidArgument, match="there is no trace 7 among the 0 that are kept"):
        stream.repeat(7)


def test_other_floats_than_it_takes_are_refused(stream: Traced) -> None:
    _kept(stream)
    with pytest.raises(InvalidArgument, match="2 floats for trace 1, which takes 1"):
        stream.repeat(1, [1.0, 2.0])


def test_a_number_is_given_once(stream: Traced) -> None:
    x, _, _ = _kept(stream)
    stream.one("aten::neg", x, output=X)
    with pytest.raises(InvalidArgument, match="a new trace 1, beside 1"):
        stream.keep(1)


def test_a_result_that_is_there_yet_is_refused(stream: Traced) -> None:
    _kept(stream)
    with pytest.raises(InvalidArgument, match="and not in use"):
        stream.repeat(1, [1.0])


def test_it_is_kept_though_it_was_not_carried_out(stream: Traced) -> None:
    x = stream.put(X)
    stream.send()
    stream.call("aten::mm", x, x, outputs=[meta_of(X)])  # of one dimension: it fails
    with pytest.raises(RemoteError):
        stream.send()
    y = stream.one("aten::add.Scalar", x, 2.5, output=X)
    stream.keep(1)  # skipped
    stream.epoch += 1
    assert _values(stream.repeat(1, [1.0], reads=[y])) == [2.0, 3.0, 4.0]
