"""Layers that choose, repeat or look up items. Source: the files of these names in caffe/src/caffe/layers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from avec.destination.executors.caffe.layers.layer import Layer, ParameterSpec, Pass, Prepared, Shape


def arg_max(layer: Layer, bottoms: Sequence[Shape], device: torch.device) -> Prepared:
    """The places (or values) of the top_k largest; of equal ones the last comes first, as Caffe sorts."""
    setting, shape = layer.setting("argmax_param"), bottoms[0]
    top_k, with_values, along = setting.top_k, setting.out_max_val, setting.HasField("axis")
    axis = layer.axis(setting.axis, shape) if along else 1
    length = shape[axis] if along else math.prod(shape[1:])
    layer.require(1 <= top_k <= length, f"top_k must be 1 to {length}, not {top_k}")
    if along:
        top: Shape = (*shape[:axis], top_k, *shape[axis + 1 :])
    else:
        top = (shape[0], 2 if with_values else 1, top_k, *(1 for _ in shape[3:]))

    def operation(x: Tensor) -> Tensor:
        rows = x.movedim(axis, -1) if along else x.reshape(shape[0], length)
        order = torch.sort(rows.flip(-1), dim=-1, descending=True, stable=True)
        values, places = order.values[..., :top_k], (length - 1 - order.indices[..., :top_k]).to(x.dtype)
        if along:
            return (values if with_values else places).movedim(-1, axis).contiguous()
        return (torch.stack([places, values], 1) if with_values else places).reshape(top)

    return Prepared(operation, [top])


def batch_reindex(layer: Layer, bottoms: Sequence[Shape], device: torch.device) -> Prepared:
    """Items of the first bottom in the order that the second tells; some may come often, others never."""
    shape, chosen = bottoms
    layer.require(len(chosen) == 1, f"the index must have 1 axis, not shape {chosen}")
    layer.require(len(shape) > 0, "the bottom has no axes")

    def operation(x: Tensor, index: Tensor) -> Tensor:
        return x.index_select(0, _checked(layer, index, shape[0]))

    return Prepared(operation, [(*chosen, *shape[1:])])


def _checked(layer: Layer, index: Tensor, count: int) -> Tensor:
    """An index out of range would end a GPU's whole context."""
    places = index.detach().reshape(-1).long()
    if places.numel() and bool(((places < 0) | (places >= count)).any()):
        layer.refuse(f"indices reach from {int(places.min())} to {int(places.max())}; 0 to {count - 1} is allowed")
    return places


def embed_parameters(layer: Layer, bottoms: Sequence[Shape]) -> list[ParameterSpec]:
    setting = layer.setting("embed_param")
    layer.require(setting.num_output > 0, "num_output must be positive")
    layer.require(setting.input_dim > 0, "input_dim must be positive")
    found = [ParameterSpec((setting.input_dim, setting.num_output), setting.weight_filler)]
    if setting.bias_term:
        found.append(ParameterSpec((setting.num_output,), setting.bias_filler))
    return found


def embed(layer: Layer, bottoms: Sequence[Shape], device: torch.device) -> Prepared:
    """A row of the weights for each value of the bottom."""
    top = (*bottoms[0], layer.parameters[0].shape[1])

    def operation(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        rows = F.embedding(_checked(layer, x, weight.shape[0]), weight).view(top)
        return rows if bias is None else rows + bias

    return Prepared(operation, [top])


def filter_(layer: Layer, bottoms: Sequence[Shape], device: torch.device) -> Prepared:
    """The items of each bottom for which the last bottom, the selector, is not 0."""
    *filtered, selector = bottoms
    layer.require(set(layer.tops).isdisjoint(layer.bottoms), "in-place computation is not allowed")
    layer.require(len(layer.tops) == len(filtered), f"{len(layer.tops)} tops for {len(filtered)} bottoms to filter")
    layer.require(math.prod(selector[1:]) == 1, f"the selector has shape {selector}; only its first axis may be over 1")
    for shape in filtered:
        layer.require(shape[:1] == selector[:1], f"bottom of shape {shape} and selector of {selector} differ in items")

    def operation(*tensors: Tensor) -> Tensor | list[Tensor]:
        chosen = tensors[-1].detach().reshape(-1).nonzero().reshape(-1)
        found = [tensor.index_select(0, chosen) for tensor in tensors[:-1]]
        return found if len(found) > 1 else found[0]

    return Prepared(operation, filtered)


def tile(layer: Layer, bottoms: Sequence[Shape], device: torch.device) -> Prepared:
    """The bottom several times, one after another along an axis."""
    setting, shape = layer.setting("tile_param"), bottoms[0]
    axis, tiles = layer.axis(setting.axis, shape), setting.tiles
    layer.require(tiles > 0, f"tiles must be positive, not {tiles}")
    repeats = [tiles if place == axis else 1 for place in range(len(shape))]
    tiled = (*shape[:axis], tiles, *shape[axis:])

    def operation(x: Tensor) -> Tensor:
        return x.repeat(repeats)

    def gradient(given: Pass) -> Sequence[Tensor | None]:
        return (given.diffs[0].view(tiled).sum(axis),)

    return Prepared(operation, [(*shape[:axis], tiles * shape[axis], *shape[axis + 1 :])], gradient)
