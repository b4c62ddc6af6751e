"""What is written of those who are refused, and how little that is."""

from __future__ import annotations

import json
import logging
import socket
import struct
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from avec.config import Settings
from avec.destination.audit import AuditLog, Line
from avec.destination.refusals import ELSEWHERE, KIND_LIMIT, WINDOW_S, Refusals
from avec.destination.users import Users
from avec.errors import AuthenticationFailed
from avec.host.greeting import greet
from avec.host.session import probe
from destinations import Destination, running

ATTEMPTS = 40


class Written:
    """Refusals with a clock of the test's, and all that they write."""

    def __init__(self, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
        self.now_s = 1000.0
        self.counts: Counter[str] = Counter()
        self._path = folder / "audit.jsonl"
        self._caplog = caplog
        self._audit = AuditLog(self._path, 1 << 20)
        self.refusals = Refusals(self.counts, self._audit, lambda: self.now_s)

    def close(self) -> None:
        self._audit.close()

    def log(self) -> list[str]:
        return self._caplog.messages

    def audit(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._path.read_text().splitlines()]

    def guess(self, address: str = "192.0.2.1", user: str = "") -> None:
        line = Line("now", 0.0, user, f"{address}:7", "session", "", "left")
        self.refusals.note(f"{address}:7", "authentication", "refused: who is that", line)

    def after(self, seconds: float) -> None:
        self.now_s += seconds
        self.refusals.look()


@pytest.fixture
def written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Iterator[Written]:
    caplog.set_level(logging.INFO, "avec.destination")
    with closing(Written(tmp_path, caplog)) as written:
        yield written


def test_the_first_is_written_at_once(written: Written) -> None:
    written.guess()
    assert written.log() == ["192.0.2.1:7 refused: who is that"]
    (line,) = written.audit()
    assert (line["address"], line["outcome"], line["count"]) == ("192.0.2.1:7", "refused: authentication", 1)


def test_of_many_more_one_line_a_minute_tells_how_many(written: Written) -> None:
    for _ in range(3):
        for _ in range(100):
            written.guess()
        written.after(WINDOW_S)
    told = "192.0.2.1, {} times more in 60 s: refused: who is that"
    assert written.log()[1:] == [told.format(99), told.format(100), told.format(100)]
    assert [(line["address"], line["count"]) for line in written.audit()[1:]] == [
        ("192.0.2.1", 99),
        ("192.0.2.1", 100),
        ("192.0.2.1", 100),
    ]
    assert written.counts == {"authentication": 300}


def test_who_comes_again_after_a_quiet_time_is_written_at_once(written: Written) -> None:
    for _ in range(2):
        written.guess()
        written.after(WINDOW_S)
    assert written.log() == ["192.0.2.1:7 refused: who is that"] * 2


def test_nothing_has_to_be_looked_at_when_nobody_comes(written: Written) -> None:
    assert written.refusals.deadline_s() is None
    written.guess()
    assert written.refusals.deadline_s() == written.now_s + WINDOW_S
    written.after(WINDOW_S)
    assert written.refusals.deadline_s() is None


def test_users_and_addresses_and_reasons_are_told_apart(written: Written) -> None:
    for _ in range(2):
        written.guess()
        written.guess(user="ann")
        written.guess("192.0.2.2")
        written.refusals.note("192.0.2.1:7", "silence", "said no hello")
    assert len(written.log()) == 4
    assert len(written.audit()) == 3, "who has not said hello is in the log alone"


def test_one_subscribers_many_addresses_are_one(written: Written) -> None:
    for number in range(100):
        written.guess(f"2001:db8::{number:x}")
    assert len(written.log()) == 1


def test_lines_of_very_many_addresses_are_bounded(written: Written) -> None:
    for number in range(10 * KIND_LIMIT):
        written.guess(f"10.0.{number // 256}.{number % 256}")
    written.after(WINDOW_S)
    assert len(written.log()) == len(written.audit()) == KIND_LIMIT + 2
    assert written.audit()[-1]["address"] == ELSEWHERE
    assert sum(line["count"] for line in written.audit()) == 10 * KIND_LIMIT


def test_what_has_not_been_told_is_told_at_the_end(written: Written) -> None:
    for _ in range(5):
        written.guess()
    written.refusals.close()
    assert [line["count"] for line in written.audit()] == [1, 4]


@pytest.fixture
def asking(tmp_path: Path) -> Iterator[Destination]:
    """A destination that asks for tokens."""
    with running(tmp_path / "asking", "--require-token") as destination:
        yield destination


def test_a_strangers_many_attempts_leave_two_lines_without_his_words(asking: Destination, settings: Settings) -> None:
    Users(asking.cache_dir.parent / "secrets" / "users.json").add("ann")
    before = len(asking.log_text().splitlines())
    for _ in range(ATTEMPTS):
        with pytest.raises(AuthenticationFailed):
            greet(asking.url, replace(settings, token="x" * 43), "session", "\U0001f600" * 64)
    assert len(asking.log_text().splitlines()) == before + 1
    assert asking.stop() == 0
    lines = [json.loads(line) for line in (asking.cache_dir / "audit.jsonl").read_text().splitlines()]
    assert [(line["outcome"], line["count"], line["program"]) for line in lines] == [
        ("refused: authentication", 1, ""),
        ("refused: authentication", ATTEMPTS - 1, ""),
    ]
    assert f"127.0.0.1, {ATTEMPTS - 1} times more in" in asking.log_text()


def test_garbage_and_connections_that_are_reset_do_not_flood_the_log(tmp_path: Path, settings: Settings) -> None:
    with running(tmp_path) as destination:
        host, port = destination.url.removeprefix("tcp://").split(":")
        before = len(destination.log_text().splitlines())
        for number in range(2 * ATTEMPTS):
            with ExitStack() as stack:
                sock = stack.enter_context(socket.create_connection((host, int(port)), 10.0))
                if number % 2:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    continue  # which sends a RST
                sock.sendall(b"GET / HTTP/1.1\r\nHost: somewhere\r\n\r\n")
                with suppress(ConnectionResetError):  # it had not read all that it closed upon
                    while sock.recv(4096):
                        pass
        assert probe(destination.url, settings).totals.refused["protocol"] == ATTEMPTS
        assert len(destination.log_text().splitlines()) <= before + 2
