"""Layers that move values or give them another shape: inputs, splits, joins, cuts, views."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

from avec.destination.executors.caffe.layers.layer import Layer, Pass, Prepared, Shape, elementwise


def input_shapes(layer: Layer) -> list[Shape]:
    """The shapes that an Input layer gives its tops. Source: caffe/src/caffe/layers/input_layer.cpp."""
    shapes = [tuple(shape.dim) for shape in layer.setting("input_param").shape]
    layer.require(
        len(shapes) in (0, 1, len(layer.tops)),
        f"{len(shapes)} shapes for {len(layer.tops)} tops: give one for all, one for each, or none",
    )
    if not shapes:
        return [(0,) for _ in layer.tops]
    return shapes * len(layer.tops) if len(shapes) == 1 else shapes


def given(layer: Layer, bottoms: Sequence[Shape], device: torch.device) -> Prepared:
    """Input: its tops hold what the application wrote."""

    def operation() -> Sequence[Tensor]:
        return ()

    return Prepared(operation, [])


def split(layer: Layer, bottoms: Sequence[Shape], device: torch.device) -> Prepared:
    layer.require(not layer.in_place, "in-place computation is not allowed")
    count = len(layer.tops)

    def operation(x: Tensor) -> Tensor | list[Tensor]:
        return [x] * count if count > 1 else x

    def gradient(given: Pass) -> Sequence[Tensor | None]:
        return (reduce(torch.add, given.diffs) if count > 1 else given.diffs[0],)

    return Prepared(operation, [bottoms[0]] * count, gradient)


def _either_axis(layer: Layer, holder: str, old: str, shape: Shape) -> int:
    """The axis of Concat and Slice, which has an older unsigned name too."""
    setting = layer.setting(holder)
    if not setting.HasField(old):
        return layer.axis(setting.axis, shape)
    layer.require(not setting.HasField("axis"), f"axis and {old} are both given; keep axis")
    return layer.axis(getattr(setting, old), shape)


def concat(layer: Layer, bottoms: Sequence[Shape], device: torch.device) -> Prepared:
    axis = _either_axis(layer, "concat_param", "concat_dim", bottoms[0])
    for other in bottoms[1:]:
        same = len(other) == len(bottoms[0]) and all(
            a == b for i, (a, b) in enumerate(zip(other, bottoms[0], strict=True)) if i != axis
        )
        layer.require(same, f"bottoms of shapes {bottoms[0]} and {other} differ beyond axis {axis}")
    if len(bottoms) == 1:
        return Prepared(_identity, bottoms, elementwise(lambda x, y, dy: dy))
    sizes = [shape[axis] for shape in bottoms]

    def operation(*tensors: Tensor) -> Tensor:
        return torch.cat(tensors, axis)

    def gradient(given: Pass) -> Sequence[Tensor | None]:
        return torch.split(given.diffs[0], sizes, axis)

    return Prepared(operation, [_with(bottoms[0], axis, sum(sizes))], gradient)


def _with(shape: Shape, axis: int, size: int) -> Shape:
    return (*shape[:axis], size, *shape[axis + 1 :])


def _identity(x: Tensor) -> Tensor:
    return x


def one_bottom(layer: Layer) -> bool:
    return len(layer.bottoms) == 1


def one_top(layer: Layer) -> bool:
    return len(layer.tops) == 1


def always(layer: Layer) -> bool:
    return True


def slice_(layer: Layer, bottoms: Sequence[Shape], device: torch.device) -> Prepared:
    axis = _either_axis(layer, "slice_param", "slice_dim", bottoms[0])
    total, tops = bottoms[0][axis], len(layer.tops)
    points = list(layer.setting("slice_param").slice_point)
    if points:
        layer.require(len(points) == tops - 1, f"{len(points)} slice points for {tops} tops; {tops - 1} are needed")
        edges = [0, *points, total]
        layer.require(
            all(a < b for a, b in zip(edges, edges[1:], strict=False)),
            f"slice points {points} must rise within 0 to {total}",
        )
        sizes = [b - a for a, b in zip(edges, edges[1:], strict=False)]
    else:
        layer.require(total % tops == 0, f"{total} values on axis {axis} do not divide into {tops} tops")
        sizes = [total // tops] * tops
    if tops == 1:
        return Prepared(_identity, bottoms, elementwise(lambda x, y, dy: dy))

    def gradient(given: Pass) -> Sequence[Tensor | None]:
        return (torch.cat(list(given.diffs), axis),)

    def operation(x: Tensor) -> list[Tensor]:
        return [piece.clone(memory_format=torch.contiguous_format) for piece in torch.split(x, sizes, axis)]

    return Prepared(operation, [_with(bottoms[0], axis, size) for size in sizes], gradient)


def crop(layer: Layer, bottoms: Sequence[Shape], device: torch.device) -> Prepared:
    """Cut the first bottom to the second's size, from `axis` on."""
    setting = layer.setting("crop_param")
    shape, size = bottoms
    axis = layer.axis(setting.axis, shape)
    offsets = list(setting.offset)
    layer.require(len(size) >= len(shape), f"the second bottom, of shape {size}, has fewer axes than {shape}")
    layer.require(
        len(offsets) <= 1 or axis + len(offsets) == len(shape),
        f"{len(offsets)} offsets for the {len(shape) - axis} axes from axis {axis} on: give one, or one for each",
    )
    starts = (offsets or [0]) * (len(shape) - axis) if len(offsets) < 2 else offsets
    for index, start in enumerate(starts, axis):
        layer.require(
            start + size[index] <= shape[index],
            f"a crop of {size[index]} at offset {start} leaves axis {index} of shape {shape}",
        )
    cut = (slice(None),) * axis + tuple(slice(s, s + size[i]) for i, s in enumerate(starts, axis))

    def operation(x: Tensor, reference: Tensor) -> Tensor:
        return x[cut].clone(memory_format=torch.contiguous_format)

    return Prepared(operation, [(*shape[:axis], *size[axis : len(shape)])])


