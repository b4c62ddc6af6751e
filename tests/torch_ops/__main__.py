"""Runs PyTorch's OpInfo suite against a destination: `make test-torch-ops`. Its modules and optimizers too.

Several host processes under `avec run` share the operators (`checking`). One that crashes, or takes longer than an
operator may, costs that operator alone. What fails has to be exactly what `differences.toml` lists.

With `--native`, on a machine with a GPU, results are compared with native CUDA's, bit by bit (`native`): a part of the
processes computes without AVEC, and those under AVEC do not see the GPU. What differs has to be exactly what
`differences_cuda.toml` lists.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
import time
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypeVar

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER.parent))  # the tests' own modules

import native  # noqa: E402
from hosts import Crashed, Host, shared  # noqa: E402

import compiled  # noqa: E402
from avec.bench.processes import gpu_hidden, has_gpu  # noqa: E402
from destinations import running  # noqa: E402
from launching import AVEC, PLAIN  # noqa: E402

DIFFERENCES = FOLDER / "differences.toml"
NATIVE_DIFFERENCES = FOLDER / "differences_cuda.toml"
CONTROL_SHARE = 0.85  # of what has to fail where all that is fetched was changed

Found = TypeVar("Found")


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


def _outcome(host: Host, operator: str) -> Outcome:
    began = time.monotonic()
    try:
        outcome = Outcome(**host.ask(operator))
    except Crashed as exc:
        outcome = Outcome(operator, 1, 0, [str(exc)])
    outcome.seconds = time.monotonic() - began
    return outcome


def listed(path: Path) -> dict[str, str]:
    """The operators that are known to differ, each with its reason."""
    table = tomllib.loads(path.read_text("utf-8"))
    return {operator: group["reason"] for group in table.get("difference", []) for operator in group["operators"]}


def sometimes(path: Path) -> set[str]:
    """Those of them that need not differ in each run."""
    table = tomllib.loads(path.read_text("utf-8"))
    groups = table.get("difference", [])
    return {operator for group in groups if group.get("sometimes") for operator in group["operators"]}


def report(found: Sequence[Outcome], known: dict[str, str], varying: set[str]) -> int:
    """Print what is not as the list says; the exit status."""
    failing = {each.operator: each for each in found if not each.passes}
    unexpected = [each for name, each in failing.items() if name not in known]
    mended = [each.operator for each in found if each.passes and each.operator in known.keys() - varying]
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
    parser.add_argument("--native", action="store_true", help="compare with this machine's own GPU, bit by bit")
    parser.add_argument("--reference", metavar="URL", help="with --native: a destination in native CUDA's place")
    parser.add_argument("--corrupt", action="store_true", help="change what is fetched: operators have to fail")
    parser.add_argument("--compiled", action="store_true", help="with AVEC's kernels in C++, compiled if need be")
    parser.add_argument("--table", type=Path, default=Path("out", "torch_ops.json"), help="where outcomes are written")
    options = parser.parse_args()
    if options.native and not options.reference and not has_gpu():
        parser.error("--native compares with this machine's GPU, and it has none; --reference URL takes its place")
    options.table.parent.mkdir(parents=True, exist_ok=True)
    with _destination(options) as url:
        return _compare_natively(url, options) if options.native else _compare_with_cpu(url, options)


@contextlib.contextmanager
def _destination(options: argparse.Namespace) -> Iterator[str]:
    if options.on:
        yield options.on
        return
    sessions = str(2 * options.hosts)  # that of a process which was replaced may not have ended yet
    with tempfile.TemporaryDirectory() as folder, running(Path(folder), "--max-sessions", sessions) as destination:
        yield destination.url


def _compare_with_cpu(url: str, options: argparse.Namespace) -> int:
    began = time.monotonic()
    found = sorted(
        _collected(_under_avec(url, options, options.corrupt), options, _outcome).values(),
        key=lambda each: each.operator,
    )
    _write(options.table, [vars(each) for each in found])
    print(f"{summary(found)}; {time.monotonic() - began:.0f} s; the table is in {options.table}")
    if options.corrupt:
        return _control(found)
    return report(found, listed(DIFFERENCES), sometimes(DIFFERENCES))


def _compare_natively(url: str, options: argparse.Namespace) -> int:
    began = time.monotonic()
    reference = _under_avec(options.reference, options) if options.reference else [*PLAIN, str(FOLDER / "checking.py")]
    tested = [*gpu_hidden(), *_under_avec(url, options, options.corrupt)]

    def run(command: Sequence[str]) -> tuple[dict[str, native.Descriptions], float]:
        return _collected([*command, "--describe"], options, native.describe), time.monotonic() - began

    with ThreadPoolExecutor() as pool:
        (first, first_s), (second, second_s), (given, given_s) = pool.map(run, (reference, reference, tested))
    names = sorted({*first, *second, *given})
    found = [native.compare(name, (first.get(name, {}), second.get(name, {})), given.get(name, {})) for name in names]
    seconds = {"native": first_s, "native_again": second_s, "avec": given_s, "all": time.monotonic() - began}
    _write(options.table, {"seconds": seconds, "operators": [asdict(each) for each in found]})
    status = (
        _control(found)
        if options.corrupt
        else native.report(found, listed(NATIVE_DIFFERENCES), sometimes(NATIVE_DIFFERENCES), NATIVE_DIFFERENCES.name)
    )
    print(
        f"{native.summary(found)}; {seconds['all']:.0f} s (natively {first_s:.0f} and {second_s:.0f},"
        f" under AVEC {given_s:.0f}); the table is in {options.table}"
    )
    return status


def _control(found: Sequence[Outcome] | Sequence[native.Comparison]) -> int:
    """Whether enough fails where all that is fetched was changed."""
    return 0 if sum(not each.passes for each in found) >= CONTROL_SHARE * len(found) else 1


def _under_avec(url: str, options: argparse.Namespace, corrupt: bool = False) -> list[str]:
    variables = compiled.variables() if options.compiled else {"AVEC_TORCH_NATIVE": "off"}
    command = ["env", *(f"{name}={value}" for name, value in variables.items())]
    return [*command, *AVEC, "run", "--on", url, str(FOLDER / "checking.py"), *(["--corrupt"] if corrupt else [])]


def _collected(
    command: Sequence[str], options: argparse.Namespace, ask: Callable[[Host, str], Found]
) -> dict[str, Found]:
    found: dict[str, Found] = {}
    command = [*command, "--samples", str(options.samples)]
    for name, each in shared(command, options.hosts, options.only, ask):
        found[name] = each
        if sys.stderr.isatty():
            print(f"\r{len(found)} {name:60}", end="", file=sys.stderr, flush=True)
    return found


def _write(table: Path, value: object) -> None:
    table.write_text(json.dumps(value, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    sys.exit(main())
