"""What a program always reads after a trace comes with the trace's answer, and is what a read would have given."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from avec.interception.torch.templates import written_places
from avec.protocol.torch import FloatArg, ListArg, Template, TensorArg, TensorMeta
from launching import AVEC, environ, execute

PROGRAM = Path(__file__).parent / "programs" / "reading_ahead.py"
STEPS = 40  # of each kind
VALUES = 3  # that each step reads
META = TensorMeta("float32", (2,), (1,))
A, B, C = (TensorArg(place, META) for place in range(3))


def _outcome(url: str, replay: str, report: Path) -> tuple[str, int]:
    """What the program prints, and how many calls were made for it."""
    command = (*AVEC, "run", "--on", url, "--report", str(report), str(PROGRAM))
    status, stdout, stderr = execute(*command, variables=environ(AVEC_TORCH_REPLAY=replay))
    assert (status, stderr) == (0, "")
    return stdout, len(json.loads(report.read_text("utf-8"))["cycles"])


def test_values_are_those_of_reads_that_wait(destination: str, tmp_path: Path) -> None:
    ahead, calls = _outcome(destination, "on", tmp_path / "on.json")
    waited, calls_of_all = _outcome(destination, "off", tmp_path / "off.json")
    assert ahead == waited
    assert len(ahead.splitlines()) == 3 * STEPS
    # One of a step's values goes with a batch; the others, in steps of the first kind, until they are known.
    assert calls < calls_of_all - (VALUES - 1) * STEPS * 3 / 4


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
