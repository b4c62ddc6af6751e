"""The golden files of real Caffe for training: further layer types, gradients and solver runs, as typed values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from goldens.caffe_goldens import Golden, read_file, read_networks
from goldens.seeded_parameters import parameter_values

FOLDER = Path(__file__).parent / "caffe_training"
NETWORKS = ("more_layers", "losses", "recurrent")

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
