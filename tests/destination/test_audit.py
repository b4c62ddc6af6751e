"""The audit log's files: what is kept, how much, and who reads it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from avec.config import Settings
from avec.destination.audit import PARTS, AuditLog, Line, now
from avec.destination.users import Users
from avec.host.session import Session
from destinations import await_true, running

LIMIT_NBYTES = 4000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "audit.jsonl"


@pytest.fixture
def audit(path: Path) -> Iterator[AuditLog]:
    with closing(AuditLog(path, LIMIT_NBYTES)) as audit:
        yield audit


def line(number: int) -> Line:
    return Line(now(), 0.0, "ann", "192.0.2.1:7", "session", f"program {number}", "left")


def files(path: Path) -> list[Path]:
    """Of an audit log, the newest first."""
    return sorted(path.parent.glob("audit.jsonl*"))


def programs(path: Path) -> list[str]:
    """What the lines tell of, the oldest first."""
    return [json.loads(each)["program"] for part in reversed(files(path)) for each in part.read_text().splitlines()]


def test_the_log_keeps_its_bound_and_the_newest_lines_and_is_its_owners_alone(audit: AuditLog, path: Path) -> None:
    for number in range(200):
        audit.note(line(number))
        assert sum(part.stat().st_size for part in files(path)) <= LIMIT_NBYTES
    assert [part.name for part in files(path)] == ["audit.jsonl", *(f"audit.jsonl.{n}" for n in range(1, PARTS))]
    assert {part.stat().st_mode & 0o777 for part in files(path)} == {0o600}
    kept = programs(path)
    assert kept == [f"program {number}" for number in range(200 - len(kept), 200)]
    assert len(kept) * len(line(0).program) > 0
    assert sum(part.stat().st_size for part in files(path)) > LIMIT_NBYTES * (PARTS - 1) // PARTS - 400


def test_a_log_that_was_there_is_gone_on_with(path: Path) -> None:
    for number in range(2):
        with closing(AuditLog(path, LIMIT_NBYTES)) as audit:
            audit.note(line(number))
    assert programs(path) == ["program 0", "program 1"]
    assert files(path) == [path]


def test_a_file_that_somebody_else_has_moved_is_left_where_it_is(audit: AuditLog, path: Path) -> None:
    audit.note(line(0))
    path.rename(path.with_name("kept"))
    for number in range(1, 20):
        audit.note(line(number))
    assert json.loads(path.with_name("kept").read_text().splitlines()[0])["program"] == "program 0"
    assert programs(path)[-1] == "program 19"


def test_what_is_no_file_is_written_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    with closing(AuditLog(Path("/dev/null"), 1)) as audit:
        audit.note(line(0))
    assert Path("/dev/null").is_char_device()
    assert not caplog.records


def test_a_destinations_audit_log_keeps_its_bound(tmp_path: Path, settings: Settings) -> None:
    with running(tmp_path, "--require-token", AVEC_AUDIT_LIMIT_NBYTES="1200") as destination:
        own = replace(settings, token=Users(tmp_path / "secrets" / "users.json").add("ann"), resume_timeout_s=0.0)
        path = destination.cache_dir / "audit.jsonl"
        for number in range(PARTS + 2):
            with Session(destination.url, own, f"program {number}"):
                pass
            await_true(lambda text=f"program {number}": text in path.read_text(), "the end is noted")  # type: ignore[misc]
        assert sum(part.stat().st_size for part in files(path)) <= 1200
        assert programs(path) == [f"program {number}" for number in range(2, PARTS + 2)]
