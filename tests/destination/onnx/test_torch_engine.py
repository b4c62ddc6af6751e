"""The torch engine is held to ONNX's own cases for each operator, and to onnxruntime when a model is loaded."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
onnx = pytest.importorskip("onnx", reason="onnx, which makes the models, is not installed")

import torch  # noqa: E402
from onnx import TensorProto, numpy_helper  # noqa: E402

from avec import config  # noqa: E402
from avec.destination.accelerators import Accelerator  # noqa: E402
from avec.destination.executors.onnx import OnnxExecutor  # noqa: E402
from avec.destination.executors.onnx.torch_engine.operators import OPERATORS  # noqa: E402
from avec.destination.executors.onnx.torch_engine.program import Program  # noqa: E402
from avec.destination.executors.onnx.torch_engine.session import TorchSession  # noqa: E402
from avec.destination.executors.onnx.torch_engine.verification import verify  # noqa: E402
from avec.errors import InvalidModel, UnsupportedOperation  # noqa: E402
from avec.protocol.onnx import (  # noqa: E402
    MODEL,
    BindInput,
    BindOutput,
    CopyOutputs,
    Fetch,
    Held,
    LoadSession,
    NameOutputs,
    OpenSpace,
    Put,
    Raised,
    RunBinding,
    RunSession,
    RunToValues,
    SessionDescription,
    Tensor,
    Update,
)
from onnx_models import FLOAT, cache_step, doubling, model, node, tensor  # noqa: E402

CPU = torch.device("cpu")
SIX = np.arange(6, dtype=np.float32).reshape(2, 3)

# Half-precision cases whose results torch rounds elsewhere than the reference does.
HALF_PRECISION_TOLERANCE = 5e-3
BFLOAT16_TOLERANCE = 2e-2
# What a Resize, a pooling … of these forms is refused for; every other case that loads has to be right.
REFUSED = (
    "while training",
    "over 2 axes of torch.int8",
    "over 2 axes of torch.uint8",
    "with 2 outputs",
    "with antialias, or cropping",
    "with reduction max",
    "with reduction min",
    "with reduction mul",
    "the extreme of no elements",
    "by blocks",
    "with clipping, or coupled gates",
    "with lengths of sequences, or peepholes",
    "that resets before its linear step",
)


def cases() -> Iterator[object]:
    """ONNX's generated cases for single operators, of those that this engine has."""
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for case in load_model_tests(kind="node"):
            if case.model is not None and all(each.op_type in OPERATORS for each in case.model.graph.node):
                yield case


def array(value: object) -> np.ndarray:
    return numpy_helper.to_array(value) if isinstance(value, TensorProto) else np.asarray(value)


