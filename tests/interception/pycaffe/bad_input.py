"""Malformed files as a pycaffe program meets them: what is done with them, and what the error has to say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import h5py

from avec.errors import AvecError, InvalidModel

Act = Callable[[ModuleType], object]

INPUT = 'layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 dim: 8 dim: 8 } } }\n'
FC = 'layer { name: "fc" type: "InnerProduct" bottom: "x" top: "fc" inner_product_param { num_output: 4 } }\n'
TRAINED = """layer { name: "data" type: "DummyData" top: "x" top: "t"
  dummy_data_param { shape { dim: 4 dim: 3 } shape { dim: 4 dim: 2 } data_filler { type: "constant" value: 1 } } }
layer { name: "fc" type: "InnerProduct" bottom: "x" top: "fc" inner_product_param { num_output: 2 } }
layer { name: "loss" type: "EuclideanLoss" bottom: "fc" bottom: "t" top: "loss" }
"""
SOLVER = 'net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed" max_iter: 5 snapshot_prefix: "s" momentum: 0.9 '


@dataclass(frozen=True, slots=True)
class Bad:
    """What a program does in a folder of its own; how the error begins, with file and place, and what it also says."""

    act: Act
    begins: str
    says: str
    error: type[AvecError] | type[RuntimeError] = InvalidModel


def write(name: str, content: str | bytes) -> None:
    Path(name).write_bytes(content.encode() if isinstance(content, str) else content)


def net(prototxt: str | bytes, passes: int = 0) -> Act:
    """Build a net, and perhaps run it."""

    def act(caffe: ModuleType) -> None:
        write("net.prototxt", prototxt)
        built = caffe.Net("net.prototxt", caffe.TEST)
        for _ in range(passes):
            for output in built.forward().values():
                output.copy()

    return act


def layer(text: str, passes: int = 0) -> Act:
    """Build a net of an input and one layer more."""
    return net(INPUT + f"layer {{ {text} }}", passes)


def data(text: str, passes: int = 0) -> Act:
    """Build a net that is fed by one layer."""
    return net(f'layer {{ name: "in" {text} }}', passes)


def prepared(step: Callable[[], object], act: Act) -> Act:
    """Do something in the folder first."""

    def both(caffe: ModuleType) -> None:
        step()
        act(caffe)

    return both


def listed(lines: str, passes: int = 0) -> Act:
    """Build a net that is fed by a list of images."""
    images = 'type: "ImageData" top: "x" top: "label" image_data_param { source: "list.txt" batch_size: 1 }'
    return prepared(lambda: write("list.txt", lines), data(images, passes))


def saved(caffe: ModuleType, prototxt: str) -> bytes:
    """The caffemodel of a net."""
    net(prototxt)(caffe)
    caffe.Net("net.prototxt", caffe.TEST).save("saved.caffemodel")
    return Path("saved.caffemodel").read_bytes()


def weights(make: Callable[[ModuleType], bytes] | bytes, name: str = "w.caffemodel") -> Act:
    """Build INPUT + FC with weights."""

    def act(caffe: ModuleType) -> None:
        write(name, make if isinstance(make, bytes) else make(caffe))
        write("net.prototxt", INPUT + FC)
        caffe.Net("net.prototxt", name, caffe.TEST)

    return act


def hdf5_weights(**datasets: Any) -> Act:
    """Load HDF5 weights into INPUT + FC; names of datasets have __ for /."""

    def act(caffe: ModuleType) -> None:
        with h5py.File("w.h5", "w") as file:
            for name, values in datasets.items():
                file[name.replace("__", "/")] = values
        write("net.prototxt", INPUT + FC)
        caffe.Net("net.prototxt", caffe.TEST).load_hdf5("w.h5")

    return act


def solver(prototxt: str | bytes, network: str = TRAINED) -> Act:
    """Make a solver."""

    def act(caffe: ModuleType) -> Any:
        write("net.prototxt", network)
        write("solver.prototxt", prototxt)
        return caffe.get_solver("solver.prototxt")

    return act


def restored(
    make: Callable[[bytes], bytes],
    name: str = "bad.solverstate",
    prepare: Callable[[], object] = lambda: None,
    settings: str = SOLVER,
) -> Act:
    """Restore a solver from what `make` makes of a snapshot's bytes."""

    def act(caffe: ModuleType) -> None:
        first: Any = solver(SOLVER)(caffe)
        first.step(1)
        first.snapshot()
        write(name, make(Path("s_iter_1.solverstate").read_bytes()))
        prepare()
        another: Any = solver(settings)(caffe)
        another.restore(name)

    return act
