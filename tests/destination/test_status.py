"""What a destination tells of itself: to users, to its owner, to Prometheus; and that it outlives its zygote."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from avec.config import Settings
from avec.destination.certificates import fingerprint_in
from avec.destination.users import Users
from avec.errors import AuthenticationFailed, InvalidArgument, SessionLost
from avec.host import models, status_page
from avec.host.session import Session, probe
from avec.protocol.messages import SessionInfo, Status
from destinations import Destination, alive, await_true, children, floats, relu, running
from launching import AVEC, environ, execute

pytestmark = pytest.mark.usefixtures("tidy")


@pytest.fixture(scope="module")
def destination(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Destination]:
    """One that serves metrics too."""
    with running(tmp_path_factory.mktemp("metrics"), "--metrics", "0") as destination:
        yield destination
        processes = children(destination.process.pid)
        assert destination.stop() == 0, destination.log_text()
        await_true(lambda: not any(map(alive, processes)), "no process is left")


def scrape(destination: Destination) -> dict[str, float]:
    """The metrics as Prometheus reads them: name, with labels if there are any, → value."""
    (url,) = [word for word in destination.log_text().split() if word.endswith("/metrics")]
    with urllib.request.urlopen(url, timeout=10) as answer:
        text = answer.read().decode()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {" ".join((sample.name, *sample.labels.values())): sample.value for sample in samples}


def row(url: str, settings: Settings) -> SessionInfo:
    """The one session that is listed."""
    (found,) = probe(url, settings).listed
    return found


def test_a_session_is_shown_with_what_it_does(destination: Destination, settings: Settings) -> None:
    before = probe(destination.url, settings).totals
    with Session(destination.url, settings, "a program") as session:
        net = relu(session)
        for _ in range(3):
            net.forward(floats(1, 2, 3, 4)).wait()
        with pytest.raises(InvalidArgument):
            session.run(999, "test", b"").wait()
        await_true(lambda: row(destination.url, settings).calls == 4, "the worker shows it")
        shown = row(destination.url, settings)
        assert (shown.program, shown.state, shown.user) == ("a program", "active", "")
        assert (shown.models, shown.failed, shown.queued, shown.promised_nbytes) == (1, 1, 0, 0)
        assert 100_000 < shown.memory_nbytes < 1 << 30
        assert 0 < shown.used_s < 5
        assert probe(destination.url, settings).memory_nbytes == shown.memory_nbytes
    await_true(lambda: probe(destination.url, settings).sessions == 0, "it has ended")
    after = probe(destination.url, settings).totals
    assert (after.sessions, after.calls, after.failed) == (before.sessions + 1, before.calls + 4, before.failed + 1)


def test_prometheus_reads_what_the_status_says(destination: Destination, settings: Settings) -> None:
    with Session(destination.url, settings) as session:
        models.provide(session, b"a model of metrics", settings)
        relu(session).forward(floats(1, 2, 3, 4)).wait()
        await_true(lambda: row(destination.url, settings).calls == 1, "the worker shows it")
        found, status = scrape(destination), probe(destination.url, settings)
    assert found["avec_sessions"] == status.sessions == 1
    assert found["avec_sessions_limit"] == status.places.sessions_limit == 16
    assert found["avec_models"] == status.models >= 1
    assert found["avec_models_bytes"] == status.models_nbytes >= 18
    assert found["avec_calls_total"] == status.totals.calls
    assert found["avec_uploads_begun_total"] == status.totals.uploads >= 1
    assert found["avec_refused_total authentication"] == 0
    assert found["avec_draining"] == 0
    assert 0 < found["avec_uptime_seconds"] <= status.uptime_s
    assert any(name.startswith("avec_accelerator_memory_bytes cpu ") for name in found)


def test_every_metric_is_in_the_docs(destination: Destination) -> None:
    page = (Path(__file__).parents[2] / "docs" / "operations.md").read_text("utf-8")
    assert [name for name in scrape(destination) if f"`{name.split()[0]}`" not in page] == []


def test_a_scraper_that_does_not_read_holds_nobody_up(destination: Destination, settings: Settings) -> None:
    (url,) = [word for word in destination.log_text().split() if word.endswith("/metrics")]
    port = int(url.rpartition(":")[2].partition("/")[0])
    with socket.create_connection(("127.0.0.1", port)) as slow:
        slow.sendall(b"GET /metrics HTTP/1.1\r\n")
        began_s = time.monotonic()
        assert probe(destination.url, settings).formats
        assert scrape(destination)
        assert time.monotonic() - began_s < 5.0


def test_a_metrics_port_that_is_taken_is_said_at_the_start(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [
            *AVEC,
            "serve",
            "--listen",
            "tcp://127.0.0.1:0",
            "--metrics",
            str(port),
            "--cache-dir",
            str(tmp_path),
        ]
        status, stdout, stderr = execute(*command, variables=environ(AVEC_SECRETS_DIR=str(tmp_path / "secrets")))
    assert (status, stdout) == (2, "")
    assert f"avec: metrics cannot be served at 127.0.0.1:{port}: Address already in use" in stderr


def test_the_command_prints_a_page_or_json(destination: Destination, settings: Settings) -> None:
    with Session(destination.url, settings, "[bold]odd[/]"):
        status, page, stderr = execute(*AVEC, "status", destination.url)
        assert (status, stderr) == (0, "")
        assert "[bold]odd[/]" in page
        assert "1 of 16; " in page
        status, text, _ = execute(*AVEC, "status", "--json", destination.url)
    shown = json.loads(text)
    assert (status, shown["sessions"], shown["places"]["sessions_limit"]) == (0, 1, 16)
    assert shown["listed"][0]["program"] == "[bold]odd[/]"


def test_a_page_shows_a_session_that_waits_and_what_was_refused() -> None:
    waiting = SessionInfo("7", "ann", "x.py", "192.0.2.1:9", "waiting", 7300.0, 1500, 2 * 10**9, 1, 9, 2, 1, 61.0)
    text = "\n".join(status_page._cells(waiting))
    assert text == "7\nann\nx.py\n192.0.2.1:9\nwaits for its host\n2 h 1 min\n1.5 kB\n2 GB\n1\n9, 2 failed\n1\n1 min"
    assert json.loads(status_page.as_json(Status(listed=(waiting,))))["listed"][0]["used_s"] == 61.0


def test_a_user_sees_sums_and_his_own_sessions_and_the_owner_all(tmp_path: Path, settings: Settings) -> None:
    with running(tmp_path, "--listen", "tls://127.0.0.1:0", "--require-token", "--metrics", "0") as destination:
        users = Users(tmp_path / "secrets" / "users.json")
        base = replace(settings, fingerprint=fingerprint_in(tmp_path / "secrets" / "certificate.pem"))
        ann, bob, owner = (replace(base, token=users.add(name)) for name in ("ann", "bob", "owner"))
        url = destination.url
        with pytest.raises(AuthenticationFailed):
            probe(url, replace(base, token="x" * 43))
        with Session(url, ann, "secret project"), Session(url, bob, "b"):
            assert [each.user for each in probe(url, ann).listed] == ["ann"]
            assert [each.program for each in probe(url, bob).listed] == ["b"]
            assert sorted(each.user for each in probe(url, owner).listed) == ["ann", "bob"]
            assert probe(url, bob).sessions == 2
            assert probe(url, bob).totals.refused == {"authentication": 1}
            found = scrape(destination)
            assert found["avec_refused_total authentication"] == 1
            assert not any("ann" in name or "secret" in name for name in found)


def test_a_zygote_that_dies_takes_its_sessions_along_and_new_ones_work(
    destination: Destination, settings: Settings
) -> None:
    before = probe(destination.url, settings).totals.zygote_restarts
    fragile = replace(settings, recovery="off")
    with Session(destination.url, fragile) as session, Session(destination.url, settings) as rebuilt:
        net, again = relu(session), relu(rebuilt)
        zygote = next(pid for pid in children(destination.process.pid) if children(pid))
        workers = children(zygote)
        os.kill(zygote, signal.SIGKILL)
        await_true(lambda: not any(map(alive, workers)), "the kernel has killed the workers too")
        with pytest.raises(SessionLost):
            net.forward(floats(1, 2, 3, 4)).wait()
        with Session(destination.url, settings) as session:  # waits for the next zygote
            assert relu(session).forward(floats(1, 2, 3, 4)).wait().arrays[0][3] == 4
        assert again.forward(floats(1, -2, 3, 4)).wait().arrays[0].tolist() == [1, 0, 3, 4]
    assert probe(destination.url, settings).totals.zygote_restarts == before + 1
    await_true(lambda: probe(destination.url, settings).sessions == 0, "their places are free")
    assert "the zygote died, and all sessions with it; starting another" in destination.log_text()


def test_a_zygote_that_dies_before_it_is_ready_ends_the_server_with_the_reason(tmp_path: Path) -> None:
    command = [*AVEC, "serve", "--listen", "tcp://127.0.0.1:0", "--cache-dir", str(tmp_path / "cache")]
    variables = environ(AVEC_SECRETS_DIR=str(tmp_path / "secrets"))
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=variables) as server:
        await_true(lambda: len(children(server.pid)) == 1, "there is a zygote")
        os.kill(children(server.pid)[0], signal.SIGKILL)
        _, stderr = server.communicate(timeout=20)
    assert server.returncode == 69
    assert "avec: the zygote ended before it was ready; its log is above" in stderr
