"""Measure how hosts share one accelerator: their throughput together, their parts against their weights, the delays.

`python benchmarks/sharing.py --hosts 16` beside a GPU, `--hosts 4 --quick` on a CPU. Each host is a process of its own
under `avec run`, with a user and a weight of its own, and always wants more than its part. First one host has the
accelerator alone, while the others are connected and idle; then all compute at once. Beside them stands the same
program without AVEC. A result is that of some runs of a ResNet. Writes benchmarks/results/sharing-NAME.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import processes
import record

from avec import config
from avec.bench.processes import single_thread
from avec.config import Settings
from avec.destination.admission import FIRST_USER
from avec.destination.users import Users
from avec.host.session import probe

LOOP = str(processes.HERE / "sharing_loop.py")
QUICK = ("--depth", "18", "--width", "16", "--batch", "4", "--size", "64", "--warm", "3")
EDGE_S = 0.5  # at the beginning and the end, when not all compute

Runs = dict[str, list[float]]


@dataclass
class Host:
    """A process that computes when told to."""

    process: subprocess.Popen[str]

    def await_ready(self) -> None:
        if self._line().strip() != "ready":
            raise SystemExit("a host did not start; it says why above")

    def begin(self, seconds: float) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{seconds}\n")
        self.process.stdin.flush()

    def runs(self) -> Runs:
        return json.loads(self._line())

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()


@contextmanager
def started(command: Sequence[str], variables: dict[str, str]) -> Iterator[Host]:
    """A host; it ends with the context."""
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **variables}
    )
    try:
        yield Host(process)
    finally:
        process.stdin.close()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def computed(
    hosts: Sequence[Host], seconds: float, meanwhile: Callable[[float], None] = lambda seconds: None
) -> list[Runs]:
    """Have hosts compute at the same time; of each what ended while all did."""
    began_s = time.monotonic()
    for host in hosts:
        host.begin(seconds)
    time.sleep(EDGE_S)
    meanwhile(began_s + seconds - EDGE_S - time.monotonic())
    first_s, last_s = began_s + EDGE_S, began_s + seconds - EDGE_S
    found = []
    for host in hosts:
        runs = host.runs()
        kept = [place for place, ended_s in enumerate(runs["ended_s"]) if first_s <= ended_s < last_s]
        found.append({name: [values[place] for place in kept] for name, values in runs.items()})
    return found


@dataclass
class Used:
    """For how long each user has the accelerator, as the destination measures it."""

    url: str
    settings: Settings
    seconds: dict[str, float] = field(default_factory=dict)

    def measure(self, seconds: float) -> None:
        """Look at the beginning and the end of some seconds."""
        before = self._look()
        time.sleep(seconds)
        self.seconds = {user: used_s - before[user] for user, used_s in self._look().items()}

    def _look(self) -> dict[str, float]:
        return {each.user: each.used_s for each in probe(self.url, self.settings).listed}


def rate(runs: Runs, seconds: float) -> float:
    """Results a second."""
    return len(runs["ended_s"]) / (seconds - 2 * EDGE_S)


def natively(loop: Sequence[str], seconds: float) -> float:
    """The same program's results a second, without AVEC."""
    with started([sys.executable, LOOP, *loop], single_thread()) as host:
        host.await_ready()
        return rate(computed([host], seconds)[0], seconds)


