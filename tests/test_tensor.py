"""dtype and shape of tensors, and their bytes without copies."""

from __future__ import annotations

import numpy as np
import pytest

from avec.tensor import RANK_LIMIT, TensorSpec, bytes_view, spec_of


def test_a_spec_says_dtype_and_shape() -> None:
    assert spec_of(np.zeros((2, 3), np.float16)) == TensorSpec("float16", (2, 3))


def test_the_size_of_absurd_shapes_does_not_wrap_around() -> None:
    assert TensorSpec("float64", (2**32, 2**32)).nbytes == 2**67


def test_a_scalar_has_the_size_of_its_dtype() -> None:
    assert TensorSpec("complex128", ()).nbytes == 16


@pytest.mark.parametrize("shape", [(0,), (2**62, 0), (1,) * RANK_LIMIT, ()])
def test_a_shape_that_numpy_can_have_passes(shape: tuple[int, ...]) -> None:
    TensorSpec("uint8", shape).check()
    assert np.empty(shape if 0 in shape else (1,) * len(shape), np.uint8).ndim == len(shape)


@pytest.mark.parametrize("shape", [(0, 2**62), (2**31, 0, 2**31), (0, 2**63), (2**64, 0)])
def test_an_empty_shape_that_numpy_refuses_is_refused_as_a_value_error_of_ours(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="which no address space holds"):
        TensorSpec("float64", shape).check()


@pytest.mark.parametrize(
    ("shape", "reason"),
    [((1,) * (RANK_LIMIT + 1), f"rank {RANK_LIMIT + 1}; the limit is {RANK_LIMIT}"), ((2, -1), "negative dimension")],
)
def test_a_shape_out_of_range_is_refused(shape: tuple[int, ...], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        TensorSpec("uint8", shape).check()


def test_the_bytes_of_an_array_are_its_own_memory() -> None:
    array = np.zeros((2, 2), np.float32)
    view = bytes_view(array)
    view[3] = 0x40
    assert (view.nbytes, array[0, 0]) == (16, 2.0)


def test_the_bytes_of_a_scalar_array_are_its_own_memory() -> None:
    array = np.array(1, np.uint8)
    bytes_view(array)[0] = 9
    assert array == 9


@pytest.mark.parametrize("array", [np.zeros((2, 3)).T, np.zeros(4)[::2]])
def test_an_array_with_gaps_has_no_bytes_of_its_own(array: np.ndarray) -> None:
    with pytest.raises(ValueError, match="use numpy.ascontiguousarray"):
        bytes_view(array)
