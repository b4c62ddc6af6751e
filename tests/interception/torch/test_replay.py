"""Values are the same whether what repeats is replayed or sent anew, in a program that is perturbed at random.

`make test-torch-replay` does more steps of more such programs, and those with little room for graphs.
"""

from __future__ import annotations

import functools
import json
import math
import os
import re
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from destinations import running
from launching import APPS, AVEC, PLAIN, at_once, environ, execute

PROGRAM = APPS / "torch_perturbed.py"
REPEATS = Path(__file__).parent / "programs" / "repeats.py"
RECORDED_GRAPHS = Path(__file__).parents[2] / "destination" / "torch" / "recorded_graphs"
# Beside each other on two cores; more threads would sum up in another order. The other is for a GPU: the program sets
# it where it runs, and the destination has to multiply in the same way.
VARIABLES = {"OMP_NUM_THREADS": "1", "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
STEPS = int(os.environ.get("REPLAY_STEPS", "150"))
SEEDS = range(int(os.environ.get("REPLAY_SEEDS", "1")))
long = pytest.mark.skipif("REPLAY_SEEDS" not in os.environ, reason="one of the long tests of `make test-torch-replay`")
TIMEOUT_S = 60.0 + 0.2 * STEPS
# As in test_apps: torch takes other operators for CUDA than for CPUs, and what is printed has four decimals.
RELATIVE_TOLERANCE, ABSOLUTE_TOLERANCE = 2e-3, 2e-4
NUMBER = re.compile(r" -?\d+\.\d{4}")
DIGEST = re.compile(r" [0-9a-f]{16}$", re.MULTILINE)

pytestmark = pytest.mark.timeout(4 * TIMEOUT_S)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a destination that computes as the program does."""
    with running(tmp_path_factory.mktemp("replay"), **VARIABLES) as destination:
        yield destination.url


def _outputs(seed: int, *commands: tuple[Sequence[str], dict[str, str]]) -> list[str]:
    """Run the program in several ways at the same time; what each prints."""
    args = (str(PROGRAM), "--exact", f"--seed={seed}", f"--steps={STEPS}")
    processes = [
        subprocess.Popen(
            [*command, *args],
            env=environ(**VARIABLES, **variables),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for command, variables in commands
    ]
    try:
        outputs = []
        for process in processes:
            printed, errors = process.communicate(timeout=TIMEOUT_S)
            assert (process.returncode, errors) == (0, "")
            outputs.append(printed)
        return outputs
    finally:
        for process in processes:
            process.kill()
            process.communicate()


@pytest.fixture(scope="module")
def sent_anew(url: str) -> Callable[[int], str]:
    """What the program of a seed prints where nothing is replayed; run once for each."""

    @functools.cache
    def printed(seed: int) -> str:
        (output,) = _outputs(seed, ([*AVEC, "run", "--on", url], {"AVEC_TORCH_REPLAY": "off"}))
        return output

    return printed


@pytest.mark.parametrize("seed", SEEDS)
def test_replayed_values_are_those_sent_anew_bit_by_bit(
    seed: int, url: str, sent_anew: Callable[[int], str], tmp_path: Path, record_property: pytest.RecordProperty
) -> None:
    counted = [*AVEC, "run", "--on", url, str(REPEATS), str(tmp_path / "repeats.json")]
    (with_replay, plain), (without,) = at_once(
        lambda: _outputs(seed, (counted, {"AVEC_TORCH_REPLAY": "on"}), (PLAIN, {})), lambda: [sent_anew(seed)]
    )
    assert with_replay == without
    if _has_gpu():
        assert with_replay == plain
    else:
        _assert_close(with_replay, plain)

    steps = {name: int(count) for name, count in re.findall(r"([a-z]+) (\d+)", with_replay.splitlines()[-1])}
    batches = json.loads((tmp_path / "repeats.json").read_text("utf-8"))
    for name, count in {**steps, **batches}.items():
        record_property(name, count)
    assert steps["steady"] + steps["perturbed"] == STEPS
    assert steps["perturbed"] > STEPS / 10
    # Both have to happen, and often.
    assert batches["repeats"] > batches["batches"] / 10, batches
    assert batches["batches"] - batches["repeats"] > batches["batches"] / 10, batches
    assert batches["ahead"] > steps["read"] / 50, batches


MEMORY_NBYTES = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


# What a graph keeps of the accelerator's memory, a tenth of which is for graphs: next to nothing, or a third of that.
@pytest.mark.parametrize(
    ("nbytes", "room"),
    [
        pytest.param(1, None, id="much room"),
        pytest.param(MEMORY_NBYTES // 29, 3, id="room for three", marks=long),
    ],
)
def test_graphs_have_the_values_of_operators_bit_by_bit(
    nbytes: int, room: int | None, sent_anew: Callable[[int], str], tmp_path: Path
) -> None:
    """A destination without GPU records lists of operators in the place of CUDA graphs."""
    counts = tmp_path / "counts.json"
    recording = {
        "PYTHONPATH": os.pathsep.join((str(RECORDED_GRAPHS), environ()["PYTHONPATH"])),
        "RECORDED_GRAPHS": str(counts),
        "RECORDED_GRAPHS_NBYTES": str(nbytes),
        "AVEC_CONFINE": "0",  # its worker writes the counts
    }
    with running(tmp_path / "recording", **VARIABLES, **recording) as destination:
        (with_graphs,) = _outputs(0, ([*AVEC, "run", "--on", destination.url], {}))
    assert with_graphs == sent_anew(0)
    found = json.loads(counts.read_text("utf-8"))
    if room is None:
        assert found["recorded"] > 3, found
    else:
        assert found["at once"] == room, found  # one that is not used for a second makes room for another
    assert found["replayed"] > found["recorded"], found


def _has_gpu() -> bool:
    """Whether the plain program computes on a GPU."""
    return execute(*PLAIN, "-c", "import torch; print(torch.cuda.is_available())")[1] == "True\n"


def _assert_close(printed: str, expected: str) -> None:
    """Compare lines, of values what is said without their digests."""
    printed, expected = DIGEST.sub("", printed), DIGEST.sub("", expected)
    for line, other in zip(printed.splitlines(), expected.splitlines(), strict=True):
        assert NUMBER.sub("#", line) == NUMBER.sub("#", other)
        for one, two in zip(NUMBER.findall(line), NUMBER.findall(other), strict=True):
            assert math.isclose(float(one), float(two), rel_tol=RELATIVE_TOLERANCE, abs_tol=ABSOLUTE_TOLERANCE), (
                f"{line}, and plainly {other}"
            )