def measure(weights: Sequence[float], loop: Sequence[str], alone_s: float, shared_s: float) -> tuple[str, dict]:
    """All that is measured; and what computed."""
    results: dict[str, object] = {"weights": list(weights), "loop": list(loop), "seconds": [alone_s, shared_s]}
    results["load_before"] = os.getloadavg()[0]  # what else this machine was doing
    results["native_per_s"] = natively(loop, alone_s)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        settings = replace(
            config.load(), require_token=True, secrets_dir=folder / "secrets", max_sessions=len(weights) + 1
        )
        url = stack.enter_context(processes.destination(settings, single_thread()))
        users = Users(settings.secrets_dir / "users.json")
        used = Used(url, replace(settings, token=users.add(FIRST_USER)))  # who sees all sessions
        hosts = []
        for place, weight in enumerate(weights):
            token = users.add(f"host{place}", weight=weight)
            command = [*processes.gpu_hidden(), sys.executable, "-m", "avec", "run", "--on", url, LOOP, *loop]
            variables = {**single_thread(), "AVEC_TOKEN": token, "AVEC_CACHE_DIR": str(folder / f"host{place}")}
            hosts.append(stack.enter_context(started(command, variables)))
        for host in hosts:
            host.await_ready()
        accelerator = probe(url, used.settings).accelerators[0].name
        (alone,) = computed(hosts[:1], alone_s)
        together = computed(hosts, shared_s, used.measure)
    results["alone"] = {"per_s": rate(alone, alone_s), "took_s": record.summary(alone["took_s"])}
    alone_median_s = record.summary(alone["took_s"])["p50"]
    total = sum(rate(runs, shared_s) for runs in together)
    results["total_per_s"] = total
    results["total_to_alone"] = total / rate(alone, alone_s)
    results["hosts"] = [
        of_host(
            runs,
            weight / sum(weights),
            rate(runs, shared_s) / total,
            used.seconds[f"host{place}"] / sum(used.seconds.values()),
            alone_median_s,
        )
        for place, (weight, runs) in enumerate(zip(weights, together, strict=True))
    ]
    results["busy"] = sum(used.seconds.values()) / (shared_s - 2 * EDGE_S)
    results["worst_share_to_weight"] = max(abs(each["share_to_weight"] - 1) for each in results["hosts"])
    results["worst_time_share_to_weight"] = max(abs(each["time_share_to_weight"] - 1) for each in results["hosts"])
    results["worst_p99_to_fair"] = max(each["p99_to_fair"] for each in results["hosts"])
    return accelerator, results


def of_host(runs: Runs, part: float, share: float, time_share: float, alone_median_s: float) -> dict[str, object]:
    """One host's shares beside its part, and its delays beside what they would be if it had just its part."""
    took_s = sorted(runs["took_s"])
    p99_s = took_s[min(len(took_s) - 1, int(0.99 * len(took_s)))]
    return {
        "part": part,
        "share": share,
        "share_to_weight": share / part,
        "time_share": time_share,
        "time_share_to_weight": time_share / part,
        "took_s": record.summary(took_s),
        "p99_s": p99_s,
        "p99_to_fair": p99_s / (alone_median_s / part),
    }


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hosts", type=int, default=16)
    parser.add_argument("--weights", default="1,2", help="of the hosts in turn")
    parser.add_argument("--runs", type=int, default=4, help="of the network, before a host looks at a result")
    parser.add_argument("--quick", action="store_true", help="a small network, for a CPU")
    parser.add_argument("--alone", type=float, default=5.0, metavar="SECONDS")
    parser.add_argument("--shared", type=float, default=15.0, metavar="SECONDS")
    parser.add_argument("--output", type=Path, help="the folder of the record")
    options = parser.parse_args()
    given = [float(each) for each in options.weights.split(",")]
    weights = [given[place % len(given)] for place in range(options.hosts)]
    loop = [*(QUICK if options.quick else ()), "--runs", str(options.runs)]
    accelerator, results = measure(weights, loop, options.alone, options.shared)
    print(f"{accelerator}: native {results['native_per_s']:.1f}/s, one host {results['alone']['per_s']:.1f}/s")
    print(f"{options.hosts} hosts {results['total_per_s']:.1f}/s: {results['total_to_alone']:.3f} of one host")
    for weight, each in zip(weights, results["hosts"], strict=True):
        print(
            f"weight {weight:g}: {each['share_to_weight']:.3f} of its part of the results, "
            f"{each['time_share_to_weight']:.3f} of its part of the time; "
            f"p50 {1e3 * each['took_s']['p50']:.1f} ms, p99 {1e3 * each['p99_s']:.1f} ms, "
            f"{each['p99_to_fair']:.2f} of the fair share's"
        )
    name = f"sharing-{'cpu' if options.quick else 'gpu'}"
    print(record.write(name, accelerator, "loopback", results, options.output))


if __name__ == "__main__":
    main()
