"""pycaffe under AVEC in the tests' own process, and what its calls put on the link."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import avec
from avec import config
from avec.interception.active import session
from avec.profiling import ExecutionCycle

Build = Callable[..., Any]

# fc is read twice, so that there is an automatic split; relu works in place.
BRANCHES = """name: "branches"
layer { name: "a" type: "Input" top: "a" input_param { shape { dim: 2 dim: 3 } } }
layer { name: "fc" type: "InnerProduct" bottom: "a" top: "fc"
  inner_product_param { num_output: 4 weight_filler { type: "xavier" } bias_filler { type: "constant" value: 1 } } }
layer { name: "relu" type: "ReLU" bottom: "fc" top: "fc" }
layer { name: "tanh" type: "TanH" bottom: "fc" top: "tanh" }
layer { name: "sum" type: "Eltwise" bottom: "fc" bottom: "tanh" top: "sum" }
"""


@pytest.fixture(scope="module")
def caffe(destination: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """`import caffe` as a program under AVEC has it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AVEC_CACHE_DIR", str(tmp_path_factory.mktemp("host")))
        patch.setenv(config.FILE_VARIABLE, os.devnull)
        avec.intercept(destination)
        import caffe

        yield caffe
        avec.release()


@pytest.fixture
def build(caffe: ModuleType, tmp_path: Path) -> Build:
    """Build a net from its text, and perhaps a caffemodel's bytes."""

    def make(prototxt: str = BRANCHES, weights: bytes | None = None, phase: int = caffe.TEST, **how: Any) -> Any:
        path = tmp_path / "net.prototxt"
        path.write_text(prototxt)
        if weights is not None:
            how["weights"] = str(tmp_path / "net.caffemodel")
            Path(how["weights"]).write_bytes(weights)
        return caffe.Net(str(path), phase, **how)

    return make


@pytest.fixture
def sent(caffe: ModuleType) -> Callable[[], Sequence[ExecutionCycle]]:
    """The calls that were answered since it was last asked."""
    recorder = session().recorder
    seen = len(recorder.cycles)

    def since() -> Sequence[ExecutionCycle]:
        nonlocal seen
        cycles = recorder.cycles[seen:]
        seen += len(cycles)
        return cycles

    return since
