"""Blob.data is live memory, as in Caffe: written and read at any time, held for long, outliving its net."""

from __future__ import annotations

import _thread
import copy
import gc
import os
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from avec.errors import InvalidArgument, SessionLost
from avec.interception.active import session
from avec.tensor import Array

Build = Callable[..., Any]

X = np.arange(6, dtype=np.float32).reshape(2, 3) - 2
FLATTENED = """
layer { name: "a" type: "Input" top: "a" input_param { shape { dim: 1 dim: 2 dim: 3 } } }
layer { name: "tanh" type: "TanH" bottom: "a" top: "tanh" }
layer { name: "flat" type: "Flatten" bottom: "tanh" top: "flat" }
layer { name: "relu" type: "ReLU" bottom: "flat" top: "relu" }
"""


def expected(net: Any, x: Array) -> Array:
    """What BRANCHES gives, computed here."""
    weights, bias = net.params["fc"]
    fc = np.maximum(x @ weights.data.T + bias.data, 0)
    return np.asarray(fc + np.tanh(fc))


def test_a_view_is_float32_contiguous_fresh_and_on_the_same_memory(build: Build) -> None:
    blob = build().blobs["a"]
    first, second = blob.data, blob.data
    first[0, 0] = 7
    assert first is not second
    assert second[0, 0] == 7
    assert (first.dtype, first.flags.c_contiguous, first.flags.writeable, first.flags.owndata) == (
        np.float32, True, True, False,
    )  # fmt: skip


def test_a_held_view_of_the_input_is_sent_with_every_forward(build: Build) -> None:
    net = build()
    held = net.blobs["a"].data
    for value in (1, 2):
        held[...] = value
        np.testing.assert_allclose(net.forward()["sum"], expected(net, np.full((2, 3), value)), rtol=1e-5)


def test_what_was_written_into_a_view_counts_though_the_view_is_gone(build: Build) -> None:
    net = build()
    held = net.blobs["a"].data
    net.forward()
    held[...] = 3
    del held
    np.testing.assert_allclose(net.forward()["sum"], expected(net, np.full((2, 3), 3)), rtol=1e-5)


def test_a_part_of_a_view_keeps_it_alive(build: Build) -> None:
    net = build()
    row = net.blobs["a"].data[1].reshape(3, 1)[:, 0]
    gc.collect()
    row[...] = 5
    x = np.array([[0, 0, 0], [5, 5, 5]])
    np.testing.assert_allclose(net.forward()["sum"], expected(net, x), rtol=1e-5)


def test_a_held_view_of_an_output_shows_each_new_result(build: Build) -> None:
    net = build()
    held = net.blobs["sum"].data
    assert not held.any()
    for value in (1, 2):
        net.forward(a=np.full((2, 3), value))
        np.testing.assert_allclose(held, expected(net, np.full((2, 3), value)), rtol=1e-5)


def test_what_forward_returned_shows_the_newest_contents(build: Build) -> None:
    net = build()
    first = net.forward(a=X)
    looked_at = net.forward(a=X)["sum"]
    net.forward(a=2 * X)
    wanted = expected(net, 2 * X)
    np.testing.assert_allclose(first["sum"], wanted, rtol=1e-5)
    np.testing.assert_allclose(looked_at, wanted, rtol=1e-5)


def test_a_blob_that_was_asked_for_and_not_looked_at_shows_the_newest_contents(build: Build) -> None:
    net = build()
    results = net.forward(blobs=["tanh"], a=X)
    net.forward(a=0 * X)
    np.testing.assert_allclose(results["tanh"], np.full((2, 4), np.tanh(1)), rtol=1e-5)


def test_what_forward_returned_keeps_its_shape_when_the_net_gets_another(build: Build) -> None:
    net = build()
    first = net.forward(a=X)
    wanted = expected(net, X)
    net.blobs["a"].reshape(5, 3)
    net.forward(a=np.zeros((5, 3)))
    np.testing.assert_allclose(first["sum"], wanted, rtol=1e-5)


