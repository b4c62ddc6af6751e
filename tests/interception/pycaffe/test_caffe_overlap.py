"""What of the link a pycaffe program hides: nets that are taken in turn compute while the next input is sent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from avec.profiling import ExecutionCycle

Build = Callable[..., Any]
Sent = Callable[[], Sequence[ExecutionCycle]]

# A pass takes tens of milliseconds, far longer than issuing the next one.
SLOW = """name: "slow"
layer { name: "a" type: "Input" top: "a" input_param { shape { dim: 128 dim: 2048 } } }
layer { name: "fc" type: "InnerProduct" bottom: "a" top: "fc"
  inner_product_param { num_output: 2048 weight_filler { type: "xavier" } } }
layer { name: "again" type: "InnerProduct" bottom: "fc" top: "again"
  inner_product_param { num_output: 2048 weight_filler { type: "xavier" } } }
"""


def inputs() -> np.ndarray:
    return np.random.default_rng(0).random((4, 128, 2048), np.float32)


def overlapping(cycles: Sequence[ExecutionCycle]) -> list[bool]:
    """Whether each pass began before the answer of the one before it was there."""
    passes = sorted((each for each in cycles if each.name == "caffe.forward"), key=lambda each: each.began_ns)
    return [second.began_ns < first.began_ns + first.total_ns for first, second in pairwise(passes)]


def one_after_the_other(net: Any) -> list[np.ndarray]:
    found = []
    for each in inputs():
        net.blobs["a"].data[...] = each
        found.append(net.forward()["again"].copy())
    return found


def test_the_usual_loop_has_one_pass_under_way(build: Build, sent: Sent) -> None:
    net = build(SLOW)
    sent()
    one_after_the_other(net)
    assert overlapping(sent()) == [False, False, False]


def test_two_nets_in_turn_have_the_next_pass_under_way_while_one_computes(build: Build, sent: Sent) -> None:
    nets = [build(SLOW), build(SLOW)]
    nets[1].share_with(nets[0])
    expected = one_after_the_other(nets[0])
    sent()
    found, under_way = [], []
    for number, each in enumerate(inputs()):
        net = nets[number % 2]
        net.blobs["a"].data[...] = each
        under_way.append(net.forward())
        if number:
            found.append(under_way.pop(0)["again"].copy())
    found.append(under_way.pop()["again"].copy())
    assert overlapping(sent()) == [True, True, True]
    assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))
