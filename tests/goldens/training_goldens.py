"""The golden files of real Caffe for training: further layer types, gradients and solver runs, as typed values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from goldens.caffe_goldens import Array, Behaviour, Expected, Golden, read_behaviours, read_file, read_networks
from goldens.seeded_parameters import parameter_values
from goldens.seeded_streams import InputStream

FOLDER = Path(__file__).parent / "caffe_training"
NETWORKS = ("more_layers", "losses", "recurrent", "drawn", "composed")
BEHAVIOURS = "pycaffe_training"

Floats = npt.NDArray[np.float32]
Layers = list[tuple[str, list[tuple[int, ...]]]]  # type and parameter shapes of each layer


@dataclass(frozen=True, slots=True)
class Gradient:
    """What real Caffe's diffs hold after clear_param_diffs, forward and backward.

    Parameters come from the seed where `fill` says so, else they are the fillers'.
    """

    group: str
    name: str
    prototxt: str
    seed: int
    phase: str
    fill: bool
    loss_weights: Mapping[str, float]  # net.blob_loss_weights
    needs_backward: tuple[str, ...]  # names of the layers that a backward pass runs, as Caffe logs them
    inputs: Mapping[str, Floats]
    given: Mapping[str, Floats]  # diffs of the outputs that are no losses, written before backward
    blobs: Mapping[str, Floats]  # every blob's diff
    parameters: Mapping[tuple[int, int], Floats]  # (layer, index) → diff

    def __str__(self) -> str:
        return f"{self.group}-{self.name}"

    def parameter_values(self, layers: Layers) -> list[list[Floats]] | None:
        """Draw the parameters of each layer; None when they are the fillers'."""
        return parameter_values(self.seed, layers) if self.fill else None


@dataclass(frozen=True, slots=True)
class Step:
    """The state after one iteration: the loss of its forward pass, the rate that Caffe shows, and the parameters."""

    loss: float
    rate: float
    parameters: tuple[tuple[Floats, ...], ...]  # of each layer


@dataclass(frozen=True, slots=True)
class SolverRun:
    """A solver's iterations on one network, from parameters that the seed gives."""

    name: str
    solver: str  # prototxt without the network
    network: str
    seed: int
    inputs: Mapping[str, Floats]
    steps: tuple[Step, ...]

    def __str__(self) -> str:
        return self.name

    def parameter_values(self, layers: Layers) -> list[list[Floats]]:
        """Draw the parameters of each layer at the start."""
        return parameter_values(self.seed, layers)


@dataclass(frozen=True, slots=True)
class State:
    """A run after some iterations: each layer's parameters, and their diffs, which hold the last update."""

    iteration: int
    rate: float
    parameters: tuple[tuple[Expected, ...], ...]
    updates: tuple[tuple[Expected, ...], ...]


@dataclass(frozen=True, slots=True)
class TrainingRun:
    """A solver's run with inputs drawn anew before each `stride` iterations, or one call of solve().

    The network's file is called net.prototxt. `inputs` holds names and shapes for the train net and each test net;
    test nets are fed once, before the first iteration.
    """

    name: str
    solver: str  # prototxt without the network
    network: str
    seed: int
    iterations: int
    stride: int
    classes: int
    solve: bool
    inputs: tuple[tuple[tuple[str, tuple[int, ...]], ...], ...]
    losses: Floats  # of each iteration (with iter_size: of its last pass), that of solve()'s last display left out
    log: tuple[str, ...]  # what Caffe logs, without glog's heads; speeds are written (R iter/s, Ts/…)
    states: tuple[State, ...]
    files: Mapping[str, bytes]  # the snapshots that it wrote

    def __str__(self) -> str:
        return self.name

    def stream(self, net: int) -> InputStream:
        """Begin the inputs of one of its nets anew: 0 is the train net, others are test nets."""
        return InputStream(self.seed + 1 + net, list(self.inputs[net]), self.classes)

    def parameter_values(self, layers: Layers) -> list[list[Floats]]:
        """Draw the parameters of each layer of the train net at the start."""
        return parameter_values(self.seed, layers)


