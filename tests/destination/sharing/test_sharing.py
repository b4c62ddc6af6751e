"""Several hosts at one destination: who gets how much of the accelerator's time and memory, and who is refused."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import numpy as np
import pytest

from avec.config import Settings
from avec.destination.accelerators import MESSAGES_NBYTES
from avec.destination.sharing.arbiter import LEASE_S
from avec.destination.users import Users
from avec.errors import AcceleratorOutOfMemory, DestinationFull, QuotaExceeded
from avec.host.calls import Call
from avec.host.session import Session, probe
from avec.protocol.codec import CALL_PAYLOAD_LIMIT
from avec.protocol.messages import VERSION, Hello, Run
from avec.tensor import PartSpec
from destinations import Destination, Net, alive, await_true, floats, host_settings, relu, running
from launching import AVEC, environ, execute
from protocol.frames import header
from protocol.golden import frame_bytes
from relay import Relay

pytestmark = pytest.mark.usefixtures("tidy")

WEIGHTS = {"ann": 1.0, "bob": 2.0, "eve": 1.0}
RUN_S = 4.0
UNDER_WAY = 4  # calls that a host has, so that it always wants the accelerator
WIDTH = 768
LARGE = 1 << 20  # floats: 4 MiB
SLOW_LINK = 2_000_000  # bytes per second
QUOTA_NBYTES = 300_000_000


@dataclass
class Shared:
    """A destination with users, and what its administrator knows."""

    destination: Destination
    users: Users
    folder: Path

    def settings(self, name: str, **quotas: Any) -> Settings:
        """Those of a host of a new user."""
        token = self.users.add(name, **quotas)
        return replace(host_settings(self.folder / name), token=token, resume_timeout_s=0.0)

    @property
    def port(self) -> int:
        port = urlsplit(self.destination.url).port
        assert port is not None
        return port

    def audit(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.destination.cache_dir / "audit.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    folder = tmp_path_factory.mktemp("shared")
    with running(folder, "--require-token", OMP_NUM_THREADS="1") as destination:
        yield Shared(destination, Users(folder / "secrets" / "users.json"), folder)
        assert destination.stop() == 0, destination.log_text()


@contextmanager
def busy(shared: Shared, hosts: Mapping[str, Settings], program: str) -> Iterator[Counter[str]]:
    """Hosts that always want the accelerator, in threads; yields, when all have begun, how many results each has."""
    started, over = threading.Barrier(len(hosts) + 1), threading.Event()
    results: Counter[str] = Counter()
    failures: list[BaseException] = []

    def compute(name: str, settings: Settings) -> None:
        layer = f'type: "InnerProduct" inner_product_param {{ num_output: {WIDTH} bias_term: false }}'
        x = np.ones((64, WIDTH), np.float32)
        try:
            with Session(shared.destination.url, settings, program) as session:
                net = Net(session, layer, x.shape)
                net.forward(x).wait()
                started.wait(30)
                calls: list[Call] = []
                while not over.is_set():
                    calls.append(net.forward(x))
                    if len(calls) >= UNDER_WAY:
                        calls.pop(0).wait()
                        results[name] += 1
        except BaseException as exc:
            failures.append(exc)
            started.abort()

    threads = [threading.Thread(target=compute, args=item) for item in hosts.items()]
    for thread in threads:
        thread.start()
    try:
        started.wait(30)
        yield results
    finally:
        over.set()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]


def test_the_accelerators_time_is_shared_by_weight(shared: Shared) -> None:
    """By the time that workers measured, not by what this machine's other processes left of it."""
    hosts = {name: shared.settings(name, weight=weight) for name, weight in WEIGHTS.items()}
    with busy(shared, hosts, "sharing"):
        time.sleep(RUN_S)

    def ended() -> dict[str, float]:
        return {line["user"]: line["accelerator_s"] for line in shared.audit() if line["program"] == "sharing"}

    await_true(lambda: len(ended()) == len(WEIGHTS), "the sessions' ends are noted")
    used = ended()
    assert sum(used.values()) > RUN_S / 10, "the accelerator was idle"
    assert_shared(used, WEIGHTS)


def assert_shared(used_s: Mapping[str, float], weights: Mapping[str, float]) -> None:
    for name, weight in weights.items():
        part = used_s[name] / sum(used_s.values())
        assert part == pytest.approx(weight / sum(weights.values()), rel=0.1), used_s


