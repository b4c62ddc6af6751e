"""The PyTorch examples run plainly and under AVEC, and a checkpoint of one way serves the other."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from destinations import running
from launching import AVEC, PLAIN, environ

EXAMPLES = Path(__file__).parents[2] / "examples"
TRAIN = (str(EXAMPLES / "torch_train" / "train.py"), "--pictures", "64", "--batch", "32")
GENERATE = (str(EXAMPLES / "torch_generate" / "generate.py"), "--length", "8")
ONE_THREAD = {"OMP_NUM_THREADS": "1"}  # more would sum up in another order
TIMEOUT_S = 110.0


@pytest.fixture(scope="module")
def one_thread(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a destination that computes as a program does."""
    with running(tmp_path_factory.mktemp("programs"), **ONE_THREAD) as destination:
        yield destination.url


def start(*command: str) -> subprocess.Popen[str]:
    """Start a command line."""
    return subprocess.Popen(
        command, env=environ(**ONE_THREAD), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def printed_by(process: subprocess.Popen[str]) -> list[str]:
    """The lines that it prints; it succeeds and says nothing else."""
    with process:
        printed, errors = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, errors) == (0, "")
    return printed.splitlines()


def test_training_goes_on_plainly_from_a_checkpoint_written_under_avec(one_thread: str, tmp_path: Path) -> None:
    checkpoint = str(tmp_path / "checkpoint.pt")
    run = (*AVEC, "run", "--on", one_thread)
    under_avec = printed_by(start(*run, *TRAIN, "--amp", "--epochs", "1", "--checkpoint", checkpoint))
    plainly = printed_by(start(*PLAIN, *TRAIN, "--epochs", "2", "--resume", checkpoint))
    assert under_avec[0].startswith("training on ")
    assert (under_avec[0] != "training on the CPU", plainly[0]) == (True, "training on the CPU")
    assert [line.split()[:2] for line in under_avec[1:] + plainly[1:]] == [["epoch", "0"], ["epoch", "1"]]


def test_a_model_that_was_trained_under_avec_writes_the_same_plainly(one_thread: str, tmp_path: Path) -> None:
    weights = str(tmp_path / "weights.pt")
    run = (*AVEC, "run", "--on", one_thread)
    trained, poem, speed = printed_by(start(*run, *GENERATE, "--steps", "2", "--weights", weights))
    assert trained.startswith("step 2 loss ")
    assert (len(poem), speed.endswith(" letters per second")) == (len("Shall I compare ") + 8, True)
    again, _ = printed_by(start(*PLAIN, *GENERATE, "--weights", weights))
    assert again == poem
