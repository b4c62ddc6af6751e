"""All of the paper's experiments, one after the other, within a budget of time; and what one of them came to.

The order is that of importance: what does not fit into the budget is left out, and the tables say so.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from avec import config
from avec.bench import processes, record
from avec.bench.calibration import CONTROL, Calibration, calibrate_direct, calibrate_relay
from avec.bench.links import LinkProfile, relayed
from avec.bench.paper import running, tiers
from avec.bench.paper.cycles import evaluated
from avec.bench.paper.rates import DEVICE, WIDTH
from avec.bench.paper.running import Budget, Line, OverBudget, Ran
from avec.bench.paper.tiers import LOCAL, File, Remote, Sizes, Tier, over_links, remotes
from avec.config import Settings
from avec.errors import AvecError
from avec.host.credentials import credentials_for

DIGESTS_REMEMBERED_S = 2.5  # digests are remembered of files that were left alone for so long

Tell = Callable[[str, float], None]  # what goes on, and which part of all is done
Keep = Callable[[Line], None]


@dataclass(slots=True)
class Experiments:
    """The experiments of one file, under way."""

    file: File
    settings: Settings
    tell: Tell
    keep: Keep
    folder: Path
    budget: Budget
    results: Line = field(default_factory=dict)
    files: Line = field(default_factory=dict)
    links: dict[str, Calibration] = field(default_factory=dict)
    _done: int = 0
    _planned: int = 1

    def measure(self) -> Line:
        """Do all of them."""
        file = self.file
        self.results = {
            "tiers": msgspec.to_builtins(msgspec.structs.replace(file, application="", sets="")),
            "native": {},
            "forwarded": {},
            "failures": {},
        }
        self._prepare()
        parts: list[tuple[str, Callable[[], None]]] = []
        for name, remote in reversed(remotes(file).items()):
            parts.append((name, lambda name=name, remote=remote: self._remote(name, remote)))  # type: ignore[misc]
        parts.insert(min(1, len(parts)), (DEVICE, self._device))
        self._planned = sum(self._count(name) for name, _ in parts)
        for name, part in parts:
            with self._reporting(name):
                part()
            self.keep(self.results)
        return self.results

    def _prepare(self) -> None:
        file = self.file
        over = [tier for name, remote in remotes(file).items() for tier in over_links(name, remote, file.sizes)]
        sizes = [file.device.sizes.over(file.sizes), *(tier.sizes for tier in over)]
        images = sorted({count for each in sizes for count in each.images})
        self._say("rendering pictures and a clip")
        options = ["--application", file.application, "--model", file.model, "--output", str(self.folder / "made")]
        options += ["--images", ",".join(map(str, images)), "--frames", str(max(each.video for each in sizes))]
        options += ["--sets", file.sets, "--widths", ",".join(map(str, file.sweep.widths))]
        self.files = running.made(options)
        left_alone_s = time.monotonic() + DIGESTS_REMEMBERED_S
        names = {tier.link.name: tier.link for tier in over}
        if any(link.relayed for link in names.values()):
            names = {CONTROL.name: CONTROL, **names}
        for name, link in names.items():
            self._say(f"calibrating the link {name}")
            self.links[name] = calibrate_relay(link) if link.relayed else calibrate_direct()
        shown = {name: self.files[name] for name in ("height", "width", "gflop", "model_nbytes")}
        self.results |= {
            "model": {"name": file.model, "numerics": file.numerics, **shown},
            "widths": {width: each["gflop"] for width, each in self.files["widths"].items()},
            "calibration": {name: asdict(each) for name, each in self.links.items()},
        }
        time.sleep(max(0.0, left_alone_s - time.monotonic()))

    def _device(self) -> None:
        sizes = self.file.device.sizes.over(self.file.sizes)
        variables = running.on_cpu(self.file.device.threads)
        self._natively(DEVICE, variables, "cpu", [*self._tests(sizes), *self._sweep()])

    def _remote(self, name: str, remote: Remote) -> None:
        variables = running.on_cpu(remote.threads) if remote.threads else running.on_any()
        kind = "cpu" if remote.threads or not processes.has_gpu() else "cuda"
        over = over_links(name, remote, self.file.sizes)
        if remote.destination == LOCAL:
            sizes = remote.sizes.over(self.file.sizes)
            census = [self._test("census", "census", sizes)] if name == [*remotes(self.file)][-1] else []
            self._natively(name, variables, kind, [*self._tests(sizes), *census])
        with self._destination(remote, variables) as url:
            for number, tier in enumerate(over):
                with self._reporting(f"{name} over {tier.link.name}"):
                    self._forwarded(tier, url, kind, cold=number == 0)
                self.keep(self.results)
            with self._reporting(f"{name}, warm"):
                warm = [self._test("load", "load", self.file.sizes)]
                ran = self._under_avec(url, over[0].link, warm, kind)
                self.results["forwarded"][name][over[0].link.name]["warm"] = evaluated(ran, self.files)

    def _natively(self, name: str, variables: dict[str, str], kind: str, tests: list[Line]) -> None:
        with self._reporting(f"{name} natively"):
            held: list[int | None] = []
            tell = self._telling(f"{name} natively", kind, held)
            tests = [self._test("load", "load", self.file.sizes), *tests]
            ran = running.natively(self._options(tests), self.file.numerics, variables, tell, self.budget)
            self.results["native"][name] = {**evaluated(ran, self.files), "held_nbytes": held}
            self._check(ran)

    def _forwarded(self, tier: Tier, url: str, kind: str, cold: bool) -> None:
        loads = [self._test("load", "load", tier.sizes)] if cold else []
        self.results["forwarded"].setdefault(tier.name, {})
        ran = self._under_avec(url, tier.link, [*loads, *self._tests(tier.sizes), *self._sweep()], kind)
        self.results["forwarded"][tier.name][tier.link.name] = evaluated(ran, self.files)
        self._check(ran)

    def _under_avec(self, url: str, link: LinkProfile, tests: list[Line], kind: str) -> Ran:
        before = running.accelerator_memory_nbytes(kind)
        held: list[int | None] = []
        tell = self._telling(f"over {link.name}", kind, held)
        with self._reached(url, link) as settings:
            ran = running.under_avec(settings, self._options(tests), self.folder / "host", tell, self.budget)
        ran.where |= {"held_nbytes": held, "before_nbytes": before}
        return ran

    def _tests(self, sizes: Sizes) -> list[Line]:
        sets = self.files["sets"]
        tests = [self._test("cycle", "cycle", sizes)]
        if sizes.video:
            tests.append(self._application("video", sets["video"], sizes.video, 2, sizes))
        tests += [self._application(f"images-{each}", sets[f"images-{each}"], each, 2, sizes) for each in sizes.images]
        if sizes.in_turn and sizes.images:
            count = max(sizes.images)
            frames = min(sizes.in_turn, count)
            tests.append(self._application("images-in-turn", sets[f"images-{count}"], frames, 1, sizes))
        if sizes.in_turn and sizes.video:
            frames = min(sizes.in_turn, sizes.video)
            tests.append(self._application("video-in-turn", sets["video"], frames, 1, sizes))
        return tests

    def _sweep(self) -> list[Line]:
        """The tests of networks of other widths, each as often as the file says."""
        sweep = self.file.sweep
        limits = {"weights": "", "frames": sweep.frames, "seconds": sweep.seconds}
        return [
            self._test(f"{WIDTH}{width}", "cycle", self.file.sizes) | limits | {"prototxt": each["prototxt"]}
            for width, each in self.files["widths"].items()
        ]

    def _test(self, name: str, kind: str, sizes: Sizes) -> Line:
        files = {each: self.files[each] for each in ("prototxt", "weights", "height", "width")}
        some = next(iter(self.files["sets"].values()), "")
        limits = {"frames": sizes.cycle, "warm": sizes.warm, "seconds": sizes.seconds}
        return {"name": name, "kind": kind, "input": some, **files, **limits}

    def _application(self, name: str, source: str, frames: int, depth: int, sizes: Sizes) -> Line:
        limits = {"frames": frames, "depth": depth, "warm": sizes.warm, "seconds": sizes.seconds}
        return {"name": name, "kind": "application", "input": source, **limits}

    def _options(self, tests: list[Line]) -> list[str]:
        options = ["--application", self.file.application, "--model", self.file.model]
        return [*options, "--output", str(self.folder / "out"), msgspec.json.encode(tests).decode()]

    def _count(self, part: str) -> int:
        """How many lines a part will tell."""
        file = self.file
        if part == DEVICE:
            return 1 + len(self._tests(file.device.sizes.over(file.sizes))) + len(file.sweep.widths)
        over = over_links(part, remotes(file)[part], file.sizes)
        tests = sum(len(self._tests(tier.sizes)) for tier in [over[0], *over])
        return 3 + tests + len(over) * len(file.sweep.widths)

    def _telling(self, where: str, kind: str, held: list[int | None]) -> running.Tell:
        def tell(line: Line) -> None:
            if running.HELD in line:
                held.append(running.accelerator_memory_nbytes(kind))
            elif "test" in line:
                self._done += 1
                self._say(f"{where}: {line['test']}")

        return tell

    def _say(self, text: str) -> None:
        self.tell(text, self._done / self._planned)

    @contextlib.contextmanager
    def _destination(self, remote: Remote, variables: dict[str, str]) -> Iterator[str]:
        if remote.destination != LOCAL:
            yield remote.destination
            return
        with processes.destination(self.settings, variables) as url:
            yield url

    @contextlib.contextmanager
    def _reached(self, url: str, link: LinkProfile) -> Iterator[Settings]:
        settings = replace(self.settings, destination=url, numerics=self.file.numerics)  # type: ignore[arg-type]
        if not link.relayed:
            yield settings
            return
        known = credentials_for(url, settings)
        fingerprint = known.trust.fingerprint if known.trust is not None else None
        with relayed(url, link, self.links[link.name].delay_ms / 1e3) as relay_url:
            yield replace(settings, destination=relay_url, token=known.token or None, fingerprint=fingerprint)

    @contextlib.contextmanager
    def _reporting(self, part: str) -> Iterator[None]:
        """One part that fails does not take the others with it; the record says what failed, and why."""
        try:
            yield
        except OverBudget as exc:
            self.results["failures"][part] = str(exc)
        except AvecError as exc:
            self.results["failures"][part] = f"{type(exc).__name__}: {exc}"

    def _check(self, ran: Ran) -> None:
        if ran.failure:
            raise AvecError(ran.failure)


def recorded(path: Path, small: bool, output: Path | None, note: str) -> Line:
    """Do the paper's experiments on the tiers of a file, with a progress bar on stderr; give the record.

    Args:
        output: where to write it, after each part, for nothing to be lost when the rest is cut off.

    Raises:
        ConfigurationError: the file is wrong, the record cannot be written, or this machine's GPU cannot be hidden
            from a host.
    """
    file = tiers.read(path)
    file = tiers.small(file) if small else file
    processes.gpu_hidden()  # what it raises is better raised now

    def keep(results: Line) -> None:
        if output is not None:
            record.write(output, accelerators(results), links(results), {"note": note, **results})

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    with (
        Progress(*columns, console=Console(stderr=True, highlight=False)) as progress,
        tempfile.TemporaryDirectory(prefix="avec-paper-") as folder,
    ):
        bar = progress.add_task("", total=1.0)

        def tell(text: str, done: float) -> None:
            progress.update(bar, description=text, completed=done)

        experiments = Experiments(file, config.load(), tell, keep, Path(folder), Budget(file.budget_s))
        results = experiments.measure()
    keep(results)
    head = record.environment(accelerators(results), links(results))
    return {"environment": head, "results": {"note": note, **results}}


def accelerators(results: Line) -> str:
    """On what was measured, for the head of a record."""
    found = {name: each.get("where", {}).get("accelerator", "") for name, each in results["native"].items()}
    return ", ".join(f"{name}: {each}" for name, each in found.items() if each)


def links(results: Line) -> str:
    """Over what was measured, for the head of a record."""
    return ", ".join(name for name in results["calibration"] if name != CONTROL.name)
