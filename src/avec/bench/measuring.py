"""A whole benchmark: links calibrated, the program run natively and over each of them, all put side by side."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from avec.bench.calibration import CONTROL, Calibration, calibrate_direct, calibrate_relay, calibrate_way
from avec.bench.links import DIRECT, LOOPBACK, LinkProfile, profile, relayed
from avec.bench.processes import Said, destination, gpu_hidden, measure_natively, measure_under_avec, single_thread
from avec.bench.record import summary
from avec.bench.terms import Report
from avec.config import Settings
from avec.errors import AvecError, ConfigurationError
from avec.host.credentials import credentials_for, is_on_this_machine

WORK = ("W1", "W2", "W3", "W4", "W5", "W6", "W7")
RELAYED_LINKS = ("10gbit-0.1ms", "1gbit-1ms", "1gbit-20ms")  # beside the one that is there
REPEATS, LIMIT_S = 30, 1.5
QUICK_REPEATS, QUICK_LIMIT_S = 5, 0.3
NATIVE = "native"


Tell = Callable[[str], None]
Keep = Callable[[dict[str, Any]], None]


class NothingMeasured(AvecError):
    """The workloads could not be measured at all, so that there is nothing to compare."""

    code = "nothing-measured"


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure."""

    work: tuple[str, ...]
    links: tuple[LinkProfile, ...]
    repeats: int
    quick: bool  # small sizes, for a CPU

    @property
    def options(self) -> list[str]:
        """The same for the measured program."""
        limit_s = QUICK_LIMIT_S if self.quick else LIMIT_S
        options = ["--work", ",".join(self.work), "--repeats", str(self.repeats), "--limit", str(limit_s)]
        return [*options, "--small"] if self.quick else options


def plan(work: str | None, links: str | None, repeats: int | None, quick: bool, url: str | None) -> Plan:
    """What the command line asks for; None where it says nothing.

    Args:
        url: of the destination; None: one is started on this machine.

    Raises:
        ConfigurationError: it names a workload or a link that there is not.
    """
    names = tuple(work.split(",")) if work else WORK
    if unknown := [each for each in names if each not in WORK]:
        raise ConfigurationError(f"there is no workload {unknown[0]!r}; there are {', '.join(WORK)}")
    direct = LOOPBACK if url is None or is_on_this_machine(url) else DIRECT
    profiles = tuple(profile(each) for each in (links.split(",") if links else (direct, *RELAYED_LINKS)))
    return Plan(names, profiles, repeats or (QUICK_REPEATS if quick else REPEATS), quick)


def accelerators(results: dict[str, Any]) -> str:
    """On what was measured, for the head of a record."""
    where = {name: each["accelerator"] for name, each in results["where"].items() if each}
    native = where.pop(NATIVE, "nowhere")
    remote = ", ".join(sorted(set(where.values())))
    return native if remote in ("", native) else f"{native} natively, {remote} under AVEC"


def links(results: dict[str, Any]) -> str:
    """Over what was measured, for the head of a record."""
    return ", ".join(name for name in results["where"] if name != NATIVE)


def failed(results: dict[str, Any]) -> bool:
    """Whether something could not be measured, or gave other values than natively."""
    return bool(results["failures"]) or any(
        "error" in each or each.get("equal") is False for row in results["work"].values() for each in row.values()
    )


def measure(plan: Plan, settings: Settings, tell: Tell, keep: Keep = lambda results: None) -> dict[str, Any]:
    """Measure; give the results as a record holds them. Takes minutes.

    Args:
        settings: with the destination to go to; without, one is started on this machine.
        tell: is told what is going on, a line at a time.
        keep: is given the results so far after each link, for nothing of them to be lost when the rest is cut off.

    Raises:
        ConfigurationError: this machine's GPU cannot be hidden from a host.
        NothingMeasured: the program failed natively.
        DestinationError: the destination cannot be reached, or did not start.
    """
    gpu_hidden()  # what it raises is better raised now
    links = _calibrated(plan.links, settings.destination, tell)
    tell("natively")
    native = measure_natively(plan.options, lambda line: tell(_told(line)))
    if not any("windows_ns" in each for each in native.measurements):
        raise NothingMeasured(f"the standard workloads cannot be measured on this machine: {native.failure}")
    results: dict[str, Any] = {
        "quick": plan.quick,
        "repeats": plan.repeats,
        "calibration": {name: asdict(each) for name, each in links.items()},
        "where": {NATIVE: native.where},
        "failures": {NATIVE: native.failure} if native.failure else {},
        "work": {},
    }
    _add(results["work"], NATIVE, native, None, None)
    with contextlib.ExitStack() as stack:
        url = settings.destination
        if url is None:
            tell("starting a destination on this machine")
            url = stack.enter_context(destination(settings, single_thread()))
        for link in plan.links:
            tell(f"under AVEC, over {link.name}")
            with _reached(url, link, links[link.name], settings) as reached:
                said = measure_under_avec(reached, plan.options, lambda line: tell(_told(line)))
            results["where"][link.name] = said.where
            if said.failure:
                results["failures"][link.name] = said.failure
            report = Report(said.report) if said.report is not None else None
            _add(results["work"], link.name, said, report, links[link.name])
            keep(results)
    return results


