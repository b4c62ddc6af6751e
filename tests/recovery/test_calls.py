"""Thousands of calls on state that is changed in place, with random numbers, under faults that come at random.

Connections end, are reset, stay half open and become slow, and workers are killed. What comes back is compared bit by
bit, and in order, with an undisturbed run: a lost, doubled or swapped call would show in all that follow it.
`RECOVERY_ROUNDS` (`make test-recovery`) makes it more than 10,000 calls of each kind.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from accumulator import Accumulator
from avec.config import Settings
from avec.host.session import Session, probe
from destinations import Destination, await_true, running
from recovery.programs import Output, run
from relay import Relay

LONG = "RECOVERY_ROUNDS" in os.environ
CALLS = 10_200 if LONG else 600
READS_A_STEP = 3  # of torch_calls.py: each is a call
UNDER_WAY = 40  # calls, at most
# Few of those that take a second and more.
KINDS = ("FIN",) * 6 + ("RST",) * 6 + ("delay",) * 4 + ("silence",) + ("death",) * (2 if LONG else 4)
STRIKES_AT_A_REBUILDING = 2  # after the third the session is lost: as far as the host sees, a call kills its workers
FIRST_NBYTES = 4_000  # within so many bytes after a strike a cut comes

pytestmark = pytest.mark.timeout(600 if LONG else 120)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Destination]:
    """A destination whose workers are killed."""
    with running(tmp_path_factory.mktemp("server"), OMP_NUM_THREADS="1") as destination:
        yield destination


@pytest.fixture
def relay(server: Destination) -> Iterator[Relay]:
    with Relay(server.url) as relay:
        yield relay


class Storm:
    """Lets one fault after the other strike a session."""

    def __init__(self, relay: Relay, server: Destination, restarted: Callable[[], int]) -> None:
        self.struck: Counter[str] = Counter()
        self._relay = relay
        self._server = server
        self._restarted = restarted  # how often another worker has taken over
        self._chance = random.Random(11)
        self._at_a_rebuilding = 0

    def strike(self) -> None:
        """One fault, now or within the next bytes."""
        chance, kind = self._chance, self._chance.choice(KINDS)
        if self._restarted() >= self.struck["death"]:
            self._at_a_rebuilding = 0
        elif self._at_a_rebuilding == STRIKES_AT_A_REBUILDING or kind in ("death", "silence"):
            return  # a welcome that does not come from a silent link is waited for much longer than a session is mended
        else:
            self._at_a_rebuilding += 1
        way = chance.choice((self._relay.up, self._relay.down))
        if kind == "delay":
            way.delay_s = chance.choice((0.0, 0.0, 0.001, 0.004))
            way.slice_nbytes = chance.choice((0, 0, 1, 100))
        elif kind == "death":
            self._kill()
        elif way.cut_at < 0:
            way.cut_by, way.cut_at = kind, way.nbytes + chance.randrange(FIRST_NBYTES)  # type: ignore[assignment]
        else:
            return  # a cut is still to come
        self.struck[kind] += 1

    def _kill(self) -> None:
        for way in (self._relay.up, self._relay.down):
            if way.cut_by == "silence":
                way.cut_at = -1  # nor is one to meet the next worker's welcome
        for worker in self._server.workers():
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)

    def check(self) -> None:
        """There was enough of each to show anything."""
        expected = {"FIN": 20, "RST": 20, "delay": 10, "silence": 2, "death": 5} if LONG else {"FIN": 2, "RST": 2}
        assert all(self.struck[kind] >= count for kind, count in expected.items()), self.struck
        assert self._restarted() >= (5 if LONG else 1), self.struck


def accumulate(url: str, settings: Settings, after_each: Callable[[Session], None]) -> list[bytes]:
    """Make calls, some of them at the same time; what each brought, in order."""
    rng = random.Random(3)
    brought: list[bytes] = []
    with Session(url, settings) as session:
        state = Accumulator(session, 16)
        calls = []
        for _ in range(CALLS):
            calls.append(state.add(np.full(16, rng.random(), np.float32)))
            after_each(session)
            while len(calls) > rng.randrange(1, UNDER_WAY):
                brought.append(calls.pop(0).wait().arrays[0].tobytes())
        return brought + [call.wait().arrays[0].tobytes() for call in calls]


def test_calls_on_a_tensor_under_faults_and_deaths_are_bit_equal(
    server: Destination, relay: Relay, settings: Settings
) -> None:
    # All is made again when a worker dies: nobody takes snapshots of this session.
    own = replace(settings, heartbeat_s=0.2, heartbeat_misses=5, journal_limit_calls=2 * CALLS)
    expected = accumulate(server.url, own, lambda session: None)
    assert len(set(expected)) == CALLS
    storms: list[Storm] = []
    chance = random.Random(4)
    mended = 0

    def strike(session: Session) -> None:
        nonlocal mended
        if not storms:
            storms.append(Storm(relay, server, lambda: session.restarted))
        mended = session.mended
        if chance.random() < (0.015 if LONG else 0.04):
            storms[0].strike()

    assert accumulate(relay.url, own, strike) == expected
    storms[0].check()
    assert mended > (40 if LONG else 3)


@pytest.mark.skipif(not LONG, reason="a part of `make test-recovery`")
def test_reads_of_a_torch_program_under_faults_and_deaths_are_bit_equal(
    server: Destination, relay: Relay, settings: Settings, tmp_path: Path
) -> None:
    steps = CALLS // READS_A_STEP
    variables = {
        "AVEC_RECOVERY": "snapshot",
        "AVEC_JOURNAL_LIMIT_CALLS": "300",  # so that there are snapshots, which come when it is nearly full
        "AVEC_HEARTBEAT_S": "0.2",
        "AVEC_HEARTBEAT_MISSES": "5",
        "AVEC_CACHE_DIR": str(tmp_path),
    }
    before = probe(server.url, settings).totals.calls
    expected = run(server.url, "torch_calls.py", str(steps), **variables)
    await_true(lambda: probe(server.url, settings).totals.calls - before > CALLS, "each read was a call")
    assert [int(line.split()[0]) for line in expected.lines] == list(range(steps))
    storms: list[Storm] = []
    chance = random.Random(5)

    def disturb(output: Output) -> None:
        storms.append(Storm(relay, server, lambda: len(output.made_again)))
        seen = 2
        while output.await_lines(seen):
            storms[0].strike()
            seen = len(output.lines) + chance.randrange(1, 35 if LONG else 20)

    disturbed = run(relay.url, "torch_calls.py", str(steps), disturb=disturb, **variables)
    assert disturbed.lines == expected.lines
    storms[0].check()
    assert disturbed.mended > (40 if LONG else 3)
    assert max(disturbed.made_again) <= int(variables["AVEC_JOURNAL_LIMIT_CALLS"]), "a snapshot is there in time"
