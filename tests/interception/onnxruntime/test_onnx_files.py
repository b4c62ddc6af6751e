"""Models and their side files go to the destination once, by digest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from avec.errors import UnsupportedOperation
from avec.interception import active
from avec.profiling import ModelTransfer
from avec.protocol.messages import AcceleratorInfo
from onnx_models import doubling, linear, with_side_file

CUDA = ["CUDAExecutionProvider"]
SIX = np.arange(6, dtype=np.float32).reshape(2, 3)
Transfers = Callable[[], list[ModelTransfer]]


@pytest.fixture
def transfers(ort: ModuleType) -> Transfers:
    """The models made available since the test began."""
    recorder = active.session().recorder
    seen = len(recorder.transfers)
    return lambda: recorder.transfers[seen:]


def weights(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((3, 4)).astype(np.float32)


def test_a_side_file_is_uploaded_once_whatever_model_names_it(
    ort: ModuleType, tmp_path: Path, transfers: Transfers
) -> None:
    values = np.random.default_rng().standard_normal((3, 4)).astype(np.float32)  # of no test run before
    note = str(values)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        path = with_side_file(tmp_path / name, values, note=note)
        session = ort.InferenceSession(path, providers=CUDA)
        np.testing.assert_allclose(session.run(None, {"x": SIX})[0], SIX @ values, rtol=1e-6)
    uploaded = [(each.name, each.uploaded_nbytes > 0) for each in transfers()]
    assert uploaded == [("model.onnx", True), ("weights.bin", True), ("model.onnx", False), ("weights.bin", False)]


def test_many_side_files_in_folders(ort: ModuleType, tmp_path: Path) -> None:
    import onnx
    from onnx import numpy_helper

    from onnx_models import FLOAT, model, node, tensor

    count = 150  # more than one Stage
    nodes = [node("Add", [f"x{index}" if index else "x", f"w{index}"], [f"x{index + 1}"]) for index in range(count)]
    made = model(
        nodes,
        [tensor("x", FLOAT, [1])],
        [tensor(f"x{count}", FLOAT, [1])],
        [numpy_helper.from_array(np.array([index], np.float32), f"w{index}") for index in range(count)],
    )
    for index, each in enumerate(made.graph.initializer):
        location = f"layer{index % 7}/w{index}.bin"
        (tmp_path / location).parent.mkdir(exist_ok=True)
        (tmp_path / location).write_bytes(each.raw_data)
        each.ClearField("raw_data")
        each.data_location = onnx.TensorProto.EXTERNAL
        each.external_data.add(key="location", value=location)
    path = tmp_path / "model.onnx"
    path.write_bytes(made.SerializeToString())
    (result,) = ort.InferenceSession(str(path), providers=CUDA).run(None, {"x": np.zeros(1, np.float32)})
    assert result == sum(range(count))


def test_sessions_of_one_model_share_it_and_live_by_themselves(ort: ModuleType) -> None:
    made = linear(weights(2)).SerializeToString()
    one, two = (ort.InferenceSession(made, providers=CUDA) for _ in range(2))
    before = two.run(None, {"x": SIX})[0]
    del one
    np.testing.assert_array_equal(two.run(None, {"x": SIX})[0], before)


def test_an_initializer_that_is_given_goes_along(ort: ModuleType) -> None:
    for device in ("cpu", "cuda"):
        options = ort.SessionOptions()
        options.add_initializer("w", ort.OrtValue.ortvalue_from_numpy(weights(4)))
        session = ort.InferenceSession(linear(weights(3)).SerializeToString(), options, providers=CUDA)
        np.testing.assert_allclose(session.run(None, {"x": SIX})[0], SIX @ weights(4), rtol=1e-6, err_msg=device)


def test_side_files_given_in_memory(ort: ModuleType, tmp_path: Path) -> None:
    if not hasattr(ort.SessionOptions, "add_external_initializers_from_files_in_memory"):
        pytest.skip("this onnxruntime takes no side files from memory")
    path = with_side_file(tmp_path, weights(5))
    options = ort.SessionOptions()
    data = (tmp_path / "weights.bin").read_bytes()
    options.add_external_initializers_from_files_in_memory(["weights.bin"], [data], [len(data)])
    session = ort.InferenceSession(path.read_bytes(), options, providers=CUDA)
    np.testing.assert_allclose(session.run(None, {"x": SIX})[0], SIX @ weights(5), rtol=1e-6)


def test_external_initializers_that_are_given(ort: ModuleType, tmp_path: Path) -> None:
    path = with_side_file(tmp_path, weights(6))
    options = ort.SessionOptions()
    options.add_external_initializers(["w"], [ort.OrtValue.ortvalue_from_numpy(weights(7))])
    session = ort.InferenceSession(path.read_bytes(), options, providers=CUDA)
    np.testing.assert_allclose(session.run(None, {"x": SIX})[0], SIX @ weights(7), rtol=1e-6)


def test_a_name_that_leads_out_of_the_model_s_folder_is_not_sent(
    ort: ModuleType, tmp_path: Path, transfers: Transfers
) -> None:
    (tmp_path / "inner").mkdir()
    path = with_side_file(tmp_path / "inner", weights(8))
    (tmp_path / "weights.bin").write_bytes((tmp_path / "inner" / "weights.bin").read_bytes())
    path.write_bytes(path.read_bytes().replace(b"weights.bin", b"../ights.bin"[:11]))
    with pytest.raises(Exception, match=r"(?i)external data|file"):
        ort.InferenceSession(path, providers=CUDA)
    assert [each.name for each in transfers()] == ["model.onnx"]


def test_a_model_in_onnxruntime_s_own_format(ort: ModuleType, tmp_path: Path) -> None:
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "model.ort")
    options.add_session_config_entry("session.save_model_format", "ORT")
    ort.InferenceSession(doubling().SerializeToString(), options, providers=CUDA)
    session = ort.InferenceSession(tmp_path / "model.ort", providers=CUDA)
    np.testing.assert_array_equal(session.run(None, {"x": SIX})[0], SIX * 2)


@pytest.mark.parametrize("method", ["register_custom_ops_library"])
def test_code_of_this_machine_is_refused(ort: ModuleType, method: str) -> None:
    with pytest.raises(UnsupportedOperation, match=f"SessionOptions.{method} cannot be forwarded"):
        getattr(ort.SessionOptions(), method)("operators.so")


def test_an_option_that_holds_an_address_is_refused_as_a_provider_s_failure(
    ort: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    providers = [("CUDAExecutionProvider", {"user_compute_stream": "1234"})]
    session = ort.InferenceSession(doubling().SerializeToString(), providers=providers)
    assert "the option 'user_compute_stream' of CUDAExecutionProvider cannot be forwarded" in capsys.readouterr().out
    assert session.get_providers() == ["CPUExecutionProvider"]  # the library's own fallback, as without AVEC


def test_an_entry_about_files_of_the_destination_is_refused(ort: ModuleType) -> None:
    options = ort.SessionOptions()
    options.add_session_config_entry("ep.context_file_path", "/etc/passwd")
    with pytest.raises(UnsupportedOperation, match=r"'ep.context_file_path'"):
        ort.InferenceSession(doubling().SerializeToString(), options, providers=CUDA)


def test_what_would_compute_on_this_host_is_refused(ort: ModuleType) -> None:
    from onnxruntime.capi import _pybind_state as native
    from onnxruntime.capi import onnxruntime_pybind11_state as extension

    assert extension.InferenceSession is native.InferenceSession  # whoever imports it from there is served as well
    if not hasattr(ort, "ModelCompiler"):
        pytest.skip("this onnxruntime has no ModelCompiler")
    with pytest.raises(UnsupportedOperation, match="ModelCompiler cannot be forwarded"):
        ort.ModelCompiler(ort.SessionOptions(), doubling().SerializeToString())


def test_training_is_refused_where_a_build_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime
    from onnxruntime.capi import _pybind_state as native

    from avec.interception import onnxruntime as front_end

    monkeypatch.setattr(native, "TrainingAgent", object, raising=False)
    front_end.unpatch(onnxruntime)
    try:
        front_end.patch(onnxruntime)
        with pytest.raises(UnsupportedOperation, match="onnxruntime.training"):
            native.TrainingAgent()
    finally:
        front_end.unpatch(onnxruntime)
    assert native.TrainingAgent is object


def test_a_model_that_a_gpu_s_destination_computes_on_its_cpu_is_warned_of(
    ort: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(active.session(), "accelerator", AcceleratorInfo("cuda", "a GPU", 1 << 30))
    with pytest.warns(UserWarning, match="computed on the destination's CPU: onnxruntime has no CUDA there") as caught:
        ort.InferenceSession(doubling().SerializeToString(), providers=CUDA)
    assert [each.filename for each in caught] == [__file__]
