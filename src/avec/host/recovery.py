"""What becomes of a session whose worker is gone: another worker gets its state, or the session is lost with a reason.

Keeps the calls that the state came from (`journal`), and makes them again at a fresh worker (`restart`). Used by the
session's receiving thread, but for `wants` and `remember`. Not here: calls that were not answered (`unanswered`).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from avec.communication.channel import Channel
from avec.errors import SessionLost
from avec.host.calls import Call
from avec.host.greeting import Resumption
from avec.host.journal import CHANGES, READS, Effect, Entry, Journal
from avec.host.mending import FIRST_EPOCH, Attempts, WorkerGone, reconnect, reopen
from avec.host.restart import Model, Unlike, check_of, rebuild
from avec.host.snapshots import Timing, room
from avec.host.unanswered import Copies
from avec.protocol.codec import Allocate, Frame, encode
from avec.protocol.messages import Failed, Goodbye, Load, Result, Run, Welcome
from avec.tensor import Array, TensorSpec

if TYPE_CHECKING:
    from avec.config import Settings
    from avec.host.uploading import Source
    from avec.modelcache import Manifest

ASKING_S = 3.0  # for whether a worker whose connection broke is still there
DEATHS_LIMIT = 3  # workers that die one after the other without having answered anything new: a call kills them


class Recovery:
    """Rebuilds one session."""

    def __init__(self, url: str, settings: Settings, program: str, copies: Copies, resumed: bool) -> None:
        """Begin with the state of a fresh worker.

        Args:
            resumed: broken connections are mended; where they are not, dead workers are not replaced either.
        """
        self.url = url  # where the next worker is looked for
        self.restarted = 0  # how often another worker took over
        self.made_again = 0  # calls, when that was last
        self.snapshots = 0  # how often a copy of the state has come here
        self._settings = settings
        self._program = program
        self._copies = copies
        self._journal: Journal | None = None
        if resumed and settings.recovery != "off":
            self._journal = Journal(settings.journal_limit_calls, settings.journal_limit_nbytes, self._let_go)
        self._models: dict[str, Model] = {}  # that calls name, by digest
        self._timing = Timing(time.monotonic())  # of snapshots
        self._saving: set[int] = set()  # handles whose state comes here now and then
        self._no_room = ""  # for the snapshot that is coming
        self._died = 0, 0  # the last call that was answered when a worker died, and how many died since

    @property
    def possible(self) -> bool:
        """Whether the session survives its worker."""
        return self._journal is not None and not self._journal.unkept

    def wants(self, handle: int, effect: Effect) -> Effect | None:
        """The effect of a call whose frames are to be kept; None for any other call."""
        if self._journal is None or effect is READS or not self._journal.keeps(handle):
            return None
        if effect.saves:
            self._saving.add(handle)
        if effect.restoring is not None:
            self._timing.asked(time.monotonic())
        return effect

    def is_due(self, handle: int) -> bool:
        """Whether the front-end should ask for the state of a handle now, by a call with `Effect.restoring`."""
        return (
            self._journal is not None
            and handle in self._saving
            and self._journal.keeps(handle)
            and self._timing.is_due(time.monotonic(), self._journal.fullness)
        )

    def room(self, spec: TensorSpec) -> Array:
        """Where to receive a part of a snapshot."""
        try:
            return room(self._settings.cache_dir / "snapshots", spec)
        except OSError as exc:
            self._no_room = str(exc)
            return np.empty(spec.shape, spec.dtype)

    def remember(self, manifest: Manifest, source: Source) -> None:
        """Take note of where a model comes from that the destination has now: another worker may lack it."""
        if self._journal is not None:
            changing = isinstance(source, memoryview)
            self._models.setdefault(manifest.digest, Model(manifest, None if changing else source))

    def release(self, handle: int) -> None:
        """Take note that a handle is no longer used, and that all calls before that have been answered."""
        if self._journal is not None:
            self._journal.release(handle)

    def take(self, call: Call, answer: Frame, compared: bool) -> None:
        """Take over the frames of a call that was answered, before anybody is told of that.

        Args:
            compared: where the call is made again, it gives the same to the bit.
        """
        frames, copied, call.frames = call.frames, call.copied, None
        effect, message = call.effect, call.message
        failed = answer.message.error.code if isinstance(answer.message, Failed) else ""
        if self._journal is None or effect is None or message is None or (failed and isinstance(message, Load)):
            if copied and frames is not None:
                self._copies.take_back(frames)
            return
        body = answer.message.body if isinstance(answer.message, Result) else b""
        if effect.restoring is not None:
            if not failed and not (effect.refused is not None and effect.refused(body)):
                self._take_snapshot(call, effect.restoring(body, answer.arrays))
            self._timing.ended(time.monotonic())
            return
        if failed or (body and effect.refused is not None and effect.refused(body)):
            effect = replace(effect, anything=True)  # it may have done a part
        if effect.overwrites or effect.anything:
            if frames is not None and len(frames) > 1 and not copied:
                frames, copied = self._copies.of(frames), True
            if frames is None:
                self._journal.give_up(call.handle, f"{call.name} with {call.nbytes} bytes was too large to be kept")
                return
        handles = (call.handle, *(message.handles if isinstance(message, Run) else ()), *effect.concerns)
        files = tuple(message.files.values())
        check = check_of(answer.arrays) if compared and not failed else None
        self._journal.add(Entry(handles, effect, frames or (), call.name, copied, files, failed, check))

    def _take_snapshot(self, call: Call, restoring: tuple[bytes, Sequence[Array]]) -> None:
        no_room, self._no_room = self._no_room, ""
        if self._journal is None or no_room:
            return
        body, arrays = restoring
        frames = encode(Run(handle=call.handle, body=body), 0, arrays)
        self._journal.replace(Entry((call.handle,), CHANGES, frames, f"{call.name}, its restoring", stored=True))
        self.snapshots += 1

    def restart(
        self, gone: WorkerGone, attempts: Attempts, allocate: Allocate, waiting: Sequence[Call], answered: int
    ) -> tuple[Channel, Welcome]:
        """Open another session, and give its worker the state after the last call that was answered.

        Args:
            allocate: for what comes over the new connection.
            waiting: calls that were not answered.
            answered: the last that was.

        Raises:
            SessionLost: that is not wanted, or not possible; the text says why.
        """
        if self._journal is None:
            raise gone
        if self._journal.unkept:
            raise SessionLost(f"{gone}; its state cannot be rebuilt: {self._journal.unkept}") from gone
        named = [call.message.files.values() for call in waiting if call.message is not None]
        first = min((call.number for call in waiting), default=answered + 1)
        attempts.at_once()
        self._note_death(gone, waiting, answered)
        while True:
            channel, welcome = reopen(self.url, self._settings, self._program, attempts, allocate)
            entries = self._journal.needed()
            try:
                rebuild(
                    channel,
                    welcome,
                    self.url,
                    self._settings,
                    entries,
                    self._journal.released,
                    self._models,
                    [digest for digests in named for digest in digests],
                    iter(range(1, first)),
                )
            except Unlike as exc:
                with contextlib.suppress(SessionLost):
                    channel.send(Goodbye())  # so that the worker does not wait for this host
                channel.retire()
                raise SessionLost(f"{gone}; its state cannot be rebuilt: {exc}") from exc
            except SessionLost as exc:
                channel.retire()
                gone = WorkerGone(f"{gone}; {exc}")
                if self._has_died(welcome, attempts, allocate):
                    self._note_death(gone, waiting, answered)
                continue
            except BaseException:
                channel.retire()
                raise
            self.restarted += 1
            self.made_again = len(entries)
            return channel, welcome

    def _has_died(self, welcome: Welcome, attempts: Attempts, allocate: Allocate) -> bool:
        """Whether a worker died whose connection broke; one that did not is let go, with the state it had so far.

        Where nobody says it in time it counts as dead: it may be stopped, or its destination gone.
        """
        wish = Resumption(welcome.session, welcome.secret, FIRST_EPOCH + 1, answered=0)
        try:
            channel, *_ = reconnect(self.url, self._settings, wish, attempts.within(ASKING_S), allocate)
        except SessionLost:
            return True
        with contextlib.suppress(SessionLost):
            channel.send(Goodbye())
        channel.retire()
        return False

    def _note_death(self, gone: WorkerGone, waiting: Sequence[Call], answered: int) -> None:
        """Take note of a worker's death, so that a call which kills workers does not kill them for ever."""
        if not waiting:
            return
        before, deaths = self._died
        deaths = deaths + 1 if before == answered else 1
        self._died = answered, deaths
        if deaths > DEATHS_LIMIT:
            raise SessionLost(f"{gone}; {DEATHS_LIMIT} more workers have died of the call after {answered}") from gone

    def close(self) -> None:
        """Let go of what was kept, memory and snapshots, whoever still refers to the session; nothing comes later."""
        self._journal = None

    def _let_go(self, entry: Entry) -> None:
        if entry.copied:
            self._copies.take_back(entry.frames)