def test_a_server_that_stops_keeps_nobody_waiting_and_shares_again_when_it_goes_on(shared: Shared) -> None:
    weights = {"ada": 1.0, "ben": 2.0}
    hosts = {name: shared.settings(name, weight=weight) for name, weight in weights.items()}

    def used_s() -> dict[str, float]:
        listed = [probe(shared.destination.url, settings).listed for settings in hosts.values()]
        return {row.user: row.used_s for (row,) in listed}

    def told(what: str) -> int:
        return shared.destination.log_text().count(what)

    with busy(shared, hosts, "stopping") as results:
        shared.destination.process.send_signal(signal.SIGSTOP)
        try:
            # The other may have a turn of which it was not told yet that somebody waits for it: then it keeps that.
            await_true(lambda: told("carried out without turns") > 0, "one of them waits for turns no longer")
            before = results.copy()
            await_true(lambda: all(results[name] > before[name] + 2 * UNDER_WAY for name in hosts), "both go on")
        finally:
            shared.destination.process.send_signal(signal.SIGCONT)
        await_true(lambda: told("answers again") == told("carried out without turns"), "all wait for turns again")
        began_s = used_s()
        time.sleep(RUN_S)
        ended_s = used_s()
    assert_shared({name: ended_s[name] - began_s[name] for name in hosts}, weights)


def test_who_stops_while_it_has_the_accelerator_keeps_nobody_from_it(shared: Shared) -> None:
    before = shared.destination.workers()
    one = Session(shared.destination.url, shared.settings("tim"), "test")
    worker = shared.destination.new_worker(before)
    try:
        relu(one).forward(floats(1, 2, 3, 4)).wait()  # it keeps its turn, since nobody asks for it
        os.kill(worker, signal.SIGSTOP)
        with Session(shared.destination.url, shared.settings("tom"), "test") as other:
            assert relu(other).forward(floats(1, -2, 3, 4)).wait().arrays[0].tolist() == [1, 0, 3, 4]
    finally:
        os.kill(worker, signal.SIGKILL)
        one.close()


def test_who_reads_slowly_keeps_nobody_from_the_accelerator(shared: Shared) -> None:
    with (
        Relay(shared.destination.url) as relay,
        Session(relay.url, shared.settings("sam"), "test") as slow,
        Session(shared.destination.url, shared.settings("sue"), "test") as other,
    ):
        net, large = relu(other), relu(slow, LARGE)
        relay.down.rate = SLOW_LINK
        begun = relay.down.nbytes
        calls = [large.forward(np.ones(LARGE, np.float32)) for _ in range(3)]
        relay.down.wait_for(begun + LARGE)  # a result is on its way, and more calls are queued behind it
        began_s = time.monotonic()
        net.forward(floats(1, -2, 3, 4)).wait()
        took_s = time.monotonic() - began_s
        relay.down.rate = 0.0
        for call in calls:
            call.wait()
    assert took_s < LEASE_S / 2


def test_memory_that_is_not_free_is_refused_with_what_is(shared: Shared) -> None:
    settings = shared.settings("mia", memory_nbytes=2 * 10**9)
    with Session(shared.destination.url, replace(settings, memory=15 * 10**8), "test"):
        with pytest.raises(DestinationFull, match="1 GB are needed, and 500 MB are left of the 2 GB of mia"):
            Session(shared.destination.url, replace(settings, memory=10**9), "test")
        total = probe(shared.destination.url, settings).accelerators[0].memory_nbytes
        with pytest.raises(DestinationFull, match=r"are free; 1 sessions hold 1\.5 GB of the accelerator's"):
            Session(shared.destination.url, replace(shared.settings("max"), memory=total), "test")


def test_a_users_sessions_and_connections_are_bounded(shared: Shared) -> None:
    settings = shared.settings("kim", max_sessions=1, max_connections=5)
    with Session(shared.destination.url, settings, "test"):
        with pytest.raises(DestinationFull, match="kim has 1 sessions at .*, and 1 are allowed"):
            Session(shared.destination.url, settings, "test")
    settings = shared.settings("kit", max_sessions=5, max_connections=1)
    with Session(shared.destination.url, settings, "test"):
        with pytest.raises(DestinationFull, match="kit has 1 connections at .*, and 1 are allowed"):
            Session(shared.destination.url, settings, "test")


