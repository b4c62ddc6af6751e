"""A worker's turns on the accelerator: it has one before it carries out a call, and gives it back where others wait.

While nobody else wants the accelerator the turn stays, and a call costs two uncontended locks of this process and no
system call. Where others wait, it goes back when there is nothing to do, as when an answer waits for its host to read,
or when it has lasted long enough, after the accelerator has done what was issued: only then can it be said how long
that took. A server that answers nothing is waited for no longer than any peer: calls go on without turns until it
answers. Not here: who is next (`fairness`).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Protocol

from avec.communication.channel import Heartbeat, clock_ns
from avec.destination.sharing.board import Board, Count

LOOK_NS = 250_000_000  # how often memory is looked at, which takes system calls


class Shared(Protocol):
    """The accelerator, as turns see it."""

    def synchronize(self) -> None:
        """Wait until it has done all that was asked of it."""

    def pace(self) -> None:
        """Wait until it has done what had been asked when this was called before; so little more is issued ahead."""

    def memory_nbytes(self) -> int:
        """How much of its memory this process holds."""


class Server(Protocol):
    """The server, as turns see it. Nothing here waits for it."""

    def ask(self) -> None:
        """Say that a turn is needed."""

    def give_back(self, used_ns: int, again: bool) -> None:
        """Say that the turn is over, how much was used up to now, and whether another is needed."""

    def knock(self) -> None:
        """Ask for a sign of life, which is `Turns.answer`, or a turn."""

    def note_silence(self, silence_s: float) -> None:
        """It gave none for so long: calls wait for no turns."""

    def note_life(self) -> None:
        """It gave one after all: calls wait for turns again."""


class Turns:
    """Used by the thread that carries out calls, but for what it says otherwise."""

    def __init__(
        self,
        board: Board,
        accelerator: Shared,
        length_s: float,
        server: Server,
        heartbeat: Heartbeat,
    ) -> None:
        """Begin without a turn.

        Args:
            length_s: for how long others wait at most while there is more to do, calls being whole.
            server: is told, by whichever thread finds out.
            heartbeat: after `interval_s` of waiting for a turn the server is asked for a sign of life, and is silent
                when `misses` times as long has passed without one.
        """
        self._board = board
        self._accelerator = accelerator
        self._length_ns = round(length_s * 1e9)
        self._server = server
        self._heartbeat = heartbeat
        self._lock = threading.Lock()  # guards what follows
        self._told = threading.Condition(self._lock)  # by the server
        self._held = False
        self._answered = True  # the server has answered since it was last asked for a sign of life
        self._silent = False  # it has not, for so long that calls do not wait for turns
        self._asked = False
        self._working = False
        self._away = False  # before the next call something else takes long
        self._recalled = False  # somebody waits: give back what lies idle
        self._contended = False  # others wait for this turn to end, as far as was seen: all of it counts
        self._since_ns = 0  # when the turn, or what of it was after others began to wait, began
        self._counted_ns = 0  # up to when it is counted
        self._looked_ns = 0
        self._used_ns = self._calls = 0

    def ask(self) -> None:
        """Ask for a turn, if there is none, without waiting for it."""
        with self._lock:
            self._ask_once()

    def _ask_once(self) -> None:
        if not self._held and not self._asked:
            self._asked = True
            self._server.ask()

    def begin(self) -> int:
        """Wait for a turn, if there is none; it is not taken away before `end`. Gives the clock's time then.

        There is none afterwards if the server is silent: its part is who goes first, and without it all go.
        """
        with self._lock:
            if self._held:
                self._count(clock_ns())
            self._working, self._away = True, False
            self._ask_once()
            while not (self._held or self._silent):
                self._await_turn()
            began_ns = clock_ns()
            if not self._held:
                self._counted_ns = began_ns
        return began_ns

    def _count(self, now_ns: int) -> None:
        """Take what has passed for used, if a call is under way, or others wait meanwhile."""
        if self._working or self._contended:
            self._used_ns += now_ns - self._counted_ns
        self._counted_ns = now_ns

    def _await_turn(self) -> None:
        """Wait for the server to give a turn, or to show that it lives, or find out that it does not."""
        interval_s = self._heartbeat.interval_s
        if self._told.wait_for(lambda: self._held, interval_s):
            return
        self._answered = False
        self._server.knock()
        silence_s = interval_s * self._heartbeat.misses
        if not self._told.wait_for(lambda: self._held or self._answered, silence_s):
            self._silent = True
            self._server.note_silence(silence_s)

    def end(self, queue: int) -> None:
        """A call has been carried out, or at least been issued to the accelerator.

        Args:
            queue: as for `rest`.
        """
        waiting = self._board["waiting"]
        if queue and waiting:
            with suppress(RuntimeError):  # as in `_return`
                self._accelerator.pace()
        now_ns = clock_ns()
        self._count(now_ns)
        self._calls += 1
        self._board.show(self._used_ns, self._calls, queue)
        if now_ns - self._looked_ns > LOOK_NS:
            self._looked_ns = now_ns
            self._board["memory_nbytes"] = self._accelerator.memory_nbytes()
        with self._lock:
            self._working = False
            self._decide(queue, waiting, now_ns)

    def rest(self, queue: int) -> None:
        """Give the turn back, if there is one and others wait, where it has been long enough or lies idle.

        Args:
            queue: how many messages of the host's there are to take.
        """
        self._board["queue"] = queue
        with self._lock:
            now_ns = clock_ns()
            self._count(now_ns)
            self._decide(queue, self._board["waiting"], now_ns)

    def _decide(self, queue: int, waiting: int, now_ns: int) -> None:
        self._contended = self._held and (waiting > 0 or self._recalled)
        if not self._contended:
            self._since_ns = now_ns
        elif not queue or now_ns - self._since_ns >= self._length_ns:
            self._return(again=queue > 0)

    def between(self) -> None:
        """Let others have their turns where a long call can be interrupted, if this one has lasted long enough."""
        if not (self._held and self._board["waiting"]):
            return
        if clock_ns() - self._since_ns < self._length_ns:
            return
        with self._lock:
            self._return(again=True)
        self.begin()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """For what takes long within a call and does not use the accelerator, such as compiling: others have turns."""
        with self._lock:
            self._count(clock_ns())
            self._return(again=False)
        try:
            yield
        finally:
            self.begin()

    def grant(self) -> None:
        """The server gives a turn. Called by another thread."""
        with self._lock:
            self._held = True
            self._asked = self._recalled = False
            self._since_ns = self._counted_ns = clock_ns()
            self._contended = self._board["waiting"] > 0
            self._board["turns"] += 1
            self._note_life()
            self._let_idle_go()

    def answer(self) -> None:
        """The server is there. Called by another thread."""
        with self._lock:
            self._note_life()

    def _note_life(self) -> None:
        self._answered = True
        if self._silent:
            self._silent = False
            self._server.note_life()
        self._told.notify()

    def recall(self) -> None:
        """The server says that somebody waits. Called by another thread."""
        with self._lock:
            self._recalled = True
            if not self._working:
                self._since_ns = clock_ns()
                self._count(self._since_ns)
            self._contended = self._held
            self._let_idle_go()

    def pause(self) -> None:
        """Between two calls something takes long that computes nothing: others have turns. Called by any thread."""
        with self._lock:
            self._away = not self._working
            self._let_idle_go()

    def pause_in_s(self) -> float | None:
        """For how long to wait before `pause` is called although nothing is known to take long; None: not now.

        A turn that has lasted long enough ends with the next call. If it lasts as long again without a call under way,
        there was none all that time.
        """
        with self._lock:
            left_ns = self._since_ns + 2 * self._length_ns - clock_ns()
            return left_ns / 1e9 if self._held and self._wanted() and left_ns > 0 else None

    def _wanted(self) -> bool:
        """Whether others wait."""
        return self._recalled or self._board["waiting"] > 0

    def _let_idle_go(self) -> None:
        # Where there is more to do, `end` or `rest` is called soon.
        idle = not self._working and (self._away or not self._board["queue"])
        if idle and self._wanted():
            self._return(again=False)

    def show(self, name: Count, value: int) -> None:
        """Let the server see a number of the session's that seldom changes."""
        self._board[name] = value

    def _return(self, again: bool) -> None:
        if not self._held:
            return
        with suppress(RuntimeError):  # what failed on the accelerator makes the next call fail, which says so
            self._accelerator.synchronize()
        self._count(clock_ns())
        self._board["used_ns"] = self._used_ns
        self._held = self._recalled = self._contended = False
        self._asked = again
        self._server.give_back(self._used_ns, again)


class Alone:
    """The turns of whoever shares with nobody."""

    def begin(self) -> int:
        """There is nobody to wait for."""
        return clock_ns()

    def end(self, queue: int) -> None:
        """There is nobody who waits."""

    def rest(self, queue: int) -> None:
        """There is nobody who waits."""

    def between(self) -> None:
        """There is nobody who waits."""

    def pause(self) -> None:
        """There is nobody who waits."""

    def show(self, name: Count, value: int) -> None:
        """There is nobody who looks."""

    @contextmanager
    def aside(self) -> Iterator[None]:
        """There is nobody who waits."""
        yield
