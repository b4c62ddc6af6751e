"""docs/caffe.md says what the code does, and its worked example works."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import numpy as np

from avec.destination.accelerators import Accelerator
from avec.destination.executors.caffe import CaffeExecutor
from avec.destination.executors.caffe.layers import LAYER_TYPES, activations
from avec.destination.executors.caffe.layers.layer import LayerType
from avec.interception.caffe.mode import layer_type_list
from avec.protocol.caffe import Backward, BlobRef
from destination.caffe_net import Net, input_layer, layer
from destination.caffe_page import PAGE, with_table

TEXT = PAGE.read_text("utf-8")
ROOT = Path(__file__).parents[2]


def test_the_table_is_that_of_the_code() -> None:
    advice = "the table of docs/caffe.md is old: PYTHONPATH=src:tests python tests/destination/caffe_page.py writes it"
    assert with_table(TEXT) == TEXT, advice


def test_every_layer_type_of_caffe_is_there() -> None:
    assert set(layer_type_list()) <= set(LAYER_TYPES)


def test_the_files_that_it_names_are_there() -> None:
    named = {name for name in re.findall(r"`([\w./]+/[\w.]+\.\w+)`", TEXT) if not name.startswith("layers/")}
    sources = {"destination/", "formats/", "interception/"}
    paths = [ROOT / ("src/avec" if name.startswith(tuple(sources)) else "") / name for name in named]
    assert paths and [str(path) for path in paths if not path.is_file()] == []


def test_the_worked_example_works() -> None:
    names = {**vars(activations), "LayerType": LayerType, "LAYER_TYPES": LAYER_TYPES}
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    try:
        for block in blocks:
            exec(textwrap.dedent("   " + block), names)
        text = "force_backward: true " + input_layer(2, 3) + layer("Softsign", "data", "out")
        net = Net(CaffeExecutor(Accelerator("strict", cudnn_workspace_mb=256)), text)
        x = np.linspace(-2, 2, 6, dtype=np.float32).reshape(2, 3)
        (out,) = net.forward({net.data("data"): x}, [net.data("out")])
        net.run(Backward(writes=(BlobRef(1, diff=True),)), [np.full((2, 3), 3, np.float32)])
        (gradient,) = net.read(BlobRef(0, diff=True))
    finally:
        LAYER_TYPES.pop("Softsign", None)
    np.testing.assert_allclose(out, x / (1 + np.abs(x)), rtol=1e-6)
    np.testing.assert_allclose(gradient, 3 / (1 + np.abs(x)) ** 2, rtol=1e-6)
