"""OrtValues on cuda stay at the destination; what the application does not look at does not move."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType

import numpy as np
import pytest

from avec.errors import InvalidArgument, UnsupportedOperation
from avec.profiling import ExecutionCycle
from onnx_models import cache_step, doubling

ENGINES = ("auto", "torch")
CUDA = ["CUDAExecutionProvider", "CPUExecutionProvider"]
SIX = np.arange(6, dtype=np.float32).reshape(2, 3)
Sent = Callable[[], Sequence[ExecutionCycle]]


def moved(cycles: Sequence[ExecutionCycle]) -> tuple[int, int]:
    """Tensor bytes up and down."""
    return sum(each.tensor_nbytes_up for each in cycles), sum(each.tensor_nbytes_down for each in cycles)


def test_a_gpu_is_offered(ort: ModuleType) -> None:
    assert ort.get_available_providers() == CUDA
    assert ort.get_device() == "GPU"
    session = ort.InferenceSession(doubling().SerializeToString(), providers=CUDA)
    assert session.get_providers() == CUDA
    assert session.get_provider_options()["CUDAExecutionProvider"]["device_id"] == "0"


def test_a_provider_that_is_not_there_is_warned_of_and_left_out(ort: ModuleType) -> None:
    with pytest.warns(UserWarning, match="'TensorrtExecutionProvider' is not in available provider names"):
        session = ort.InferenceSession(doubling().SerializeToString(), providers=["TensorrtExecutionProvider", *CUDA])
    assert session.get_providers() == CUDA


def test_a_value_on_cuda_goes_up_once_and_comes_back_when_it_is_looked_at(ort: ModuleType, sent: Sent) -> None:
    value = ort.OrtValue.ortvalue_from_numpy(SIX, "cuda", 0)
    assert (value.device_name(), value.shape(), value.data_type()) == ("cuda", [2, 3], "tensor(float)")
    assert isinstance(value, ort.OrtValue)
    assert moved(sent()) == (SIX.nbytes, 0)
    np.testing.assert_array_equal(value.numpy(), SIX)
    assert moved(sent()) == (0, SIX.nbytes)


def test_an_array_may_change_once_a_value_was_made_of_it(ort: ModuleType) -> None:
    mine = SIX.copy()
    value = ort.OrtValue.ortvalue_from_numpy(mine, "cuda", 0)
    mine[:] = -1
    np.testing.assert_array_equal(value.numpy(), SIX)


def test_what_is_read_of_a_value_on_cuda_is_a_copy(ort: ModuleType) -> None:
    value = ort.OrtValue.ortvalue_from_numpy(SIX, "cuda", 0)
    value.numpy()[:] = -1
    np.testing.assert_array_equal(value.numpy(), SIX)


def test_runs_on_values_move_nothing_but_what_is_read(ort: ModuleType, sent: Sent) -> None:
    session = ort.InferenceSession(doubling().SerializeToString(), providers=CUDA)
    value = ort.OrtValue.ortvalue_from_numpy(SIX, "cuda", 0)
    sent()
    for _ in range(5):
        (value,) = session.run_with_ort_values(["y"], {"x": value})
    assert moved(sent()) == (0, 0)
    np.testing.assert_array_equal(value.numpy(), SIX * 32)


def test_a_cache_that_is_bound_stays_at_the_destination(ort: ModuleType, sent: Sent) -> None:
    session = ort.InferenceSession(cache_step().SerializeToString(), providers=CUDA)
    past = ort.OrtValue.ortvalue_from_numpy(np.ones((1, 4), np.float32), "cuda", 0)
    binding = session.io_binding()
    sent()
    steps = 20
    for step in range(steps):
        binding.bind_cpu_input("new", np.full((1, 4), step, np.float32))
        binding.bind_ortvalue_input("past", past)
        binding.bind_output("present", "cuda")
        binding.bind_output("total", "cuda")
        session.run_with_iobinding(binding)
        past, total = binding.get_outputs()
    assert moved(sent()) == (steps * 4 * 4, 0)
    assert total.numpy() == 4 * (1 + sum(range(steps)))
    assert past.shape() == [steps + 1, 4]


def test_a_loop_waits_for_nothing(ort: ModuleType) -> None:
    session = ort.InferenceSession(cache_step().SerializeToString(), providers=CUDA)
    past = ort.OrtValue.ortvalue_from_numpy(np.ones((1, 4), np.float32), "cuda", 0)
    new = ort.OrtValue.ortvalue_from_numpy(np.ones((1, 4), np.float32), "cuda", 0)
    binding = session.io_binding()
    for _ in range(50):
        binding.bind_ortvalue_input("new", new)
        binding.bind_ortvalue_input("past", past)
        binding.bind_output("present", "cuda")
        binding.bind_output("total", "cuda")
        session.run_with_iobinding(binding)
        past, _total = binding.get_outputs()
    assert past.numpy().shape == (51, 4)


def test_outputs_that_are_bound_once_show_each_run(ort: ModuleType) -> None:
    session = ort.InferenceSession(doubling().SerializeToString(), providers=CUDA)
    fed = ort.OrtValue.ortvalue_from_numpy(SIX, "cuda", 0)
    target = ort.OrtValue.ortvalue_from_shape_and_type([2, 3], np.float32, "cuda", 0)
    binding = session.io_binding()
    binding.bind_ortvalue_input("x", fed)
    binding.bind_ortvalue_output("y", target)
    session.run_with_iobinding(binding)
    np.testing.assert_array_equal(target.numpy(), SIX * 2)
    fed.update_inplace(SIX + 1)
    session.run_with_iobinding(binding)
    np.testing.assert_array_equal(target.numpy(), (SIX + 1) * 2)
    np.testing.assert_array_equal(binding.copy_outputs_to_cpu()[0], (SIX + 1) * 2)


def test_values_are_bound_by_the_addresses_that_they_tell(ort: ModuleType) -> None:
    session = ort.InferenceSession(doubling().SerializeToString(), providers=CUDA)
    fed = ort.OrtValue.ortvalue_from_numpy(SIX, "cuda", 0)
    target = ort.OrtValue.ortvalue_from_shape_and_type([2, 3], np.float32, "cuda", 0)
    binding = session.io_binding()
    binding.bind_input("x", "cuda", 0, np.float32, [2, 3], fed.data_ptr())
    binding.bind_output("y", "cuda", 0, np.float32, [2, 3], target.data_ptr())
    session.run_with_iobinding(binding)
    np.testing.assert_array_equal(target.numpy(), SIX * 2)


def test_an_address_of_nobody_s_is_refused(ort: ModuleType) -> None:
    binding = ort.InferenceSession(doubling().SerializeToString(), providers=CUDA).io_binding()
    with pytest.raises(UnsupportedOperation, match="bind an OrtValue"):
        binding.bind_input("x", "cuda", 0, np.float32, [2, 3], 0x7F0000000000)


def test_dlpack_of_a_value_on_cuda_is_refused(ort: ModuleType) -> None:
    value = ort.OrtValue.ortvalue_from_numpy(SIX, "cuda", 0)
    with pytest.raises(UnsupportedOperation, match="use numpy"):
        value._ortvalue.__dlpack__()


def test_a_second_gpu_is_not_there(ort: ModuleType) -> None:
    with pytest.raises(InvalidArgument, match="one accelerator"):
        ort.OrtValue.ortvalue_from_numpy(SIX, "cuda", 1)


def test_a_value_s_array_is_checked_in_the_library_s_words(ort: ModuleType) -> None:
    with pytest.raises(RuntimeError, match="only supported from non-string numpy arrays"):
        ort.OrtValue.ortvalue_from_numpy(np.array(["a"]), "cuda", 0)


def test_a_failed_run_is_raised_where_its_values_are_looked_at(ort: ModuleType) -> None:
    session = ort.InferenceSession(doubling().SerializeToString(), providers=CUDA)
    wrong = ort.OrtValue.ortvalue_from_numpy(SIX.astype("f8"), "cuda", 0)
    (never,) = session.run_with_ort_values(["y"], {"x": wrong})
    for _ in range(2):
        with pytest.raises(ort.capi.onnxruntime_pybind11_state.InvalidArgument, match="Unexpected input data type"):
            never.numpy()
    np.testing.assert_array_equal(session.run(None, {"x": SIX})[0], SIX * 2)


def test_a_failed_binding_is_raised_once_where_it_is_looked_at(ort: ModuleType) -> None:
    session = ort.InferenceSession(doubling().SerializeToString(), providers=CUDA)
    binding = session.io_binding()
    binding.bind_cpu_input("x", SIX.astype("f8"))
    binding.bind_output("y", "cuda")
    session.run_with_iobinding(binding)
    with pytest.raises(RuntimeError, match="Unexpected input data type"):
        binding.copy_outputs_to_cpu()
    binding.bind_cpu_input("x", SIX)
    session.run_with_iobinding(binding)
    np.testing.assert_array_equal(binding.copy_outputs_to_cpu()[0], SIX * 2)


def test_copies_between_this_machine_and_cuda(ort: ModuleType) -> None:
    remote = ort.OrtValue.ortvalue_from_numpy(SIX, "cuda", 0)
    other = ort.OrtValue.ortvalue_from_shape_and_type([2, 3], np.float32, "cuda", 0)
    other._ortvalue.update_inplace(remote._ortvalue)
    np.testing.assert_array_equal(other.numpy(), SIX)
    local = ort.OrtValue.ortvalue_from_numpy(np.zeros((2, 3), np.float32))
    local._ortvalue.update_inplace(remote._ortvalue)
    np.testing.assert_array_equal(local.numpy(), SIX)
    if hasattr(ort, "copy_tensors"):
        ort.copy_tensors([local], [other])
        np.testing.assert_array_equal(other.numpy(), SIX)


def test_a_value_of_a_type_that_numpy_lacks_lives_on_cuda(ort: ModuleType) -> None:
    bfloat16 = 16
    value = ort.OrtValue.ortvalue_from_shape_and_type([2, 3], bfloat16, "cuda", 0)
    assert (value.data_type(), value.element_type(), value.shape()) == ("tensor(bfloat16)", bfloat16, [2, 3])


def test_dropped_values_are_freed_with_the_next_request(ort: ModuleType, sent: Sent) -> None:
    from avec.interception.onnxruntime.space import space

    value = ort.OrtValue.ortvalue_from_numpy(SIX, "cuda", 0)
    number = value._ortvalue.number
    del value
    other = ort.OrtValue.ortvalue_from_numpy(SIX, "cuda", 0)
    other.numpy()
    from avec.protocol.onnx import Fetch

    with pytest.raises(ValueError, match=f"value {number} names nothing"):
        space().run("fetch", Fetch(value=number)).answer()
