"""Networks, weights and shapes at which real Caffe ends the process with a failed check."""

from __future__ import annotations

from dataclasses import dataclass

from prototxt import Shape, inputs, layer


@dataclass(frozen=True, slots=True)
class Refused:
    """A net to load; then, where given, weights of another net to copy in, and a new shape of blob "data"."""

    name: str
    prototxt: str
    weights_of: str = ""  # prototxt of the net whose saved weights are loaded
    reshaped: Shape = ()


def _conv(outputs: int, kernel: int) -> str:
    return layer(
        "conv", "Convolution", "data", "conv", f"convolution_param {{ num_output: {outputs} kernel_size: {kernel} }}"
    )


def refused_cases() -> list[Refused]:
    data = inputs(data=(2, 4, 5, 6))
    small = inputs(data=(2, 4, 5, 6), other=(2, 4, 5, 5))
    dense = inputs(data=(2, 6)) + layer("fc", "InnerProduct", "data", "fc", "inner_product_param { num_output: 3 }")
    return [
        Refused("unknown_type", data + layer("odd", "NoSuchLayer", "data", "out")),
        Refused("unknown_bottom", data + layer("act", "ReLU", "missing", "out")),
        Refused("duplicate_top", data + layer("a", "ReLU", "data", "out") + layer("b", "TanH", "data", "out")),
        Refused("unknown_field", data + layer("act", "ReLU", "data", "out", "no_such_param { }")),
        Refused("syntax", data + 'layer { name: "act" type: "ReLU" bottom: "data" top: '),
        Refused("wrong_enum", data + layer("p", "Pooling", "data", "p", "pooling_param { pool: MIN kernel_size: 2 }")),
        Refused("too_few_bottoms", data + layer("sum", "Eltwise", "data", "sum")),
        Refused("too_many_tops", data + layer("act", "ReLU", "data", "x y")),
        Refused("concat_mismatch", small + layer("join", "Concat", "data other", "join")),
        Refused("eltwise_mismatch", small + layer("sum", "Eltwise", "data other", "sum")),
        Refused("slice_uneven", data + layer("cut", "Slice", "data", "x y z")),
        Refused("slice_points_of_wrong_number", data
                + layer("cut", "Slice", "data", "x y", "slice_param { slice_point: 1 slice_point: 2 }")),
        Refused("group_does_not_divide_channels", data
                + _conv(6, 1).replace("kernel_size", "group: 3 kernel_size")),
        Refused("group_does_not_divide_outputs", data
                + _conv(3, 1).replace("kernel_size", "group: 2 kernel_size")),
        Refused("convolution_without_kernel", data
                + layer("c", "Convolution", "data", "c", "convolution_param { num_output: 3 }")),
        Refused("pooling_without_kernel", data + layer("p", "Pooling", "data", "p", "pooling_param { stride: 2 }")),
        Refused("pooling_pad_not_below_kernel", data
                + layer("p", "Pooling", "data", "p", "pooling_param { kernel_size: 2 pad: 2 }")),
        Refused("pooling_of_two_axes", inputs(data=(2, 4))
                + layer("p", "Pooling", "data", "p", "pooling_param { kernel_size: 1 }")),
        Refused("even_lrn", data + layer("n", "LRN", "data", "n", "lrn_param { local_size: 4 }")),
        Refused("reshape_of_other_size", data
                + layer("r", "Reshape", "data", "r", "reshape_param { shape { dim: 2 dim: 7 } }")),
        Refused("reshape_two_inferred", data
                + layer("r", "Reshape", "data", "r", "reshape_param { shape { dim: -1 dim: -1 } }")),
        Refused("reshape_in_place", data
                + layer("r", "Reshape", "data", "data", "reshape_param { shape { dim: 2 dim: -1 } }")),
        Refused("flatten_in_place", data + layer("f", "Flatten", "data", "data")),
        Refused("crop_larger", small + layer("c", "Crop", "other data", "c")),
        Refused("crop_offset_outside", small
                + layer("c", "Crop", "data other", "c", "crop_param { axis: 3 offset: 2 }")),
        Refused("axis_outside", data + layer("s", "Softmax", "data", "s", "softmax_param { axis: 4 }")),
        Refused("scale_shape_mismatch", small + layer("s", "Scale", "data other", "s", "scale_param { axis: 0 }")),
        Refused("coefficients_of_wrong_number", data
                + layer("sum", "Eltwise", "data data", "sum", "eltwise_param { coeff: 1 }")),
        Refused("negative_dimension", inputs(data=(2, -1))),
        Refused("input_without_shape", 'input: "data"\n' + layer("act", "ReLU", "data", "out")),
        Refused("weights_of_other_shape", data + _conv(3, 3), data + _conv(3, 2)),
        Refused("weights_of_other_number", data + _conv(3, 3),
                data + _conv(3, 3).replace("kernel_size: 3", "kernel_size: 3 bias_term: false")),
        Refused("dense_after_reshape", dense, reshaped=(2, 7)),
    ]  # fmt: skip
