"""The Caffe executor against real Caffe: each golden network, directly on the CPU executor, in strict fp32."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

from avec.destination.accelerators import Accelerator
from avec.destination.executors import Model
from avec.destination.executors.caffe import CaffeExecutor
from avec.errors import ExecutionError
from avec.protocol import caffe as protocol
from goldens.caffe_goldens import Golden, Refused, goldens, refusals

TOLERANCE = 1e-5  # of the blob's largest magnitude; what any two fp32 engines agree to

Arrays = list[npt.NDArray[np.float32]]


@pytest.fixture(scope="module")
def executor() -> CaffeExecutor:
    return CaffeExecutor(Accelerator("strict", cudnn_workspace_mb=256))


class LoadedNet:
    """One net at the executor, spoken to in the structs of the protocol."""

    def __init__(self, executor: CaffeExecutor, load: protocol.LoadNet, prototxt: str, files: dict[str, Path]) -> None:
        text = np.frombuffer(prototxt.encode(), dtype=np.uint8)
        self.model: Model
        self.model, answer = executor.load(msgspec.msgpack.encode(load), [text], files)
        self.description = msgspec.msgpack.decode(answer.arrays[0].tobytes(), type=protocol.NetDescription)

    def forward(
        self, writes: dict[protocol.BlobRef, npt.NDArray[np.float32]], wanted: list[protocol.BlobRef]
    ) -> Arrays:
        request = protocol.Forward(writes=tuple(writes), wanted=tuple(wanted))
        answer = self.model.run(msgspec.msgpack.encode(request), list(writes.values()), {})
        return [np.array(array) for array in answer.arrays]

    def place(self, blob: str) -> int:
        return [each.name for each in self.description.blobs].index(blob)


@pytest.fixture
def net(executor: CaffeExecutor, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LoadedNet]:
    golden: Golden = request.param
    load = protocol.LoadNet(golden.name, phase=golden.phase, level=golden.level, stages=golden.stages)
    loaded = LoadedNet(executor, load, golden.prototxt, _weights(golden.caffemodel, tmp_path))
    yield loaded
    loaded.model.close()


def _weights(caffemodel: bytes | None, folder: Path) -> dict[str, Path]:
    if caffemodel is None:
        return {}
    path = folder / "weights.caffemodel"
    path.write_bytes(caffemodel)
    return {protocol.WEIGHTS: path}


def _given(golden: Golden, net: LoadedNet) -> dict[protocol.BlobRef, npt.NDArray[np.float32]]:
    """Collect what real Caffe was given: the inputs and, where no caffemodel holds them, the parameters."""
    writes = {protocol.BlobRef(net.place(name)): value for name, value in golden.inputs.items()}
    for layer, values in enumerate(golden.parameters() or []):
        writes |= {protocol.BlobRef(index, layer): value for index, value in enumerate(values)}
    return writes


every_golden = pytest.mark.parametrize(
    ("golden", "net"), [(each, each) for each in goldens()], indirect=["net"], ids=[str(each) for each in goldens()]
)


@every_golden
def test_a_net_has_the_structure_that_real_caffe_shows(golden: Golden, net: LoadedNet) -> None:
    names = [blob.name for blob in net.description.blobs]
    layers = [
        (layer.name, layer.type, [names[place] for place in layer.bottoms], [names[place] for place in layer.tops],
         [each.shape for each in layer.parameters])
        for layer in net.description.layers
    ]  # fmt: skip
    wanted = [
        (each.name, each.type, list(each.bottoms), list(each.tops), list(each.parameters)) for each in golden.layers
    ]
    assert layers == wanted
    assert names == list(golden.blobs)
    assert [blob.shape for blob in net.description.blobs] == [blob.shape for blob in golden.blobs.values()]
    assert [names[place] for place in net.description.inputs] == list(golden.input_names)
    assert [names[place] for place in net.description.outputs] == list(golden.output_names)


@every_golden
def test_every_blob_holds_what_real_caffe_computes(golden: Golden, net: LoadedNet) -> None:
    wanted = [protocol.BlobRef(net.place(name)) for name in golden.blobs]
    computed = net.forward(_given(golden, net), wanted)
    errors = {name: expected.error(blob) for (name, expected), blob in zip(golden.blobs.items(), computed, strict=True)}
    assert {name: error for name, error in errors.items() if error > TOLERANCE} == {}


writing = [each for each in goldens() if each.changed_parameters]


@pytest.mark.parametrize(("golden", "net"), [(each, each) for each in writing], indirect=["net"], ids=map(str, writing))
def test_a_forward_pass_changes_the_parameters_that_real_caffe_changes(golden: Golden, net: LoadedNet) -> None:
    wanted = [protocol.BlobRef(each.index, each.layer) for each in golden.changed_parameters]
    computed = net.forward(_given(golden, net), wanted)
    for change, actual in zip(golden.changed_parameters, computed, strict=True):
        np.testing.assert_allclose(actual, change.values, rtol=TOLERANCE, atol=TOLERANCE * np.abs(change.values).max())


@pytest.mark.parametrize("refused", refusals(), ids=str)
def test_what_aborts_real_caffe_is_refused(executor: CaffeExecutor, refused: Refused, tmp_path: Path) -> None:
    files = _weights(refused.caffemodel, tmp_path)
    with pytest.raises(ExecutionError):
        net = LoadedNet(executor, protocol.LoadNet(refused.name), refused.prototxt, files)
        reshaped = (protocol.Reshaped(net.place("data"), refused.reshaped),)
        net.model.run(msgspec.msgpack.encode(protocol.Forward(reshaped=reshaped)), [], {})