def test_a_sessions_models_are_bounded(shared: Shared) -> None:
    with Session(shared.destination.url, shared.settings("zoe", max_models=2), "test") as session:
        first, _ = relu(session), relu(session)
        with pytest.raises(QuotaExceeded, match="has 2 models loaded, and 2 are allowed"):
            relu(session)
        session.release(first.handle)
        assert relu(session).forward(floats(-1, 2, -3, 4)).wait().arrays[0].tolist() == [0, 2, 0, 4]


def test_out_of_memory_in_one_session_ends_neither_it_nor_another(shared: Shared) -> None:
    """The Caffe executor allocates past the limit that the kernel keeps."""
    settings = replace(shared.settings("lea"), memory=QUOTA_NBYTES)
    large = 'type: "InnerProduct" inner_product_param { num_output: 65536 bias_term: false }'  # 4 GiB of parameters
    with Session(shared.destination.url, shared.settings("leo"), "test") as other:
        net = relu(other)
        with Session(shared.destination.url, settings, "test") as session:
            with pytest.raises(AcceleratorOutOfMemory):
                Net(session, large, (1, 16384))
            assert relu(session).forward(floats(-1, 2, -3, 4)).wait().arrays[0].tolist() == [0, 2, 0, 4]
        assert net.forward(floats(1, -2, 3, 4)).wait().arrays[0].tolist() == [1, 0, 3, 4]


def test_a_call_larger_than_all_that_a_session_may_have_fails_in_its_turn_and_the_session_goes_on(
    shared: Shared,
) -> None:
    settings = replace(shared.settings("ida"), memory=QUOTA_NBYTES)
    with Session(shared.destination.url, settings, "test") as session:
        net = relu(session)
        before = net.forward(floats(1, -2, 3, 4))
        large = net.forward(np.zeros((QUOTA_NBYTES + MESSAGES_NBYTES) // 4 + 1, np.float32))
        after = net.forward(floats(-1, 2, -3, 4))
        assert before.wait().arrays[0].tolist() == [1, 0, 3, 4]
        with pytest.raises(AcceleratorOutOfMemory, match=r"are allowed them; .* declare more memory"):
            large.wait()
        assert after.wait().arrays[0].tolist() == [0, 2, 0, 4]


def test_a_host_that_promises_more_than_it_may_send_and_leaves_holds_no_place(shared: Shared) -> None:
    """A worker whose receiving thread ended was there for ever."""
    settings = shared.settings("ugo")
    hello = frame_bytes(
        Hello(VERSION, VERSION, "session", "x", token=settings.token or "", memory_nbytes=QUOTA_NBYTES), 0, ()
    )
    meta = msgspec.msgpack.encode(Run(parts=(PartSpec("uint8", (CALL_PAYLOAD_LIMIT,)),), handle=1))
    before = shared.destination.workers()
    with socket.create_connection((urlsplit(shared.destination.url).hostname, shared.port), 10.0) as sock:
        sock.sendall(hello)
        assert sock.recv(3) == b"AV" + bytes([VERSION])
        worker = shared.destination.new_worker(before)
        sock.sendall(header(Run, len(meta), CALL_PAYLOAD_LIMIT, 1) + meta + b"x")
    await_true(lambda: not alive(worker), "its worker has ended")


OUT_OF_MEMORY = f"""
import torch
free, total = torch.cuda.mem_get_info()
assert total == {QUOTA_NBYTES} == torch.cuda.get_device_properties(0).total_memory, total
kept = [torch.ones(12_500_000, device="cuda") for _ in range(5)]
try:
    torch.ones(25_000_000, device="cuda").sum().item()
except torch.cuda.OutOfMemoryError as exc:
    assert "{QUOTA_NBYTES} bytes that this session may have" in str(exc), exc
kept.clear()
torch.cuda.synchronize()
print(torch.ones(50_000_000, device="cuda").sum().item())
"""


def test_a_pytorch_program_gets_the_memory_that_it_declared_and_no_more(shared: Shared, tmp_path: Path) -> None:
    settings = shared.settings("pia")
    command = [*AVEC, "run", "--on", shared.destination.url, "--memory", "300MB", "-c", OUT_OF_MEMORY]
    variables = environ(AVEC_TOKEN=settings.token or "", AVEC_CACHE_DIR=str(tmp_path))
    assert execute(*command, variables=variables) == (0, "50000000.0\n", "")
