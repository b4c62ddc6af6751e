"""Layers without bottoms that fill their tops here. Source: …/layers/dummy_data_layer.cpp, parameter_layer.hpp."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from avec.destination.executors.caffe.layers.elementwise import constant_filler
from avec.destination.executors.caffe.layers.fillers import fill
from avec.destination.executors.caffe.layers.layer import Layer, ParameterSpec, Prepared, Shape
from avec.errors import InvalidArgument
from avec.formats.caffe.message import Message


def _shapes(layer: Layer) -> list[Shape]:
    setting, tops = layer.setting("dummy_data_param"), len(layer.tops)
    legacy = [list(getattr(setting, name)) for name in ("num", "channels", "height", "width")]
    if not any(legacy):
        shapes = [tuple(shape.dim) for shape in setting.shape]
        layer.require(len(shapes) in (1, tops), f"{len(shapes)} shapes for {tops} tops: give one for all or for each")
        return shapes if len(shapes) == tops else shapes * tops
    layer.require(not len(setting.shape), "shape is given beside num, channels, height and width; keep shape")
    for sizes in legacy:
        layer.require(len(sizes) in (1, tops), f"sizes {legacy} for {tops} tops: give each once, or once for each top")
    return [tuple(sizes[top if len(sizes) > 1 else 0] for sizes in legacy) for top in range(tops)]


def _fillers(layer: Layer) -> list[Message]:
    fillers, tops = list(layer.setting("dummy_data_param").data_filler), len(layer.tops)
    layer.require(len(fillers) in (0, 1, tops), f"{len(fillers)} fillers for {tops} tops: give none, one, or one each")
    return fillers if len(fillers) == tops else (fillers or [constant_filler(0.0)]) * tops


def dummy_data(layer: Layer, bottoms: Sequence[Shape], device: torch.device) -> Prepared:
    """Constants stay what they are; random values are drawn anew in each pass, from the net's seed."""
    shapes, fillers = _shapes(layer), _fillers(layer)
    for shape in shapes:
        layer.require(min(shape, default=0) >= 0, f"shape {shape} has a negative dimension")
    generator = layer.filling or torch.Generator()

    def filled(filler: Message, shape: Shape) -> Tensor:
        try:
            return fill(filler, shape, generator).to(device)
        except InvalidArgument as exc:
            layer.refuse(str(exc))

    constants = [filled(f, s) if f.type == "constant" else None for f, s in zip(fillers, shapes, strict=True)]

    def operation() -> Tensor | list[Tensor]:
        made = [
            filled(filler, shape) if constant is None else constant.clone()
            for filler, shape, constant in zip(fillers, shapes, constants, strict=True)
        ]
        return made if len(made) > 1 else made[0]

    return Prepared(operation, shapes)


def parameter_parameters(layer: Layer, bottoms: Sequence[Shape]) -> list[ParameterSpec]:
    return [ParameterSpec(tuple(layer.setting("parameter_param").shape.dim), constant_filler(0.0))]


def parameter(layer: Layer, bottoms: Sequence[Shape], device: torch.device) -> Prepared:
    """A learnable array as a blob, whose memory the blob is."""

    def operation(values: Tensor) -> Tensor:
        return values.view_as(values)

    return Prepared(operation, [tuple(layer.parameters[0].shape)])


def from_the_host(layer: Layer, bottoms: Sequence[Shape], device: torch.device) -> Prepared:
    """A layer that the host runs; it is never prepared, for its tops' shapes come from there."""
    raise AssertionError(f"{layer.kind} is run by the host")
