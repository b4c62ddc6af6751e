"""Destinations that others can reach: encrypted, with users. Each is started as a user starts it."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from avec import communication
from avec.communication.tls import Trust
from avec.config import Settings
from avec.destination.certificates import fingerprint_in
from avec.destination.stranger import ENCRYPTED_LIMIT
from avec.destination.users import Users
from avec.errors import (
    AuthenticationFailed,
    CacheUnavailable,
    DestinationError,
    DestinationUnreachable,
    DestinationUntrusted,
    SessionLost,
    unpack,
)
from avec.host import models
from avec.host.greeting import Resumption, greet
from avec.host.session import Session, probe
from avec.modelcache import manifest_of_bytes
from avec.protocol import messages
from avec.protocol.codec import allocate_array
from avec.protocol.connection import Connection
from communication.certificates import certificate
from destinations import SLOW, SLOW_SHAPE, Destination, Net, alive, await_true, children, floats, relu, running
from launching import AVEC, environ
from protocol.golden import frame_bytes
from relay import Relay

pytestmark = pytest.mark.usefixtures("tidy")

HELLO_TIMEOUT_S = 0.5
GUESSES = 8
MODEL = b"the weights of ann" * 1000


class Encrypted:
    """A destination with users, as its administrator and its hosts see it."""

    def __init__(self, destination: Destination, folder: Path) -> None:
        self.destination = destination
        self.users = Users(folder / "secrets" / "users.json")
        self.fingerprint = fingerprint_in(folder / "secrets" / "certificate.pem")
        self.audit_path = destination.cache_dir / "audit.jsonl"

    def settings(self, base: Settings, token: str) -> Settings:
        return replace(base, token=token, fingerprint=self.fingerprint)

    def audit(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.audit_path.read_text().splitlines()]


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Encrypted]:
    folder = tmp_path_factory.mktemp("encrypted")
    variables = {"AVEC_HELLO_TIMEOUT_S": str(HELLO_TIMEOUT_S), "AVEC_USER_MAX_SESSIONS": "2"}
    options = ("--listen", "tls://127.0.0.1:0", "--require-token")
    with running(folder, *options, **variables) as destination:
        yield Encrypted(destination, folder)
        await_true(lambda: children(destination.process.pid) == [destination.zygote_pid], "no process encrypts on")
        assert destination.stop() == 0, destination.log_text()


@pytest.fixture
def ann(encrypted: Encrypted, settings: Settings) -> Iterator[Settings]:
    """The settings of a host whose user is known; all her sessions have ended before, and a break ends a session."""
    own = replace(encrypted.settings(settings, encrypted.users.add("ann")), resume_timeout_s=0.0)
    await_true(lambda: encrypted.destination.sessions(own) == 0, "all places are free")
    yield own


def raw(encrypted: Encrypted) -> communication.Transport:
    return communication.connect(encrypted.destination.url, 5.0, Trust(encrypted.fingerprint))


def answer(transport: communication.Transport) -> messages.Message:
    connection = Connection("host", allocate_array)
    while True:
        nbytes = transport.receive_into(connection.buffer())
        assert nbytes, "closed without an answer"
        if (frame := connection.advance(nbytes)) is not None:
            return frame.message


def test_a_session_computes_and_uploads_over_tls(encrypted: Encrypted, ann: Settings) -> None:
    url = encrypted.destination.url
    x = np.random.default_rng(0).standard_normal(3 << 20).astype(np.float32)
    with Session(url, ann, "test") as session:
        np.testing.assert_array_equal(relu(session, x.size).forward(x).wait().arrays[0], np.maximum(x, 0))
        models.provide(session, MODEL, ann)
        assert probe(url, ann).sessions == 1
        assert probe(url, ann).security["encryption"] == "TLS 1.3"
    assert probe(url, ann).models == 1


@pytest.mark.parametrize("token", [None, "x" * 43])
def test_without_a_right_token_nothing_is_told(encrypted: Encrypted, settings: Settings, token: str | None) -> None:
    own = replace(settings, token=token, fingerprint=encrypted.fingerprint, secrets_dir=settings.cache_dir)
    encrypted.users.add("somebody")
    for attempt in (lambda: probe(encrypted.destination.url, own), lambda: Session(encrypted.destination.url, own)):
        with pytest.raises(AuthenticationFailed, match="ask its administrator for an `avec login` line") as caught:
            attempt()
        assert not hasattr(caught.value, "__notes__"), "no traceback of the destination's"
    assert "refused: authentication" in {line["outcome"] for line in encrypted.audit()}


def test_a_revoked_user_is_refused_at_once_and_an_open_session_goes_on(
    encrypted: Encrypted, settings: Settings
) -> None:
    own = encrypted.settings(settings, encrypted.users.add("carl"))
    with Session(encrypted.destination.url, own, "test") as session:
        net = relu(session)
        encrypted.users.revoke("carl")
        with pytest.raises(AuthenticationFailed):
            probe(encrypted.destination.url, own)
        assert net.forward(floats(1, 2, 3, 4)).wait().arrays[0][3] == 4


def test_a_digest_alone_opens_no_model_of_another_user(encrypted: Encrypted, ann: Settings, settings: Settings) -> None:
    url, digest = encrypted.destination.url, manifest_of_bytes(MODEL).digest
    bob = encrypted.settings(settings, encrypted.users.add("bob"))
    with Session(url, ann, "test") as session:
        models.provide(session, MODEL, ann)
    with Session(url, bob, "test") as session:
        with pytest.raises(CacheUnavailable, match=f"model {digest} is not in the model cache"):
            session.load(session.new_handle(), "caffe", b"", files={"weights": digest}).wait()
        models.provide(session, MODEL, bob)
        assert session.recorder.uploaded_nbytes == len(MODEL), "not even that it is there can be found out"


def test_a_users_sessions_are_bounded_and_another_users_are_not_touched(
    encrypted: Encrypted, ann: Settings, settings: Settings
) -> None:
    url = encrypted.destination.url
    dora = encrypted.settings(settings, encrypted.users.add("dora", max_sessions=1))
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(Session(url, ann, "test"))
        with pytest.raises(DestinationError, match="ann has 2 sessions at .*, and 2 are allowed"):
            Session(url, ann, "test")
        stack.enter_context(Session(url, dora, "test"))
        with pytest.raises(DestinationError, match="dora has 1 sessions at .*, and 1 are allowed"):
            Session(url, dora, "test")


def test_a_users_models_are_bounded(encrypted: Encrypted, settings: Settings) -> None:
    emil = encrypted.settings(settings, encrypted.users.add("emil", cache_limit_nbytes=len(MODEL) - 1))
    with Session(encrypted.destination.url, emil, "test") as session:
        with pytest.raises(CacheUnavailable, match="is bounded to 17,999"):
            models.provide(session, MODEL, emil)


def test_the_audit_log_says_who_did_what_for_how_long_with_how_many_bytes(encrypted: Encrypted, ann: Settings) -> None:
    x = np.ones(1 << 20, np.float32)
    with Session(encrypted.destination.url, ann, "a program\n{}") as session:
        relu(session, x.size).forward(x).wait()

    def lines() -> list[dict[str, Any]]:
        return [line for line in encrypted.audit() if line["program"] == "a program\\n{}"]

    await_true(lambda: bool(lines()), "the session's end is noted")
    (line,) = lines()
    assert (line["user"], line["purpose"], line["outcome"]) == ("ann", "session", "left")
    assert line["address"].startswith("127.0.0.1:")
    assert x.nbytes < line["received"] < x.nbytes + 10_000
    assert x.nbytes < line["sent"] < x.nbytes + 10_000
    assert line["seconds"] > 0
    assert encrypted.audit_path.stat().st_mode & 0o777 == 0o600


def test_a_killed_worker_ends_its_hosts_session_at_once(encrypted: Encrypted, ann: Settings) -> None:
    before = encrypted.destination.workers()
    session = Session(encrypted.destination.url, ann, "test")
    call = Net(session, SLOW, SLOW_SHAPE).forward(np.zeros(SLOW_SHAPE, np.float32))
    os.kill(encrypted.destination.new_worker(before), signal.SIGKILL)
    with pytest.raises(SessionLost):
        call.wait()
    session.close()
    await_true(lambda: encrypted.audit()[-1]["outcome"] == "killed by SIGKILL", "it is noted")


def test_a_killed_encrypting_process_ends_its_session_and_no_other(encrypted: Encrypted, ann: Settings) -> None:
    pid = encrypted.destination.process.pid
    with Session(encrypted.destination.url, ann, "test") as bystander:
        net = relu(bystander)
        before = set(children(pid))
        session = Session(encrypted.destination.url, ann, "test")
        (encrypting,) = set(children(pid)) - before
        os.kill(encrypting, signal.SIGKILL)
        with pytest.raises(SessionLost):
            relu(session)
        session.close()
        assert net.forward(floats(1, 2, 3, 4)).wait().arrays[0][0] == 1
    await_true(lambda: not alive(encrypting), "it is reaped")


def test_another_user_cannot_resume_a_session_even_with_its_secret(
    encrypted: Encrypted, ann: Settings, settings: Settings
) -> None:
    url = encrypted.destination.url
    bob = encrypted.settings(settings, encrypted.users.add("bob"))
    with Session(url, replace(ann, resume_timeout_s=30.0), "test") as session:
        net = relu(session)
        wish = Resumption(session.welcome.session, session.welcome.secret, 2, 0)
        with pytest.raises(SessionLost, match="no such session waits for this host"):
            greet(url, bob, "resume", resumption=wish)
        await_true(lambda: encrypted.audit()[-1]["outcome"] == "refused: session-lost", "it is noted")
        line = encrypted.audit()[-1]
        assert (line["user"], line["purpose"]) == ("bob", "resume")
        assert net.forward(floats(1, 2, 3, 4)).wait().arrays[0][3] == 4
        assert session.mended == 0


def test_a_host_that_is_cut_leaves_no_process(encrypted: Encrypted, ann: Settings) -> None:
    pid = encrypted.destination.process.pid
    with Relay(encrypted.destination.url) as relay:
        session = Session(relay.url.replace("tcp", "tls"), ann, "test")
        relu(session)
        relay.cut(reset=True)
        await_true(lambda: children(pid) == [encrypted.destination.zygote_pid], "the encrypting process has ended")
        session.close()
    await_true(lambda: not encrypted.destination.workers(), "the worker has ended")


def test_plain_bytes_are_answered_with_what_to_write(encrypted: Encrypted, settings: Settings) -> None:
    with pytest.raises(AuthenticationFailed, match="write its URL with tls://"):
        probe(encrypted.destination.url.replace("tls", "tcp"), settings)


def test_a_handshake_that_stalls_is_dropped_in_its_time(encrypted: Encrypted) -> None:
    host, port = encrypted.destination.url.removeprefix("tls://").split(":")
    with socket.create_connection((host, int(port))) as sock:
        sock.sendall(b"\x16\x03\x01\x02\x00\x01")
        sock.settimeout(10.0)
        began_s = time.monotonic()
        assert sock.recv(1) == b""
        assert HELLO_TIMEOUT_S * 0.5 < time.monotonic() - began_s < HELLO_TIMEOUT_S + 5


def test_one_that_shakes_hands_and_says_nothing_is_dropped_in_its_time(encrypted: Encrypted) -> None:
    with closing(raw(encrypted)) as transport:
        transport.set_tick(10.0)
        assert transport.receive_into(memoryview(bytearray(1))) == 0


@pytest.mark.parametrize("nbytes", [5000, 60_000, 1 << 30])
def test_nothing_above_4_kb_is_parsed_of_a_stranger(encrypted: Encrypted, nbytes: int) -> None:
    frame = bytearray(frame_bytes(messages.Hello(messages.VERSION, messages.VERSION, "session", "avec"), 0, ()))
    frame[4:8] = min(nbytes, 0xFFFFFFFF).to_bytes(4, "little")
    with closing(raw(encrypted)) as transport:
        transport.send([bytes(frame)])
        refused = answer(transport)
    assert isinstance(refused, messages.Refused)
    assert "4096" in str(unpack(refused.error))


def test_a_stranger_that_sends_on_before_its_hello_is_whole_is_cut_off(encrypted: Encrypted, ann: Settings) -> None:
    def refused() -> int:
        return probe(encrypted.destination.url, ann).totals.refused.get("protocol", 0)

    before = refused()
    host, port = encrypted.destination.url.removeprefix("tls://").split(":")
    with socket.create_connection((host, int(port))) as sock:
        sock.settimeout(10.0)
        with pytest.raises((ConnectionError, AssertionError)):
            sock.sendall(b"\x16\x03\x01\x40\x00\x01\x00\x3f\xfc" + bytes(2 * ENCRYPTED_LIMIT))
            assert sock.recv(1) == b"never"
    await_true(lambda: refused() == before + 1, "it is counted")


def test_a_recorded_hello_tells_nothing_and_cannot_be_played_again(encrypted: Encrypted, ann: Settings) -> None:
    host, port = encrypted.destination.url.removeprefix("tls://").split(":")
    recorded = _record(encrypted, ann, (host, int(port)))
    assert str(ann.token).encode() not in recorded
    assert b"avec" not in recorded
    before = len(encrypted.audit())
    with socket.create_connection((host, int(port))) as sock:
        sock.settimeout(10.0)
        sock.sendall(recorded)
        while sock.recv(65536):
            pass
    assert len(encrypted.audit()) == before, "the destination has understood no hello"


ASK = "from avec import config; from avec.host.session import probe; probe({url!r}, config.load())"


def _record(encrypted: Encrypted, ann: Settings, target: tuple[str, int]) -> bytes:
    """What a host sends that asks for the status."""
    recorded = bytearray()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"tls://127.0.0.1:{listener.getsockname()[1]}"
        with subprocess.Popen(
            [AVEC[0], "-c", ASK.format(url=url)],
            env=environ(AVEC_TOKEN=str(ann.token), AVEC_FINGERPRINT=encrypted.fingerprint),
        ) as program:
            with listener.accept()[0] as host, socket.create_connection(target) as destination:
                host.settimeout(0.2)
                destination.settimeout(0.2)
                while program.poll() is None:
                    for source, sink in ((host, destination), (destination, host)):
                        try:
                            data = source.recv(65536)
                        except TimeoutError:
                            continue
                        except ConnectionError:
                            break
                        if source is host:
                            recorded += data
                        if data:
                            sink.sendall(data)
            assert program.returncode == 0
    return bytes(recorded)


def test_somebody_between_is_noticed_before_the_token_is_sent(encrypted: Encrypted, ann: Settings) -> None:
    between = replace(ann, fingerprint=fingerprint_in(certificate("between")))
    with pytest.raises(DestinationUntrusted, match="Somebody may be between"):
        probe(encrypted.destination.url, between)


def test_wrong_tokens_keep_no_right_one_out(encrypted: Encrypted, settings: Settings) -> None:
    url = encrypted.destination.url
    own = encrypted.settings(settings, encrypted.users.add("finn"))

    def guess() -> None:
        for number in range(GUESSES):
            with pytest.raises(AuthenticationFailed, match="does not know this host"):
                probe(url, encrypted.settings(settings, f"guess {number}".ljust(43)))

    with Relay(url) as relay, Session(relay.url.replace("tcp", "tls"), own, "test") as session:
        net = relu(session)
        guess()
        relay.cut(reset=True)
        assert net.forward(floats(1, -2, 3, 4)).wait().arrays[0].tolist() == [1, 0, 3, 4]
        assert session.mended == 1
    guess()
    assert probe(url, encrypted.settings(settings, encrypted.users.add("gina"))).formats


def test_a_certificate_of_the_named_authority_lets_its_user_in_until_revoked(
    tmp_path: Path, settings: Settings
) -> None:
    authority = certificate("ann")  # signed by itself, so its own authority
    options = ("--listen", "tls://127.0.0.1:0", "--client-ca", str(authority))
    with running(tmp_path, *options) as destination:
        encrypted = Encrypted(destination, tmp_path)
        own = replace(settings, fingerprint=encrypted.fingerprint, host_certificate=authority)
        with pytest.raises(AuthenticationFailed):
            probe(destination.url, own)
        encrypted.users.add("ann")
        assert probe(destination.url, own).security["authentication"] == "certificates"
        with pytest.raises((DestinationUnreachable, AuthenticationFailed)):
            probe(destination.url, replace(own, host_certificate=None))
        encrypted.users.revoke("ann")
        with pytest.raises(AuthenticationFailed):
            probe(destination.url, own)


def test_a_pasted_line_is_all_a_host_needs(tmp_path: Path) -> None:
    variables = environ(AVEC_SECRETS_DIR=str(tmp_path / "served"), AVEC_CACHE_DIR=str(tmp_path / "cache"))
    command = [*AVEC, "serve", "--listen", "tls://0.0.0.0:0"]
    with subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as serving:
        assert serving.stdout is not None and serving.stderr is not None
        port = serving.stdout.readline().split()[2].rpartition(":")[2]
        line = serving.stdout.readline().strip().removeprefix("avec: paste on a host: avec ")
        host = environ(AVEC_SECRETS_DIR=str(tmp_path / "host"))
        words = re.sub(r"tls://\S+", f"tls://127.0.0.1:{port}", line).split()
        said = [
            subprocess.run([*AVEC, *more], env=host, capture_output=True, text=True, check=False)
            for more in (words, ["run", "--on", f"127.0.0.1:{port}", "-c", "print('ran')"])
        ]
        plainly, encrypted = said[1], subprocess.run(
            [*AVEC, "run", "--on", f"tls://127.0.0.1:{port}", "-c", "print('ran')"],
            env=host, capture_output=True, text=True, check=False,
        )  # fmt: skip
        serving.terminate()
        serving.wait(20)
    assert said[0].returncode == 0, said[0].stderr
    assert (encrypted.returncode, encrypted.stdout) == (0, "ran\n"), encrypted.stderr
    assert plainly.returncode == 69
    assert "write its URL with tls://" in plainly.stderr
