"""Calls of a captured graph: each is one entry of the stream, with inputs and results by their addresses.

Not here: what a graph consists of (`fx_graphs`), when one is captured (`compiling`).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, TypeAlias

import msgspec
import numpy as np
import torch

from avec.protocol.torch import Arg, HostScalarArg, IntArg, LoadGraph, Template, TensorArg, TensorMeta

from .fx_graphs import Captured, Given, Made, NotCaptured, Plain, Result, Seen, Size, is_symbolic
from .recording import Recording
from .storages import Layout
from .templates import bits_of, meta_of, meta_of_layout, name_of

Symbols: TypeAlias = dict[Any, Any]  # sympy's symbols and numbers

_NUMBER_MASK = (1 << 64) - 1
_LARGE_GRAPH = 16  # nodes; a call of such a graph is sent at once, so that the destination begins with it
_numbers = itertools.count(1)
_forgotten: list[int] = []  # graphs whose callers have died; may be appended to in the middle of anything


class _Entry:
    """A call that looks like one before: its template, and what its results are like."""

    __slots__ = ("layouts", "results", "template")

    def __init__(self, template: int, layouts: Sequence[Layout], results: Sequence[Result]) -> None:
        self.template = template
        self.layouts = layouts
        self.results = results


class GraphCall:
    """A graph at the destination as a function, in the way that torch calls what a compiler gives it.

    It takes a list of inputs, and empties it.
    """

    def __init__(self, recording: Recording, captured: Captured) -> None:
        """Prepare; the graph is sent with the first call.

        Raises:
            NotCaptured: sizes of results depend on what is known only when it is carried out.
        """
        self._boxed_call = True  # what torch wraps a function in takes its attributes over, not its class's
        self._recording = recording
        self._captured = captured
        self._number = 0
        self._session: object = None  # the one that has the graph
        self._entries = recording.cache()
        self._varying = [
            place
            for place in captured.used
            if isinstance(each := captured.inputs[place], torch.SymInt)
            or (isinstance(each, torch.Tensor) and is_symbolic(each))
        ]
        self._fixed = [
            (place, each.shape, each.stride())
            for place in captured.used
            if place not in self._varying and isinstance(each := captured.inputs[place], torch.Tensor)
        ]
        self._bound = _bound(captured.inputs)
        _check_bound(captured, self._bound)

    def __del__(self) -> None:
        if self._number:
            _forgotten.append(self._number)

    def __call__(self, args: list[Any]) -> list[object]:
        """Record a call; give its results, which the destination will have made."""
        recording = self._recording
        if self._session is not recording.session:
            self._load()
        for place, shape, stride in self._fixed:
            _check_layout(args[place], shape, stride)
        key = tuple([_key(args[place]) for place in self._varying])
        entry = self._entries.get(key)
        if not isinstance(entry, _Entry):
            entry = self._entries[key] = self._described(args)
        made = [layout.new() for layout in entry.layouts]
        numbers = [_number(args[place]) for place in self._captured.used]
        numbers += [each.data_ptr() for each in (*self._captured.attributes, *made)]
        with recording.lock:
            recording.mark()
            recording.record(entry.template, numbers)
        results = [_result(each, args, made) for each in entry.results]
        args.clear()
        if len(self._captured.graph.nodes) >= _LARGE_GRAPH:
            recording.flush()
        return results

    def _load(self) -> None:
        """Send the graph. One that was sent is never sent again in the same session, whose numbers grow."""
        recording = self._recording
        encoded = np.frombuffer(msgspec.msgpack.encode(self._captured.graph), np.uint8)
        with recording.lock:
            while _forgotten and not recording.capturing:  # a CUDA graph would repeat it
                forget = Template("avec::forget_graph", (IntArg(0),), {}, 1, 0)
                recording.record(recording.template(forget), (_forgotten.pop(),))
            self._number = next(_numbers)
            recording.request(LoadGraph(0, self._number), (encoded,))
            self._session = recording.session
            self._entries.clear()

    def _described(self, args: Sequence[Any]) -> _Entry:
        captured, arena = self._captured, self._recording.arena
        symbols = _values(self._bound, args)
        layouts = [
            arena.layout(
                each.dtype, _concrete(each.shape, symbols), _concrete(each.stride(), symbols), each.get_device()
            )
            for each in captured.made
        ]
        inputs = (*(args[place] for place in captured.used), *captured.attributes)
        metas = captured.graph.inputs
        described: list[Arg] = [
            self._number,
            *(_arg(place, each, meta) for place, (each, meta) in enumerate(zip(inputs, metas, strict=True))),
        ]
        outputs = tuple(meta_of_layout(layout) for layout in layouts)
        template = Template("avec::call_graph", tuple(described), {}, len(inputs), 0, outputs)
        results = [_concrete_result(each, symbols) for each in captured.results]
        return _Entry(self._recording.template(template), layouts, results)


def _key(value: Any) -> object:
    return (value.shape, value.stride()) if isinstance(value, torch.Tensor) else value


def _number(value: Any) -> int:
    if isinstance(value, torch.Tensor):
        return value.data_ptr() if value.is_cuda else bits_of(value)
    return int(value) & _NUMBER_MASK


def _arg(place: int, value: Any, meta: TensorMeta | None) -> Arg:
    if not isinstance(value, torch.Tensor):
        return IntArg(place)
    if not value.is_cuda:
        return HostScalarArg(place, name_of(value.dtype))
    return TensorArg(place, meta_of(value) if meta is None else meta)


def _check_layout(tensor: torch.Tensor, shape: Sequence[int], stride: Sequence[int]) -> None:
    if tensor.shape == shape:
        # As in Inductor, strides count where there are several elements.
        if tensor.stride() == stride or not tensor.numel():
            return
        if all(size == 1 or one == other for size, one, other in zip(shape, tensor.stride(), stride, strict=True)):
            return
    raise RuntimeError(
        f"a compiled graph was called with a tensor of shape {tuple(tensor.shape)} and stride {tensor.stride()},"
        f" but was captured for {tuple(shape)} and {tuple(stride)}"
    )


def _result(result: Result, args: Sequence[Any], made: Sequence[torch.Tensor]) -> object:
    match result:
        case Made(place):
            return made[place]
        case Given(place):
            return args[place]
        case Plain(value):
            return value
        case Seen(of, shape, stride, offset):
            base = made[of.place] if isinstance(of, Made) else args[of.place]
            return base.as_strided(shape, stride, base.storage_offset() + offset)


def _concrete_result(result: Result, symbols: Symbols) -> Result:
    match result:
        case Seen(of, shape, stride, offset):
            return Seen(of, _concrete(shape, symbols), _concrete(stride, symbols), _concrete((offset,), symbols)[0])
        case Plain(torch.SymInt() as value):
            return Plain(_concrete((value,), symbols)[0])
        case _:
            return result


def _concrete(sizes: Sequence[Size], symbols: Symbols) -> tuple[int, ...]:
    return tuple(
        int(each.node.expr.xreplace(symbols)) if isinstance(each, torch.SymInt) else int(each) for each in sizes
    )


def _bound(inputs: Sequence[Any]) -> dict[Any, tuple[int, int | None]]:
    """Where each symbol's value is found: the place of an input, and which of its sizes it is if that is a tensor."""
    bound: dict[Any, tuple[int, int | None]] = {}
    for place, value in enumerate(inputs):
        sizes: Sequence[Any] = value.shape if isinstance(value, torch.Tensor) else (value,)
        for dimension, size in enumerate(sizes):
            if isinstance(size, torch.SymInt) and size.node.expr.is_Symbol:
                bound.setdefault(size.node.expr, (place, dimension if isinstance(value, torch.Tensor) else None))
    return bound


def _values(bound: dict[Any, tuple[int, int | None]], args: Sequence[Any]) -> Symbols:
    if not bound:
        return {}
    from sympy import Integer

    return {
        symbol: Integer(args[place] if dimension is None else args[place].shape[dimension])
        for symbol, (place, dimension) in bound.items()
    }


def _check_bound(captured: Captured, bound: dict[Any, tuple[int, int | None]]) -> None:
    sizes: list[object] = [size for each in captured.made for size in (*each.shape, *each.stride())]
    for result in captured.results:
        match result:
            case Seen(_, shape, stride, offset):
                sizes += [*shape, *stride, offset]
            case Plain(value):
                sizes.append(value)
    for size in sizes:
        if isinstance(size, torch.SymInt) and not size.node.expr.free_symbols <= bound.keys():
            raise NotCaptured(f"a size {size} that is known only when the graph is carried out")
