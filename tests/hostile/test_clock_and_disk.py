"""A wall clock that jumps, and disks that are full: neither disturbs a session. Long: `make test-hostile`."""

from __future__ import annotations

import shutil
import struct
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from avec.config import Settings
from avec.destination.certificates import fingerprint_in
from avec.destination.users import Users
from avec.errors import CacheUnavailable
from avec.host import models
from avec.host.session import Session, probe
from destinations import await_true, floats, relu, running
from hostile.test_boundaries import ALL
from relay import Relay

pytestmark = pytest.mark.skipif(not ALL, reason="one of the long tests of `make test-hostile`")

DAY_S = 86_400
FULL = Path("/dev/full")  # takes nothing: ENOSPC. Source: full(4)
NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount")


def compiled(folder: Path) -> Path:
    """The library that shifts the wall clock of processes that preload it."""
    if (compiler := shutil.which("cc")) is None:
        pytest.skip("there is no C compiler, which makes the library that shifts a clock")
    library = folder / "wallclock.so"
    source = Path(__file__).with_name("wallclock.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(source)], check=True)
    return library


def test_a_wall_clock_that_jumps_changes_nothing(tmp_path: Path, settings: Settings) -> None:
    offset = tmp_path / "offset"
    offset.write_bytes(bytes(8))
    variables = {"LD_PRELOAD": str(compiled(tmp_path)), "WALLCLOCK_OFFSET": str(offset)}
    variables |= {"AVEC_HEARTBEAT_S": "0.1", "AVEC_HELLO_TIMEOUT_S": "30", "AVEC_RESUME_TIMEOUT_S": "30"}
    own = replace(settings, heartbeat_s=0.1, heartbeat_misses=150)
    with running(tmp_path, **variables) as destination, Relay(destination.url) as relay:

        def jump(days: int) -> None:
            with offset.open("r+b") as file:
                file.write(struct.pack("=q", days * DAY_S))

        with Session(relay.url, own) as session:
            net = relu(session)
            for days in (1, -2, 400, 0):
                jump(days)
                assert net.forward(floats(1, -2, 3, 4)).wait().arrays[0].tolist() == [1, 0, 3, 4]
                time.sleep(0.3)  # some heartbeats, with nothing to tell of them
            assert session.mended == 0, "no heartbeat was missed"
            relay.silence()
            relay.cut()
            jump(500)
            relay.resume()
            assert net.forward(floats(1, -2, 3, 4)).wait().arrays[0].tolist() == [1, 0, 3, 4]
            assert session.mended == 1
            assert 0 < probe(destination.url, own).uptime_s < 100
            assert probe(destination.url, own).listed[0].age_s < 100
        year = time.gmtime(time.time() + 500 * DAY_S).tm_year
        with Session(destination.url, own):
            await_true(lambda: f"avec: {year}-" in destination.log_text(), "the destination's clock has really jumped")


@pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
def test_an_audit_log_on_a_full_disk_is_told_and_hosts_are_served(tmp_path: Path, settings: Settings) -> None:
    options = ("--listen", "tls://127.0.0.1:0", "--require-token", "--audit-log", str(FULL))
    with running(tmp_path, *options) as destination:
        token = Users(tmp_path / "secrets" / "users.json").add("ann")
        own = replace(settings, token=token, fingerprint=fingerprint_in(tmp_path / "secrets" / "certificate.pem"))
        for _ in range(2):
            with Session(destination.url, own) as session:
                assert relu(session).forward(floats(1, -2, 3, 4)).wait().arrays[0].tolist() == [1, 0, 3, 4]
        told = "the audit log lacks a line: No space left on device"
        await_true(lambda: destination.log_text().count(told) == 2, "each gap is told")


def test_a_full_disk_refuses_a_model_and_nothing_else(tmp_path: Path, settings: Settings) -> None:
    if subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this system lets nobody mount a small disk")
    cache = tmp_path / "cache"
    cache.mkdir()
    prefix = (*NAMESPACE, "sh", "-c", 'mount -t tmpfs -o size=10m,mode=700 tmpfs "$0" && exec "$@"', str(cache))
    with running(tmp_path, prefix=prefix) as destination, Session(destination.url, settings) as session:
        net = relu(session)
        with pytest.raises(CacheUnavailable, match="10,485,760 are free on the disk.*free disk or wait"):
            models.provide(session, bytes(12 << 20), settings)
        assert net.forward(floats(1, -2, 3, 4)).wait().arrays[0].tolist() == [1, 0, 3, 4]
        assert models.provide(session, b"a small one", settings)
        with Session(destination.url, settings) as another:
            assert relu(another).forward(floats(5, 6, 7, 8)).wait().arrays[0][3] == 8
        assert probe(destination.url, settings).disk_free_nbytes < 10 << 20
