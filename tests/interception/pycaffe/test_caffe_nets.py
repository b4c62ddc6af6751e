"""Networks through the whole way, from `caffe.Net` on the host to a destination and back, as real Caffe shows them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from avec.errors import AvecError
from goldens.caffe_goldens import Golden, Refused, goldens, refusals

TOLERANCE = 1e-5
LARGE = {"nets", "openpose"}  # hundreds of megabytes of parameters: the executor's own tests have them


@pytest.mark.parametrize("golden", [each for each in goldens() if each.group not in LARGE], ids=str)
def test_net(caffe: ModuleType, tmp_path: Path, golden: Golden) -> None:
    path, weights = tmp_path / "net.prototxt", None
    path.write_text(golden.prototxt)
    if golden.caffemodel is not None:
        weights = str(tmp_path / "net.caffemodel")
        Path(weights).write_bytes(golden.caffemodel)
    phase = {"TRAIN": caffe.TRAIN, "TEST": caffe.TEST}[golden.phase]
    net = caffe.Net(str(path), phase, level=golden.level, stages=list(golden.stages), weights=weights)
    assert_description(net, golden)
    for layer, values in zip(net.layers, golden.parameters() or [[]] * len(net.layers), strict=True):
        for blob, value in zip(layer.blobs if values else (), values, strict=True):
            blob.data[...] = value
    for name, value in golden.inputs.items():
        net.blobs[name].reshape(*value.shape)
        net.blobs[name].data[...] = value
    net.forward()
    errors = {name: wanted.error(net.blobs[name].data) for name, wanted in golden.blobs.items()}
    assert {name: error for name, error in errors.items() if error > TOLERANCE} == {}
    for changed in golden.changed_parameters:
        np.testing.assert_allclose(
            net.layers[changed.layer].blobs[changed.index].data, changed.values, rtol=TOLERANCE, atol=TOLERANCE
        )


def assert_description(net: Any, golden: Golden) -> None:
    assert (net.inputs, net.outputs) == (list(golden.input_names), list(golden.output_names))
    assert list(net.layer_dict) == [layer.name for layer in golden.layers]
    assert list(net.params) == [layer.name for layer in golden.layers if layer.parameters]
    assert list(net.blobs) == list(golden.blobs)
    for layer, wanted in zip(net.layers, golden.layers, strict=True):
        shapes = tuple(tuple(blob.shape) for blob in layer.blobs)
        assert (layer.type, shapes) == (wanted.type, wanted.parameters)
        assert net.top_names[wanted.name] == list(wanted.tops)
        assert net.bottom_names[wanted.name] == list(wanted.bottoms)


@pytest.mark.parametrize("refused", refusals(), ids=str)
def test_where_caffe_ends_the_process_an_exception_is_raised(build: Callable[..., Any], refused: Refused) -> None:
    with pytest.raises(AvecError):
        net = build(refused.prototxt, refused.caffemodel)
        net.blobs["data"].reshape(*refused.reshaped)
        next(iter(net.forward().values()))