def as_tensor(value: np.ndarray) -> torch.Tensor:
    if value.dtype.name == "bfloat16":
        return torch.from_numpy(value.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(np.array(value))


@pytest.mark.timeout(300)
def test_every_case_of_onnx_s_that_loads_is_right_or_refused_by_name() -> None:
    right: set[str] = set()
    passed, wrong = 0, []
    for case in cases():
        try:
            program = Program(case.model, CPU)
        except UnsupportedOperation:
            continue
        try:
            for inputs, outputs in case.data_sets:
                feeds = dict(zip((each.name for each in case.model.graph.input), map(array, inputs), strict=False))
                results = program.run({name: as_tensor(each) for name, each in feeds.items()}, program.outputs)
                for result, output in zip(results, outputs, strict=True):
                    compare(result, array(output), case)
        except UnsupportedOperation as exc:
            if not any(reason in str(exc) for reason in REFUSED):
                wrong.append(f"{case.name}: {exc}")
            continue
        except Exception as exc:
            wrong.append(f"{case.name}: {exc!r}"[:300])
            continue
        passed += 1
        right |= {each.op_type for each in case.model.graph.node}
    assert wrong == []
    assert passed > 1100
    assert right >= set(OPERATORS)


def compare(result: torch.Tensor, wanted: np.ndarray, case: object) -> None:
    tolerance = case.rtol  # type: ignore[attr-defined]
    if "bf16" in case.name or result.dtype == torch.bfloat16:  # type: ignore[attr-defined]
        tolerance = BFLOAT16_TOLERANCE
    elif result.dtype == torch.float16:
        tolerance = max(tolerance, HALF_PRECISION_TOLERANCE)
    assert tuple(result.shape) == wanted.shape
    if result.dtype == torch.bfloat16:
        assert wanted.dtype.name == "bfloat16"
        result, wanted = result.float(), wanted.astype(np.float32)
    assert result.numpy().dtype == wanted.dtype
    np.testing.assert_allclose(result.numpy(), wanted, rtol=tolerance, atol=case.atol)  # type: ignore[attr-defined]


def test_the_page_names_the_operators() -> None:
    page = Path(__file__).parents[3] / "docs" / "onnxruntime.md"
    named = page.read_text("utf-8").split("<!-- operators -->")[1].split("<!-- operators end -->")[0]
    assert set(named.strip().rstrip(".").replace("\n", " ").split(", ")) == set(OPERATORS)


def test_operators_of_older_sets() -> None:
    made = model(
        [
            node("Constant", [], ["scales"], value=numpy_helper.from_array(np.array([1, 1, 2, 3], np.float32), "s")),
            node("Upsample", ["x", "scales"], ["big"], mode="nearest"),
            node("Softmax", ["big"], ["soft"], axis=2),
            node("Squeeze", ["soft"], ["y"], axes=[0]),
        ],
        [tensor("x", FLOAT, [1, 1, 2, 2])],
        [tensor("y", FLOAT, None)],
    )
    made.opset_import[0].version = 9
    x = np.array([[[[1, 2], [3, 4]]]], np.float32)
    (result,) = Program(made, CPU).run({"x": torch.from_numpy(x)}, ["y"])
    big = x.repeat(2, 2).repeat(3, 3)[0, 0].astype(np.float64)
    np.testing.assert_allclose(result.numpy(), (np.exp(big) / np.exp(big).sum())[None], rtol=1e-6)


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize(("kind", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
def test_recurrent_layers_of_several_steps_are_onnxruntime_s(kind: str, gates: int, direction: str) -> None:
    random, hidden, features = np.random.default_rng(0), 5, 3
    directions = 2 if direction == "bidirectional" else 1
    shapes = {"w": (gates * hidden, features), "r": (gates * hidden, hidden), "b": (2 * gates * hidden,)}
    weights = [
        numpy_helper.from_array(random.standard_normal((directions, *shape)).astype(np.float32), name)
        for name, shape in shapes.items()
    ]
    more = {"linear_before_reset": 1} if kind == "GRU" else {}
    layer = node(kind, ["x", "w", "r", "b", "", "h"], ["y", "y_h"], hidden_size=hidden, direction=direction, **more)
    made = model(
        [layer],
        [tensor("x", FLOAT, ["steps", "batch", features]), tensor("h", FLOAT, [directions, "batch", hidden])],
        [tensor("y", FLOAT, None), tensor("y_h", FLOAT, None)],
        weights,
    )
    assert verify(Program(made, CPU), Reference(made, 0.0), fast=False) < 1e-5


def test_what_rests_on_constants_alone_is_computed_once() -> None:
    weights = numpy_helper.from_array(np.ones((3, 4), np.float32), "w")
    made = model(
        [node("Transpose", ["w"], ["t"]), node("Neg", ["t"], ["n"]), node("MatMul", ["x", "n"], ["y"])],
        [tensor("x", FLOAT, ["n", 4])],
        [tensor("y", FLOAT, ["n", 3])],
        [weights],
    )
    program = Program(made, CPU)
    assert program.operators == 1
    (result,) = program.run({"x": torch.ones(2, 4)}, ["y"])
    assert result.tolist() == [[-4.0] * 3] * 2


def one(kind: str, domain: str = "", element: int = FLOAT) -> onnx.ModelProto:
    """A model of one operator."""
    return model([node(kind, ["x"], ["y"], domain=domain)], [tensor("x", element, [1])], [tensor("y", element, [1])])


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (one("Bernoulli"), "operator Bernoulli"),
        (one("Gelu", "com.microsoft"), "operator com.microsoft.Gelu"),
        (one("Identity", element=TensorProto.STRING), "type of 'x'"),
    ],
)
def test_models_that_it_does_not_have_are_refused_by_name(made: onnx.ModelProto, reason: str) -> None:
    with pytest.raises(UnsupportedOperation, match=reason):
        Program(made, CPU)


def test_graphs_that_contradict_themselves_are_refused() -> None:
    for made in (
        model([node("Relu", ["z"], ["y"])], [tensor("x", FLOAT, [1])], [tensor("y", FLOAT, [1])]),
        model([node("Relu", ["x"], ["z"])], [tensor("x", FLOAT, [1])], [tensor("y", FLOAT, [1])]),
    ):
        with pytest.raises(InvalidModel, match="nobody"):
            Program(made, CPU)


class Reference:
    """A native session that gives something else."""

    def __init__(self, made: onnx.ModelProto, off: float) -> None:
        import onnxruntime

        self._session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])._sess
        self._off = off
        self.inputs_meta = self._session.inputs_meta

    def failure(self, x: np.ndarray) -> Exception | None:
        try:
            self._session.run(["y"], {"x": x}, None)
        except Exception as exc:
            return exc
        return None

    def run(self, *arguments: object) -> list[np.ndarray]:
        return [each * (1 + self._off) for each in self._session.run(*arguments)]


