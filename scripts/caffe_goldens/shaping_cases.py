"""The cases of the layer types that only move values: concatenate, slice, split, crop, flatten, reshape."""

from __future__ import annotations

from collections.abc import Iterator

from prototxt import FRAME, Case, Shape, dims, inputs, layer, one_layer


def shaping_cases() -> list[Case]:
    generators = (_concat, _slice, _split, _crop, _flatten, _reshape)
    return [case for generator in generators for case in generator()]


def _concat() -> Iterator[Case]:
    table: dict[str, tuple[list[Shape], str]] = {
        "defaults": ([(2, 3, 4, 5), (2, 1, 4, 5)], ""),
        "three": ([(2, 3, 4), (2, 1, 4), (2, 2, 4)], ""),
        "axis_0": ([(2, 3, 4), (1, 3, 4)], "concat_param { axis: 0 }"),
        "axis_2": ([(2, 3, 4, 5), (2, 3, 1, 5)], "concat_param { axis: 2 }"),
        "axis_last": ([(2, 3, 4), (2, 3, 6)], "concat_param { axis: -1 }"),
        "axis_minus_2": ([(2, 3, 4), (2, 5, 4)], "concat_param { axis: -2 }"),
        "concat_dim_0": ([(2, 3, 4, 5), (3, 3, 4, 5)], "concat_param { concat_dim: 0 }"),
        "concat_dim_1": ([(2, 3, 4, 5), (2, 2, 4, 5)], "concat_param { concat_dim: 1 }"),
        "single": ([(2, 3, 4)], ""),
    }
    for place, (name, (shapes, body)) in enumerate(table.items()):
        blobs = {f"in{number}": shape for number, shape in enumerate(shapes)}
        net = inputs(**blobs) + layer("tested", "Concat", " ".join(blobs), "out", body)
        yield Case("Concat", name, net, 1200 + place)
    net = inputs(a=(2, 3)) + layer("tested", "Concat", "a a a", "out")
    yield Case("Concat", "same_bottom_thrice", net, 1220)


def _slice() -> Iterator[Case]:
    frame = (4, 6, 3, 5)
    table = {
        "even": ("x y", ""),
        "even_three": ("x y z", "slice_param { axis: 1 }"),
        "points": ("x y z", "slice_param { slice_point: 1 slice_point: 4 }"),
        "point": ("x y", "slice_param { axis: 1 slice_point: 2 }"),
        "axis_0": ("x y", "slice_param { axis: 0 slice_point: 3 }"),
        "axis_3": ("x y", "slice_param { axis: 3 slice_point: 1 }"),
        "axis_last": ("x y z", "slice_param { axis: -1 slice_point: 2 slice_point: 3 }"),
        "slice_dim_0": ("x y", "slice_param { slice_dim: 0 }"),
        "single_top": ("x", ""),
    }
    for place, (name, (tops, body)) in enumerate(table.items()):
        yield Case("Slice", name, inputs(data=frame) + layer("tested", "Slice", "data", tops, body), 1300 + place)


def _split() -> Iterator[Case]:
    nets = {
        "explicit": inputs(data=(2, 3)) + layer("tested", "Split", "data", "x y z"),
        "explicit_single": inputs(data=(2, 3)) + layer("tested", "Split", "data", "x"),
        "explicit_then_used": inputs(data=(2, 3))
        + layer("tested", "Split", "data", "x y")
        + layer("act", "ReLU", "x", "x")
        + layer("sum", "Eltwise", "x y", "out"),
        "automatic": inputs(data=(2, 3)) + layer("a", "ReLU", "data", "a") + layer("b", "TanH", "data", "b"),
        "automatic_thrice": inputs(data=(2, 3))
        + layer("a", "ReLU", "data", "a")
        + layer("b", "TanH", "data", "b")
        + layer("sum", "Eltwise", "a b data", "out"),
        "automatic_after_in_place": inputs(data=(2, 3))
        + layer("fc", "InnerProduct", "data", "fc", "inner_product_param { num_output: 4 }")
        + layer("act", "ReLU", "fc", "fc")
        + layer("a", "Sigmoid", "fc", "a")
        + layer("b", "TanH", "fc", "b"),
        "automatic_of_second_top": inputs(data=(2, 4))
        + layer("cut", "Slice", "data", "x y")
        + layer("a", "ReLU", "y", "a")
        + layer("b", "TanH", "y", "b"),
        "automatic_slashes_in_names": inputs(data=(2, 3))
        + layer("block/act", "ReLU", "data", "block/act")
        + layer("block/a", "ReLU", "block/act", "block/a")
        + layer("block/b", "TanH", "block/act", "block/b"),
        "explicit_and_automatic": inputs(data=(2, 3))
        + layer("tested", "Split", "data", "x y")
        + layer("a", "ReLU", "x", "a")
        + layer("b", "TanH", "x", "b"),
    }
    for place, (name, net) in enumerate(nets.items()):
        yield Case("Split", name, net, 1400 + place)


