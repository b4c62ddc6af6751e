"""Weights that are mapped from the model cache: the same nets to the bit, and writing them changes no other's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from avec.destination.accelerators import Accelerator
from avec.destination.executors.caffe import CaffeExecutor
from avec.destination.executors.caffe.model import CaffeModel
from avec.formats.caffe.message import message_class
from avec.modelcache import ModelCache, manifest_of_file
from avec.protocol.caffe import BlobRef, ShareWith, Within
from destination.caffe_net import Floats, Net, caffemodel, input_layer, layer
from destination.caffe_solver import NETWORK_FILE, Solver

RANDOM = np.random.default_rng(4)
X = RANDOM.standard_normal((2, 3, 9, 9)).astype(np.float32)
DENSE = 'inner_product_param { num_output: 5 weight_filler { type: "xavier" } }'
NET = (
    input_layer(2, 3, 9, 9)
    + layer("Convolution", "data", "conv", "convolution_param { num_output: 7 kernel_size: 3 }")
    + layer("BatchNorm", "conv", "norm")
    + layer("InnerProduct", "norm", "fc", DENSE)
)
TWICE = input_layer(2, 5) + "".join(
    layer("InnerProduct", a, b, DENSE + ' param { name: "w" } param { name: "b" }')
    for a, b in (("data", "one"), ("one", "two"))
)
TRAINED = (
    input_layer(2, 5)
    + input_layer(2, 5, name="target")
    + layer("InnerProduct", "data", "fc", DENSE)
    + layer("EuclideanLoss", "fc target", "loss")
)


def values(*shape: int) -> dict[str, Any]:
    return {"shape": {"dim": shape}, "data": RANDOM.standard_normal(shape).astype(np.float32)}


LAYERS: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "conv": [values(7, 3, 3, 3), values(7)],
    "norm": [values(7), {"shape": {"dim": [7]}, "data": np.ones(7)}, {"shape": {"dim": [1]}, "data": [2]}],
    "fc": [values(5, 7 * 7 * 7), values(5)],
}

ONE = input_layer(2, 5) + layer("InnerProduct", "data", "fc", DENSE)
ONES = " ".join(
    f"blobs {{ shape {{ {dims} }} {'data: 1 ' * count} }}" for dims, count in (("dim: 5 dim: 5", 25), ("dim: 5", 5))
)
ONE_WITH_BLOBS = input_layer(2, 5) + layer("InnerProduct", "data", "fc", f"{DENSE} {ONES}")
DENSE_BLOBS = [values(5, 5), values(5)]
OTHER_BLOBS = [values(5, 5), values(5)]
DOUBLES = {"shape": {"dim": [5, 5]}, "double_data": np.arange(25)}


@pytest.fixture
def cache(tmp_path: Path) -> ModelCache:
    return ModelCache(tmp_path / "cache", 1 << 30)


@pytest.fixture
def own() -> CaffeExecutor:
    """One whose nets have weights of their own."""
    return CaffeExecutor(Accelerator("strict", cudnn_workspace_mb=256))


@pytest.fixture
def sharing(cache: ModelCache) -> CaffeExecutor:
    """One whose nets map their weights."""
    accelerator = Accelerator("strict", cudnn_workspace_mb=256)
    accelerator.models = cache
    return CaffeExecutor(accelerator)


def stored(cache: ModelCache, path: Path) -> Path:
    manifest = manifest_of_file(path)
    with cache.upload(manifest) as upload:
        upload.write(0, path.read_bytes())
        upload.finish()
    with cache.open(manifest.digest) as model:
        return model.path


def mapped(net: Net) -> list[bool]:
    """Whether a parameter lies in a mapping of what was made of a model, for all."""
    assert isinstance(net.model, CaffeModel)
    ranges = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        if "/derived/" in line:
            first, _, last = line.split()[0].partition("-")
            ranges.append(range(int(first, 16), int(last, 16)))
    return [any(each.data_ptr() in one for one in ranges) for layer in net.model.layers for each in layer.parameters]


def parameters(net: Net) -> list[Floats]:
    counts = [len(each.parameters) for each in net.description.layers]
    return net.read(*(BlobRef(index, place) for place, count in enumerate(counts) for index in range(count)))


def out(net: Net, blob: str = "fc", x: Floats = X) -> Floats:
    return net.forward({net.data("data"): x}, [net.data(blob)])[0]


def test_a_net_gives_the_same_bits(
    own: CaffeExecutor, sharing: CaffeExecutor, cache: ModelCache, tmp_path: Path
) -> None:
    weights = stored(cache, caffemodel(tmp_path / "w", LAYERS))
    first, second = Net(own, NET, weights), Net(sharing, NET, weights)
    assert mapped(first) == [False] * 7
    assert mapped(second) == [True] * 7
    assert out(first).tobytes() == out(second).tobytes()


@pytest.mark.parametrize(
    ("net", "layers", "which"),
    [
        pytest.param(TWICE, {"one": DENSE_BLOBS, "two": OTHER_BLOBS}, [False] * 4, id="shared by name"),
        pytest.param(TWICE, {"two": OTHER_BLOBS, "one": DENSE_BLOBS}, [False] * 4, id="saved in another order"),
        pytest.param(ONE_WITH_BLOBS, {"fc": DENSE_BLOBS}, [False] * 2, id="blobs in the prototxt"),
        pytest.param(ONE, {"fc": [DOUBLES, values(5)]}, [False, True], id="doubles"),
        pytest.param(ONE, {"fc": DENSE_BLOBS, "no": [values(9)]}, [True] * 2, id="more than the net has"),
        pytest.param(ONE, {"no": [values(9)]}, [False] * 2, id="none that the net has"),
    ],
)
def test_every_net_has_the_parameters_that_it_has_without(
    own: CaffeExecutor, sharing: CaffeExecutor, cache: ModelCache, tmp_path: Path, net: str, layers: Any, which: Any
) -> None:
    weights = stored(cache, caffemodel(tmp_path / "w", layers))
    first, second = Net(own, net, weights), Net(sharing, net, weights)
    assert mapped(second) == which
    for one, other in zip(parameters(first), parameters(second), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_layer_of_a_name_that_came_before_is_filled(
    sharing: CaffeExecutor, cache: ModelCache, tmp_path: Path
) -> None:
    twice = input_layer(2, 5) + "".join(
        layer("Scale", a, b, "scale_param { filler { value: 3 } }", name="same") for a, b in (("data", "a"), ("a", "b"))
    )
    weights = stored(cache, caffemodel(tmp_path / "w", {"same": [values(5)]}))
    assert parameters(Net(sharing, twice, weights))[1].tolist() == [3] * 5


def test_weights_of_a_later_caffemodel_are_copied_over(
    sharing: CaffeExecutor, cache: ModelCache, tmp_path: Path
) -> None:
    """One layer twice in a file: what comes last holds."""
    message = message_class("NetParameter")()
    first, second = [values(5, 5), values(5)], [values(5, 5), values(5)]
    for blobs in (first, second):
        message.layer.add(name="fc", blobs=blobs)
    (tmp_path / "w").write_bytes(message.SerializeToString())
    weights = stored(cache, tmp_path / "w")
    net = Net(sharing, ONE, weights)
    np.testing.assert_array_equal(parameters(net)[0], second[0]["data"])


def test_a_solver_that_shares_a_nets_weights_changes_no_other_net(
    own: CaffeExecutor, sharing: CaffeExecutor, cache: ModelCache, tmp_path: Path
) -> None:
    weights = stored(cache, caffemodel(tmp_path / "w", {"fc": [values(5, 5), values(5)]}))
    x = RANDOM.standard_normal((2, 5)).astype(np.float32)

    def trained(executor: CaffeExecutor) -> list[Floats]:
        net = Net(executor, TRAINED, weights)
        solver = Solver(executor, f'base_lr: 0.1 lr_policy: "fixed" net: "{NETWORK_FILE}"', TRAINED)
        solver.model.run(msgspec.msgpack.encode(Within(0, ShareWith())), [], {}, [net.model])
        writes = {solver.data("data"): x, solver.data("target"): x}
        solver.step(3, writes, first=True)
        return parameters(net)

    other = Net(sharing, TRAINED, weights)
    before = [each.copy() for each in parameters(other)]
    results = [trained(own), trained(sharing)]
    for one, same in zip(*results, strict=True):
        assert one.tobytes() == same.tobytes()
    for one, same, changed in zip(before, parameters(other), results[0], strict=True):
        np.testing.assert_array_equal(one, same)
        assert not np.array_equal(one, changed)


def test_without_room_a_net_has_weights_of_its_own(tmp_path: Path, sharing: CaffeExecutor, own: CaffeExecutor) -> None:
    path = caffemodel(tmp_path / "w", LAYERS)
    small = ModelCache(tmp_path / "small", path.stat().st_size + 100)
    sharing._accelerator.models = small
    weights = stored(small, path)
    with small.open(weights.name):
        net = Net(sharing, NET, weights)
    assert mapped(net) == [False] * 7
    assert out(net).tobytes() == out(Net(own, NET, weights)).tobytes()
