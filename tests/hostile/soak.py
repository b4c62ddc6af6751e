"""A soak: 50 hosts come and go for minutes, and nothing grows at the destination or at the hosts: `make soak`.

    python tests/hostile/soak.py [--minutes 2] [--hosts 50] [--output RECORD.json]

Hosts are threads that each open a session, use it in one of the ways of `WAYS` and leave, politely or not; two more run
real programs under `avec run`, of one front-end after the other. Now and then all pause, and when the last worker has
ended the memory, descriptors, threads and processes of server, zygote, metrics process and hosts are looked at; those
of a worker whose session lasts as long as the soak are too. After the warm-up they may not move by more than 5 %.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from accumulator import Accumulator
from avec.bench import record
from avec.config import Settings
from avec.errors import AvecError, ExecutionError
from avec.host import models
from avec.host.session import Session, probe
from avec.profiling import Recorder
from destinations import Destination, await_true, children, floats, host_settings, relu, running
from hostile.bad_frames import FRAMES
from launching import APPS, AVEC, environ
from relay import Relay

LIBC = ctypes.CDLL(None)
M_ARENA_MAX = -8  # Source: mallopt(3)
TOLERANCE = 0.05
WARM_UP = 0.3  # of the time
PHASE_S = 8.0  # between two looks
PROGRAMS = (
    ("caffe", ("caffe_program.py",)),
    ("onnxruntime", ("onnx_program.py", "{folder}")),
    ("torch", ("torch_recurrent.py",)),
)


@dataclass(frozen=True)
class Look:
    """What a process holds."""

    resident_kb: int
    descriptors: int
    threads: int
    processes: int  # below it


def look(pid: int) -> Look:
    """Source: proc_pid_status(5), proc_pid_fd(5)."""
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    resident = int(lines["VmRSS"].split()[0])
    return Look(resident, len(os.listdir(f"/proc/{pid}/fd")), int(lines["Threads"]), len(children(pid)))


class Soak:
    """The hosts, and what they do."""

    def __init__(self, destination: Destination, settings: Settings, hosts: int) -> None:
        self.destination = destination
        self.settings = settings
        self.counts: Counter[str] = Counter()
        self.errors: dict[str, str] = {}  # the last text of each code
        self.wrong: list[str] = []
        self._hosts = hosts
        self._over = False

    def phase(self, seconds: float) -> None:
        """Let hosts come and go for a while; returns when the last has left."""
        self._over = False
        threads = [threading.Thread(target=self._host, args=(number,)) for number in range(self._hosts)]
        threads += [threading.Thread(target=self._programs, args=(number,)) for number in range(2)]
        for thread in threads:
            thread.start()
        time.sleep(seconds)
        self._over = True
        for thread in threads:
            thread.join()

    def _host(self, number: int) -> None:
        chance = random.Random(f"{number} {time.monotonic_ns()}")
        while not self._over:
            way = chance.choice(WAYS)
            try:
                way(self, chance)
            except AvecError as exc:
                self.counts[f"{way.__name__}: {exc.code}"] += 1
                self.errors[exc.code] = str(exc)
            except Exception as exc:  # a wrong result, or what is no error of AVEC's
                self.wrong.append(f"{way.__name__}: {exc!r}")
                return
            else:
                self.counts[way.__name__] += 1
            time.sleep(chance.random() * 0.5)

    def _programs(self, number: int) -> None:
        place = number
        while not self._over:
            name, words = PROGRAMS[place % len(PROGRAMS)]
            place += 1
            with tempfile.TemporaryDirectory() as folder:
                arguments = [word.format(folder=folder) for word in words[1:]]
                command = [*AVEC, "run", "--on", self.destination.url, str(APPS / words[0]), *arguments]
                done = subprocess.run(
                    command, env=environ(AVEC_CACHE_DIR=folder), capture_output=True, text=True, check=False
                )
            self.counts[f"program {name}"] += 1
            if done.returncode:
                self.wrong.append(f"{name} ended with status {done.returncode}: {done.stderr[-800:]}")
                return


def nets(soak: Soak, chance: random.Random) -> None:
    """A Caffe net and some calls."""
    with Session(soak.destination.url, soak.settings, "nets") as session:
        net = relu(session, 1000)
        for _ in range(chance.randrange(1, 10)):
            x = np.full(1000, chance.random() - 0.5, np.float32)
            assert np.array_equal(net.forward(x).wait().arrays[0], np.maximum(x, 0))


def tensors(soak: Soak, chance: random.Random) -> None:
    """PyTorch's operators on state at the destination."""
    with Session(soak.destination.url, soak.settings, "tensors") as session:
        state = Accumulator(session, 64)
        calls = [state.add(np.full(64, number, np.float32)) for number in range(8)]
        assert len({call.wait().arrays[0].tobytes() for call in calls}) == 8


