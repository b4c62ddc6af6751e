"""Convolutions and pooling. Source: onnx/docs/Operators.md"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from avec.destination.executors.onnx.torch_engine.operators.operator import (
    Inputs,
    Node,
    Operator,
    given,
    optional,
)

_CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
_MAX_POOLS = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


def _flat(before: Sequence[int], after: Sequence[int]) -> list[int]:
    """Pads as torch's `pad` takes them: from the last axis on."""
    return [size for pair in zip(reversed(before), reversed(after), strict=True) for size in pair]


def _pads(
    node: Node, sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> tuple[list[int], list[int]]:
    """The padding before and after each axis."""
    mode, axes = node.text("auto_pad", "NOTSET"), len(kernel)
    if mode in ("NOTSET", ""):
        pads = node.integers("pads") or [0] * (2 * axes)
        return pads[:axes], pads[axes:]
    if mode == "VALID":
        return [0] * axes, [0] * axes
    before, after = [], []
    for size, window, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        total = max(0, (-(-size // stride) - 1) * stride + (window - 1) * dilation + 1 - size)
        smaller, larger = total // 2, total - total // 2
        before.append(larger if mode == "SAME_LOWER" else smaller)
        after.append(smaller if mode == "SAME_LOWER" else larger)
    return before, after


def _convolution(node: Node, inputs: Inputs) -> Tensor:
    x, weight, bias = given(inputs, 0), given(inputs, 1), optional(inputs, 2)
    axes = x.ndim - 2
    if axes not in _CONVOLUTIONS:
        raise node.refuse(f"over {axes} axes")
    strides = node.integers("strides") or [1] * axes
    dilations = node.integers("dilations") or [1] * axes
    before, after = _pads(node, x.shape[2:], weight.shape[2:], strides, dilations)
    if before != after:
        x, before = F.pad(x, _flat(before, after)), [0] * axes
    return _CONVOLUTIONS[axes](x, weight, bias, strides, before, dilations, node.integer("group", 1))


def _transposed(node: Node, inputs: Inputs) -> Tensor:
    x, weight, bias = given(inputs, 0), given(inputs, 1), optional(inputs, 2)
    axes = x.ndim - 2
    if axes not in _TRANSPOSED:
        raise node.refuse(f"over {axes} axes")
    kernel = list(weight.shape[2:])
    strides = node.integers("strides") or [1] * axes
    dilations = node.integers("dilations") or [1] * axes
    extra = node.integers("output_padding") or [0] * axes
    full = [
        (size - 1) * stride + (window - 1) * dilation + 1 + more
        for size, stride, window, dilation, more in zip(x.shape[2:], strides, kernel, dilations, extra, strict=True)
    ]
    before, after = _transposed_pads(node, x.shape[2:], strides, full)
    result = _TRANSPOSED[axes](x, weight, bias, strides, 0, 0, node.integer("group", 1), dilations)
    grown = [more - min(0, end) for more, end in zip(extra, after, strict=True)]
    if any(grown):  # output_padding adds positions that only the bias reaches
        padded = F.pad(result if bias is None else result - bias.reshape(1, -1, *[1] * axes), _flat([0] * axes, grown))
        result = padded if bias is None else padded + bias.reshape(1, -1, *[1] * axes)
    for axis, (start, end) in enumerate(zip(before, after, strict=True)):
        size = result.shape[axis + 2]
        result = result.narrow(axis + 2, start, size - start - max(0, end))
    return result


def _transposed_pads(
    node: Node, sizes: Sequence[int], strides: Sequence[int], full: Sequence[int]
) -> tuple[list[int], list[int]]:
    """What is cut off a full transposed convolution, before and after each axis."""
    mode, shape = node.text("auto_pad", "NOTSET"), node.integers("output_shape")
    if shape is None and mode in ("SAME_UPPER", "SAME_LOWER"):
        shape = [size * stride for size, stride in zip(sizes, strides, strict=True)]
    if shape is None:
        pads = (node.integers("pads") or [0] * (2 * len(full))) if mode in ("NOTSET", "") else [0] * (2 * len(full))
        return pads[: len(full)], pads[len(full) :]
    before, after = [], []
    for size, wanted in zip(full, shape[-len(full) :], strict=True):
        total = size - wanted
        half = total // 2 if mode == "SAME_UPPER" else total - total // 2
        before.append(max(0, half))
        after.append(total - max(0, half))
    return before, after


def _windows(node: Node, x: Tensor) -> tuple[list[int], list[int], list[int]]:
    kernel = node.integers("kernel_shape") or []
    return kernel, node.integers("strides") or [1] * len(kernel), node.integers("dilations") or [1] * len(kernel)


def _ceiling(
    node: Node, sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int],
    before: Sequence[int], after: Sequence[int],
) -> list[int]:  # fmt: skip
    """More padding behind, so that a last window is complete which `ceil_mode` keeps though it hangs over the end."""
    grown = []
    for size, window, stride, dilation, start, end in zip(
        sizes, kernel, strides, dilations, before, after, strict=True
    ):
        reach = (window - 1) * dilation + 1
        count = -(-(size + start + end - reach) // stride) + 1
        if (count - 1) * stride >= size + start:  # it would begin behind the input
            count -= 1
        grown.append(max(end, (count - 1) * stride + reach - size - start))
    return grown


def _max_pool(node: Node, inputs: Inputs) -> Tensor:
    x = given(inputs, 0)
    kernel, strides, dilations = _windows(node, x)
    if node.outputs > 1 or len(kernel) not in _MAX_POOLS or not x.is_floating_point():
        raise node.refuse(f"with {node.outputs} outputs over {len(kernel)} axes of {x.dtype}")
    before, after = _pads(node, x.shape[2:], kernel, strides, dilations)
    if node.integer("ceil_mode", 0):
        after = _ceiling(node, x.shape[2:], kernel, strides, dilations, before, after)
    symmetric = before == after and all(2 * pad <= window for pad, window in zip(before, kernel, strict=True))
    if not symmetric:
        x, before = F.pad(x, _flat(before, after), value=-torch.inf), [0] * len(kernel)
    pooled: Tensor = _MAX_POOLS[len(kernel)](x, kernel, strides, before, dilations)
    return pooled


def _sum_pool(x: Tensor, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]) -> Tensor:
    """Sum up windows: a convolution of each channel by itself with ones."""
    axes = len(kernel)
    weight = torch.ones((1, 1, *kernel), dtype=x.dtype, device=x.device)
    flat = x.reshape(-1, 1, *x.shape[2:])
    summed = _CONVOLUTIONS[axes](flat, weight, None, list(strides), 0, list(dilations))
    return summed.reshape(*x.shape[:2], *summed.shape[2:])


def _average_pool(node: Node, inputs: Inputs) -> Tensor:
    x = given(inputs, 0)
    kernel, strides, dilations = _windows(node, x)
    if len(kernel) not in _CONVOLUTIONS or not x.is_floating_point():
        raise node.refuse(f"over {len(kernel)} axes of {x.dtype}")
    before, after = _pads(node, x.shape[2:], kernel, strides, dilations)
    counted = torch.ones((1, 1, *x.shape[2:]), dtype=x.dtype, device=x.device)
    if node.integer("count_include_pad", 0):
        counted = F.pad(counted, _flat(before, after), value=1.0)
        rest = [0] * len(kernel)
    else:
        rest = before
    grown = (
        _ceiling(node, x.shape[2:], kernel, strides, dilations, before, after)
        if node.integer("ceil_mode", 0)
        else after
    )
    tail = [
        end - (now - size - start)
        for end, now, size, start in zip(grown, counted.shape[2:], x.shape[2:], before, strict=True)
    ]
    if not node.integer("count_include_pad", 0):
        tail = grown
    summed = _sum_pool(F.pad(x, _flat(before, grown)), kernel, strides, dilations)
    return summed / _sum_pool(F.pad(counted, _flat(rest, tail)), kernel, strides, dilations)


def _lp_pool(node: Node, inputs: Inputs) -> Tensor:
    x, power = given(inputs, 0), node.integer("p", 2)
    kernel, strides, dilations = _windows(node, x)
    before, after = _pads(node, x.shape[2:], kernel, strides, dilations)
    if node.integer("ceil_mode", 0) or len(kernel) not in _CONVOLUTIONS:
        raise node.refuse(f"with ceil_mode, or over {len(kernel)} axes")
    summed = _sum_pool(F.pad(x.abs() ** power, _flat(before, after)), kernel, strides, dilations)
    return summed ** (1.0 / power)


def _global_average(node: Node, inputs: Inputs) -> Tensor:
    x = given(inputs, 0)
    return x.mean(list(range(2, x.ndim)), keepdim=True)


def _global_max(node: Node, inputs: Inputs) -> Tensor:
    x = given(inputs, 0)
    return x.amax(list(range(2, x.ndim)), keepdim=True)


OPERATORS: dict[str, Operator] = {
    "AveragePool": _average_pool, "Conv": _convolution, "ConvTranspose": _transposed,
    "GlobalAveragePool": _global_average, "GlobalMaxPool": _global_max, "LpPool": _lp_pool,
    "MaxPool": _max_pool,
}  # fmt: skip
