"""Runs PyTorch's OpInfo suite against a destination: `make test-torch-ops`. Its modules and optimizers too.

Several host processes under `avec run` share the operators (`checking`). One that crashes, or takes longer than an
operator may, costs that operator alone. What fails has to be exactly what `differences.toml` lists.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import re
import select
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER.parent))  # the tests' own modules

import compiled  # noqa: E402
from destinations import running  # noqa: E402
from launching import AVEC, environ  # noqa: E402

DIFFERENCES = FOLDER / "differences.toml"
START_TIMEOUT_S = 120.0
OPERATOR_TIMEOUT_S = 400.0  # some have thousands of samples
LOG_END = 1000  # bytes
CONTROL_SHARE = 0.85  # of what has to fail where all that is fetched was changed
ATTEMPTS = 2  # before a crash counts: it may have been left by the operator before


@dataclass
class Outcome:
    """See checking.Outcome."""

    operator: str
    checks: int = 0
    passed: int = 0
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def passes(self) -> bool:
        """Whether there was something to check, and all of it was right."""
        return self.checks > 0 and self.passed == self.checks and not self.failures


class Host:
    """One host process."""

    def __init__(self, command: Sequence[str], variables: Mapping[str, str]) -> None:
        self._command = command
        self._variables = variables
        self._process: subprocess.Popen[str] | None = None
        self._log = tempfile.TemporaryFile()
        self.operators: list[str] = []

    def start(self) -> None:
        """Start it, and learn which operators there are."""
        reading, writing = os.pipe()
        self._process = subprocess.Popen(
            [*self._command, "--answers", str(writing)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self._log,
            pass_fds=[writing],
            env=environ(**self._variables),
            text=True,
        )
        os.close(writing)
        self._answers = os.fdopen(reading)
        answer = self._answer(START_TIMEOUT_S)
        if answer is None:
            raise RuntimeError(f"{' '.join(self._command)} did not start; it said:\n{self._said()}")
        self.operators = json.loads(answer)

    def check(self, operator: str) -> Outcome:
        """Check one operator; a process that does not survive it is replaced at the next call."""
        began = time.monotonic()
        for _ in range(ATTEMPTS):
            if self._process is None:
                self.start()
            assert self._process is not None and self._process.stdin is not None
            fresh = time.monotonic()
            self._process.stdin.write(operator + "\n")
            self._process.stdin.flush()
            answer = self._answer(OPERATOR_TIMEOUT_S)
            if answer is not None:
                return Outcome(**json.loads(answer), seconds=time.monotonic() - began)
            late = time.monotonic() - fresh > OPERATOR_TIMEOUT_S
            status = self.stop()
            what = (
                f"took more than {OPERATOR_TIMEOUT_S:.0f} s" if late else f"its process ended: {status}, {self._said()}"
            )
            if late:
                break
        return Outcome(operator, 1, 0, [what], time.monotonic() - began)

    def stop(self) -> int | None:
        """End the process; its status if it had ended by itself."""
        if self._process is None:
            return None
        assert self._process.stdin is not None
        process, self._process = self._process, None
        try:
            status = process.wait(0.5)
        except subprocess.TimeoutExpired:
            status = None
            process.kill()
            process.wait()
        try:
            process.stdin.close()
        except BrokenPipeError:
            pass
        self._answers.close()
        return status

    def _said(self) -> str:
        """The end of what the processes have written to stderr."""
        self._log.seek(max(0, self._log.seek(0, os.SEEK_END) - LOG_END))
        return self._log.read().decode(errors="replace")

    def _answer(self, timeout_s: float) -> str | None:
        if not select.select([self._answers], [], [], timeout_s)[0]:
            return None
        return self._answers.readline() or None


def outcomes(url: str, options: argparse.Namespace) -> Iterator[Outcome]:
    """Check all operators that are asked for, in several processes; give outcomes as they come."""
    command = [*AVEC, "run", "--on", url, str(FOLDER / "checking.py"), "--samples", str(options.samples)]
    if options.corrupt:
        command.append("--corrupt")
    variables = compiled.variables() if options.native else {"AVEC_TORCH_NATIVE": "off"}
    first = Host(command, variables)
    first.start()
    wanted = [name for name in first.operators if re.fullmatch(options.only, name)]
    hosts = [first, *(Host(command, variables) for _ in range(min(options.hosts, len(wanted)) - 1))]
    waiting: queue.SimpleQueue[str] = queue.SimpleQueue()
    for name in wanted:
        waiting.put(name)
    done: queue.SimpleQueue[Outcome | None] = queue.SimpleQueue()

    def work(host: Host) -> None:
        try:
            while True:
                try:
                    operator = waiting.get_nowait()
                except queue.Empty:
                    return
                done.put(host.check(operator))
        finally:
            host.stop()
            done.put(None)

    threads = [threading.Thread(target=work, args=(host,), daemon=True) for host in hosts]
    for thread in threads:
        thread.start()
    left = len(threads)
    while left:
        outcome = done.get()
        if outcome is None:
            left -= 1
        else:
            yield outcome


def listed(path: Path) -> dict[str, str]:
    """The operators that are known to differ, each with its reason."""
    table = tomllib.loads(path.read_text("utf-8"))
    return {operator: group["reason"] for group in table.get("difference", []) for operator in group["operators"]}


def report(found: Sequence[Outcome], known: dict[str, str]) -> int:
    """Print what is not as the list says; the exit status."""
    failing = {each.operator: each for each in found if not each.passes}
    unexpected = [each for name, each in failing.items() if name not in known]
    mended = [each.operator for each in found if each.passes and each.operator in known]
    for outcome in unexpected:
        print(f"{outcome.operator}: {outcome.passed} of {outcome.checks} checks pass")
        for text in outcome.failures:
            print(f"    {text}")
    for name in mended:
        print(f"{name}: passes now; take it off {DIFFERENCES.name}")
    return 1 if unexpected or mended else 0


def summary(found: Sequence[Outcome]) -> str:
    """Figures for operators, modules and optimizers."""
    kinds = Counter(_kind(each) for each in found)
    passing = Counter(_kind(each) for each in found if each.passes)
    parts = [f"{passing[kind]} of {count} {kind}s ({passing[kind] / count:.1%})" for kind, count in kinds.items()]
    checks, passed = sum(each.checks for each in found), sum(each.passed for each in found)
    return f"{', '.join(parts)} pass every check; {passed} of {checks} checks pass"


def _kind(outcome: Outcome) -> str:
    return outcome.operator.partition(" ")[0] if " " in outcome.operator else "operator"


def main() -> int:
    """Run the suite; 0 when what fails is what is listed, or in the control run nearly all."""
    parser = argparse.ArgumentParser(prog="make test-torch-ops", description=__doc__)
    parser.add_argument("--samples", type=int, default=0, help="of each operator and dtype; 0: all")
    parser.add_argument("--only", default=".*", metavar="REGEX", help="operators whose whole names match")
    parser.add_argument("--hosts", type=int, default=os.cpu_count() or 1, help="processes that share the operators")
    parser.add_argument("--on", metavar="URL", help="a destination that is there already")
    parser.add_argument("--corrupt", action="store_true", help="change what is fetched: operators have to fail")
    parser.add_argument("--native", action="store_true", help="with AVEC's kernels in C++, compiled if need be")
    parser.add_argument("--table", type=Path, default=Path("out", "torch_ops.json"), help="where outcomes are written")
    options = parser.parse_args()
    began = time.monotonic()
    if options.on:
        found = _collected(options.on, options)
    else:
        with tempfile.TemporaryDirectory() as folder, running(Path(folder)) as destination:
            found = _collected(destination.url, options)
    options.table.parent.mkdir(parents=True, exist_ok=True)
    options.table.write_text(json.dumps([vars(each) for each in found], indent=1) + "\n", "utf-8")
    print(f"{summary(found)}; {time.monotonic() - began:.0f} s; the table is in {options.table}")
    if options.corrupt:
        failing = sum(not each.passes for each in found)
        return 0 if failing >= CONTROL_SHARE * len(found) else 1
    return report(found, listed(DIFFERENCES))


def _collected(url: str, options: argparse.Namespace) -> list[Outcome]:
    found = []
    for outcome in outcomes(url, options):
        found.append(outcome)
        if sys.stderr.isatty():
            print(f"\r{len(found)} {outcome.operator:60}", end="", file=sys.stderr, flush=True)
    return sorted(found, key=lambda each: each.operator)


if __name__ == "__main__":
    sys.exit(main())
