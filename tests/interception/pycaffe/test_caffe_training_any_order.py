"""Writes, looks, passes and held views in any order: data and diffs are at each look what a local net would have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

Build = Callable[..., Any]
Floats = np.ndarray

NET = """force_backward: true
layer { name: "a" type: "Input" top: "a" input_param { shape { dim: 2 dim: 3 } } }
layer { name: "fc" type: "InnerProduct" bottom: "a" top: "fc"
  inner_product_param { num_output: 4 weight_filler { type: "constant" value: 0.5 } } }
layer { name: "twice" type: "Power" bottom: "fc" top: "out" power_param { scale: 2 } }
"""
STEPS = 60


class Local:
    """The same net in numpy."""

    def __init__(self) -> None:
        shapes = {"a": (2, 3), "fc": (2, 4), "out": (2, 4), "w": (4, 3), "b": (4,)}
        self.data = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
        self.diff = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
        self.data["w"][...] = 0.5

    def forward(self, start: int, end: int) -> None:
        if start <= 1 <= end:
            self.data["fc"][...] = self.data["a"] @ self.data["w"].T + self.data["b"]
        if start <= 2 <= end:
            self.data["out"][...] = 2 * self.data["fc"]

    def backward(self, start: int, end: int) -> None:
        if end <= 2 <= start:
            self.diff["fc"][...] = 2 * self.diff["out"]
        if end <= 1 <= start:
            self.diff["w"] += self.diff["fc"].T @ self.data["a"]
            self.diff["b"] += self.diff["fc"].sum(0)
            self.diff["a"][...] = self.diff["fc"] @ self.data["w"]

    def clear(self) -> None:
        self.diff["w"][...] = 0
        self.diff["b"][...] = 0


@pytest.mark.parametrize("seed", range(12))
def test_any_order(build: Build, seed: int) -> None:
    stream = np.random.RandomState(seed)
    net, local = build(NET, phase=0), Local()
    blobs = dict(net.blobs) | dict(zip("wb", net.params["fc"], strict=True))
    held: list[tuple[Floats, Floats]] = []
    if seed % 3 == 0:
        net.after_forward(lambda place: None)
    for _ in range(STEPS):
        name, side = stream.choice(list(blobs)), stream.choice(["data", "diff"])
        mine, theirs = getattr(local, side)[name], getattr(blobs[name], side)
        first, last = sorted(stream.randint(3, size=2))
        match stream.randint(8):
            case 0 | 1:
                value = stream.standard_normal(mine.shape).astype(np.float32)
                mine[...] = value
                theirs[...] = value
            case 2:
                del theirs
                net._forward(first, last)
                local.forward(first, last)
            case 3:
                del theirs
                net.backward()
                local.backward(2, 0)
            case 4:
                del theirs
                net._backward(last, first)
                local.backward(last, first)
            case 5:
                del theirs
                net.clear_param_diffs()
                local.clear()
            case 6:
                held.append((theirs, mine))
                held = held[-3:]
            case 7:
                assert_close(theirs, mine)
        for view, wanted in held:
            assert_close(view, wanted)
    for name, blob in blobs.items():
        assert_close(blob.data, local.data[name])
        assert_close(blob.diff, local.diff[name])


def assert_close(found: Floats, wanted: Floats) -> None:
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)
