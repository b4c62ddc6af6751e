"""Models on their way to a destination: cut, damaged, interrupted, raced, and then complete all the same."""

from __future__ import annotations

import os
import random
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from avec.communication.channel import Channel, Heartbeat
from avec.config import Settings
from avec.destination.uploads import Uploads
from avec.errors import InvalidArgument, SessionLost
from avec.host import models
from avec.host.greeting import greet
from avec.host.session import Session
from avec.modelcache import ModelCache, Upload, manifest_of_bytes
from avec.modelcache.locks import if_unused
from avec.protocol.codec import CHUNK_NBYTES
from avec.protocol.messages import VERSION, Chunk, Failed, Goodbye, Offer, Stored, Want, Welcome
from communication.pairs import open_pair
from destinations import PYTHON, Destination, await_true
from launching import environ
from relay import Relay

pytestmark = pytest.mark.usefixtures("tidy")

Open = Callable[..., Session]
MODEL_NBYTES = 2 * CHUNK_NBYTES + 123_456  # three chunks
HASTY = Heartbeat(0.2, 2)
OVERHEAD_NBYTES = 4096  # hellos, offers, heartbeats


@pytest.fixture
def model(request: pytest.FixtureRequest) -> bytes:
    """A model of three chunks that no other test has."""
    return random.Random(request.node.nodeid).randbytes(MODEL_NBYTES)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Of hosts to whom a broken connection is a failed upload; `tests/host/test_resume.py` is about the others."""
    return replace(settings, resume_timeout_s=0.0)


@pytest.fixture
def relay(destination: Destination) -> Iterator[Relay]:
    with Relay(destination.url) as relay:
        yield relay


def stored(destination: Destination, model: bytes) -> Path:
    return destination.cache_dir / "models" / "models" / manifest_of_bytes(model).digest


def test_a_model_arrives_whole(destination: Destination, open_session: Open, settings: Settings, model: bytes) -> None:
    models.provide(open_session(), model, settings)
    assert stored(destination, model).read_bytes() == model


def test_a_models_file_is_uploaded_from_where_it_lies(
    destination: Destination, open_session: Open, settings: Settings, model: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "net.caffemodel"
    path.write_bytes(model)
    assert models.provide(open_session(), path, settings) == manifest_of_bytes(model).digest
    assert stored(destination, model).read_bytes() == model


def test_an_empty_model_is_a_model(destination: Destination, open_session: Open, settings: Settings) -> None:
    models.provide(open_session(), b"", settings)
    assert stored(destination, b"").read_bytes() == b""


def test_a_warm_start_sends_no_byte_of_the_model(
    open_session: Open, settings: Settings, relay: Relay, model: bytes
) -> None:
    session = open_session(url=relay.url)
    models.provide(session, model, settings)
    cold = relay.up.nbytes
    models.provide(open_session(url=relay.url), model, settings)
    assert cold > MODEL_NBYTES
    assert relay.up.nbytes - cold < OVERHEAD_NBYTES
    assert relay.connections == 3  # two sessions, one upload


CUTS = [random.Random(7).randrange(MODEL_NBYTES) for _ in range(3)]


@pytest.mark.parametrize("cut", [*CUTS, 10, CHUNK_NBYTES + OVERHEAD_NBYTES])
@pytest.mark.parametrize("by", ["FIN", "RST"])
def test_an_upload_that_was_cut_goes_on_where_it_was(
    destination: Destination, open_session: Open, settings: Settings, relay: Relay, model: bytes, cut: int, by: str
) -> None:
    session = open_session()
    session.url = relay.url  # uploads go through the relay, the session itself does not
    workers = destination.workers()
    relay.up.cut_at, relay.up.cut_by = cut, by
    relay.up.rate = 200_000_000
    with pytest.raises((SessionLost, ConnectionError)):
        models.provide(session, model, settings)
    assert not stored(destination, model).exists()
    await_true(lambda: destination.workers() <= workers, "what was received is stored")
    before = relay.up.nbytes
    models.provide(session, model, settings)
    assert stored(destination, model).read_bytes() == model
    chunks_there = max(0, (cut - OVERHEAD_NBYTES) // CHUNK_NBYTES) if by == "FIN" else 0
    assert relay.up.nbytes - before <= MODEL_NBYTES - chunks_there * CHUNK_NBYTES + OVERHEAD_NBYTES


def test_a_damaged_chunk_is_refused_and_not_kept_and_the_next_try_works(
    destination: Destination, open_session: Open, settings: Settings, relay: Relay, model: bytes
) -> None:
    session = open_session(url=relay.url)
    relay.up.damage_at = relay.up.nbytes + CHUNK_NBYTES + CHUNK_NBYTES // 2  # in the second
    with pytest.raises(InvalidArgument, match="chunk 1 of model .* the link damaged it; offer the model again"):
        models.provide(session, model, settings)
    assert not stored(destination, model).exists()
    models.provide(session, model, settings)
    assert stored(destination, model).read_bytes() == model


def test_a_file_that_changes_under_way_is_refused(
    destination: Destination, open_session: Open, settings: Settings, relay: Relay, model: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "net.caffemodel"
    path.write_bytes(model)
    session = open_session(url=relay.url)
    relay.up.rate = 40_000_000
    with ThreadPoolExecutor(1) as pool:
        providing = pool.submit(models.provide, session, path, settings)
        relay.up.wait_for(1_000_000)
        with path.open("r+b") as file:
            file.seek(-10, os.SEEK_END)
            file.write(b"0123456789")
        with pytest.raises(InvalidArgument, match="the file changed since"):
            providing.result()


def test_a_slow_link_is_not_taken_for_a_refusal_nor_for_a_cut(
    open_session: Open, settings: Settings, relay: Relay, model: bytes
) -> None:
    hasty = replace(settings, heartbeat_s=0.2, heartbeat_misses=3)
    session = open_session(url=relay.url, settings=hasty)
    relay.up.rate = 10_000_000
    began_s = time.monotonic()
    models.provide(session, model, hasty)
    assert time.monotonic() - began_s > 1.2, "the link was too fast to show anything"


def test_a_link_that_falls_silent_in_an_upload_is_a_loss(
    open_session: Open, settings: Settings, relay: Relay, model: bytes
) -> None:
    hasty = replace(settings, heartbeat_s=0.2, heartbeat_misses=3)
    session = open_session(settings=hasty)
    session.url = relay.url
    relay.up.rate = 20_000_000
    with ThreadPoolExecutor(1) as pool:
        providing = pool.submit(models.provide, session, model, hasty)
        relay.up.wait_for(1_000_000)
        relay.silence()
        with pytest.raises(SessionLost, match="the link is cut"):
            providing.result()


def test_two_hosts_may_upload_the_same_model_at_once(
    destination: Destination, open_session: Open, settings: Settings, model: bytes
) -> None:
    sessions = [open_session() for _ in range(2)]
    together = threading.Barrier(2)

    def provide(session: Session) -> str:
        together.wait()
        return models.provide(session, model, settings)

    with ThreadPoolExecutor(2) as pool:
        assert set(pool.map(provide, sessions)) == {manifest_of_bytes(model).digest}
    assert stored(destination, model).read_bytes() == model


PROGRAM = """
import sys
sys.path[:0] = [{tests!r}]
from pathlib import Path
from avec.host import models
from avec.host.session import Session
from destinations import host_settings
settings = host_settings(Path({folder!r}), resume_timeout_s=0.0)
session = Session({url!r}, settings)
{rest}
"""


def start_program(destination_url: str, settings: Settings, rest: str) -> subprocess.Popen[str]:
    code = PROGRAM.format(
        tests=os.path.dirname(os.path.dirname(__file__)), folder=str(settings.cache_dir), url=destination_url, rest=rest
    )
    pipe = subprocess.PIPE
    return subprocess.Popen([PYTHON, "-c", code], env=environ(), stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def test_ctrl_c_in_an_upload_ends_it_and_the_next_run_goes_on_where_it_was(
    destination: Destination, open_session: Open, settings: Settings, relay: Relay, model: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "net.caffemodel"
    path.write_bytes(model)
    relay.up.rate = 40_000_000
    rest = f"models.provide(session, Path({str(path)!r}), settings)"
    with start_program(relay.url, settings, rest) as program:
        relay.up.wait_for(CHUNK_NBYTES + CHUNK_NBYTES // 2)
        program.send_signal(2)
        assert program.wait(20) != 0
        assert program.stderr is not None
        assert program.stderr.read().rstrip().endswith("KeyboardInterrupt")
    relay.up.rate = 0.0
    # Counted by the session: what the interrupted program left in the link's buffers still passes the relay.
    session = open_session(url=relay.url)
    models.provide(session, path, settings)
    assert session.recorder.uploaded_nbytes <= MODEL_NBYTES - CHUNK_NBYTES
    assert stored(destination, model).read_bytes() == model


def test_a_killed_host_lets_go_of_the_models_that_it_had_pinned(
    destination: Destination, settings: Settings, model: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "net.caffemodel"
    path.write_bytes(model)
    before = destination.workers()
    # The second offer finds the model whole, and pins it.
    provide = f"models.provide(session, Path({str(path)!r}), settings)"
    rest = f"{provide}\n{provide}\nprint('pinned', flush=True)\ninput()"
    with start_program(destination.url, settings, rest) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "pinned\n"
        with if_unused(stored(destination, model)) as unused:
            assert not unused
        program.kill()
    await_true(lambda: destination.workers() <= before, "its workers have ended")
    with if_unused(stored(destination, model)) as unused:
        assert unused


def _open_upload(destination: Destination, settings: Settings) -> Channel:
    channel, _ = greet(destination.url, settings, "upload")
    channel.set_heartbeat(Heartbeat(10.0, 1))
    return channel


def test_a_chunk_that_was_not_asked_for_ends_the_upload(destination: Destination, settings: Settings) -> None:
    channel = _open_upload(destination, settings)
    channel.send(Chunk(digest="0" * 64, index=0), arrays=[np.zeros(10, np.uint8)])
    with pytest.raises(SessionLost, match="closed"):
        channel.receive()
    channel.close()
    await_true(lambda: "chunk 0 of model '0000" in destination.log_text(), "the worker says why")


@pytest.mark.parametrize("digest", ["../../../../etc/passwd", "A" * 64, "0" * 63, ""])
def test_a_digest_that_is_none_is_refused_by_name(destination: Destination, settings: Settings, digest: str) -> None:
    channel = _open_upload(destination, settings)
    channel.send(Offer(digest=digest, nbytes=1), 1, [np.zeros(32, np.uint8)])
    answer = channel.receive().message
    channel.close()
    assert isinstance(answer, Failed)
    assert answer.error.code == "invalid-argument"
    assert "names no model" in answer.error.message


@pytest.mark.parametrize("files", [{"weights": "../../etc/passwd"}, {"weights": ""}])
def test_a_call_cannot_name_files_outside_the_cache(open_session: Open, files: dict[str, str]) -> None:
    session = open_session()
    with pytest.raises(InvalidArgument, match="names no model"):
        session.load(session.new_handle(), "caffe", b"", files=files).wait()


def test_chunk_digests_that_are_not_the_models_are_refused(destination: Destination, settings: Settings) -> None:
    channel = _open_upload(destination, settings)
    channel.send(Offer(digest="0" * 64, nbytes=1), 1, [np.zeros(32, np.uint8)])
    answer = channel.receive().message
    channel.close()
    assert isinstance(answer, Failed)
    assert "chunk digests that are not its own" in answer.error.message


def test_a_model_already_there_wants_nothing(
    destination: Destination, open_session: Open, settings: Settings, model: bytes
) -> None:
    models.provide(open_session(), model, settings)
    manifest = manifest_of_bytes(model)
    channel = _open_upload(destination, settings)
    channel.send(Offer(digest=manifest.digest, nbytes=manifest.nbytes), 1, [np.frombuffer(manifest.chunks, np.uint8)])
    assert channel.receive().message == Want(manifest.digest, ())
    channel.abort()
    channel.close()


def test_a_slow_disk_is_not_taken_for_a_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = threading.Event()
    finish = Upload.finish

    def finish_slowly(upload: Upload) -> None:
        assert written.wait(20)
        finish(upload)

    monkeypatch.setattr(Upload, "finish", finish_slowly)
    uploads = Uploads(ModelCache(tmp_path / "models", 1 << 30))
    manifest = manifest_of_bytes(b"model")
    with open_pair() as (ours, theirs), ThreadPoolExecutor(1) as pool:
        destination, host = (
            Channel(theirs, "destination", Heartbeat(20.0, 1), uploads.allocate),
            Channel(ours, "host", HASTY),
        )
        destination.send(Welcome(VERSION, "1", "test"))
        serving = pool.submit(uploads.serve, destination)
        assert isinstance(host.receive().message, Welcome)
        host.send(Offer(digest=manifest.digest, nbytes=5), 1, [np.frombuffer(manifest.chunks, np.uint8)])
        assert host.receive().message == Want(manifest.digest, ((0, 1),))
        host.send(Chunk(digest=manifest.digest, index=0), arrays=[np.frombuffer(b"model", np.uint8)])
        disk = threading.Timer(3 * HASTY.misses * HASTY.interval_s, written.set)
        disk.start()
        assert host.receive().message == Stored(manifest.digest)
        host.send(Goodbye())
        serving.result(timeout=20)
        disk.join()
