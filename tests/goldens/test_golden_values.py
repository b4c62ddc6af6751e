"""The comparison that the golden tests rest on, and that every golden file can be read."""

from __future__ import annotations

import numpy as np

from goldens.caffe_goldens import Expected, behaviours
from goldens.training_goldens import gradients, solver_runs, training_behaviours, training_goldens, training_runs

LOWEST = np.finfo(np.float32).min  # what real Caffe leaves where a MAX window has no element


def _expected(*values: float) -> Expected:
    return Expected((len(values),), 1, 2.0, np.array(values, dtype=np.float32))


def test_an_error_is_relative_to_the_blobs_maximum() -> None:
    assert _expected(0.0, 2.0).error(np.array([0.5, 2.0])) == 0.25


def test_another_shape_is_no_match() -> None:
    assert _expected(1.0, 2.0).error(np.array([[1.0, 2.0]])) == float("inf")


def test_a_nan_instead_of_a_number_is_no_match() -> None:
    assert _expected(1.0, 2.0).error(np.array([1.0, np.nan])) == float("inf")


def test_a_number_instead_of_a_nan_is_no_match() -> None:
    assert _expected(1.0, np.nan).error(np.array([1.0, 0.0])) == float("inf")


def test_a_mark_is_met_exactly_or_not_at_all() -> None:
    expected = _expected(1.0, LOWEST)
    assert expected.error(np.array([1.0, LOWEST])) == 0.0
    assert expected.error(np.array([1.0, 0.0])) == float("inf")


def test_only_every_step_th_value_is_compared() -> None:
    expected = Expected((4,), 3, 1.0, np.array([1.0, 0.5], dtype=np.float32))
    assert expected.error(np.array([1.0, 9.0, 9.0, 0.5])) == 0.0


def test_names_in_the_files_are_unique() -> None:
    groups = (behaviours(), training_goldens(), gradients(), solver_runs(), training_runs(), training_behaviours())
    for goldens in groups:
        names = [str(golden) for golden in goldens]
        assert len(names) == len(set(names)) > 0
