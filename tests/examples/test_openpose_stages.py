"""The loop's stages: in order, bounded, errors in their place, and the next frame begins before the last one's maps."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import finding
import numpy as np
import pytest
from finding import Tally, found
from frames import list_sources
from stages import ahead

from openpose_known import KnownEstimator, write_clip

MEDIA = Path(finding.__file__).parent / "media"


def test_items_come_in_order() -> None:
    assert list(ahead(iter(range(50)))) == list(range(50))


def test_no_more_is_taken_than_there_is_room_for() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for item in range(100):
            taken.append(item)
            yield item

    each = ahead(items(), 2)
    assert next(each) == 0
    each.close()
    assert len(taken) <= 5  # one was given, two wait, one could not be put, one was taken on closing


def test_an_error_comes_after_the_items_before_it() -> None:
    def items() -> Iterator[int]:
        yield from (1, 2)
        raise OSError("the camera is gone")

    each = ahead(items(), 5)
    assert [next(each), next(each)] == [1, 2]
    with pytest.raises(OSError, match="the camera is gone"):
        next(each)


def test_closing_closes_what_is_taken_from_in_its_own_thread() -> None:
    closed_by: list[str] = []

    def items() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            closed_by.append(threading.current_thread().name)

    before = threading.active_count()
    outer = ahead(ahead(items()))
    assert next(outer) == 1
    outer.close()
    assert len(closed_by) == 1 and closed_by[0].startswith("ahead")
    assert threading.active_count() == before


class Journal(KnownEstimator):
    """Writes down when a frame begins and when its maps are asked for."""

    def __init__(self, depth: int) -> None:
        super().__init__(depth)
        self.events: list[str] = []
        self._count = 0

    def begin(self, prepared: np.ndarray) -> Callable[[], np.ndarray]:
        number, self._count = self._count, self._count + 1
        self.events.append(f"begin {number}")

        def wait() -> np.ndarray:
            self.events.append(f"wait {number}")
            return prepared

        return wait


@pytest.mark.parametrize(
    ("depth", "events"),
    [
        (1, ["begin 0", "wait 0", "begin 1", "wait 1", "begin 2", "wait 2"]),
        (2, ["begin 0", "begin 1", "wait 0", "begin 2", "wait 1", "wait 2"]),
        (8, ["begin 0", "begin 1", "begin 2", "wait 0", "wait 1", "wait 2"]),
    ],
)
def test_so_many_frames_are_in_the_network_at_once(depth: int, events: list[str], tmp_path: Path) -> None:
    write_clip(tmp_path / "clip.avi", 3)
    journal = Journal(depth)
    frames = list(found(journal, list_sources([tmp_path / "clip.avi"]), None, Tally(), overlap=depth > 1))
    assert [each.frame.index for each in frames] == [0, 1, 2]
    assert journal.events == events


@pytest.mark.parametrize("depth", [1, 2])
def test_what_cannot_be_read_is_an_error_in_its_place(depth: int, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"not a picture")
    sources = list_sources([MEDIA / "picture_1.jpg", broken, MEDIA / "picture_2.jpg"])
    frames = list(found(KnownEstimator(depth), sources, None, Tally(), overlap=depth > 1))
    assert [each.place for each in frames] == [0, 1, 2]
    assert [each.error is None for each in frames] == [True, False, True]


def test_an_error_of_the_network_s_ends_the_loop(tmp_path: Path) -> None:
    class Failing(KnownEstimator):
        def begin(self, prepared: np.ndarray) -> Callable[[], np.ndarray]:
            raise MemoryError("the accelerator is full")

    with pytest.raises(MemoryError, match="the accelerator is full"):
        list(found(Failing(), list_sources([MEDIA / "picture_1.jpg"]), None, Tally()))