def uploads(soak: Soak, chance: random.Random) -> None:
    """A model that the destination does not have."""
    with Session(soak.destination.url, soak.settings, "uploads") as session:
        models.provide(session, chance.randbytes(100_000), soak.settings)


def breaks(soak: Soak, chance: random.Random) -> None:
    """A session whose connection breaks in between."""
    with Relay(soak.destination.url) as relay, Session(relay.url, soak.settings, "breaks") as session:
        net = relu(session)
        relay.cut(reset=chance.random() < 0.5)
        assert net.forward(floats(1, -2, 3, 4)).wait().arrays[0].tolist() == [1, 0, 3, 4]


def vanishes(soak: Soak, chance: random.Random) -> None:
    """A host that ends without a word: its worker waits for it in vain."""
    own = replace(soak.settings, resume_timeout_s=1.0)
    session = Session(soak.destination.url, own, "vanishes")
    relu(session)
    session._given_up.set()  # as if there were no host any more
    session._channel.abort()
    session.close()


def fails(soak: Soak, chance: random.Random) -> None:
    """Calls that fail, and a net that cannot be loaded."""
    with Session(soak.destination.url, soak.settings, "fails") as session:
        for _ in range(5):
            with suppress(ExecutionError):
                session.run(999, "test", b"").wait()


def intrudes(soak: Soak, chance: random.Random) -> None:
    """Somebody who does not speak the protocol, and one who asks for the status."""
    host, port = soak.destination.url.removeprefix("tcp://").split(":")
    with socket.create_connection((host, int(port)), 5.0) as sock, suppress(OSError):
        sock.sendall(chance.choice(list(FRAMES.values()))[0])
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(4096):
            pass
    assert probe(soak.destination.url, soak.settings).formats


WAYS: tuple[Callable[[Soak, random.Random], None], ...] = (nets, tensors, uploads, breaks, vanishes, fails, intrudes)


class Resident:
    """A host whose session lasts as long as the soak, and that makes and drops things in it all the time."""

    def __init__(self, destination: Destination, settings: Settings) -> None:
        before = destination.workers()
        self.session = Session(destination.url, settings, "resident")
        self.worker = destination.new_worker(before)
        self._state = Accumulator(self.session, 64)

    def work(self) -> None:
        self.session.recorder = Recorder()  # what a profile keeps is bounded, but by more than a soak reaches
        for _ in range(100):
            net = relu(self.session, 10_000)
            net.forward(np.ones(10_000, np.float32)).wait()
            self.session.release(net.handle)
            self._state.add(np.ones(64, np.float32)).wait()
        # Else its journal has 100 calls more each time, until journal_limit_calls: as meant, but it looks like a leak.
        self._state.save().wait()


