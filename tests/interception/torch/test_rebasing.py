"""A class of torch's is made anew over another base, with its own code."""

from __future__ import annotations

import inspect
from typing import Any

from avec.interception.torch.rebasing import rebased


class Native:
    def __new__(cls, size: int) -> Native:
        raise NotImplementedError("not in this build")

    def __init__(self, size: int) -> None:
        pass


class Graph(Native):
    """A graph."""

    limit = 3

    def __new__(cls, size: int = 1) -> Any:
        made = super().__new__(cls, size)
        made.note = "made"
        return made

    def replay(self, times: int = 2, *, slowly: bool = False) -> list[str]:
        """Replay it."""
        once = super().replay  # type: ignore[misc]
        return [once() for _ in range(times)]

    @property
    def size(self) -> int:
        return super().size * 10  # type: ignore[misc, no-any-return]

    @classmethod
    def named(cls) -> str:
        return super().named() + cls.__name__  # type: ignore[misc, no-any-return]

    @staticmethod
    def of(size: int) -> int:
        return size


class Ours:
    def __new__(cls, size: int) -> Any:
        return super().__new__(cls)

    def __init__(self, size: int = 1) -> None:
        self.given = size

    def replay(self) -> str:
        return "ours"

    @property
    def size(self) -> int:
        return self.given

    @classmethod
    def named(cls) -> str:
        return "our "


def test_methods_reach_the_other_base() -> None:
    graph = rebased(Graph, Ours)(4)
    assert (graph.note, graph.replay(), graph.size) == ("made", ["ours", "ours"], 40)
    assert (type(graph).named(), type(graph).of(5), type(graph).limit) == ("our Graph", 5, 3)


def test_the_class_looks_like_the_original() -> None:
    made = rebased(Graph, Ours)
    assert (made.__name__, made.__qualname__, made.__module__, made.__doc__) == (
        "Graph", "Graph", __name__, "A graph."
    )  # fmt: skip
    assert inspect.signature(made.replay) == inspect.signature(Graph.replay)
    assert (made.replay.__doc__, made.replay.__qualname__) == ("Replay it.", "Graph.replay")
    assert made.__mro__ == (made, Ours, object)


def test_the_original_is_left_alone() -> None:
    rebased(Graph, Ours)
    assert Graph.__mro__ == (Graph, Native, object)
    assert "__class__" in Graph.replay.__code__.co_freevars
    assert Graph.replay.__closure__ is not None
    assert Graph.replay.__closure__[0].cell_contents is Graph
