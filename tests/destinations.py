"""Destinations started as a user starts them, hosts' sessions with them, and small Caffe nets to call."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np

from avec import config
from avec.config import Settings
from avec.host.calls import Call
from avec.host.session import Session, probe
from avec.protocol.caffe import BlobRef, Forward, LoadNet
from avec.tensor import Array
from launching import AVEC, environ

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 20.0
POLL_S = 0.005  # for what only /proc shows
ANNOUNCEMENT = "avec: serving "


@dataclass
class Destination:
    """A running `avec serve`: its URL, its process, its log so far."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path
    cache_dir: Path

    @property
    def zygote_pid(self) -> int:
        """The process that forks the workers."""
        return children(self.process.pid)[0]

    def workers(self) -> set[int]:
        """The processes that serve connections now."""
        return set(children(self.zygote_pid))

    def only_worker(self) -> int:
        """The one session's worker, once those of its probes and uploads have ended."""
        await_true(lambda: len(self.workers()) == 1, "there is one worker")
        (pid,) = self.workers()
        return pid

    def new_worker(self, before: set[int]) -> int:
        """The one worker that was not there before."""
        (pid,) = self.workers() - before
        return pid

    def sessions(self, settings: Settings) -> int:
        """How many sessions the destination itself counts."""
        return probe(self.url, settings).sessions

    def log_text(self) -> str:
        """What it has logged."""
        return self.log.read_text("utf-8")

    def stop(self) -> int:
        """End it as a user does; its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.wait()

    def wait(self) -> int:
        """Block until it has ended by itself; its exit status."""
        return self.process.wait(STOP_TIMEOUT_S)


def open_to_workers(folder: Path) -> None:
    """Let a destination that root starts have workers of another user: they must be able to look into its folder."""
    if os.geteuid() == 0:
        for each in (folder, *folder.parents):
            if each == Path(tempfile.gettempdir()):
                return
            each.chmod(each.stat().st_mode & 0o7777 | 0o111)


def start(folder: Path, *options: str, prefix: tuple[str, ...] = (), **variables: str) -> Destination:
    """Start `avec serve` on a free port; block until it serves.

    Args:
        folder: for its cache and its log.
        prefix: a command that runs it, such as `prlimit`.
        variables: settings as `AVEC_*` variables.
    """
    folder.mkdir(parents=True, exist_ok=True)
    open_to_workers(folder)
    log, cache_dir = folder / "serve.log", folder / "cache"
    command = [*prefix, *AVEC, "serve", "--listen", "tcp://127.0.0.1:0", "--cache-dir", str(cache_dir), *options]
    variables = {"AVEC_SECRETS_DIR": str(folder / "secrets"), **variables}
    with log.open("wb") as errors:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, env=environ(**variables)
        )
    assert process.stdout is not None
    with process.stdout as stdout:
        ready = select.select([stdout], [], [], START_TIMEOUT_S)[0]
        line = stdout.readline().decode() if ready else ""
    if not line.startswith(ANNOUNCEMENT):
        process.kill()
        process.wait()
        raise AssertionError(f"avec serve said {line!r}; its log:\n{log.read_text()}")
    return Destination(line.removeprefix(ANNOUNCEMENT).split()[0], process, log, cache_dir)


@contextlib.contextmanager
def running(folder: Path, *options: str, prefix: tuple[str, ...] = (), **variables: str) -> Iterator[Destination]:
    """A destination for the length of a test; fails if a process of it is left."""
    destination = start(folder, *options, prefix=prefix, **variables)
    zygote = destination.zygote_pid
    try:
        yield destination
    finally:
        if destination.process.poll() is None:
            destination.process.terminate()
            try:
                destination.wait()
            except subprocess.TimeoutExpired:
                destination.process.kill()
                destination.process.wait()
        await_true(lambda: not alive(zygote), "the zygote ends with its server")


def children(pid: int) -> list[int]:
    """A process's children, oldest first; zombies are none."""
    states = ((_state(int(entry)), int(entry)) for entry in os.listdir("/proc") if entry.isdigit())
    found = [(state[2], child) for state, child in states if state is not None and state[1] == pid and state[0] != "Z"]
    return [child for _, child in sorted(found)]


def alive(pid: int) -> bool:
    """Whether a process runs, or is stopped; a zombie does not."""
    state = _state(pid)
    return state is not None and state[0] not in "ZX"


def _state(pid: int) -> tuple[str, int, int] | None:
    """State, parent and start time. Source: proc_pid_stat(5)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(")")[2].split()
    return fields[0], int(fields[1]), int(fields[19])


def await_true(condition: Callable[[], bool], what: str, timeout_s: float = STOP_TIMEOUT_S) -> None:
    """Block until something in another process has come about, of which nothing tells but looking."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, f"in {timeout_s:.0f} s it has not come about that {what}"
        time.sleep(POLL_S)


def host_settings(folder: Path, **changes: object) -> Settings:
    """A host's settings: the defaults, whatever this machine's own files and variables say, but for `changes`."""
    settings = config.load(environ={config.FILE_VARIABLE: os.devnull})
    return replace(settings, cache_dir=folder, **changes)  # type: ignore[arg-type]


class Net:
    """A Caffe net of one layer at a destination, with one input, blob 0, and one output, blob 1."""

    def __init__(self, session: Session, layer: str, shape: tuple[int, ...], wait: bool = True) -> None:
        self._session = session
        self.handle = session.new_handle()
        dims = " ".join(f"dim: {dimension}" for dimension in shape)
        text = (
            f'layer {{ name: "in" type: "Input" top: "in" input_param {{ shape {{ {dims} }} }} }}\n'
            f'layer {{ name: "out" bottom: "in" top: "out" {layer} }}\n'
        )
        body = msgspec.msgpack.encode(LoadNet("test.prototxt"))
        self.load = session.load(self.handle, "caffe", body, [np.frombuffer(text.encode(), np.uint8)])
        if wait:
            self.load.wait()

    def forward(self, x: Array, into: Array | None = None) -> Call:
        """Compute the output for an input, without waiting."""
        request = Forward(writes=(BlobRef(0),), wanted=(BlobRef(1),))
        return self._session.run(self.handle, "caffe.forward", msgspec.msgpack.encode(request), [x], into=[into])


RELU = 'type: "ReLU"'
SLOW = 'type: "InnerProduct" inner_product_param { num_output: 4096 bias_term: false }'
SLOW_SHAPE = (1024, 8192)  # 69 GFLOP: half a second and more on a CPU, with 128 MB of parameters


def relu(session: Session, count: int = 4) -> Net:
    """A net that computes max(0, x) on float32 arrays of shape (count,)."""
    return Net(session, RELU, (count,))


def floats(*values: float) -> Array:
    """A float32 array."""
    return np.array(values, np.float32)


PYTHON = sys.executable
