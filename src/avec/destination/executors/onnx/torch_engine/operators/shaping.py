"""Operators that arrange elements without computing on them. Source: onnx/docs/Operators.md"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from avec.destination.executors.onnx.torch_engine.operators.operator import (
    DTYPES,
    Inputs,
    Node,
    Operator,
    axes_of,
    given,
    host_list,
    optional,
    together,
)


def _shape(node: Node, inputs: Inputs) -> Tensor:
    shape = list(given(inputs, 0).shape)
    end = node.attributes.get("end")
    return torch.tensor(shape[node.integer("start", 0) : None if end is None else int(end)], dtype=torch.int64)  # type: ignore[arg-type]


def _size(node: Node, inputs: Inputs) -> Tensor:
    return torch.tensor(given(inputs, 0).numel(), dtype=torch.int64)


def _reshape(node: Node, inputs: Inputs) -> Tensor:
    x = given(inputs, 0)
    shape = (node.integers("shape") or []) if node.opset < 5 else host_list(given(inputs, 1))
    if not node.integer("allowzero", 0):
        shape = [x.shape[place] if size == 0 else size for place, size in enumerate(shape)]
    return torch.reshape(x, tuple(shape))


def _flatten(node: Node, inputs: Inputs) -> Tensor:
    x, axis = given(inputs, 0), node.integer("axis", 1)
    axis = axis + x.ndim if axis < 0 else axis
    rows = int(np.prod(x.shape[:axis], dtype=np.int64))
    return x.reshape(rows, int(np.prod(x.shape[axis:], dtype=np.int64)))


def _squeeze(node: Node, inputs: Inputs) -> Tensor:
    x, axes = given(inputs, 0), axes_of(node, inputs)
    if axes is None:
        return x.squeeze()
    return x.squeeze(tuple(axes))


def _unsqueeze(node: Node, inputs: Inputs) -> Tensor:
    x, axes = given(inputs, 0), axes_of(node, inputs) or []
    rank = x.ndim + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x


def _transpose(node: Node, inputs: Inputs) -> Tensor:
    x = given(inputs, 0)
    return x.permute(node.integers("perm") or list(range(x.ndim))[::-1])


def _concat(node: Node, inputs: Inputs) -> Tensor:
    return torch.cat(together(*(given(inputs, index) for index in range(len(inputs)))), node.integer("axis", 1))


def _split(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    x, axis = given(inputs, 0), node.integer("axis", 0)
    tensor = optional(inputs, 1)
    sizes = node.integers("split") if tensor is None else host_list(tensor)
    if sizes is None:
        each = -(-x.shape[axis] // node.outputs)
        sizes = [max(0, min(each, x.shape[axis] - start)) for start in range(0, each * node.outputs, each or 1)]
        sizes = sizes or [0] * node.outputs
    return torch.split_with_sizes(x, sizes, axis)


def _slice(node: Node, inputs: Inputs) -> Tensor:
    x = given(inputs, 0)
    if node.opset < 10:
        starts, ends = node.integers("starts") or [], node.integers("ends") or []
        axes, steps = node.integers("axes"), None
    else:
        starts, ends = host_list(given(inputs, 1)), host_list(given(inputs, 2))
        given_axes, given_steps = optional(inputs, 3), optional(inputs, 4)
        axes = None if given_axes is None else host_list(given_axes)
        steps = None if given_steps is None else host_list(given_steps)
    for place, (start, end) in enumerate(zip(starts, ends, strict=True)):
        axis = place if axes is None else axes[place]
        x = _slice_axis(x, axis, start, end, 1 if steps is None else steps[place])
    return x


def _slice_axis(x: Tensor, axis: int, start: int, end: int, step: int) -> Tensor:
    places = range(x.shape[axis])[slice(start, end if step > 0 or end >= -x.shape[axis] else None, step)]
    if step > 0:
        return x[(slice(None),) * (axis % x.ndim) + (slice(places.start, places.stop, step),)]
    return x.index_select(axis, torch.tensor(list(places), dtype=torch.int64, device=x.device))


def _expand(node: Node, inputs: Inputs) -> Tensor:
    x = given(inputs, 0)
    return x.expand(np.broadcast_shapes(x.shape, tuple(host_list(given(inputs, 1)))))


def _tile(node: Node, inputs: Inputs) -> Tensor:
    return given(inputs, 0).repeat(host_list(given(inputs, 1)))


def _pad(node: Node, inputs: Inputs) -> Tensor:
    x, mode = given(inputs, 0), node.text("mode", "constant")
    pads = (node.integers("pads") or []) if node.opset < 11 else host_list(given(inputs, 1))
    axes = axes_of(node, inputs, 3) or list(range(x.ndim))
    value = optional(inputs, 2)
    fill = node.number("value", 0.0) if value is None else value.item()
    before, after = [0] * x.ndim, [0] * x.ndim
    for place, axis in enumerate(axes):
        before[axis], after[axis] = pads[place], pads[place + len(axes)]
    if mode == "constant":
        flat = [size for pair in zip(reversed(before), reversed(after), strict=True) for size in pair]
        return F.pad(x, flat, value=fill)
    for axis in range(x.ndim):
        if before[axis] < 0 or after[axis] < 0:
            raise node.refuse(f"with negative pads in mode {mode}")
        if before[axis] or after[axis]:
            places = np.pad(np.arange(x.shape[axis]), (before[axis], after[axis]), mode=mode)  # type: ignore[call-overload]
            x = x.index_select(axis, torch.from_numpy(places).to(x.device))
    return x


def _depth_to_space(node: Node, inputs: Inputs) -> Tensor:
    x, block = given(inputs, 0), node.integer("blocksize", 1)
    batch, channels, height, width = x.shape
    inner = channels // block**2
    if node.text("mode", "DCR") == "DCR":
        x = x.reshape(batch, block, block, inner, height, width).permute(0, 3, 4, 1, 5, 2)
    else:
        x = x.reshape(batch, inner, block, block, height, width).permute(0, 1, 4, 2, 5, 3)
    return x.reshape(batch, inner, height * block, width * block)


def _space_to_depth(node: Node, inputs: Inputs) -> Tensor:
    x, block = given(inputs, 0), node.integer("blocksize", 1)
    batch, channels, height, width = x.shape
    order = (0, 3, 5, 1, 2, 4) if node.text("mode", "DCR") == "DCR" else (0, 1, 3, 5, 2, 4)
    x = x.reshape(batch, channels, height // block, block, width // block, block).permute(order)
    return x.reshape(batch, channels * block**2, height // block, width // block)


def _trilu(node: Node, inputs: Inputs) -> Tensor:
    x, diagonal = given(inputs, 0), optional(inputs, 1)
    count = 0 if diagonal is None else int(diagonal)
    return torch.triu(x, count) if node.integer("upper", 1) else torch.tril(x, count)


def _constant_of_shape(node: Node, inputs: Inputs) -> Tensor:
    value = node.attributes.get("value")
    filled = value if isinstance(value, Tensor) else torch.zeros(1)
    return filled.expand(host_list(given(inputs, 0))).clone()


def _constant(node: Node, inputs: Inputs) -> Tensor:
    for name, dtype in {
        "value_int": torch.int64,
        "value_ints": torch.int64,
        "value_float": torch.float32,
        "value_floats": torch.float32,
    }.items():
        if name in node.attributes:
            return torch.tensor(node.attributes[name], dtype=dtype)
    value = node.attributes.get("value")
    if not isinstance(value, Tensor):
        raise node.refuse("of strings, or a sparse one")
    return value


def _range(node: Node, inputs: Inputs) -> Tensor:
    start, limit, delta = (given(inputs, index) for index in range(3))
    count = max(0, int(np.ceil((limit.item() - start.item()) / delta.item())))
    return start + torch.arange(count, dtype=start.dtype, device=start.device) * delta


def _eye_like(node: Node, inputs: Inputs) -> Tensor:
    x, diagonal = given(inputs, 0), node.integer("k", 0)
    dtype = DTYPES.get(node.integer("dtype", 0), x.dtype)
    rows, columns = x.shape
    places = torch.arange(columns, device=x.device) - torch.arange(rows, device=x.device).unsqueeze(1)
    return (places == diagonal).to(dtype)


def _reverse_sequence(node: Node, inputs: Inputs) -> Tensor:
    x, lengths = given(inputs, 0), host_list(given(inputs, 1))
    time, batch = node.integer("time_axis", 0), node.integer("batch_axis", 1)
    rows = []
    for place, length in enumerate(lengths):
        row = x.select(batch, place)
        along = time if time < batch else time - 1
        head = row.narrow(along, 0, length).flip(along)
        rows.append(torch.cat((head, row.narrow(along, length, row.shape[along] - length)), along))
    return torch.stack(rows, batch)


OPERATORS: dict[str, Operator] = {
    "Concat": _concat, "Constant": _constant, "ConstantOfShape": _constant_of_shape, "DepthToSpace": _depth_to_space,
    "Expand": _expand, "EyeLike": _eye_like, "Flatten": _flatten, "Pad": _pad, "Range": _range, "Reshape": _reshape,
    "ReverseSequence": _reverse_sequence, "Shape": _shape, "Size": _size, "Slice": _slice,
    "SpaceToDepth": _space_to_depth, "Split": _split, "Squeeze": _squeeze, "Tile": _tile, "Transpose": _transpose,
    "Trilu": _trilu, "Unsqueeze": _unsqueeze,
}  # fmt: skip
