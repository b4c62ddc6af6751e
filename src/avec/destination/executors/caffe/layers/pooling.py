"""Pooling, with Caffe's own output sizes and divisors, and LRN. Source: caffe/src/caffe/layers/pooling_layer.cpp."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from avec.destination.executors.caffe.layers.layer import Layer, Operation, Pass, Prepared, Shape, differentiated
from avec.formats.caffe.message import message_class

LOWEST = float(np.finfo(np.float32).min)  # what Caffe's MAX starts from, and gives for a window outside the image
PYRAMID_LIMIT = 10  # levels: the tenth has 512 × 512 windows


@dataclass(frozen=True, slots=True)
class Windows:
    """The windows of a pooling layer; each pair is (height, width)."""

    size: Shape
    kernel: Shape
    stride: Shape
    pad: Shape
    pooled: Shape

    @property
    def overhang(self) -> Shape:
        """How far the last window reaches beyond the image, padding before it not counted."""
        spans = zip(self.pooled, self.stride, self.kernel, self.size, self.pad, strict=True)
        return tuple(max((p - 1) * s + k - n - a, 0) for p, s, k, n, a in spans)

    @property
    def native(self) -> bool:
        """Whether torch's ceil mode makes these very windows: it refuses wide padding and drops windows outside."""
        spans = list(zip(self.pooled, self.stride, self.kernel, self.size, self.pad, strict=True))
        return all(
            2 * a <= k and (p - 1) * s < n + a and p == -(-(n + 2 * a - k) // s) + 1 for p, s, k, n, a in spans
        ) and all(n + 2 * a >= k for _, _, k, n, a in spans)


def _pair(layer: Layer, name: str, height: str, width: str) -> Shape:
    """A setting given once, or as height and width; both ways at once, or half of one, are refused."""
    setting = layer.setting("pooling_param")
    sides = [setting.HasField(height), setting.HasField(width)]
    if not any(sides):
        return (getattr(setting, name),) * 2
    layer.require(all(sides), f"{height} and {width} go together; only one is given")
    layer.require(not setting.HasField(name), f"{name} is given beside {height} and {width}; keep one way")
    return getattr(setting, height), getattr(setting, width)


def windows(layer: Layer, shape: Shape) -> Windows:
    """Read and check PoolingParameter against the bottom's shape."""
    setting = layer.setting("pooling_param")
    layer.require(len(shape) == 4, f"the bottom must have 4 axes, not shape {shape}")
    layer.require_values(shape, 1)
    kernel = _pair(layer, "kernel_size", "kernel_h", "kernel_w")
    stride = _pair(layer, "stride", "stride_h", "stride_w")
    pad = _pair(layer, "pad", "pad_h", "pad_w")
    size = shape[2:]
    if setting.global_pooling:
        layer.require(kernel == (0, 0), "global_pooling takes the whole image: no kernel size may be given")
        layer.require(pad == (0, 0) and stride == (1, 1), "global_pooling needs pad 0 and stride 1")
        kernel = size
    layer.require(min(kernel) > 0, f"the kernel must be positive, not {kernel}")
    layer.require(min(stride) > 0, f"the stride must be positive, not {stride}")
    layer.require(all(p < k for p, k in zip(pad, kernel, strict=True)), f"pad {pad} must be under kernel {kernel}")
    floor = setting.round_mode == setting.FLOOR
    pooled = tuple(_pooled(n, k, s, p, any(pad), floor) for n, k, s, p in zip(size, kernel, stride, pad, strict=True))
    layer.require(min(pooled) > 0, f"kernel {kernel} does not fit a bottom of shape {shape}")
    return Windows(size, kernel, stride, pad, pooled)


def _pooled(size: int, kernel: int, stride: int, pad: int, padded: bool, floor: bool) -> int:
    """Windows along one axis; with padding the last one must begin inside the image or the padding before it."""
    room = size + 2 * pad - kernel
    count = (room // stride if floor else -(-room // stride)) + 1
    return count - 1 if padded and (count - 1) * stride >= size + pad else count


def pooling(layer: Layer, bottoms: Sequence[Shape], device: torch.device) -> Prepared:
    setting = layer.setting("pooling_param")
    found = windows(layer, bottoms[0])
    if setting.pool == setting.STOCHASTIC:
        return _stochastic(layer, bottoms[0], found)
    if setting.pool == setting.AVE:
        layer.require(len(layer.tops) == 1, "a second top (the mask) is for MAX pooling")
        operation = _average(found, device)
    else:
        if found.native and len(layer.tops) == 1:
            return _native_maximum(layer, bottoms[0], found)
        operation = _maximum_with_mask(found) if len(layer.tops) == 2 else _maximum(found)
    return Prepared(operation, [(*bottoms[0][:2], *found.pooled)] * len(layer.tops))


def _native_maximum(layer: Layer, shape: Shape, w: Windows) -> Prepared:
    """MAX pooling that keeps the places of the maxima where a backward pass will want them."""

    def operation(x: Tensor) -> Tensor:
        if not layer.needs_backward:
            return torch.max_pool2d(x, w.kernel, w.stride, w.pad, 1, True)
        y, layer.state["places"] = torch.ops.aten.max_pool2d_with_indices(x, w.kernel, w.stride, w.pad, 1, True)
        return cast(Tensor, y)

    def gradient(given: Pass) -> Sequence[Tensor | None]:
        places = layer.kept("places")
        return (
            torch.ops.aten.max_pool2d_with_indices_backward(
                given.diffs[0], given.bottoms[0], w.kernel, w.stride, w.pad, (1, 1), True, places
            ),
        )

    return Prepared(operation, [(*shape[:2], *w.pooled)], gradient)


def _maximum(w: Windows) -> Operation:
    def padded(x: Tensor) -> Tensor:
        y = torch.max_pool2d(_surround(x, w, LOWEST), w.kernel, w.stride)
        return y[:, :, : w.pooled[0], : w.pooled[1]].contiguous()

    return padded


def _maximum_with_mask(w: Windows) -> Operation:
    """MAX pooling whose second top holds the place of each maximum in its image, −1 where the window is outside."""
    width = w.size[1] + w.pad[1] + w.overhang[1]

    def operation(x: Tensor) -> tuple[Tensor, Tensor]:
        y, place = F.max_pool2d(_surround(x, w, LOWEST), w.kernel, w.stride, return_indices=True)
        y, place = (t[:, :, : w.pooled[0], : w.pooled[1]].contiguous() for t in (y, place))
        row, column = place // width - w.pad[0], place % width - w.pad[1]
        mask = (row * w.size[1] + column).to(x.dtype)
        return y, torch.where(y == LOWEST, torch.full_like(mask, -1.0), mask)

    return operation


def _stochastic(layer: Layer, shape: Shape, w: Windows) -> Prepared:
    """One value of each window, as likely as it is large; without training the mean weighted by the values."""
    layer.require(w.pad == (0, 0), "padding is for MAX and AVE pooling")
    layer.require(len(layer.tops) == 1, "a second top (the mask) is for MAX pooling")
    top = (*shape[:2], *w.pooled)
    spread = (*shape[:2], math.prod(w.kernel), math.prod(w.pooled))

    def values(x: Tensor) -> Tensor:
        """The values of each window, zeros where it reaches beyond the image."""
        columns = F.unfold(_surround(x, w, 0.0), w.kernel, stride=w.stride)
        rows = [(n + o - k) // s + 1 for n, o, k, s in zip(w.size, w.overhang, w.kernel, w.stride, strict=True)]
        whole = columns.view(*spread[:3], *rows)[..., : w.pooled[0], : w.pooled[1]]
        return whole.reshape(spread)

    def weighted(x: Tensor) -> Tensor:
        found = values(x)
        total = found.sum(2)
        return torch.where(total > 0, (found * found).sum(2) / total, 0.0).view(top)

    def drawn(x: Tensor) -> Tensor:
        found = values(x)
        running = found.cumsum(2)
        draw = torch.empty_like(running[:, :, -1:]).uniform_(generator=layer.random)
        place = (running >= draw * running[:, :, -1:]).to(torch.uint8).argmax(2, keepdim=True)
        layer.state["place"] = place
        return found.gather(2, place).view(top)

    def gradient(given: Pass) -> Sequence[Tensor | None]:
        place = layer.kept("place")
        return differentiated(lambda x: values(x).gather(2, place).view(top))(given)

    return Prepared(drawn, [top], gradient) if layer.training else Prepared(weighted, [top])


def spatial_pyramid_pooling(layer: Layer, bottoms: Sequence[Shape], device: torch.device) -> Prepared:
    """Pooling to 1, 2 × 2, 4 × 4… windows, one after another in one row. Source: …/layers/spp_layer.cpp."""
    setting, shape = layer.setting("spp_param"), bottoms[0]
    layer.require(len(shape) == 4 and min(shape[2:]) > 0, f"the bottom must be (N, C, height, width), not {shape}")
    height: int = setting.pyramid_height
    layer.require(0 < height <= PYRAMID_LIMIT, f"pyramid_height must be 1 to {PYRAMID_LIMIT}, not {height}")
    parts = [_level(layer, shape, 2**level) for level in range(height)]
    levels = [pooling(part, bottoms, device) for part in parts]
    operations = [cast(Callable[[Tensor], Tensor], level.operation) for level in levels]
    gradients = [level.gradient or differentiated(level.operation) for level in levels]
    sizes = [math.prod(level.tops[0][1:]) for level in levels]

    def operation(x: Tensor) -> Tensor:
        for part in parts:
            part.needs_backward = layer.needs_backward
        pooled = [pool(x) for pool in operations]
        return torch.cat([each.flatten(1) for each in pooled], 1) if height > 1 else pooled[0]

    def gradient(given: Pass) -> Sequence[Tensor | None]:
        total: Tensor | None = None
        diffs = torch.split(given.diffs[0].flatten(1), sizes, 1)
        for level, level_gradient, diff in zip(levels, gradients, diffs, strict=True):
            own = diff.reshape(level.tops[0])
            (found,) = level_gradient(Pass(given.bottoms, [], [own], (), given.wanted))
            total = found if total is None or found is None else total + found
        return (total,)

    tops = [(shape[0], sum(sizes))] if height > 1 else levels[0].tops
    return Prepared(operation, tops, gradient)


def _level(layer: Layer, shape: Shape, bins: int) -> Layer:
    """The pooling layer of one level. Source: SPPLayer::GetPoolingParam."""
    definition = message_class("LayerParameter")(name=layer.name, type=layer.type)
    setting = definition.pooling_param
    setting.pool = layer.setting("spp_param").pool  # the enums' values agree
    for side, size in (("h", shape[2]), ("w", shape[3])):
        kernel = -(-size // bins)
        setattr(setting, f"kernel_{side}", kernel)
        setattr(setting, f"stride_{side}", kernel)
        setattr(setting, f"pad_{side}", (kernel * bins - size + 1) // 2)
    return Layer(layer.name, layer.type, definition, layer.bottoms, layer.tops, layer.training, random=layer.random)


def _average(w: Windows, device: torch.device) -> Operation:
    if w.native:

        def native(x: Tensor) -> Tensor:
            return F.avg_pool2d(x, w.kernel, w.stride, w.pad, True, True)

        return native
    divisors = torch.outer(*(torch.tensor(_divisors(w, axis), dtype=torch.float32) for axis in (0, 1))).to(device)

    def padded(x: Tensor) -> Tensor:
        total = F.avg_pool2d(_surround(x, w, 0.0), w.kernel, w.stride, divisor_override=1)
        return total[:, :, : w.pooled[0], : w.pooled[1]] / divisors

    return padded


def _divisors(w: Windows, axis: int) -> list[int]:
    """How many places of each window count: padding does, what lies beyond the padding does not."""
    starts = [i * w.stride[axis] - w.pad[axis] for i in range(w.pooled[axis])]
    return [min(start + w.kernel[axis], w.size[axis] + w.pad[axis]) - start for start in starts]


def _surround(x: Tensor, w: Windows, value: float) -> Tensor:
    return F.pad(x, (w.pad[1], w.overhang[1], w.pad[0], w.overhang[0]), value=value)


def lrn(layer: Layer, bottoms: Sequence[Shape], device: torch.device) -> Prepared:
    """Local response normalisation. Source: caffe/src/caffe/layers/lrn_layer.cpp."""
    setting = layer.setting("lrn_param")
    size: int = setting.local_size
    alpha: float = setting.alpha
    beta: float = setting.beta
    k: float = setting.k
    layer.require(size % 2 == 1, f"local_size must be odd, not {size}")
    layer.require(len(bottoms[0]) == 4, f"the bottom must have 4 axes, not shape {bottoms[0]}")
    layer.require_values(bottoms[0], 1)
    reach = (size - 1) // 2

    def within_channel(x: Tensor) -> Tensor:
        mean = F.avg_pool2d(x * x, size, 1, reach)
        return x * (mean * alpha + 1.0).pow(-beta)

    def across_channels(x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        mean = F.avg_pool2d((x * x).view(n, 1, c, h * w), (size, 1), 1, (reach, 0)).view(n, c, h, w)
        return x * (mean * alpha + k).pow(-beta)

    within = setting.norm_region == setting.WITHIN_CHANNEL
    return Prepared(within_channel if within else across_channels, bottoms)
