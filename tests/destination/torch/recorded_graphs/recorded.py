"""Graphs of operators on a CPU."""

from __future__ import annotations

import json
import weakref
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

MEMORY_NBYTES = 1 << 40


class RecordedGraph(TorchDispatchMode):
    """The operators that were issued while it was entered, with their tensors."""

    def __init__(self, counts: Counter[str]) -> None:
        super().__init__()
        self.counts = counts
        self.calls: list[tuple[Any, Any, Any, list[Any]]] = []
        self._made: set[int] = set()
        self._before: dict[int, tuple[Tensor, Tensor]] = {}  # memory that was there before, and what was in it

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._keep(pytree.tree_leaves((args, kwargs)))
        result = func(*args, **(kwargs or {}))
        results = pytree.tree_leaves(result)
        if func.overloadpacket is torch.ops.aten.set_:  # a view of a storage, which is no tensor among its arguments
            self._keep(results)
        places = {each.untyped_storage().data_ptr() for each in results if isinstance(each, Tensor)}
        self._made |= places - self._before.keys()
        self.calls.append((func, args, kwargs or {}, results))
        return result

    def _keep(self, values: list[Any]) -> None:
        """Keep what is in the memory of tensors that were there before."""
        for each in values:
            if isinstance(each, Tensor) and (place := each.untyped_storage().data_ptr()) not in self._made:
                if place not in self._before:
                    memory = torch.empty(0, dtype=torch.uint8).set_(each.untyped_storage())
                    self._before[place] = memory, memory.clone()

    def undo(self) -> None:
        """Have nothing computed yet."""
        for memory, before in self._before.values():
            memory.copy_(before)

    def replay(self) -> None:
        """Carry the operators out again; their results go where they went before."""
        self.counts["replayed"] += 1
        for func, args, kwargs, results in self.calls:
            again = pytree.tree_leaves(func(*args, **kwargs))
            for old, new in zip(results, again, strict=True):
                # One that had to grow afterwards, given as out=, was empty here.
                if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr() and old.shape == new.shape:
                    old.copy_(new)


class RecordedGraphs:
    """See avec.destination.executors.torch.cuda_graphs.Recorder."""

    def __init__(self, path: str, nbytes: int) -> None:
        """Begin.

        Args:
            path: of a file that says how many were recorded and replayed, and how many there were at most at a time.
            nbytes: that a graph is said to keep, of MEMORY_NBYTES.
        """
        self.counts: Counter[str] = Counter()
        self._alive: weakref.WeakSet[RecordedGraph] = weakref.WeakSet()
        self._path = Path(path)
        self._nbytes = nbytes

    def fits(self, tensor: Tensor) -> bool:
        return True

    def record(self, device: int, carry_out: Callable[[], None]) -> tuple[RecordedGraph, int]:
        # What was recorded was not computed: what it has written and drawn is taken back.
        state = torch.get_rng_state()
        graph = RecordedGraph(self.counts)
        try:
            with graph:
                carry_out()
        finally:
            graph.undo()
            torch.set_rng_state(state)
        self._alive.add(graph)
        self.counts["recorded"] += 1
        self.counts["at once"] = max(self.counts["at once"], len(self._alive))
        self._path.write_text(json.dumps(self.counts), "utf-8")
        return graph, self._nbytes

    def memory(self, device: int) -> tuple[int, int]:
        return MEMORY_NBYTES, MEMORY_NBYTES

    def release(self) -> None:
        pass
