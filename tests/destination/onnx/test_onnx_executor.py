"""The ONNX executor by itself: what it shares, what it refuses, and that it stays usable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
pytest.importorskip("onnx", reason="onnx, which makes the models, is not installed")

from avec.destination.accelerators import Accelerator
from avec.destination.executors import Answer
from avec.destination.executors.onnx import OnnxExecutor
from avec.destination.executors.onnx.files import ModelFolder
from avec.errors import AvecError, InvalidArgument, UnsupportedOperation
from avec.protocol.onnx import (
    MODEL,
    Allocate,
    Answered,
    Ask,
    Bind,
    BindInput,
    BindOutput,
    Configure,
    CopyOutputs,
    Engine,
    Fetch,
    Held,
    Infos,
    LoadSession,
    NameOutputs,
    OpenSpace,
    Options,
    Plain,
    Put,
    Raised,
    RunBinding,
    RunSession,
    RunToValues,
    SessionDescription,
    Sparse,
    Stage,
    Tensor,
    Typed,
    Update,
    Values,
)
from avec.tensor import Array
from onnx_models import doubling, linear, with_side_file

SIX = np.arange(6, dtype=np.float32).reshape(2, 3)
ANSWERS: msgspec.msgpack.Decoder[Answered] = msgspec.msgpack.Decoder(Answered)


class Host:
    """Speaks to an executor as a host does."""

    def __init__(self) -> None:
        self.executor = OnnxExecutor(Accelerator("strict", 64))
        self.space, answer = self.executor.load(encoded(OpenSpace()), (), {})
        self.engine = ANSWERS.decode(answer.body)

    def load(self, model: Path, folder: int = 0, **how: object) -> tuple[object, Answer]:
        request = LoadSession(source=how.pop("source", "/of/the/host.onnx"), staged=folder, **how)  # type: ignore[arg-type]
        return self.executor.load(encoded(request), (), {MODEL: model})

    def ask(self, request: object, parts: Sequence[Array] = (), files: Mapping[str, Path] | None = None) -> Answer:
        """Ask the space."""
        return self.space.run(encoded(request), parts, files or {})


def encoded(message: object) -> bytes:
    return msgspec.msgpack.encode(message)


def run(session: object, request: object, parts: Sequence[Array] = ()) -> tuple[object, Sequence[Array]]:
    answer = session.run(encoded(request), parts, {})  # type: ignore[attr-defined]
    return (ANSWERS.decode(answer.body) if answer.body else None), answer.arrays


@pytest.fixture
def host() -> Host:
    return Host()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "cache").mkdir()
    path = tmp_path / "cache" / "model"
    path.write_bytes(doubling().SerializeToString())
    return path


def test_it_says_what_computes(host: Host) -> None:
    assert isinstance(host.engine, Engine)
    assert host.engine.name == "onnxruntime"
    assert host.engine.providers[-1] == "CPUExecutionProvider"


def test_a_session_is_described_and_runs(host: Host, model: Path) -> None:
    session, answer = host.load(model)
    description = msgspec.msgpack.decode(answer.arrays[0].tobytes(), type=SessionDescription)
    assert [(each.name, each.type, each.shape) for each in description.inputs] == [("x", "tensor(float)", ("n", 3))]
    answered, arrays = run(session, RunSession(outputs=("y",), feeds={"x": Tensor(0)}), [SIX])
    assert answered == Values((Tensor(0),))
    np.testing.assert_array_equal(arrays[0], SIX * 2)


def test_sessions_that_are_loaded_alike_share_one_native_session(host: Host, model: Path) -> None:
    (one, _), (two, _) = host.load(model), host.load(model)
    other, _ = host.load(model, options=Options(attributes={"intra_op_num_threads": 1}))
    assert one._native is two._native  # type: ignore[attr-defined]
    assert one._native is not other._native  # type: ignore[attr-defined]
    one.close()  # type: ignore[attr-defined]
    _, arrays = run(two, RunSession(outputs=("y",), feeds={"x": Tensor(0)}), [SIX])
    np.testing.assert_array_equal(arrays[0], SIX * 2)


def test_what_the_engine_raises_is_an_answer_and_names_the_host_s_file(host: Host, model: Path) -> None:
    model.write_bytes(b"rubbish" * 9)
    session, answer = host.load(model)
    raised = ANSWERS.decode(answer.body)
    assert isinstance(raised, Raised)
    assert raised.exception == "InvalidProtobuf"
    assert "/of/the/host.onnx" in raised.text
    assert str(model) not in raised.text
    with pytest.raises(InvalidArgument, match="refused"):
        run(session, RunSession(outputs=("y",)))


def test_results_that_are_an_input_s_memory_are_copied(host: Host, tmp_path: Path, model: Path) -> None:
    from onnx_models import FLOAT, tensor
    from onnx_models import model as made

    model.write_bytes(made([], [tensor("x", FLOAT, [2, 3])], [tensor("x", FLOAT, [2, 3])]).SerializeToString())
    session, answer = host.load(model)
    if answer.body:
        pytest.skip("this onnxruntime refuses a graph whose output is its input")
    part = SIX.copy()
    _, arrays = run(session, RunSession(outputs=("x",), feeds={"x": Tensor(0)}), [part])
    run(session, RunToValues(outputs=("x",), feeds={"x": Tensor(0)}, results=(1,)), [part])
    part[:] = -1  # the buffer is used again
    np.testing.assert_array_equal(arrays[0], SIX)
    fetched = host.ask(Fetch(value=1))
    np.testing.assert_array_equal(fetched.arrays[0], SIX)


def test_stored_values_do_not_use_the_parts_memory(host: Host) -> None:
    part = SIX.copy()
    host.ask(Put(value=1, contents=Tensor(0)), [part])
    part[:] = -1
    np.testing.assert_array_equal(host.ask(Fetch(value=1)).arrays[0], SIX)


def test_side_files_are_found_under_their_names(host: Host, tmp_path: Path) -> None:
    weights = np.arange(12, dtype=np.float32).reshape(3, 4)
    (tmp_path / "made").mkdir()
    path = with_side_file(tmp_path / "made", weights, "parts/w.bin")
    cached = tmp_path / "cache" / "models" / "digest"
    cached.parent.mkdir(parents=True)
    (tmp_path / "made" / "parts" / "w.bin").rename(cached)
    host.ask(Stage(folder=1), files={"parts/w.bin": cached})
    session, answer = host.load(path, folder=1)
    assert not answer.body
    _, arrays = run(session, RunSession(outputs=("y",), feeds={"x": Tensor(0)}), [SIX])
    np.testing.assert_array_equal(arrays[0], SIX @ weights)
    assert [each.name for each in (tmp_path / "cache").iterdir()] == ["models"]  # no folder is left


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../w.bin", "a/../../w.bin", "", ".", "a\\..\\w", "a\0b", "x" * 2000, "a/" * 20 + "b"]
)
def test_names_that_lead_elsewhere_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "cache" / "models").mkdir(parents=True)
    cached = tmp_path / "cache" / "models" / "digest"
    cached.write_bytes(b"data")
    folder = ModelFolder(cached)
    with pytest.raises(InvalidArgument):
        folder.add(name, cached)
    folder.close()
    assert sorted(each.relative_to(tmp_path).as_posix() for each in tmp_path.rglob("*")) == [
        "cache", "cache/models", "cache/models/digest"
    ]  # fmt: skip


def test_a_name_is_taken_once(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    cached = tmp_path / "models" / "digest"
    cached.write_bytes(b"data")
    folder = ModelFolder(cached)
    folder.add("w.bin", cached)
    with pytest.raises(InvalidArgument, match="two side files"):
        folder.add("./w.bin", cached)
    folder.close()


@pytest.mark.parametrize(
    "entry",
    ["ep.context_file_path", "session.optimized_model_external_initializers_file_name", "x.library", "Y.FOLDER"],
)
def test_entries_about_this_machine_s_files_are_refused(host: Host, model: Path, entry: str) -> None:
    with pytest.raises(UnsupportedOperation, match="cannot be forwarded"):
        host.load(model, options=Options(entries={entry: "/etc/passwd"}))


@pytest.mark.parametrize(
    "attributes",
    [
        {"optimized_model_filepath": "/etc/cron.d/x"},
        {"optimized_model_filepath": ".."},
        {"enable_profiling": True, "profile_file_prefix": "../x"},
    ],
)
def test_paths_to_write_to_are_refused(host: Host, model: Path, attributes: dict[str, str]) -> None:
    with pytest.raises(InvalidArgument, match="no name of a file"):
        host.load(model, options=Options(attributes=attributes))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["__class__", "add_session_config_entry", "nonsense"])
def test_attributes_that_are_none_are_refused(host: Host, model: Path, name: str) -> None:
    with pytest.raises(UnsupportedOperation, match=name):
        host.load(model, options=Options(attributes={name: "x"}))


@pytest.mark.parametrize(
    ("request_", "parts"),
    [
        (Fetch(value=99), []),
        (Put(value=1, contents=Held(99)), []),
        (Put(value=1, contents=Plain(b"\xc0")), []),
        (Put(value=1, contents=Tensor(3)), []),
        (Put(value=1, contents=Typed(0, 16, (2,))), [np.zeros(3, np.uint8)]),
        (Put(value=1, contents=Typed(0, 99, (2,))), [np.zeros(3, np.uint8)]),
        (Put(value=1, contents=Typed(0, 16, (-2,))), [np.zeros(3, np.uint8)]),
        (Put(value=1, contents=Typed(0, 16, (2**62, 2**62))), [np.zeros(3, np.uint8)]),
        (Put(value=1, contents=Sparse("csr", (3, 3), Tensor(0), (Tensor(0),))), [SIX]),
        (Update(value=99, contents=Tensor(0)), [SIX]),
        (Ask(value=99, accessor="shape"), []),
        (Ask(value=0, accessor="__class__"), []),
        (Ask(value=0, accessor="data_ptr"), []),
        (RunSession(), []),
        (b"nonsense", []),
    ],
)
def test_wrong_requests_to_a_space_are_refused_and_it_stays_usable(
    host: Host, request_: object, parts: Sequence[Array]
) -> None:
    host.ask(Put(value=0, contents=Tensor(0)), [SIX])
    with pytest.raises(InvalidArgument):
        host.ask(request_, parts)
    np.testing.assert_array_equal(host.ask(Fetch(value=0)).arrays[0], SIX)


@pytest.mark.parametrize(
    ("request_", "parts"),
    [
        (RunSession(outputs=("y",), feeds={"x": Held(99)}), []),
        (RunSession(outputs=("y",), feeds={"x": Tensor(1)}), [SIX]),
        (RunToValues(outputs=("y",), feeds={"x": Tensor(0)}, results=(1, 2)), [SIX]),
        (RunToValues(outputs=("y",), feeds={"x": Tensor(0)}, results=(1,), devices=("cpu", "cpu")), [SIX]),
        (RunBinding(binding=1, fetched=(5,), changes=(BindInput("x", Tensor(0)), BindOutput("y"))), [SIX]),
        (Bind(binding=1, changes=(BindOutput("y", value=99),)), []),
        (NameOutputs(binding=1, results=(1, 2, 3)), []),
        (Configure(method="set_tuning_results", arguments=Plain(b"\x01")), []),
        (Fetch(value=1), []),
    ],
)
def test_wrong_requests_to_a_session_are_refused_and_it_stays_usable(
    host: Host, model: Path, request_: object, parts: Sequence[Array]
) -> None:
    session, _ = host.load(model)
    with pytest.raises(InvalidArgument):
        run(session, request_, parts)
    _, arrays = run(session, RunSession(outputs=("y",), feeds={"x": Tensor(0)}), [SIX])
    np.testing.assert_array_equal(arrays[0], SIX * 2)


def test_outputs_that_no_run_has_given_are_not_read(host: Host, model: Path) -> None:
    session, _ = host.load(model)
    run(session, Bind(binding=1, changes=(BindOutput("y", "cuda"),)))
    for request in (CopyOutputs(binding=1), NameOutputs(binding=1, results=(1,))):
        answered, _ = run(session, request)
        assert isinstance(answered, Raised)
        assert "no run has given" in answered.text


def test_values_are_freed_when_the_host_drops_them(host: Host) -> None:
    host.ask(Put(value=1, contents=Tensor(0)), [SIX])
    host.ask(Put(value=2, contents=Tensor(0), dropped=(1,)), [SIX])
    with pytest.raises(InvalidArgument, match="value 1 names nothing"):
        host.ask(Fetch(value=1))


def test_an_allocation_that_no_machine_can_make_is_an_answer(host: Host) -> None:
    answer = host.ask(Allocate(value=1, shape=(2**40, 2**20), element_type=1))
    assert isinstance(ANSWERS.decode(answer.body), Raised)
    assert not host.ask(Allocate(value=1, shape=(2,), element_type=1)).body


def test_a_session_before_its_space_is_refused(model: Path) -> None:
    executor = OnnxExecutor(Accelerator("strict", 64))
    with pytest.raises(AvecError, match="before the space"):
        executor.load(encoded(LoadSession(source="x")), (), {MODEL: model})


def test_infos_tell_what_results_are(host: Host, tmp_path: Path, model: Path) -> None:
    model.write_bytes(linear(np.ones((3, 4), np.float32)).SerializeToString())
    session, _ = host.load(model)
    answered, _ = run(session, RunToValues(outputs=("y",), feeds={"x": Tensor(0)}, results=(7,)), [SIX])
    assert isinstance(answered, Infos)
    assert answered.infos[0] is not None
    assert (answered.infos[0].data_type, answered.infos[0].shape) == ("tensor(float)", (2, 4))
