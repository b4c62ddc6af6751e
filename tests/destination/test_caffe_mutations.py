"""Nets that are almost right: whatever a slip in a prototxt makes of a net, it computes or is refused by name."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avec.destination.accelerators import Accelerator
from avec.destination.executors.caffe import CaffeExecutor
from avec.destination.executors.caffe.layers import LAYER_TYPES
from avec.errors import ExecutionError, RemoteError
from avec.protocol.caffe import Backward
from destination.caffe_net import Net
from goldens.caffe_goldens import goldens
from goldens.training_goldens import gradients

TEXTS = [each.prototxt for each in goldens() if each.group not in ("nets", "openpose")]
TEXTS += [each.prototxt for each in gradients()]
NUMBERS = ["0", "1", "2", "3", "5", "100", "-1", "-2"]  # small: the subject is not memory


@pytest.fixture(scope="module")
def executor() -> CaffeExecutor:
    return CaffeExecutor(Accelerator("strict", cudnn_workspace_mb=256))


def slip(text: str, chance: random.Random) -> str:
    """Change a number, swap a name, change a layer's type or drop a line."""
    pattern, replacements = chance.choice(
        [
            (r"-?\d+", NUMBERS),
            (r'"[^"]*"', re.findall(r'"[^"]*"', text)),
            (r'(?<=type: )"\w+"', [f'"{kind}"' for kind in LAYER_TYPES]),
            (r"[^\n]*\n", [""]),
        ]
    )
    places = list(re.finditer(pattern, text))
    if not places:
        return text
    place = chance.choice(places)
    return text[: place.start()] + chance.choice(replacements) + text[place.end() :]


@settings(max_examples=250, deadline=None)
@given(text=st.sampled_from(TEXTS), slips=st.integers(1, 3), chance=st.randoms(use_true_random=False))
def test_computes_what_it_described_or_is_refused_in_one_line(
    executor: CaffeExecutor, text: str, slips: int, chance: random.Random
) -> None:
    for _ in range(slips):
        text = slip(text, chance)
    try:
        net = Net(executor, text)
        if net.description.awaiting >= 0:
            return
        blobs = net.forward(wanted=[net.data(blob) for blob in net.blobs])
        if not any(LAYER_TYPES[each.type].dynamic for each in net.description.layers):
            assert [blob.shape for blob in blobs] == [blob.shape for blob in net.description.blobs]
        net.run(Backward())
    except RemoteError:
        raise  # torch met what the layer should have refused
    except ExecutionError as refusal:
        assert "\n" not in str(refusal)
