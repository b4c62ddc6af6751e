"""Where a point of one top lies in another: maps along the layers between them, and the Crop layer that aligns two.

A map (axis, scale, shift) says that point x of a layer's input is point scale * x + shift of its output, from `axis`
on; (None, 1, 0) is the identity. Source: caffe/python/caffe/coord_map.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from .net_spec import Function, Top, layers

Array: TypeAlias = npt.NDArray[Any]
Number: TypeAlias = int | float | Array  # one for all axes, or one for each
Map: TypeAlias = tuple[int | None, Number, Number]

PASS_THROUGH_LAYERS = [
    "AbsVal", "BatchNorm", "Bias", "BNLL", "Dropout", "Eltwise", "ELU", "Log", "LRN", "Exp", "MVN", "Power", "ReLU",
    "PReLU", "Scale", "Sigmoid", "Split", "TanH", "Threshold",
]  # fmt: skip

_IDENTITY: Map = (None, 1, 0)
_LEGACY = {"pad_h", "pad_w", "kernel_h", "kernel_w", "stride_h", "stride_w"}


class UndefinedMapException(Exception):
    """A layer of this type does not map coordinates."""


class AxisMismatchException(Exception):
    """Two maps begin at different axes."""


def conv_params(fn: Function) -> tuple[int, Array, Array, Array]:
    """Axis, stride, extent of the (dilated) kernel and padding of a Convolution, Deconvolution, Im2col or Pooling."""
    params = fn.params.get("convolution_param", fn.params)
    legacy = _LEGACY & set(fn.params)
    if legacy:
        raise AssertionError(f"cropping does not support legacy _h/_w params: {', '.join(sorted(legacy))}")
    kernel, dilation = _each(params["kernel_size"]), _each(params.get("dilation", 1))
    extent = (kernel - 1) * dilation + 1
    return params.get("axis", 1), _each(params.get("stride", 1)), extent, _each(params.get("pad", 0))


def crop_params(fn: Function) -> tuple[int, Array]:
    """First cropped axis and offset of a Crop."""
    params = fn.params.get("crop_param", fn.params)
    return params.get("axis", 2), _each(params.get("offset", 0))


def _each(value: Any) -> Array:
    return np.array(value, ndmin=1)


def coord_map(fn: Function) -> Map:
    """The map of one layer.

    Raises:
        UndefinedMapException: layers of its type have none.
    """
    if fn.type_name in ("Convolution", "Pooling", "Im2col"):
        axis, stride, extent, pad = conv_params(fn)
        return axis, 1 / stride, (pad - (extent - 1) / 2) / stride
    if fn.type_name == "Deconvolution":
        axis, stride, extent, pad = conv_params(fn)
        return axis, stride, (extent - 1) / 2 - pad
    if fn.type_name in PASS_THROUGH_LAYERS:
        return _IDENTITY
    if fn.type_name == "Crop":
        axis, offset = crop_params(fn)
        return axis - 1, 1, -offset
    raise UndefinedMapException(f"{fn.type_name} layers do not map coordinates")


def compose(base_map: Map, next_map: Map) -> Map:
    """One map after another.

    Raises:
        AxisMismatchException: they begin at different axes.
    """
    first, scale, shift = base_map
    second, next_scale, next_shift = next_map
    if first is not None and second is not None and first != second:
        raise AxisMismatchException(f"a map from axis {first} on and one from axis {second} on cannot be composed")
    return second if first is None else first, scale * next_scale, scale * next_shift + shift


def inverse(coord_map: Map) -> Map:
    """The map the other way."""
    axis, scale, shift = coord_map
    return axis, 1 / scale, -shift / scale


def coord_map_from_to(top_from: Top, top_to: Top) -> Map:
    """The map from one top to another, by way of a blob that both depend on.

    Raises:
        RuntimeError: there is none, or layers between that do not map coordinates.
    """
    from_maps = dict(_ancestors(top_from))
    for top, to_map in _ancestors(top_to):
        if top in from_maps:
            return compose(to_map, inverse(from_maps[top]))
    raise RuntimeError("Could not compute map between tops; are they connected by spatial layers?")


def _ancestors(start: Top) -> Iterator[tuple[Top, Map]]:
    """A top and all that it is spatially made from, nearest first, each with the map from it to the start."""
    maps: dict[Top, Map] = {start: _IDENTITY}
    frontier = [start]
    while frontier:
        top = frontier.pop(0)
        yield top, maps[top]
        bottoms = [bottom for bottom in _mapped_bottoms(top.fn) if bottom not in maps]
        try:
            found = {bottom: compose(maps[top], coord_map(top.fn)) for bottom in bottoms}
        except UndefinedMapException:
            continue
        maps.update(found)
        frontier.extend(found)


def _mapped_bottoms(fn: Function) -> tuple[Top, ...]:
    return fn.inputs[:1] if fn.type_name == "Crop" else fn.inputs  # the second only gives the size


def crop(top_from: Top, top_to: Top) -> Any:
    """A Crop layer that cuts from one top what lies over another.

    Raises:
        AssertionError: their scales differ, or the second begins before the first or between its points.
        RuntimeError: see coord_map_from_to.
    """
    axis, scale, shift = coord_map_from_to(top_from, top_to)
    if not np.all(np.equal(scale, 1)):
        raise AssertionError(f"scale mismatch on crop (a = {scale})")
    if not np.all(np.less_equal(shift, 0)):
        raise AssertionError(f"cannot crop negative offset (b = {shift})")
    if not np.all(np.equal(np.round(shift), shift)):
        raise AssertionError(f"cannot crop noninteger offset (b = {shift})")
    first = 1 if axis is None else axis  # only pointwise layers lie between: their points are the same anyway
    offset = [int(each) for each in -np.round(_each(shift))]
    return layers.Crop(top_from, top_to, crop_param={"axis": first + 1, "offset": offset})
