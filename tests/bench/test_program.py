"""The measured program: its networks are what they are named after, and its measurements are comparable."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from avec.bench.program import zoo
from avec.bench.program.measurement import FEWEST, Effort, Measurement, measured
from avec.bench.program.networks import bert, gpt2
from avec.bench.program.networks.openpose import OpenPose
from avec.bench.program.networks.resnet import ResNet

CPU = torch.device("cpu")

# Of the published networks, with their heads as the workloads have them. GPT-2's output matrix is its embedding.
PARAMETERS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "OpenPose": (OpenPose, 52_311_446),
    "ResNet-18": (lambda: ResNet(18), 11_689_512),
    "ResNet-50": (lambda: ResNet(50), 25_557_032),
    "GPT-2": (lambda: gpt2.GPT2(gpt2.Sizes()), 124_439_808),
    "BERT": (lambda: bert.Bert(bert.Sizes()), 109_483_778),
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_network_has_as_many_parameters_as_the_published_one(name: str) -> None:
    make, count = PARAMETERS[name]
    with torch.device("meta"):
        assert sum(each.numel() for each in make().parameters()) == count


@pytest.mark.parametrize("kind", ["growing", "static"])
def test_decoding_with_a_cache_gives_the_logits_of_one_pass(kind: str) -> None:
    decoder = zoo.OwnDecoder(zoo.SMALL_GPT2, CPU)
    tokens = torch.randint(0, decoder.vocabulary, (1, 12), generator=torch.Generator().manual_seed(0))
    cache = decoder.growing_cache() if kind == "growing" else decoder.static_cache(16)
    with torch.inference_mode():
        expected = decoder.logits(tokens, decoder.growing_cache())
        decoder.logits(tokens[:, :8], cache)
        for place in range(8, 12):
            found = decoder.logits(tokens[:, place : place + 1], cache)
    torch.testing.assert_close(found, expected)


class Counting:
    """A body that counts its calls, and gives their number."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> int:
        self.calls += 1
        return self.calls


def test_compared_and_warm_calls_are_not_timed() -> None:
    body = Counting()
    found = measured(Measurement("x", body, compared=3, warm=4), Effort(repeats=5, limit_s=60.0))
    assert (body.calls, len(found["windows_ns"])) == (3 + 4 + 5, 5)  # type: ignore[arg-type]


def test_there_are_a_few_repeats_however_long_they_take() -> None:
    found = measured(Measurement("x", Counting()), Effort(repeats=5, limit_s=0.0))
    assert len(found["windows_ns"]) == FEWEST  # type: ignore[arg-type]


def test_the_digest_is_of_the_compared_calls_alone() -> None:
    def digest(repeats: int, compared: int = 3) -> object:
        return measured(Measurement("x", Counting(), compared=compared), Effort(repeats, 60.0))["digest"]

    assert digest(repeats=2) == digest(repeats=9) != digest(repeats=2, compared=4)


def test_the_digest_sees_every_bit() -> None:
    def digest(value: float) -> object:
        return measured(Measurement("x", lambda: torch.tensor(value)), Effort(2, 60.0))["digest"]

    assert digest(0.0) != digest(-0.0)


def test_there_is_no_digest_of_nothing() -> None:
    assert measured(Measurement("x", lambda: None), Effort(2, 60.0))["digest"] is None


def test_same_bits_are_asked_for_in_training_and_only_while_comparing() -> None:
    seen = []

    def body() -> None:
        seen.append(torch.backends.cudnn.deterministic)

    measured(Measurement("x", body, training=True, compared=2, warm=1), Effort(2, 60.0))
    assert seen == [True, True, False, False, False]