def test_verification_finds_the_difference() -> None:
    program = Program(doubling(), CPU)
    assert verify(program, Reference(doubling(), 0.0), fast=False) == 0.0
    with pytest.raises(UnsupportedOperation, match="differed from onnxruntime's by 0.001"):
        verify(program, Reference(doubling(), 1e-3), fast=False)


def test_verification_finds_sizes_that_go_together() -> None:
    made = model(
        [node("MatMul", ["x", "y"], ["z"])],
        [tensor("x", FLOAT, ["a", "b"]), tensor("y", FLOAT, ["b", 5])],
        [tensor("z", FLOAT, ["a", 5])],
    )
    assert verify(Program(made, CPU), Reference(made, 0.0), fast=False) < 1e-6


class Host:
    """Speaks to an executor whose setting is `choice`, on a machine without a GPU."""

    def __init__(self, choice: str) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(config.FILE_VARIABLE, os.devnull)
            patch.setenv("AVEC_ONNX_ENGINE", choice)
            self.executor = OnnxExecutor(Accelerator("strict", 64))
            self.space, _ = self.executor.load(msgspec.msgpack.encode(OpenSpace()), (), {})

    def load(self, path: Path) -> tuple[object, SessionDescription]:
        request = msgspec.msgpack.encode(LoadSession(source="model.onnx"))
        session, answer = self.executor.load(request, (), {MODEL: path})
        return session, msgspec.msgpack.decode(answer.arrays[0].tobytes(), type=SessionDescription)


def ask(to: object, request: object, *parts: np.ndarray) -> tuple[bytes, list[np.ndarray]]:
    answer = to.run(msgspec.msgpack.encode(request), parts, {})  # type: ignore[attr-defined]
    return answer.body, list(answer.arrays)


@pytest.fixture
def doubled(tmp_path: Path) -> Path:
    path = tmp_path / "doubled"
    path.write_bytes(doubling().SerializeToString())
    return path


def test_the_session_says_who_computes(doubled: Path) -> None:
    _, described = Host("torch").load(doubled)
    assert (described.engine.name, described.providers) == ("torch", ("CUDAExecutionProvider", "CPUExecutionProvider"))
    assert "computed by torch, which differed from onnxruntime by" in described.note
    _, described = Host("auto").load(doubled)
    assert (described.engine.name, described.note) == ("onnxruntime", "")


def test_a_model_that_torch_lacks_is_refused_where_no_other_engine_is_allowed(tmp_path: Path) -> None:
    path = tmp_path / "model"
    made = model([node("Bernoulli", ["x"], ["y"])], [tensor("x", FLOAT, [1])], [tensor("y", FLOAT, [1])])
    path.write_bytes(made.SerializeToString())
    with pytest.raises(UnsupportedOperation, match="operator Bernoulli; the destination's setting onnx_engine"):
        Host("torch").load(path)


def test_values_and_bindings_of_the_torch_engine(doubled: Path, tmp_path: Path) -> None:
    host = Host("torch")
    session, _ = host.load(doubled)
    assert isinstance(session._native, TorchSession)  # type: ignore[attr-defined]
    ask(host.space, Put(value=1, contents=Tensor(0), device="cuda"), SIX)
    ask(session, RunToValues(outputs=("y",), feeds={"x": Held(1)}, results=(2,)))
    np.testing.assert_array_equal(ask(host.space, Fetch(value=2))[1][0], SIX * 2)
    _, arrays = ask(session, RunSession(outputs=("y",), feeds={"x": Held(2)}))
    np.testing.assert_array_equal(arrays[0], SIX * 4)
    changes = (BindInput("x", Held(1)), BindOutput("y", "cuda", value=2))
    ask(session, RunBinding(binding=1, changes=changes))
    ask(host.space, Update(value=1, contents=Tensor(0)), SIX + 1)
    ask(session, RunBinding(binding=1))
    np.testing.assert_array_equal(ask(host.space, Fetch(value=2))[1][0], (SIX + 1) * 2)
    np.testing.assert_array_equal(ask(session, CopyOutputs(binding=1))[1][0], (SIX + 1) * 2)
    body, _ = ask(host.space, Update(value=1, contents=Tensor(0)), np.ones(5, np.float32))
    assert isinstance(msgspec.msgpack.decode(body, type=Raised), Raised)