def _calibrated(links: Sequence[LinkProfile], url: str | None, tell: Tell) -> dict[str, Calibration]:
    """Calibrate links; the way to a destination on another machine is a part of each round trip."""
    way = calibrate_way(url) if url is not None and not is_on_this_machine(url) else None
    calibrations = {}
    if any(each.relayed for each in links):
        links = [CONTROL, *links]
    for link in links:
        if not link.relayed:
            found = way or calibrate_direct()
        elif way is None:
            found = calibrate_relay(link)
        else:
            rest_s = max(0.0, link.round_trip_s - way.round_trip_s)
            found = calibrate_relay(replace(link, round_trip_s=rest_s)).behind(way.round_trip_s)
        calibrations[link.name] = found
        tell(f"link {link.name}: {described(asdict(found))}")
    return calibrations


def described(calibration: dict[str, Any]) -> str:
    """Write a calibration, as a record has it, for people."""
    goodput = f", up {calibration['up_gbit_s']:.3g} Gbit/s, down {calibration['down_gbit_s']:.3g} Gbit/s"
    return f"round trip {calibration['round_trip_ms']['p50']:.3g} ms{goodput if calibration['up_gbit_s'] else ''}"


@contextlib.contextmanager
def _reached(url: str, link: LinkProfile, calibration: Calibration, settings: Settings) -> Iterator[Settings]:
    """The settings with which a program computes at a destination over a link."""
    if not link.relayed:
        yield replace(settings, destination=url)
        return
    # By its URL nothing is known of the relay: what is known of the destination goes along. A token that would not be
    # sent to that is not sent to the relay, which passes it on.
    known = credentials_for(url, settings)
    fingerprint = known.trust.fingerprint if known.trust is not None else None
    with relayed(url, link, calibration.delay_ms / 1e3) as relay_url:
        yield replace(settings, destination=relay_url, token=known.token or None, fingerprint=fingerprint)


def _add(work: dict[str, Any], where: str, said: Said, report: Report | None, calibration: Calibration | None) -> None:
    """Add what was measured natively or over a link, beside what was measured natively."""
    for line in said.measurements:
        row = work.setdefault(line["name"], {})
        row[where] = found = _measured(line)
        if calibration is None or "ms" not in found:
            continue
        if report is not None and report.whole:
            terms = report.terms(line["windows_ns"], line["per"], calibration)
            found["terms"] = {**asdict(terms), "predicted_ms": terms.predicted_ms}
        native = row.get(NATIVE, {})
        if "ms" in native:
            over_ms = found["ms"]["p50"] - native["ms"]["p50"]
            found["ratio"] = found["ms"]["p50"] / native["ms"]["p50"] if native["ms"]["p50"] else None
            found["over_native_round_trips"] = over_ms / calibration.round_trip_ms["p50"]
            found["equal"] = found["digest"] == native["digest"] if native["digest"] else None


def _measured(line: dict[str, Any]) -> dict[str, Any]:
    if "error" in line:
        return {"error": line["error"]}
    times_ms = [(ended_ns - began_ns) / 1e6 / line["per"] for began_ns, ended_ns in line["windows_ns"]]
    found = {"ms": summary(times_ms), **{name: line[name] for name in ("first_ms", "cpu_ms", "digest")}}
    if line["nbytes"]:
        found["gbit_s"] = 8e-6 * line["nbytes"] / found["ms"]["p50"]
    return found


def _told(line: dict[str, Any]) -> str:
    found = _measured(line)
    return f"  {line['name']}: " + (found["error"] if "error" in found else f"{found['ms']['p50']:.4g} ms")
