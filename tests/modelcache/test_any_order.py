"""The cache against a plain model of it, under any order of calls (hypothesis chooses)."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from avec.errors import CacheUnavailable
from avec.modelcache import ModelCache, PinnedModel, Upload, manifest_of_bytes

LIMIT = 2500
MODELS = [bytes([number]) * (400 + 100 * number) for number in range(7)]
MANIFESTS = [manifest_of_bytes(data) for data in MODELS]
numbers = st.integers(0, len(MODELS) - 1)


class AnyOrder(RuleBasedStateMachine):
    """Uploads, pins, openings, damage and closing in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.cache = ModelCache(self.folder / "cache", LIMIT)
        self.pins: list[tuple[int, PinnedModel]] = []
        self.uploads: list[tuple[int, Upload]] = []
        self.damaged: set[int] = set()

    def file(self, number: int) -> Path:
        return self.folder / "cache" / "models" / MANIFESTS[number].digest

    def used_nbytes(self) -> int:
        """What cannot go: models in use, and uploads under way that are not yet whole."""
        busy = {number for number, _ in self.pins} | {number for number, _ in self.uploads}
        return sum(len(MODELS[number]) for number in busy)

    @rule(number=numbers)
    def begin_upload(self, number: int) -> None:
        try:
            self.uploads.append((number, self.cache.upload(MANIFESTS[number])))
        except CacheUnavailable:
            assert self.used_nbytes() + len(MODELS[number]) > LIMIT

    @precondition(lambda self: self.uploads)
    @rule(data=st.data())
    def write(self, data: st.DataObject) -> None:
        number, upload = data.draw(st.sampled_from(self.uploads))
        upload.write(0, MODELS[number])

    @precondition(lambda self: self.uploads)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        number, upload = data.draw(st.sampled_from(self.uploads))
        upload.write(0, MODELS[number])
        try:
            upload.finish()
        except CacheUnavailable:
            assert number in self.damaged  # found damaged and removed while this upload was under way
        else:
            assert self.file(number).exists()

    @precondition(lambda self: self.uploads)
    @rule(data=st.data())
    def end_upload(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, len(self.uploads) - 1))
        self.uploads.pop(index)[1].close()

    @rule(number=numbers)
    def pin(self, number: int) -> None:
        pinned = self.cache.pin(MANIFESTS[number].digest)
        if pinned is not None:
            self.pins.append((number, pinned))

    @precondition(lambda self: self.pins)
    @rule(data=st.data())
    def unpin(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, len(self.pins) - 1))
        self.pins.pop(index)[1].close()

    @rule(number=numbers)
    def open(self, number: int) -> None:
        there = self.file(number).exists()
        try:
            model = self.cache.open(MANIFESTS[number].digest)
        except CacheUnavailable:
            assert not there or number in self.damaged
            assert not self.file(number).exists()
        else:
            with model:
                assert model.path.read_bytes() == MODELS[number]

    @rule(number=numbers, offset=st.integers(0, 399))
    def damage(self, number: int, offset: int) -> None:
        if self.file(number).exists():
            self.damaged.add(number)
            with open(self.file(number), "r+b") as file:
                file.seek(offset)
                file.write(b"\xff")

    @invariant()
    def bound_holds(self) -> None:
        usage = self.cache.usage()
        assert usage.models_nbytes + usage.partials_nbytes <= LIMIT

    @invariant()
    def what_is_in_use_is_there(self) -> None:
        for number, pinned in self.pins:
            assert number in self.damaged or pinned.path.exists()

    def teardown(self) -> None:
        for _, resource in (*self.pins, *self.uploads):
            resource.close()
        shutil.rmtree(self.folder)


TestAnyOrder = AnyOrder.TestCase
# The same orders in each run: a check must not fail by chance. Raise max_examples to search for more.
TestAnyOrder.settings = settings(
    max_examples=80, stateful_step_count=30, deadline=None, derandomize=True, database=None
)