def _crop() -> Iterator[Case]:
    table: dict[str, tuple[Shape, str]] = {
        "defaults": ((1, 1, 4, 6), ""),
        "one_offset": ((1, 1, 4, 6), "crop_param { offset: 2 }"),
        "two_offsets": ((1, 1, 4, 6), "crop_param { axis: 2 offset: 1 offset: 3 }"),
        "axis_1": ((1, 2, 4, 6), "crop_param { axis: 1 offset: 2 offset: 3 offset: 0 }"),
        "axis_3": ((1, 1, 1, 5), "crop_param { axis: 3 offset: 4 }"),
        "axis_last": ((1, 1, 1, 5), "crop_param { axis: -1 offset: 1 }"),
        "axis_0": ((1, 3, 4, 6), "crop_param { axis: 0 offset: 1 offset: 0 offset: 2 offset: 1 }"),
        "same_size": ((2, 4, 7, 9), ""),
    }
    for place, (name, (shape, body)) in enumerate(table.items()):
        net = inputs(data=FRAME, reference=shape) + layer("tested", "Crop", "data reference", "out", body)
        yield Case("Crop", name, net, 1500 + place)


def _flatten() -> Iterator[Case]:
    frame = (2, 3, 4, 5)
    table = {
        "defaults": "",
        "axis_2": "flatten_param { axis: 2 }",
        "axis_0": "flatten_param { axis: 0 }",
        "end_axis": "flatten_param { axis: 1 end_axis: 2 }",
        "axis_0_end_1": "flatten_param { axis: 0 end_axis: 1 }",
        "negative": "flatten_param { axis: -3 end_axis: -2 }",
        "nothing": "flatten_param { axis: 3 }",
    }
    yield from one_layer("Flatten", {name: (frame, body) for name, body in table.items()}, 1600)


def _reshape() -> Iterator[Case]:
    table: dict[str, tuple[Shape, str]] = {
        "explicit": ((2, 3, 4), f"shape {{ {dims((4, 6))} }}"),
        "copied": ((2, 3, 4), f"shape {{ {dims((0, 0, 2, 2))} }}"),
        "inferred": ((2, 3, 4), f"shape {{ {dims((0, -1))} }}"),
        "inferred_first": ((2, 3, 4, 5), f"shape {{ {dims((-1, 5))} }}"),
        "axis": ((2, 3, 4, 5), f"axis: 2 shape {{ {dims((10, 2))} }}"),
        "axis_num_axes": ((2, 12, 4), f"axis: 1 num_axes: 1 shape {{ {dims((3, -1))} }}"),
        "insert": ((2, 3, 4), f"axis: 1 num_axes: 0 shape {{ {dims((1, 1))} }}"),
        "append": ((2, 3, 4), f"axis: -1 shape {{ {dims((1,))} }}"),
        "axis_from_the_end": ((2, 3, 12), f"axis: -2 shape {{ {dims((4, -1))} }}"),
        "drop": ((2, 3, 1, 1), f"axis: 2 num_axes: 2 shape {{ {dims(())} }}"),
        "zero_at_axis": ((2, 3, 8), f"axis: 1 shape {{ {dims((0, 2, -1))} }}"),
    }
    rows = {name: (shape, f"reshape_param {{ {body} }}") for name, (shape, body) in table.items()}
    yield from one_layer("Reshape", rows, 1700)
    net = inputs(data=(2, 6)) + layer("act", "ReLU", "data", "mid") + layer("tested", "Reshape", "mid", "out",
        "reshape_param { shape { dim: 3 dim: 4 } }") + layer("last", "TanH", "out", "end")  # fmt: skip
    yield Case("Reshape", "in_a_chain", net, 1720)
