"""Files of the host's that layers name: they reach the destination beside the net."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from avec.formats.caffe.message import message_class

NET = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 } } }
layer { name: "label" type: "Input" top: "label" input_param { shape { dim: 2 } } }
layer { name: "fc" type: "InnerProduct" bottom: "data" top: "fc" inner_product_param { num_output: 3 } }
layer { name: "loss" type: "InfogainLoss" bottom: "fc" bottom: "label" top: "loss"
        infogain_loss_param { source: "matrix.binaryproto" } }
"""
SOLVER = 'net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed" test_iter: 1 test_interval: 1'


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("net.prototxt").write_text(NET)
    Path("solver.prototxt").write_text(SOLVER)
    matrix = message_class("BlobProto")(shape={"dim": [3, 3]}, data=2 * np.eye(3, dtype=np.float32).ravel())
    Path("matrix.binaryproto").write_bytes(matrix.SerializeToString())
    return tmp_path


def test_a_net_computes_with_its_matrix(caffe: ModuleType, folder: Path) -> None:
    net = caffe.Net("net.prototxt", caffe.TEST)
    assert net.forward()["loss"] == pytest.approx(2 * np.log(3))


def test_a_solver_steps_and_tests_with_it(caffe: ModuleType, folder: Path) -> None:
    solver = caffe.SGDSolver("solver.prototxt")
    solver.step(1)
    assert solver.net.blobs["loss"].data == pytest.approx(2 * np.log(3))
    assert solver.test_nets[0].blobs["loss"].data == pytest.approx(2 * np.log(3))


@pytest.mark.parametrize("make", ["Net", "SGDSolver"])
def test_a_matrix_that_is_missing_is_said_so(caffe: ModuleType, folder: Path, make: str) -> None:
    Path("matrix.binaryproto").unlink()
    arguments = ("net.prototxt", caffe.TEST) if make == "Net" else ("solver.prototxt",)
    with pytest.raises(RuntimeError, match=r"Could not open file matrix\.binaryproto"):
        getattr(caffe, make)(*arguments)