def drifts(looks: list[dict[str, Look]]) -> list[str]:
    """What has moved by more than the tolerance after the warm-up, from half to half or from the first quarter to the
    last: what grows slowly and evenly moves twice as far between quarters that lie apart as between halves."""
    settled = looks[int(len(looks) * WARM_UP) :]
    if len(settled) < 4:
        return [f"{len(looks)} looks are too few to tell"]
    half, quarter = len(settled) // 2, len(settled) // 4
    found = []
    for process in settled[0]:
        for what in Look.__dataclass_fields__:
            values = [getattr(each[process], what) for each in settled]
            parts = (values[:half], values[half:]), (values[:quarter], values[-quarter:])
            for earlier, later in (map(statistics.median, pair) for pair in parts):
                if abs(later - earlier) > TOLERANCE * earlier:
                    found.append(f"{what} of the {process} went from {earlier:g} to {later:g}")
    return list(dict.fromkeys(found))


def soak(minutes: float, hosts: int) -> dict[str, object]:
    """Run it; what was seen."""
    looks: list[dict[str, Look]] = []
    with tempfile.TemporaryDirectory() as folder:
        settings = host_settings(Path(folder) / "host", resume_timeout_s=20.0)
        options = ("--max-sessions", str(hosts + 14), "--metrics", "0", "--cache-limit", "20MB")
        with running(Path(folder) / "served", *options) as destination:
            server = destination.process.pid
            metrics = next(pid for pid in children(server) if b"destination.metrics" in _command(pid))
            zygote = next(pid for pid in children(server) if pid != metrics)
            destination = Served(destination.url, destination.process, destination.log, destination.cache_dir, zygote)
            resident = Resident(destination, settings)
            run = Soak(destination, settings, hosts)
            deadline_s = time.monotonic() + 60 * minutes
            while time.monotonic() < deadline_s and not run.wrong:
                run.phase(PHASE_S)
                resident.work()
                await_true(lambda: destination.workers() == {resident.worker}, "all other workers have ended", 60.0)
                gc.collect()
                LIBC.malloc_trim(0)  # what is free is no leak: pieces of it stay between those that are not
                pids = {"server": server, "zygote": zygote, "metrics process": metrics, "worker": resident.worker}
                looks.append({name: look(pid) for name, pid in {**pids, "hosts": os.getpid()}.items()})
                print(f"{sum(run.counts.values()):7d} uses  " + "  ".join(map(_shown, looks[-1].items())), flush=True)
            totals = probe(destination.url, settings).totals
            resident.session.close()
    return {
        "minutes": minutes,
        "hosts": hosts,
        "uses": dict(sorted(run.counts.items())),
        "errors": run.errors,
        "wrong": run.wrong,
        "sessions": totals.sessions,
        "uploads": totals.uploads,
        "resumed": totals.resumed,
        "calls": totals.calls,
        "refused": totals.refused,
        "drifts": drifts(looks),
        "looks": [{name: vars_of(each) for name, each in one.items()} for one in looks],
    }


@dataclass
class Served(Destination):
    """A destination that has more children than its zygote."""

    zygote: int = 0

    @property
    def zygote_pid(self) -> int:
        return self.zygote


def vars_of(each: Look) -> dict[str, int]:
    """A look as a record has it."""
    return {name: getattr(each, name) for name in Look.__dataclass_fields__}


def _command(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def _shown(item: tuple[str, Look]) -> str:
    name, each = item
    return f"{name} {each.resident_kb / 1000:.0f} MB {each.descriptors}d {each.threads}t {each.processes}p"


def main() -> int:
    """Run the soak and say what moved."""
    parser = argparse.ArgumentParser(description="Hosts come and go, and nothing grows.")
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--hosts", type=int, default=50)
    parser.add_argument("--output", type=Path, help="write a record (JSON)")
    arguments = parser.parse_args()
    LIBC.mallopt(M_ARENA_MAX, 1)  # else each of the threads, which no real host has so many of, keeps memory of its own
    results = soak(arguments.minutes, arguments.hosts)
    if arguments.output:
        record.write(arguments.output, "CPU", "loopback", results)
    faults = [*results["wrong"], *results["drifts"]]  # type: ignore[misc]
    print(f"{results['sessions']} sessions, {results['calls']} calls, {results['resumed']} resumed; {results['uses']}")
    for fault in faults:
        print(f"FAULT: {fault}", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