@pytest.mark.parametrize("dtype", ["uint16", "uint64", "float16", "bool", "int8"])
def test_values_of_any_type_are_kept_whoever_computes(dtype: str) -> None:
    host = Host("torch")
    contents = np.array([0, 1, 1], dtype)
    ask(host.space, Put(value=1, contents=Tensor(0), device="cuda"), contents)
    result = ask(host.space, Fetch(value=1))[1][0]
    assert result.dtype == contents.dtype
    np.testing.assert_array_equal(result, contents)


def test_a_cache_on_the_torch_engine(tmp_path: Path) -> None:
    path = tmp_path / "step"
    path.write_bytes(cache_step().SerializeToString())
    host = Host("torch")
    session, _ = host.load(path)
    ask(host.space, Put(value=0, contents=Tensor(0), device="cuda"), np.ones((1, 4), np.float32))
    for step in range(1, 6):
        changes = (
            BindInput("past", Held(2 * (step - 1))), BindInput("new", Tensor(0)), BindOutput("present", "cuda"),
            BindOutput("total", "cuda"),
        )  # fmt: skip
        ask(session, RunBinding(binding=1, changes=changes), np.full((1, 4), step, np.float32))
        ask(session, NameOutputs(binding=1, results=(2 * step, 2 * step + 1)))
    np.testing.assert_array_equal(ask(host.space, Fetch(value=10))[1][0][:, 0], np.array([1, 1, 2, 3, 4, 5]))
    assert ask(host.space, Fetch(value=11))[1][0] == 4 * 16


def test_wrong_inputs_are_refused_in_onnxruntime_s_words(doubled: Path) -> None:
    session, _ = Host("torch").load(doubled)
    for wrong, text in {
        "type": (SIX.astype("f8"), "Unexpected input data type. Actual: (tensor(double))"),
        "width": (np.ones((2, 4), np.float32), "Got invalid dimensions for input: x"),
        "rank": (np.ones(3, np.float32), "Invalid rank for input: x"),
    }.values():
        body, _ = ask(session, RunSession(outputs=("y",), feeds={"x": Tensor(0)}), wrong)
        assert text in msgspec.msgpack.decode(body, type=Raised).text
    body, _ = ask(session, RunSession(outputs=("q",), feeds={"x": Tensor(0)}), SIX)
    assert "Invalid output name:q" in msgspec.msgpack.decode(body, type=Raised).text
    _, arrays = ask(session, RunSession(outputs=("y",), feeds={"x": Tensor(0)}), SIX)
    np.testing.assert_array_equal(arrays[0], SIX * 2)


def test_a_run_that_torch_lacks_is_computed_by_onnxruntime_and_the_log_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "model"
    made = model(
        [node("ReduceMax", ["x"], ["y"], axes=[0], keepdims=1)],
        [tensor("x", FLOAT, ["n", 3])],
        [tensor("y", FLOAT, [1, 3])],
    )
    path.write_bytes(made.SerializeToString())
    if isinstance(Reference(made, 0.0).failure(SIX[:0]), Exception):
        pytest.skip("this onnxruntime does not have that form of the operator either")
    host = Host("torch")
    session, described = host.load(path)
    assert described.engine.name == "torch"
    request = RunSession(outputs=("y",), feeds={"x": Tensor(0)})
    for rows, said in ((SIX, 0), (SIX[:0], 1), (SIX[:0], 1), (SIX, 1)):
        _, arrays = ask(session, request, rows)
        np.testing.assert_array_equal(arrays[0], rows.max(0, keepdims=True, initial=-np.inf))
        assert len([each for each in caplog.records if "the extreme of no elements" in each.getMessage()]) == said
    ask(session, RunToValues(outputs=("y",), feeds={"x": Tensor(0)}, results=(1,)), SIX[:0])
    np.testing.assert_array_equal(ask(host.space, Fetch(value=1))[1][0], [[-np.inf] * 3])


def test_a_damaged_file_is_the_other_engine_s_to_refuse(tmp_path: Path) -> None:
    path = tmp_path / "damaged"
    path.write_bytes(b"rubbish" * 20)
    host = Host("torch")
    request = msgspec.msgpack.encode(LoadSession(source="model.onnx"))
    _, answer = host.executor.load(request, (), {MODEL: path})
    assert msgspec.msgpack.decode(answer.body, type=Raised).exception == "InvalidProtobuf"
