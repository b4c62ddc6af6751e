"""Whatever a program does in whatever order, it sees what it would see if the net computed in its own memory."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from avec.tensor import Array

NET = """
layer { name: "a" type: "Input" top: "a" input_param { shape { dim: 2 dim: 3 } } }
layer { name: "fc" type: "InnerProduct" bottom: "a" top: "fc" inner_product_param { num_output: 4 } }
layer { name: "relu" type: "ReLU" bottom: "fc" top: "fc" }
layer { name: "tanh" type: "TanH" bottom: "fc" top: "tanh" }
layer { name: "sum" type: "Eltwise" bottom: "fc" bottom: "tanh" top: "sum" }
layer { name: "side" type: "TanH" bottom: "a" top: "side" }
"""
BLOBS = ("a", "fc", "tanh", "sum", "side")
VALUES = st.integers(-3, 3).map(lambda value: value / 4)


class Plain:
    """NET in numpy, on live memory that is replaced only when it becomes too small, as Caffe's is."""

    def __init__(self) -> None:
        self.memory = {name: np.zeros(8, np.float32) for name in BLOBS}
        self.shapes: dict[str, tuple[int, ...]] = dict.fromkeys(BLOBS, (2, 4)) | {"a": (2, 3), "side": (2, 3)}
        self.weights = np.zeros((4, 3), np.float32)
        self.bias = np.zeros(4, np.float32)

    def view(self, name: str) -> Array:
        shape = self.shapes[name]
        return self.memory[name][: math.prod(shape)].reshape(shape)

    def reshape(self, name: str, shape: tuple[int, ...]) -> None:
        self.shapes[name] = shape
        if math.prod(shape) > self.memory[name].size:
            self.memory[name] = np.zeros(math.prod(shape), np.float32)

    def forward(self, start: str, end: str) -> None:
        layers: dict[str, Callable[[], None]] = {
            "fc": lambda: self._put("fc", self.view("a") @ self.weights.T + self.bias),
            "relu": lambda: self._put("fc", np.maximum(self.view("fc"), 0)),
            "tanh": lambda: self._put("tanh", np.tanh(self.view("fc"))),
            "sum": lambda: self._put("sum", self.view("fc") + self.view("tanh")),
            "side": lambda: self._put("side", np.tanh(self.view("a"))),
        }
        names = list(layers)
        for name in names[names.index(start) : names.index(end) + 1]:
            layers[name]()

    def _put(self, name: str, values: Array) -> None:
        self.reshape(name, values.shape)
        self.view(name)[...] = values


class Program(RuleBasedStateMachine):
    """What a program may do with a net, done to a net at a destination and to one in plain memory."""

    caffe: ModuleType
    prototxt: Path

    @initialize()
    def load(self) -> None:
        self.net = self.caffe.Net(str(self.prototxt), self.caffe.TEST)
        self.plain = Plain()
        self.held: list[tuple[Array, Array]] = []
        self.results: list[tuple[dict[str, Array], set[str]]] = []
        self.write_weights(0.25)
        self.forward_from("fc")

    def data_of(self, name: str) -> Array:
        blob: Any = self.net.blobs[name]
        found: Array = blob.data
        return found

    @rule(name=st.sampled_from(BLOBS), value=VALUES)
    def write(self, name: str, value: float) -> None:
        for view in (self.data_of(name), self.plain.view(name)):
            view[...] = value
            view[-1, -1] += 1

    @rule(value=VALUES)
    def write_weights(self, value: float) -> None:
        for weights in (self.net.params["fc"][0].data, self.plain.weights):
            weights[...] = value
            weights[1] = -value

    @rule(value=VALUES)
    def write_bias(self, value: float) -> None:
        for bias in (self.net.params["fc"][1].data, self.plain.bias):
            bias[2] = value

    @rule(name=st.sampled_from(BLOBS))
    def look(self, name: str) -> None:
        np.testing.assert_allclose(self.data_of(name), self.plain.view(name), rtol=1e-5, atol=1e-6)

    @rule(name=st.sampled_from(BLOBS))
    def hold(self, name: str) -> None:
        self.held.append((self.data_of(name), self.plain.view(name)))

    @rule()
    def hold_parameters(self) -> None:
        weights, bias = self.net.params["fc"]
        self.held += [(weights.data, self.plain.weights), (bias.data, self.plain.bias)]

    @precondition(lambda self: self.held)
    @rule(value=VALUES)
    def write_held(self, value: float) -> None:
        for view in self.held[-1]:
            view[0] = value

    @precondition(lambda self: self.held)
    @rule()
    def drop(self) -> None:
        self.held.pop(0)

    @rule()
    def drop_all(self) -> None:
        self.held.clear()
        self.results.clear()

    @rule(start=st.sampled_from(["fc", "relu", "tanh", "sum", "side"]))
    def forward_from(self, start: str) -> None:
        self._forward(start, "side", {"sum", "side"}, self.net.forward(start=None if start == "fc" else start))

    @rule(value=VALUES)
    def forward_with_input(self, value: float) -> None:
        given = np.full(self.plain.shapes["a"], value)
        self.plain.view("a")[...] = given
        self._forward("fc", "side", {"sum", "side", "tanh"}, self.net.forward(blobs=["tanh"], a=given))

    @rule()
    def forward_to_tanh(self) -> None:
        self._forward("fc", "tanh", {"tanh"}, self.net.forward(end="tanh"))

    @rule(count=st.integers(1, 4), propagate=st.booleans())
    def reshape(self, count: int, propagate: bool) -> None:
        self.net.blobs["a"].reshape(count, 3)
        self.plain.reshape("a", (count, 3))
        if propagate:
            self.net.reshape()
        self.results.clear()  # what they show from now on is the test of another file
        self.forward_from("fc")

    def _forward(self, start: str, end: str, names: set[str], results: dict[str, Array]) -> None:
        self.plain.forward(start, end)
        self.results.append((results, names))

    @rule()
    def look_at_results(self) -> None:
        for results, names in self.results:
            assert results.keys() == names
            for name in names:
                np.testing.assert_allclose(results[name], self.plain.view(name), rtol=1e-5, atol=1e-6)

    @invariant()
    def held_views_are_live(self) -> None:
        for view, wanted in getattr(self, "held", ()):
            np.testing.assert_allclose(view, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.timeout(300)
def test_any_order(caffe: ModuleType, tmp_path: Path) -> None:
    prototxt = tmp_path / "net.prototxt"
    prototxt.write_text(NET)
    machine = type("At", (Program,), {"caffe": caffe, "prototxt": prototxt})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=100,
            stateful_step_count=30,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