@dataclass(frozen=True, slots=True)
class Statistics:
    """What real Caffe drew at random: a blob after forward in training, or parameter 0 of the layer "tested"."""

    name: str
    prototxt: str
    phase: str
    blob: str  # empty: the parameter
    shape: tuple[int, ...]
    mean: float
    deviation: float
    minimum: float
    maximum: float
    zeros: float  # the fraction of values that are 0
    row_sums: tuple[float, float]  # the smallest and the largest sum over a row (the first axis)
    drawn_again: bool  # whether a second forward pass gave other values

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class RefusedSolver:
    """A solver's prototxt, naming net.prototxt, at which real Caffe ends the process when it is made or stepped."""

    name: str
    solver: str
    network: str
    message: str  # of real Caffe's failed check

    def __str__(self) -> str:
        return self.name


@cache
def training_goldens() -> tuple[Golden, ...]:
    """Read the forward passes of the layer types that inference seldom needs."""
    return tuple(golden for name in NETWORKS for golden in read_networks(FOLDER / f"{name}.npz"))


@cache
def gradients() -> tuple[Gradient, ...]:
    """Read the gradients of all layer types."""
    descriptions, arrays = read_file(FOLDER / "gradients.npz")
    return tuple(
        Gradient(
            **{key: each[key] for key in ("group", "name", "prototxt", "seed", "phase", "fill")},
            loss_weights=dict(each["loss_weights"]),
            needs_backward=tuple(each["needs_backward"]),
            **{key: {name: arrays[place] for name, place in each[key]} for key in ("inputs", "given", "blobs")},
            parameters={(layer, index): arrays[place] for layer, index, place in each["parameters"]},
        )
        for each in descriptions
    )


@cache
def solver_runs() -> tuple[SolverRun, ...]:
    """Read the solver runs."""
    descriptions, arrays = read_file(FOLDER / "solvers.npz")
    return tuple(
        SolverRun(
            **{key: each[key] for key in ("name", "solver", "network", "seed")},
            inputs={name: arrays[place] for name, place in each["inputs"]},
            steps=tuple(
                Step(
                    step["loss"],
                    step["rate"],
                    tuple(tuple(arrays[place] for place in layer) for layer in step["parameters"]),
                )
                for step in each["steps"]
            ),
        )
        for each in descriptions
    )


def _state(given: dict[str, Any], arrays: list[Array]) -> State:
    both = [
        tuple(
            tuple(
                Expected(tuple(each["shape"]), each["step"], each["maximum"], arrays[each["values"]]) for each in layer
            )
            for layer in given[key]
        )
        for key in ("parameters", "updates")
    ]
    return State(given["iteration"], given["rate"], *both)


@cache
def training_runs() -> tuple[TrainingRun, ...]:
    """Read the long runs: 50 iterations of small nets, 200 of LeNet."""
    descriptions, arrays = read_file(FOLDER / "runs.npz")
    keys = ("name", "solver", "network", "seed", "iterations", "stride", "classes", "solve")
    return tuple(
        TrainingRun(
            **{key: each[key] for key in keys},
            inputs=tuple(tuple((name, tuple(shape)) for name, shape in net) for net in each["inputs"]),
            losses=arrays[each["losses"]],
            log=tuple(each["log"]),
            states=tuple(_state(step, arrays) for step in each["steps"]),
            files={name: arrays[place].tobytes() for name, place in each["files"].items()},
        )
        for each in descriptions
    )


@cache
def training_behaviours() -> tuple[Behaviour, ...]:
    """Read what pycaffe shows around training: backward, hooks, sharing, files, solvers, Python layers, exceptions."""
    return read_behaviours(FOLDER / f"{BEHAVIOURS}.npz")


@cache
def refused_solvers() -> tuple[RefusedSolver, ...]:
    """Read the solvers that real Caffe refuses."""
    return tuple(RefusedSolver(**each) for each in json.loads((FOLDER / "refused_solvers.json").read_text()))


@cache
def statistics() -> tuple[Statistics, ...]:
    """Read the statistics of what is drawn at random."""
    read = json.loads((FOLDER / "random.json").read_text())
    return tuple(
        Statistics(**{**each, "shape": tuple(each["shape"]), "row_sums": tuple(each["row_sums"])}) for each in read
    )
