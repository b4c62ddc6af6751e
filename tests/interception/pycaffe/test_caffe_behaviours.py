"""pycaffe's own Python and bindings: every observation of real Caffe is repeated here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from goldens.caffe_goldens import Array, Behaviour, behaviours

TOLERANCE = 1e-5  # of the largest value
BY_KIND: dict[str, list[Behaviour]] = {}
for _each in behaviours():
    BY_KIND.setdefault(_each.name.partition("/")[0], []).append(_each)


def of(kind: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("golden", BY_KIND[kind], ids=str)


def named(name: str) -> Behaviour:
    (found,) = [each for each in behaviours() if each.name == name]
    return found


def assert_close(actual: Array, wanted: Array) -> None:
    assert actual.shape == wanted.shape
    assert np.abs(actual - wanted).max(initial=0) <= TOLERANCE * np.abs(wanted).max(initial=0)


def weights_of(golden: Behaviour) -> bytes:
    return golden.arrays["weights"].tobytes()


@of("resize_image")
def test_resize_image(caffe: ModuleType, golden: Behaviour) -> None:
    result = caffe.io.resize_image(
        golden.arrays["image"], golden.settings["new_dims"], interp_order=golden.settings["interp_order"]
    )
    assert result.dtype == np.float32
    assert_close(result, golden.arrays["result"])


@of("Transformer")
def test_transformer(caffe: ModuleType, golden: Behaviour) -> None:
    transformer = caffe.io.Transformer({"data": tuple(golden.settings["shape"])})
    for name in ("transpose", "channel_swap", "raw_scale", "input_scale"):
        if name in golden.settings:
            getattr(transformer, f"set_{name}")("data", golden.settings[name])
    if "mean" in golden.arrays:
        transformer.set_mean("data", golden.arrays["mean"])
        kept = transformer.mean["data"]
        assert kept.dtype == golden.arrays["mean_kept"].dtype
        assert_close(kept, golden.arrays["mean_kept"])
    image = golden.arrays["image"].copy()
    result = transformer.preprocess("data", image)
    assert result.dtype == np.float32
    assert_close(result, golden.arrays["result"])
    assert_close(image, golden.arrays["image_after"])
    if "deprocessed" in golden.arrays:
        assert_close(transformer.deprocess("data", golden.arrays["result"][np.newaxis]), golden.arrays["deprocessed"])


@of("oversample")
def test_oversample(caffe: ModuleType, golden: Behaviour) -> None:
    crops = caffe.io.oversample(list(golden.arrays["images"]), golden.settings["crop_dims"])
    np.testing.assert_array_equal(crops, golden.arrays["result"])


def test_blobproto_is_written_and_read(caffe: ModuleType) -> None:
    golden = named("blobproto/new")
    blob = caffe.io.array_to_blobproto(golden.arrays["array"], golden.arrays["diff"])
    assert blob.SerializeToString() == golden.arrays["encoded"].tobytes()
    for array, name in (
        (caffe.io.blobproto_to_array(blob), "data"),
        (caffe.io.blobproto_to_array(blob, return_diff=True), "diff"),
    ):
        assert array.dtype == golden.arrays[name].dtype
        np.testing.assert_array_equal(array, golden.arrays[name])


def test_a_mean_file_is_read(caffe: ModuleType) -> None:
    from caffe.proto import caffe_pb2

    golden = named("blobproto/mean_file")
    blob = caffe_pb2.BlobProto()
    blob.ParseFromString(golden.arrays["encoded"].tobytes())
    np.testing.assert_array_equal(caffe.io.blobproto_to_array(blob), golden.arrays["data"])


def test_blobprotovector(caffe: ModuleType) -> None:
    golden = named("blobprotovector")
    text = caffe.io.arraylist_to_blobprotovector_str([golden.arrays["first"], golden.arrays["second"]])
    assert text == golden.arrays["encoded"].tobytes()
    first, second = caffe.io.blobprotovector_str_to_arraylist(text)
    np.testing.assert_array_equal(first, golden.arrays["back_first"])
    np.testing.assert_array_equal(second, golden.arrays["back_second"])


@of("datum")
def test_datum(caffe: ModuleType, golden: Behaviour) -> None:
    datum = caffe.io.array_to_datum(golden.arrays["array"], golden.settings["label"])
    assert datum.SerializeToString() == golden.arrays["encoded"].tobytes()
    array = caffe.io.datum_to_array(datum)
    assert array.dtype == golden.arrays["data"].dtype
    np.testing.assert_array_equal(array, golden.arrays["data"])


@of("load_image")
def test_load_image(caffe: ModuleType, golden: Behaviour, tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(golden.arrays["encoded"].tobytes())
    image = caffe.io.load_image(str(path), color=golden.settings["color"])
    assert image.dtype == np.float32
    assert_close(image, golden.arrays["result"])


@of("Classifier")
def test_classifier(caffe: ModuleType, golden: Behaviour, tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_text(golden.settings["prototxt"])
    (tmp_path / "net.caffemodel").write_bytes(weights_of(golden))
    classifier = caffe.Classifier(
        str(tmp_path / "net.prototxt"),
        str(tmp_path / "net.caffemodel"),
        mean=golden.arrays.get("mean"),
        **golden.settings["constructor"],
    )
    result = classifier.predict(list(golden.arrays["images"]), oversample=golden.settings["oversample"])
    assert_close(result, golden.arrays["result"])


def check_outputs(outputs: Any, golden: Behaviour) -> None:
    assert sorted(outputs) == golden.settings["keys"]
    for name in golden.settings["keys"]:
        assert_close(outputs[name], golden.arrays[name])


@pytest.fixture
def net(build: Callable[..., Any]) -> Any:
    golden = named("forward/outputs")
    return build(golden.settings["prototxt"], weights_of(golden))


def test_forward_returns_the_outputs(net: Any) -> None:
    golden = named("forward/outputs")
    check_outputs(net.forward(a=golden.arrays["a"]), golden)


def test_forward_returns_more_blobs(net: Any) -> None:
    golden = named("forward/blobs")
    check_outputs(net.forward(blobs=["fc1", "tanh"], a=golden.arrays["a"]), golden)


def test_forward_to_a_layer(net: Any) -> None:
    net.forward(a=named("forward/blobs").arrays["a"])
    golden = named("forward/end")
    check_outputs(net.forward(end="tanh", a=golden.arrays["a"]), golden)
    assert_close(net.blobs["out"].data, golden.arrays["out_left_as_it_was"])


def test_forward_from_a_layer(net: Any) -> None:
    golden = named("forward/start")
    net.blobs["sum"].data[...] = golden.arrays["sum"]
    check_outputs(net.forward(start="fc2"), golden)


def test_forward_from_a_layer_to_a_layer(net: Any) -> None:
    golden = named("forward/start_and_end")
    net.forward(a=golden.arrays["a"])
    net.blobs["fc1"].data[...] = golden.arrays["fc1"]
    # The golden holds fc1 as it was written; relu1 then works on it in place.
    check_outputs(net.forward(start="relu1", end="tanh"), golden)


def test_forward_all(net: Any) -> None:
    golden = named("forward_all")
    check_outputs(net.forward_all(a=golden.arrays["a"], blobs=["tanh"]), golden)


def test_changed_parameters_count(net: Any) -> None:
    golden = named("forward/changed_parameters")
    net.params["fc1"][0].data[...] *= 2
    net.params["fc2"][1].data[0] = 9
    assert_close(net.forward(a=golden.arrays["a"])["out"], golden.arrays["after_out"])


def all_shapes(net: Any) -> dict[str, list[int]]:
    return {name: list(blob.shape) for name, blob in net.blobs.items()}


def test_when_a_new_shape_is_seen(build: Callable[..., Any]) -> None:
    golden = named("shapes")
    net = build(golden.settings["prototxt"], weights_of(golden))
    seen: dict[str, Any] = {"at_first": all_shapes(net)}
    held = net.blobs["data"].data
    first, second = golden.settings["reshapes"]
    net.blobs["data"].reshape(*first)
    seen["after_blob_reshape"] = all_shapes(net)
    seen["view_held_since_before"] = {"data": list(held.shape)}
    net.reshape()
    seen["after_net_reshape"] = all_shapes(net)
    net.blobs["data"].reshape(*second)
    net.blobs["data"].data[...] = golden.arrays["data"]
    result = net.forward()["pool"].copy()
    seen["after_forward"] = all_shapes(net)
    blob = net.blobs["data"]
    seen["accessors"] = {"data": [blob.num, blob.channels, blob.height, blob.width, blob.count]}
    assert seen == golden.settings["seen"]
    assert_close(result, golden.arrays["pool"])


@of("error")
def test_exceptions(
    caffe: ModuleType,
    build: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    golden: Behaviour,
) -> None:
    net = build(golden.settings["prototxt"], weights_of(golden))
    monkeypatch.chdir(tmp_path)
    frame = np.zeros((2, 3), np.float32)
    transformer = caffe.io.Transformer({"data": (1, 3, 5, 6)})
    attempts: dict[str, Callable[[], object]] = {
        "net_file_missing": lambda: caffe.Net("absent.prototxt", caffe.TEST),
        "weights_file_missing": lambda: caffe.Net("net.prototxt", "absent.caffemodel", caffe.TEST),
        "weights_keyword_missing": lambda: caffe.Net("net.prototxt", caffe.TEST, weights="absent.caffemodel"),
        "net_without_phase": lambda: caffe.Net("net.prototxt"),
        "net_without_arguments": lambda: caffe.Net(),
        "input_of_wrong_name": lambda: net.forward(data=frame),
        "input_beside_another": lambda: net.forward(a=frame, b=frame),
        "input_of_wrong_batch": lambda: net.forward(a=frame[:1]),
        "input_of_wrong_shape": lambda: net.forward(a=np.zeros((2, 5), np.float32)),
        "start_unknown": lambda: net.forward(start="absent"),
        "end_unknown": lambda: net.forward(end="absent"),
        "blob_unknown": lambda: net.blobs["absent"],
        "blob_wanted_unknown": lambda: net.forward(blobs=["absent"]),
        "parameter_unknown": lambda: net.params["absent"],
        "data_assigned": lambda: setattr(net.blobs["a"], "data", frame),
        "data_of_wrong_shape": lambda: net.blobs["a"].data.__setitem__(Ellipsis, np.zeros((3, 3))),
        "reshape_by_words": lambda: net.blobs["a"].reshape("two", 3),
        "reshape_keyword": lambda: net.blobs["a"].reshape(2, dims=3),
        "layer_out_of_range": lambda: net.layers[99],
        "transformer_unknown_input": lambda: transformer.set_raw_scale("image", 255),
        "transformer_preprocess_unknown_input": lambda: transformer.preprocess("image", frame),
        "transformer_transpose": lambda: transformer.set_transpose("data", (1, 0)),
        "transformer_channel_swap": lambda: transformer.set_channel_swap("data", (1, 0)),
        "transformer_mean_channels": lambda: transformer.set_mean("data", np.zeros(4)),
        "transformer_mean_shape": lambda: transformer.set_mean("data", np.zeros((1, 3, 5, 6))),
        "datum_of_wrong_rank": lambda: caffe.io.array_to_datum(frame),
    }
    # What Boost.Python and Python's own list say of a wrong call is their own affair; its type is not.
    in_own_words = {
        "net_without_phase", "net_without_arguments", "data_assigned", "layer_out_of_range", "start_unknown",
        "end_unknown",
    }  # fmt: skip
    name = golden.name.partition("/")[2]
    with pytest.raises(Exception) as caught:
        attempts[name]()
    kinds = [kind.__name__ for kind in type(caught.value).__mro__[:-2]]
    assert [kind for kind in golden.settings["kinds"] if kind != "ArgumentError"] == kinds
    if name not in in_own_words:
        assert str(caught.value) == golden.settings["text"]
