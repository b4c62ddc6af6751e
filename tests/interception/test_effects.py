"""What front-ends say of their calls keeps a journal short: loops leave what their last round needs, and no more."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from avec.host.journal import CHANGES, READS, Effect, Entry, Journal
from avec.protocol.caffe import (
    Backward,
    BlobDescription,
    BlobRef,
    Forward,
    LayerDescription,
    NetDescription,
    Read,
    Reshape,
    Reshaped,
)

HANDLE, SPACE = 5, 4
ROUNDS = 50


@pytest.fixture
def journal() -> Journal:
    return Journal(1000, 1_000_000)


def add(journal: Journal, name: str, effect: Effect, handle: int = HANDLE) -> None:
    journal.add(Entry((handle, *effect.concerns), effect, (b"frame",), name))


def names(journal: Journal) -> list[str]:
    return [each.name for each in journal.needed()]


def described(*layers: LayerDescription) -> NetDescription:
    blobs = tuple(BlobDescription(name, (2, 3)) for name in ("data", "mid", "out"))
    data = LayerDescription("data", "Input", (), (0,))
    return NetDescription("net", (data, *layers), blobs, (0,), (2,))


FIRST = LayerDescription("fc", "InnerProduct", (0,), (1,))
SECOND = LayerDescription("fc2", "InnerProduct", (1,), (2,))


def caffe_names(journal: Journal, description: NetDescription, requests: Sequence[tuple[str, object]]) -> list[str]:
    from avec.interception.caffe.dataflow import Flows
    from avec.interception.caffe.effects import Effects

    effects = Effects(HANDLE, description, Flows(description))
    add(journal, "load", CHANGES)
    for name, request in requests:
        add(journal, name, effects.of(request))  # type: ignore[arg-type]
    return names(journal)


def test_caffe_forward_again_and_again(journal: Journal) -> None:
    rounds = [(f"pass {number}", Forward(writes=(BlobRef(0),), wanted=(BlobRef(2),))) for number in range(ROUNDS)]
    assert caffe_names(journal, described(FIRST, SECOND), rounds) == ["load", f"pass {ROUNDS - 1}"]


def test_caffe_reshaping_each_time(journal: Journal) -> None:
    rounds = []
    for number in range(ROUNDS):
        rounds.append((f"shape {number}", Reshape(reshaped=(Reshaped(0, (number + 1, 3)),))))
        rounds.append((f"pass {number}", Forward(writes=(BlobRef(0),))))
    last = ROUNDS - 1
    assert caffe_names(journal, described(FIRST, SECOND), rounds) == ["load", f"shape {last}", f"pass {last}"]


def test_caffe_in_two_stretches(journal: Journal) -> None:
    rounds = []
    for number in range(ROUNDS):
        rounds.append((f"first {number}", Forward(writes=(BlobRef(0),), start=0, end=1)))
        rounds.append((f"second {number}", Forward(start=2, end=2)))
    last = ROUNDS - 1
    assert caffe_names(journal, described(FIRST, SECOND), rounds) == ["load", f"first {last}", f"second {last}"]


def test_caffe_what_later_passes_depend_on_stays(journal: Journal) -> None:
    in_place = LayerDescription("relu", "ReLU", (0,), (0,))
    random = LayerDescription("fc", "InnerProduct", (0,), (1,), remembers=True)
    passes = [("1", Forward(writes=(BlobRef(0),))), ("2", Forward()), ("read", Read(wanted=(BlobRef(1),)))]
    assert caffe_names(journal, described(in_place, FIRST), passes) == ["load", "1", "2"]
    assert caffe_names(Journal(100, 10**6), described(random), passes) == ["load", "1", "2"]
    trained = [*passes, ("back", Backward()), *passes]
    kept = caffe_names(Journal(100, 10**6), described(FIRST, SECOND), trained)
    assert kept == ["load", "1", "2", "back", "1", "2"]


def test_opencv_set_and_forward_again_and_again(journal: Journal) -> None:
    pytest.importorskip("cv2", reason="OpenCV is not installed")
    from avec.interception.opencv_dnn.effects import Effects
    from avec.protocol.opencv_dnn import Invocation

    net, model = Effects(HANDLE, ()), Effects(6, ())
    add(journal, "load", CHANGES)
    for number in range(ROUNDS):
        calls = (Invocation("setInput", ("blob",), {}), Invocation("forward", (), {}))
        add(journal, f"pass {number}", net.of(calls))
        add(journal, f"size {number}", model.of((Invocation("setInputSize", ((number, 3),), {}),)), 6)
        add(journal, "detect", model.of((Invocation("detect", ("frame",), {}),)), 6)
    last = ROUNDS - 1
    assert names(journal) == ["load", f"pass {last}", f"size {last}"]
    assert net.of((Invocation("setParam", (0, 0, "blob"), {}),)) is CHANGES
    assert net.of((Invocation("getLayerNames", (), {}),)) is READS
    net.of((Invocation("enableKVCache", (), {}),))
    assert net.of((Invocation("forward", (), {}),)) is CHANGES


def test_onnx_loops(journal: Journal) -> None:
    from avec.interception.onnxruntime.effects import Effects
    from avec.protocol.onnx import (
        Allocate,
        BindInput,
        BindOutput,
        CopyOutputs,
        Fetch,
        Held,
        LoadSession,
        Put,
        RunBinding,
        RunSession,
        RunToValues,
        Tensor,
        Update,
    )

    effects = Effects(SPACE)
    add(journal, "space", CHANGES, SPACE)
    add(journal, "load", effects.of_load(HANDLE, LoadSession("m")))
    add(journal, "allocate", effects.of(Allocate(value=1), 0, False), SPACE)
    for number in range(ROUNDS):
        value, result = 10 + 2 * number, 11 + 2 * number
        array, dropped = Tensor(0), (value - 2, value - 1) if number else ()
        add(journal, f"update {number}", effects.of(Update(value=1, contents=array), 0, False), SPACE)
        add(journal, f"put {number}", effects.of(Put(value=value, contents=array, dropped=dropped), 0, False), SPACE)
        run = RunToValues(feeds={"x": Held(value), "y": Held(1)}, results=(result,))
        add(journal, f"run {number}", effects.of(run, HANDLE, False))
        add(journal, "fetch", effects.of(Fetch(value=result), 0, False), SPACE)
        add(journal, "plain", effects.of(RunSession(feeds={"x": array}), HANDLE, False))
        changes = (BindInput("x", array), BindOutput("y", "cuda"))
        add(journal, f"bound {number}", effects.of(RunBinding(binding=1, changes=changes), HANDLE, False))
        add(journal, "copied", effects.of(CopyOutputs(binding=1), HANDLE, False))
    last = ROUNDS - 1
    kept = names(journal)
    assert kept == ["space", "load", "allocate", f"update {last}", f"put {last}", f"run {last}", f"bound {last}"]
    assert effects.of(RunSession(), HANDLE, remembers=True).anything
    entangled = effects.of(RunBinding(binding=1, changes=(BindInput("x", Held(1)),)), HANDLE, False)
    assert entangled.anything
    journal.release(HANDLE)
    assert names(journal)[:1] == ["space"]


def test_onnx_models_that_draw_from_a_seed_are_known() -> None:
    onnx = pytest.importorskip("onnx", reason="onnx, which makes the models, is not installed")
    from avec.formats.onnx import is_seeded

    def model(**attributes: object) -> bytes:
        make = onnx.helper.make_node
        inner = onnx.helper.make_graph(
            [make("RandomUniform", [], ["r"], shape=[1], **attributes)],
            "inner",
            [],
            [onnx.helper.make_tensor_value_info("r", 1, [1])],
        )
        nodes = [make("If", ["c"], ["y"], then_branch=inner, else_branch=inner)]
        given = [onnx.helper.make_tensor_value_info("c", 9, [])]
        graph = onnx.helper.make_graph(nodes, "g", given, [onnx.helper.make_tensor_value_info("y", 1, [1])])
        data: bytes = onnx.helper.make_model(graph).SerializeToString()
        return data

    assert is_seeded(model(seed=1.0))
    assert not is_seeded(model())
