"""The comparison that the golden tests rest on, and that every golden file can be read."""

from __future__ import annotations

import re

import numpy as np

from goldens.caffe_goldens import Expected, behaviours, goldens
from goldens.data_goldens import data_cases
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
    for group in groups:
        names = [str(golden) for golden in group]
        assert len(names) == len(set(names)) > 0


# What caffe.layer_type_list() shows there. HDF5Output makes a file, which caffe_data/written holds.
LAYER_TYPES = frozenset(
    "AbsVal Accuracy ArgMax BNLL BatchNorm BatchReindex Bias Clip Concat ContrastiveLoss Convolution Crop Data "
    "Deconvolution Dropout DummyData ELU Eltwise Embed EuclideanLoss Exp Filter Flatten HDF5Data HDF5Output HingeLoss "
    "Im2col ImageData InfogainLoss InnerProduct Input LRN LSTM LSTMUnit Log MVN MemoryData MultinomialLogisticLoss "
    "PReLU Parameter Pooling Power Python RNN ReLU Reduction Reshape SPP Scale Sigmoid SigmoidCrossEntropyLoss "
    "Silence Slice Softmax SoftmaxWithLoss Split Swish TanH Threshold Tile WindowData".split()
)


def test_every_layer_type_of_real_caffe_has_a_golden() -> None:
    prototxts = [golden.prototxt for golden in (*goldens(), *training_goldens())]
    prototxts += [case.prototxt for case in data_cases().values()]
    prototxts += [str(behaviour.settings.get("prototxt", "")) for behaviour in training_behaviours()]
    covered = set(re.findall(r'type: "(\w+)"', " ".join(prototxts)))
    assert LAYER_TYPES - covered == {"HDF5Output"}