LOOKS: dict[str, Callable[[dict[str, Array]], Array]] = {
    "item": lambda out: out["sum"],
    "get": lambda out: out.get("sum"),  # type: ignore[dict-item,return-value]
    "values": lambda out: next(iter(out.values())),
    "items": lambda out: next(iter(out.items()))[1],
    "dict": lambda out: dict(out)["sum"],
    "double star": lambda out: {**out}["sum"],
    "keyword arguments": lambda out: (lambda **given: given["sum"])(**out),
    "copy": lambda out: out.copy()["sum"],
    "copy.copy": lambda out: copy.copy(out)["sum"],
    "deepcopy": lambda out: copy.deepcopy(out)["sum"],
    "pop": lambda out: out.pop("sum"),
    "popitem": lambda out: out.popitem()[1],
    "setdefault": lambda out: out.setdefault("sum", np.zeros(0)),
    "or": lambda out: (out | {})["sum"],
    "or from the right": lambda out: ({} | out)["sum"],
    "update of another": lambda out: [each for d in [{}] for _ in [d.update(out)] for each in d.values()][0],
    "iteration": lambda out: [out[name] for name in out][0],
    "match": lambda out: _matched(out),
}  # fmt: skip


def _matched(out: dict[str, Array]) -> Array:
    match out:
        case {"sum": found}:
            return found
        case _:
            raise AssertionError("a dict with the key does not match it")


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
def test_every_way_to_look_at_a_result(build: Build, look: Callable[[dict[str, Array]], Array]) -> None:
    net = build()
    np.testing.assert_allclose(look(net.forward(a=X)), expected(net, X), rtol=1e-5)


def test_a_result_is_a_dict(build: Build) -> None:
    out = build().forward(a=X)
    assert isinstance(out, dict)
    assert (len(out), list(out), "sum" in out, "fc" in out) == (1, ["sum"], True, False)
    assert "array" in repr(out) and repr(out) == repr(dict(out))


def test_a_result_can_be_changed(build: Build) -> None:
    out = build().forward(a=X)
    out["more"] = out.pop("sum")
    out["sum"] = np.ones(1, np.float32)
    del out["more"]
    assert {name: array.tolist() for name, array in out.items()} == {"sum": [1]}


def test_writing_an_intermediate_blob_counts_from_the_next_layer_on(build: Build) -> None:
    net = build()
    net.forward(a=X)
    net.blobs["fc"].data[...] = -1
    net.forward(start="tanh")
    np.testing.assert_allclose(net.blobs["tanh"].data, np.full((2, 4), np.tanh(-1)), rtol=1e-5)


def test_blobs_with_shared_memory_show_what_was_written_into_the_other(build: Build) -> None:
    net = build()
    net.forward(a=X)
    net.blobs["fc"].data[...] = 9
    splits = [name for name in net.blobs if "split" in name]
    assert len(splits) == 2
    assert all((net.blobs[name].data == 9).all() for name in splits)


def test_a_flattened_blob_is_the_same_memory_in_another_shape(build: Build) -> None:
    net = build(FLATTENED)
    x = np.linspace(-1, 1, 6, dtype=np.float32).reshape(1, 2, 3)
    net.forward(a=x)
    assert net.blobs["flat"].data.shape == (1, 6)
    np.testing.assert_allclose(net.blobs["flat"].data, np.tanh(x).reshape(1, 6), rtol=1e-5)
    net.blobs["tanh"].data[...] = -3
    assert (net.blobs["flat"].data == -3).all()
    net.blobs["tanh"].data[0, 0] = 4
    net.forward(start="relu")
    assert net.blobs["relu"].data.tolist() == [[4, 4, 4, 0, 0, 0]]


def test_blobs_outlive_their_net(build: Build) -> None:
    net = build()
    net.forward(a=X)
    parameters, blobs = [blob for layer in net.params.values() for blob in layer], list(net.blobs.values())
    wanted = expected(net, X)
    del net
    gc.collect()
    assert all(np.isfinite(blob.data).all() and not blob.diff.any() for blob in parameters + blobs)
    np.testing.assert_allclose(blobs[-1].data, wanted, rtol=1e-5)


