"""What a program always reads after a trace comes with the trace's answer, and is what a read would have given."""

from __future__ import annotations

import json
from pathlib import Path
from unittest.mock import Mock

import pytest

from avec.interception.torch.reads_ahead import TIMES, VALUES, ReadsAhead
from avec.interception.torch.templates import written_places
from avec.interception.torch.traces import Found
from avec.protocol.torch import OFFSET_BITS, FloatArg, ListArg, Read, Template, TensorArg, TensorMeta
from launching import AVEC, at_once, environ, execute

PROGRAM = Path(__file__).parent / "programs" / "reading_ahead.py"
STEPS = 40  # of each kind
READ = 3  # values in each of them
META = TensorMeta("float32", (2,), (1,))
A, B, C = (TensorArg(place, META) for place in range(3))


def _outcome(url: str, replay: str, report: Path) -> tuple[str, int]:
    """What the program prints, and how many calls were made for it."""
    command = (*AVEC, "run", "--on", url, "--report", str(report), str(PROGRAM))
    status, stdout, stderr = execute(*command, variables=environ(AVEC_TORCH_REPLAY=replay))
    assert (status, stderr) == (0, "")
    return stdout, len(json.loads(report.read_text("utf-8"))["cycles"])


def test_values_are_those_of_reads_that_wait(destination: str, tmp_path: Path) -> None:
    (ahead, calls), (waited, calls_of_all) = at_once(
        lambda: _outcome(destination, "on", tmp_path / "on.json"),
        lambda: _outcome(destination, "off", tmp_path / "off.json"),
    )
    assert ahead == waited
    assert len(ahead.splitlines()) == 3 * STEPS + 7 + 20
    # One of a step's values goes with a batch; the others, in steps of the first kind, until they are known.
    assert calls < calls_of_all - (READ - 1) * STEPS * 3 / 4


KNOWN = Found(1, True, storages=(70, 71), written=frozenset({1}))  # a trace that writes to the storage named 71
EMPTY = Found()
CALL = Mock()


def value(place: int = 512) -> Read:
    return Read(71 << OFFSET_BITS | place, META)


def learned(*reads: Read) -> ReadsAhead:
    """A program that reads values after each time that the trace was sent."""
    ahead = ReadsAhead()
    for _ in range(TIMES):
        ahead.pass_over(KNOWN)
        ahead.sent(KNOWN, CALL, 0, {})
        for read in reads:
            assert ahead.take(read, 8, EMPTY) is None
    return ahead


def test_what_was_read_is_read_ahead_wherever_its_storage_is() -> None:
    ahead, elsewhere = learned(value()), Found(1, True, storages=(70, 99), written=frozenset({1}))
    (read,) = ahead.wanted(elsewhere, None, 0)
    assert read == Read(99 << OFFSET_BITS | 512, META)


def test_what_nobody_asks_for_is_not_read_ahead_again() -> None:
    for later in (KNOWN, EMPTY):
        ahead = learned(value())
        ahead.sent(KNOWN, CALL, 0, ahead.wanted(KNOWN, None, 0))
        ahead.pass_over(later)
        assert ahead.take(value(), 8, EMPTY) is None
        assert ahead.wanted(KNOWN, None, 0) == {}


def test_nothing_is_read_ahead_beside_a_large_value() -> None:
    ahead = learned(value())
    other = Read(70 << OFFSET_BITS, META)
    assert ahead.wanted(KNOWN, other, 1 << 21) == {}
    assert len(ahead.wanted(KNOWN, other, 8)) == 1


def test_so_many_values_are_counted() -> None:
    reads = [value(512 + 4 * place) for place in range(2 * VALUES)]
    ahead = learned(*reads)
    assert sum(map(len, ahead._times.values())) == VALUES


@pytest.mark.parametrize(
    ("operator", "args", "kwargs", "expected"),
    [
        ("aten::add.Tensor", (A, B), {"alpha": FloatArg(0)}, []),
        ("aten::add_.Tensor", (A, B), {}, [0]),
        ("aten::add.out", (A, B), {"out": C}, [2]),
        ("aten::_foreach_add_.List", (ListArg((A, B)), ListArg((C,))), {}, [0, 1]),
        ("aten::native_batch_norm", (A, B, None, C), {}, [0, 1, 2]),  # writes statistics that its schema calls inputs
        ("avec::call_graph", (0, A, B), {}, [0, 1]),
        ("library::unknown", (A, ListArg((B,))), {"c": C}, [0, 1, 2]),
    ],
)
def test_what_an_operator_may_write_to(operator: str, args: tuple, kwargs: dict, expected: list[int]) -> None:
    assert written_places(Template(operator, args, kwargs, 3, 0, ())) == expected
