"""`avec.pipeline`: a function is called for the next items while the caller works on the last result.

It is plain Python with threads, and knows nothing of sessions: it is as useful for a program that computes natively.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, Self, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def pipeline(function: Callable[[Item], Result], depth: int = 2) -> Callable[[Iterable[Item]], Pipelined[Result]]:
    """Call a function for `depth` items at a time, each in a thread; its results come in the items' order.

        for found in avec.pipeline(infer, depth=2)(frames): ...

    While one call waits for the destination, the next one's input is already on its way, and the caller handles the
    result before. That pays where `function` waits for its result, as ONNX Runtime's `run` and OpenCV's `forward` do.

    Args:
        function: is called by several threads. What is not made for that needs one of its kind for each call under
            way: a `caffe.Net`, a `cv2.dnn.Net`. An `InferenceSession` may be shared, so may PyTorch modules that are
            not being trained.
        depth: calls under way, and results that wait for the caller: no more items than these are taken in advance.

    Returns:
        What makes an iterator of results out of items. An error of the function's is raised in the place of its
        result, and the iterator goes on with the next one; an error of the items', after the results before it, ends
        it. Items are taken by the caller's thread.

    Raises:
        ValueError: depth is less than 1.
    """
    if depth < 1:
        raise ValueError(f"pipeline: a depth of {depth} would call nothing; give 1 or more")
    return lambda items: Pipelined(function, iter(items), depth)


class Pipelined(Generic[Result]):
    """An iterator over results. To stop early, close it, or leave its `with` block."""

    def __init__(self, function: Callable[[Item], Result], items: Iterator[Item], depth: int) -> None:
        self._begun = self._begin(function, items)
        self._under_way: deque[Future[Result]] = deque()
        self._depth = depth
        self._threads = ThreadPoolExecutor(depth, thread_name_prefix="avec-pipeline")

    def _begin(self, function: Callable[[Item], Result], items: Iterator[Item]) -> Iterator[Future[Result]]:
        try:
            for item in items:
                yield self._threads.submit(function, item)
        except Exception as error:  # of the items
            failed: Future[Result] = Future()
            failed.set_exception(error)
            yield failed

    def _fill(self) -> None:
        self._under_way.extend(itertools.islice(self._begun, self._depth - len(self._under_way)))

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Result:
        self._fill()
        if not self._under_way:
            self.close()
            raise StopIteration
        result = self._under_way.popleft().result()
        self._fill()
        return result

    def close(self) -> None:
        """Begin no more calls, and wait for those that have begun; their results are gone."""
        self._threads.shutdown(cancel_futures=True)
        self._under_way.clear()
        self._begun = iter(())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