def flatten(layer: Layer, bottoms: Sequence[Shape], device: torch.device) -> Prepared:
    layer.require(not layer.in_place, "in-place computation is not allowed")
    setting, shape = layer.setting("flatten_param"), bottoms[0]
    start, end = layer.axis(setting.axis, shape), layer.axis(setting.end_axis, shape)
    layer.require(start <= end + 1, f"axis {start} is after end_axis {end}")
    return _view(shape, (*shape[:start], math.prod(shape[start : end + 1]), *shape[end + 1 :]))


def _view(bottom: Shape, top: Shape) -> Prepared:
    def operation(x: Tensor) -> Tensor:
        return x.view(top)

    return Prepared(operation, [top], elementwise(lambda x, y, dy: dy.view(bottom)))


def reshape(layer: Layer, bottoms: Sequence[Shape], device: torch.device) -> Prepared:
    """Give some axes another shape: 0 copies the axis, −1 is inferred. Source: …/layers/reshape_layer.cpp."""
    layer.require(not layer.in_place, "in-place computation is not allowed")
    setting, shape = layer.setting("reshape_param"), bottoms[0]
    start = setting.axis if setting.axis >= 0 else len(shape) + setting.axis + 1
    layer.require(0 <= start <= len(shape), f"axis {setting.axis} is out of range for shape {shape}")
    layer.require(setting.num_axes >= -1, f"num_axes must be −1 or more, not {setting.num_axes}")
    end = len(shape) if setting.num_axes == -1 else start + setting.num_axes
    layer.require(end <= len(shape), f"axis {start} and num_axes {setting.num_axes} go beyond shape {shape}")
    target = [*shape[:start], *_copied_axes(layer, shape, start), *shape[end:]]
    layer.require(target.count(-1) <= 1, "shape has more than one −1")
    layer.require(min(target, default=0) >= -1, f"shape {target} has a negative dimension")
    rest = math.prod(dimension for dimension in target if dimension != -1)
    if -1 in target:
        layer.require(
            rest > 0 and math.prod(shape) % rest == 0, f"shape {target} does not divide a bottom of shape {shape}"
        )
        target[target.index(-1)] = math.prod(shape) // rest
    layer.require(math.prod(target) == math.prod(shape), f"shape {target} holds another number of values than {shape}")
    return _view(shape, tuple(target))


def _copied_axes(layer: Layer, shape: Shape, start: int) -> list[int]:
    dims = list(layer.setting("reshape_param").shape.dim)
    for index, dimension in enumerate(dims):
        if dimension == 0:
            layer.require(start + index < len(shape), f"shape has a 0 at {index}, where the bottom {shape} has no axis")
            dims[index] = shape[start + index]
    return dims