def test_a_net_that_is_gone_is_released(build: Build) -> None:
    net = build()
    handle = net._remote.handle.number
    view = net.forward(a=X)["sum"]
    wanted = expected(net, X)
    del net
    gc.collect()
    with pytest.raises(InvalidArgument, match="names nothing"):
        session().run(handle, "caffe.read", b"").wait()
    np.testing.assert_allclose(view, wanted, rtol=1e-5)


def test_a_failed_forward_is_raised_where_the_result_is_looked_at_and_the_net_goes_on(build: Build) -> None:
    net = build()
    net.blobs["a"].reshape(2, 4)
    out = net.forward()
    with pytest.raises(InvalidArgument, match="fc"):
        out["sum"].copy()
    net.blobs["a"].reshape(2, 3)
    np.testing.assert_allclose(net.forward(a=X)["sum"], expected(net, X), rtol=1e-5)


def test_a_failure_names_the_line_that_made_the_call(build: Build) -> None:
    net = build()
    net.blobs["a"].reshape(2, 4)
    out = net.forward()
    line = test_a_failure_names_the_line_that_made_the_call.__code__.co_firstlineno + 3
    with pytest.raises(InvalidArgument) as caught:
        out["sum"].copy()
    assert any(f"{__file__}:{line}" in note for note in caught.value.__notes__)


def test_what_a_failed_forward_should_have_sent_is_sent_by_the_next(build: Build) -> None:
    net = build()
    net.params["fc"][1].data[...] = 3
    net.blobs["a"].reshape(2, 4)
    with pytest.raises(InvalidArgument):
        net.forward()["sum"].copy()
    net.blobs["a"].reshape(2, 3)
    net.blobs["a"].data[...] = 0
    np.testing.assert_allclose(net.forward()["sum"], np.full((2, 4), 3 + np.tanh(3)), rtol=1e-5)


@pytest.mark.parametrize("shape", [(-1, 3), (1,) * 33, (2**20, 2**20)], ids=["negative", "rank", "size"])
def test_a_shape_that_caffe_would_abort_at_is_refused(build: Build, shape: tuple[int, ...]) -> None:
    blob = build().blobs["a"]
    with pytest.raises(InvalidArgument):
        blob.reshape(*shape)
    assert blob.shape == (2, 3)


def test_a_shape_is_the_new_one_after_forward_even_if_something_was_read_in_between(build: Build) -> None:
    net = build()
    net.forward(a=X)
    net.blobs["a"].reshape(5, 3)
    assert net.blobs["tanh"].data.shape == (2, 4)
    net.forward()
    assert [net.blobs[name].shape for name in ("fc", "tanh", "sum")] == [(5, 4)] * 3


def test_a_shape_reaches_the_layers_that_a_part_of_the_net_left_out(build: Build) -> None:
    net = build()
    net.blobs["a"].reshape(5, 3)
    net.forward(end="relu")
    assert (net.blobs["fc"].shape, net.blobs["sum"].shape) == ((5, 4), (2, 4))
    net.forward()
    assert net.blobs["sum"].shape == (5, 4)


def test_memory_stays_while_a_new_shape_fits_into_it(build: Build) -> None:
    blob = build().blobs["a"]
    held = blob.data
    held[...] = X
    blob.reshape(3)
    assert blob.data.tolist() == X.ravel()[:3].tolist()
    blob.data[0] = 8
    assert held[0, 0] == 8
    blob.reshape(7)
    assert blob.data.tolist() == [0] * 7
    assert held[0, 0] == 8


def test_memory_stays_while_a_shape_fits_that_the_blob_had_before_it_was_looked_at(build: Build) -> None:
    blob = build().blobs["a"]
    blob.reshape(1, 3)
    held = blob.data
    blob.reshape(2, 3)
    blob.data[...] = 7
    assert held.tolist() == [[7, 7, 7]]


