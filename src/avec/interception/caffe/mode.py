"""Caffe's process-wide settings. Where a net computes is the destination's affair, so most have nothing to do here."""

from __future__ import annotations

LAYER_TYPES = (
    "AbsVal", "Accuracy", "ArgMax", "BNLL", "BatchNorm", "BatchReindex", "Bias", "Clip", "Concat", "ContrastiveLoss",
    "Convolution", "Crop", "Data", "Deconvolution", "Dropout", "DummyData", "ELU", "Eltwise", "Embed", "EuclideanLoss",
    "Exp", "Filter", "Flatten", "HDF5Data", "HDF5Output", "HingeLoss", "Im2col", "ImageData", "InfogainLoss",
    "InnerProduct", "Input", "LRN", "LSTM", "LSTMUnit", "Log", "MVN", "MemoryData", "MultinomialLogisticLoss", "PReLU",
    "Parameter", "Pooling", "Power", "Python", "RNN", "ReLU", "Reduction", "Reshape", "SPP", "Scale", "Sigmoid",
    "SigmoidCrossEntropyLoss", "Silence", "Slice", "Softmax", "SoftmaxWithLoss", "Split", "Swish", "TanH", "Threshold",
    "Tile", "WindowData",
)  # fmt: skip


def set_mode_cpu() -> None:
    """Accepted, and without effect: the destination computes on the accelerator that it has."""


def set_mode_gpu() -> None:
    """Accepted, and without effect: the destination computes on the accelerator that it has."""


def set_device(device_id: int) -> None:
    """Accepted, and without effect: a session has one accelerator, which the destination chose."""


def layer_type_list() -> list[str]:
    """The layer types of Caffe 1.0. A destination that lacks one refuses a net by the type's name."""
    return list(LAYER_TYPES)
