"""The loop over frames: read and prepare, compute, find; three stages, which work on different frames at a time.

The network's stage has as many frames under way as the estimator has room for: it asks for a frame's maps when the
next one has begun. Without overlap all is done in turn, by one thread. Frames come out in order, with an error in the
place of a frame that could not be read.
"""

import contextlib
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from frames import Frame, InputError, Source, read_frames
from grouping import Array
from numpy.typing import NDArray
from stages import ahead

if TYPE_CHECKING:
    from estimation import Estimator, Maps, Prepared


@dataclass(frozen=True, slots=True)
class Box:
    """A part of the picture that holds one hand or face; in pixels."""

    x: int
    y: int
    width: int
    height: int


@dataclass(slots=True)
class Tally:
    """What a run has come to so far. Each stage writes its own seconds."""

    frames: int = 0
    people: int = 0
    problems: int = 0
    began_s: float = field(default_factory=time.perf_counter)
    ended_s: list[float] = field(default_factory=list)  # of each frame, since the beginning
    stage_s: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    @property
    def seconds(self) -> float:
        return self.ended_s[-1] if self.ended_s else 0.0

    @property
    def frames_per_second(self) -> float:
        return self.frames / self.seconds if self.seconds else 0.0

    def count(self, found: "Found") -> None:
        self.frames += 1
        self.people += len(found.keypoints)
        self.ended_s.append(time.perf_counter() - self.began_s)

    @contextlib.contextmanager
    def taking(self, stage: str) -> Iterator[None]:
        """Add the time that this takes to a stage's."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.stage_s[stage] += time.perf_counter() - began


@dataclass(frozen=True, slots=True)
class Found:
    """A frame of the source at `place` and who is in it; or the error in its place."""

    place: int
    frame: Frame
    keypoints: Array
    error: InputError | None = None


@dataclass(frozen=True, slots=True)
class View:
    """A frame, or one box of it, as the network sees it; or the error in its place."""

    place: int
    frame: Frame
    prepared: "list[Prepared]"
    corner: tuple[int, int] = (0, 0)
    last: bool = True  # of its frame
    error: InputError | None = None


Seen: TypeAlias = "tuple[View, list[Maps]]"
NOTHING = Frame(np.zeros((0, 0, 3), np.uint8), 0)
NOBODY: Array = np.zeros((0, 0, 3), np.float32)


def found(
    estimator: "Estimator", sources: list[Source], boxes: list[Box] | None, tally: Tally, overlap: bool = True
) -> Iterator[Found]:
    """Find the people in each frame of the sources; close it when it is not taken to its end."""
    views = read(estimator, sources, boxes, tally)
    if overlap:
        seen = ahead(compute(estimator, ahead(views), tally))
    else:
        seen = compute(estimator, views, tally)
    try:
        yield from find(estimator, seen, tally)
    finally:
        seen.close()


def read(estimator: "Estimator", sources: list[Source], boxes: list[Box] | None, tally: Tally) -> Iterator[View]:
    """Read and prepare frames; a source that breaks gives its error, and the next one goes on."""
    for place, source in enumerate(sources):
        frames = read_frames(source)
        try:
            while (frame := _next(frames, tally)) is not None:
                parts = list(_parts(frame.image, boxes))
                for number, (part, corner) in enumerate(parts, 1):
                    with tally.taking("prepare"):
                        prepared = estimator.prepare(part)
                    yield View(place, frame, prepared, corner, number == len(parts))
        except InputError as error:
            tally.problems += 1
            yield View(place, NOTHING, [], error=error)


def _next(frames: Iterator[Frame], tally: Tally) -> Frame | None:
    with tally.taking("read"):
        return next(frames, None)


def _parts(image: NDArray[np.uint8], boxes: list[Box] | None) -> Iterator[tuple[NDArray[np.uint8], tuple[int, int]]]:
    if boxes is None:
        yield image, (0, 0)
        return
    for box in boxes:
        part = image[box.y : box.y + box.height, box.x : box.x + box.width]
        if not part.size:
            height, width = image.shape[:2]
            raise InputError(f"box {box.x},{box.y},{box.width},{box.height} is outside of {width}x{height}")
        yield part, (box.x, box.y)


def compute(estimator: "Estimator", views: Iterator[View], tally: Tally) -> Iterator[Seen]:
    """Take views through the network, and give each when the next ones have begun."""
    begun: deque[tuple[View, Callable[[], list[Maps]]]] = deque()
    with contextlib.closing(views):
        for view in views:
            with tally.taking("network"):
                begun.append((view, list if view.error else estimator.begin(view.prepared)))
            if len(begun) == estimator.depth:
                yield _waited(*begun.popleft(), tally)
        while begun:
            yield _waited(*begun.popleft(), tally)


def _waited(view: View, wait: "Callable[[], list[Maps]]", tally: Tally) -> Seen:
    with tally.taking("network"):
        return view, wait()


def find(estimator: "Estimator", seen: Iterable[Seen], tally: Tally) -> Iterator[Found]:
    """Find who is in the maps; the views of a frame are put together."""
    whole: list[Array] = []
    for view, maps in seen:
        if view.error is not None:
            whole.clear()
            yield Found(view.place, view.frame, NOBODY, view.error)
            continue
        with tally.taking("find"):
            keypoints = estimator.find(maps)
            keypoints[..., :2] += np.where(keypoints[..., 2:] > 0, view.corner, 0)
        whole.append(keypoints)
        if view.last:
            yield Found(view.place, view.frame, np.concatenate(whole))
            whole.clear()