def test_a_forward_uses_the_memory_of_a_blob_that_was_only_reshaped(build: Build) -> None:
    net = build()
    net.blobs["a"].data[...] = X
    net.forward()["sum"].copy()
    net.blobs["a"].reshape(1, 3)
    np.testing.assert_allclose(net.forward()["sum"], expected(net, X[:1]), rtol=1e-5)


def test_batch_normalisation_in_training_changes_its_parameters(caffe: ModuleType, build: Build) -> None:
    net = build(
        'layer { name: "a" type: "Input" top: "a" input_param { shape { dim: 4 dim: 2 } } }\n'
        'layer { name: "norm" type: "BatchNorm" bottom: "a" top: "norm" }',
        phase=caffe.TRAIN,
    )
    held = net.params["norm"][2].data
    mean = net.params["norm"][0]
    assert (held.tolist(), mean.data.tolist()) == ([0], [0, 0])
    net.forward(a=np.tile(np.array([1, 3], np.float32), (4, 1)))
    assert held.tolist() == [1]
    assert mean.data.tolist() == [1, 3]


def test_in_place_work_on_a_copy_of_the_input_is_seen_in_the_input(build: Build) -> None:
    net = build(
        'layer { name: "a" type: "Input" top: "a" input_param { shape { dim: 3 } } }\n'
        'layer { name: "split" type: "Split" bottom: "a" top: "x" }\n'
        'layer { name: "sigmoid" type: "Sigmoid" bottom: "x" top: "x" }'
    )
    net.forward()
    assert net.blobs["a"].data.tolist() == [0.5] * 3


def test_an_interrupted_wait_can_be_repeated(build: Build) -> None:
    net = build(
        'layer { name: "a" type: "Input" top: "a" input_param { shape { dim: 2048 dim: 2048 } } }\n'
        'layer { name: "fc" type: "InnerProduct" bottom: "a" top: "fc"\n'
        '  inner_product_param { num_output: 4096 bias_filler { type: "constant" value: 2 } } }'
    )
    out = net.forward()
    interrupt = threading.Timer(0.01, _thread.interrupt_main)
    interrupt.start()
    with pytest.raises(KeyboardInterrupt):
        out["fc"].sum()
    interrupt.join()
    assert (out["fc"] == 2).all()


def test_nets_in_two_threads(build: Build) -> None:
    nets = [build() for _ in range(2)]
    errors: list[float] = []

    def work(net: Any, scale: float) -> None:
        wanted = expected(net, scale * X)
        errors.extend(float(np.abs(net.forward(a=scale * X)["sum"] - wanted).max()) for _ in range(50))

    threads = [threading.Thread(target=work, args=(net, scale)) for scale, net in enumerate(nets, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(errors) == 100
    assert max(errors) < 1e-5


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_is_told_that_the_net_is_its_parents(build: Build) -> None:
    net = build()
    view = net.forward(a=X)["sum"]
    net.forward()
    child = os.fork()
    if child == 0:
        try:
            view.sum()
            net.forward()
        except SessionLost as exc:
            os._exit(0 if "make a caffe.Net" in str(exc) else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    np.testing.assert_allclose(net.forward(a=X)["sum"], expected(net, X), rtol=1e-5)


def test_layers_that_share_a_parameter_by_name_share_its_memory(build: Build) -> None:
    layer = (
        'layer {{ name: "{0}" type: "InnerProduct" bottom: "{1}" top: "{0}" param {{ name: "w" }}'
        " inner_product_param {{ num_output: 2 bias_term: false }} }}"
    )
    net = build(
        'layer { name: "a" type: "Input" top: "a" input_param { shape { dim: 1 dim: 2 } } }'
        + layer.format("first", "a")
        + layer.format("second", "first")
    )
    net.params["second"][0].data[...] = 0
    net.params["first"][0].data[...] = [[2, 0], [0, 3]]
    assert net.params["second"][0].data.tolist() == [[2, 0], [0, 3]]
    assert net.forward(a=np.ones((1, 2)))["second"].tolist() == [[4, 9]]
