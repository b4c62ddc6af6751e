"""What a net's use puts on the link: each wait is paid for once, and no byte is sent that the destination has."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from avec.interception.active import session
from avec.profiling import ExecutionCycle

Sent = Callable[[], Sequence[ExecutionCycle]]
Build = Callable[..., Any]

X = np.arange(6, dtype=np.float32).reshape(2, 3) - 2
FLOAT = 4  # bytes

# OpenPose COCO's input and output at 368x656, with a layer between them that costs next to nothing.
COCO_FRAME = """
layer { name: "image" type: "Input" top: "image" input_param { shape { dim: 1 dim: 3 dim: 368 dim: 656 } } }
layer { name: "pool" type: "Pooling" bottom: "image" top: "pool" pooling_param { pool: AVE kernel_size: 8 stride: 8 } }
layer { name: "net_output" type: "Convolution" bottom: "pool" top: "net_output"
  convolution_param { num_output: 57 kernel_size: 1 } }
"""


FORCED = """force_backward: true
layer { name: "a" type: "Input" top: "a" input_param { shape { dim: 2 dim: 3 } } }
layer { name: "fc" type: "InnerProduct" bottom: "a" top: "sum" inner_product_param { num_output: 4 } }
"""


def calls(cycles: Sequence[ExecutionCycle]) -> list[tuple[str, int, int]]:
    in_order = sorted(cycles, key=lambda cycle: cycle.call)
    return [(cycle.name, cycle.tensor_nbytes_up, cycle.tensor_nbytes_down) for cycle in in_order]


def test_a_synchronous_loop_is_one_call_a_frame_with_the_input_up_and_the_output_down(build: Build, sent: Sent) -> None:
    net = build()
    sent()
    for _ in range(3):
        net.blobs["a"].data[...] = X
        net.forward()["sum"].copy()
    assert calls(sent()) == [("caffe.forward", 6 * FLOAT, 8 * FLOAT)] * 3


def test_equation_1_of_the_paper(build: Build, sent: Sent) -> None:
    net = build(COCO_FRAME)
    sent()
    frame = np.zeros((1, 3, 368, 656), np.float32)
    for _ in range(2):
        assert net.forward(image=frame)["net_output"].shape == (1, 57, 46, 82)
    assert calls(sent()) == [("caffe.forward", 2_896_896, 860_016)] * 2


def test_an_input_that_nobody_touched_is_not_sent_again(build: Build, sent: Sent) -> None:
    net = build()
    net.forward(a=X)["sum"].copy()
    sent()
    net.forward()["sum"].copy()
    assert calls(sent()) == [("caffe.forward", 0, 8 * FLOAT)]


def test_results_that_nobody_looks_at_do_not_come(build: Build, sent: Sent) -> None:
    net = build()
    net.forward(a=X)  # the first time it is not known yet that nobody looks
    for _ in range(3):
        net.forward(a=X)
    net.blobs["sum"].data.copy()
    assert calls(sent())[-4:] == [("caffe.forward", 6 * FLOAT, 0)] * 3 + [("caffe.read", 0, 8 * FLOAT)]


def test_a_blob_that_was_looked_at_comes_with_the_next_forward(build: Build, sent: Sent) -> None:
    net = build()
    net.forward(a=X)["sum"].copy()
    net.blobs["tanh"].data.copy()
    sent()
    net.forward(a=X)["sum"].copy()
    net.blobs["tanh"].data.copy()
    assert calls(sent()) == [("caffe.forward", 6 * FLOAT, 16 * FLOAT)]


def test_blobs_that_are_looked_at_before_the_first_forward_cost_nothing(build: Build, sent: Sent) -> None:
    net = build()
    sent()
    for blob in net.blobs.values():
        assert not blob.data.any()
    assert calls(sent()) == []
    net.forward(a=X)["sum"].copy()
    assert calls(sent()) == [("caffe.forward", 6 * FLOAT, 8 * FLOAT)], "and they do not come with the first forward"


def test_blobs_asked_for_come_with_the_forward(build: Build, sent: Sent) -> None:
    net = build()
    sent()
    net.forward(blobs=["tanh"], a=X)["tanh"].copy()
    assert calls(sent()) == [("caffe.forward", 6 * FLOAT, 16 * FLOAT)]


def test_parameters_are_sent_when_they_have_changed(build: Build, sent: Sent) -> None:
    net = build()
    net.params["fc"][1].data[...] = 5
    sent()
    for _ in range(2):
        net.forward(a=X)["sum"].copy()
    assert calls(sent()) == [
        ("caffe.forward", (6 + 4) * FLOAT, 8 * FLOAT),
        ("caffe.forward", 6 * FLOAT, 8 * FLOAT),
    ]


def test_parameters_that_were_only_looked_at_are_not_sent(build: Build, sent: Sent) -> None:
    net = build()
    weights, bias = net.params["fc"]
    held = weights.data
    assert bias.data.tolist() == [1, 1, 1, 1]
    assert calls(sent())[-1:] == [("caffe.read", 0, (12 + 4) * FLOAT)], "both of the layer in one call"
    net.forward(a=X)["sum"].copy()
    held[0, 0] += 1
    net.forward(a=X)["sum"].copy()
    assert calls(sent()) == [
        ("caffe.forward", 6 * FLOAT, 8 * FLOAT),
        ("caffe.forward", (6 + 12) * FLOAT, 8 * FLOAT),
    ]


def test_only_what_a_range_reads_is_sent(build: Build, sent: Sent) -> None:
    net = build()
    net.forward(a=X)["sum"].copy()
    sent()
    net.blobs["a"].data[...] = 7
    net.blobs["tanh"].data[...] = 3
    sent()
    net.forward(start="sum")["sum"].copy()
    assert calls(sent()) == [("caffe.forward", 8 * FLOAT, 8 * FLOAT)]
    net.forward()["sum"].copy()
    net.forward()["sum"].copy()
    assert [up for _, up, _ in calls(sent())] == [6 * FLOAT, 0]


def test_forward_all_is_one_call_a_batch(build: Build, sent: Sent) -> None:
    net = build()
    sent()
    net.forward_all(a=np.ones((5, 3), np.float32))
    assert calls(sent()) == [("caffe.forward", 6 * FLOAT, 8 * FLOAT)] * 3


def test_two_nets_are_under_way_at_once(build: Build, sent: Sent) -> None:
    first, second = build(), build()
    for net in (first, second):
        net.forward(a=X)["sum"].copy()
    sent()
    results = [net.forward(a=X) for net in (first, second)]
    copies = [each["sum"].copy() for each in results]
    one, two = sorted(sent(), key=lambda cycle: cycle.call)
    assert two.began_ns < one.began_ns + one.total_ns, "the second was sent before the first was looked at"
    assert all(each.any() for each in copies)


def test_weights_are_uploaded_once(caffe: ModuleType, build: Build, sent: Sent) -> None:
    from caffe.proto import caffe_pb2

    weights = caffe_pb2.NetParameter(name=str(uuid.uuid4()))  # unknown to any cache
    layer = weights.layer.add(name="fc", type="InnerProduct")
    layer.blobs.extend([caffe.io.array_to_blobproto(np.full((4, 3), 0.5)), caffe.io.array_to_blobproto(np.arange(4))])
    data = weights.SerializeToString()
    before = session().recorder.uploaded_nbytes
    for _ in range(2):
        assert build(weights=data).params["fc"][1].data.tolist() == [0, 1, 2, 3]
    assert session().recorder.uploaded_nbytes - before == len(data)


@pytest.mark.parametrize("count", [1, 4])
def test_a_reshaped_net_waits_once_a_frame(build: Build, sent: Sent, count: int) -> None:
    net = build()
    net.forward(a=X)["sum"].copy()
    sent()
    net.blobs["a"].reshape(count, 3)
    net.reshape()
    net.blobs["a"].data[...] = 1
    assert net.forward()["sum"].shape == (count, 4)
    assert calls(sent()) == [("caffe.reshape", 0, 0), ("caffe.forward", 3 * count * FLOAT, 4 * count * FLOAT)]


def test_a_training_loop_by_hand_is_two_calls_an_iteration(build: Build, sent: Sent) -> None:
    net = build(FORCED, phase=0)
    for iteration in range(4):
        if iteration == 2:
            sent()
        net.forward(a=X)
        net.blobs["sum"].diff[...] = 1
        net.backward()
        net.params["fc"][0].diff.copy()
    weights, x = 12 * FLOAT, 6 * FLOAT
    assert [each for each in calls(sent()) if each[0] != "caffe.read"] == [
        ("caffe.forward", x, 0),
        ("caffe.backward", 8 * FLOAT, weights),
    ] * 2


def test_diffs_that_nobody_looks_at_stay_where_they_are(build: Build, sent: Sent) -> None:
    net = build(FORCED, phase=0)
    net.forward(a=X)
    for _ in range(2):
        net.backward()
    session().wait_all()
    sent()
    net.backward()
    net.reshape()
    session().wait_all()
    assert calls(sent()) == [("caffe.backward", 0, 0), ("caffe.reshape", 0, 0)]
