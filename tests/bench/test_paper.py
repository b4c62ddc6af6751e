"""`avec bench paper`: the file of tiers, the tables of a record, and how figures are put together.

That the experiments run is what `make bench-paper-tiny` shows, in CI; here are none.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import rich_click as click

from avec import cli
from avec.bench.paper import files, rates, tables, tiers
from avec.bench.paper.cycles import evaluated
from avec.bench.paper.running import Budget, OverBudget, Ran
from launching import AVEC, execute

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
RECORD = BENCHMARKS / "results" / "paper-small-cpu.json"
TITLES = ("Table I:", "Table II", "Table III", "Table IV", "Table V", "Figure 8", "Figure 9", "Equation 1", "Kernels")


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    """A record as it was measured on two cores."""
    return rates.read(RECORD)


def file_of(folder: Path, text: str) -> Path:
    path = folder / "tiers.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("path", sorted(BENCHMARKS.glob("paper-*.toml")), ids=lambda path: path.stem)
def test_the_files_of_this_repository_can_be_read(path: Path) -> None:
    assert tiers.read(path).device.threads >= 1


def test_sizes_of_a_link_stand_above_those_of_its_tier_and_of_all(tmp_path: Path) -> None:
    text = """
    [sizes]
    images = [64]
    video = 204
    [device]
    threads = 4
    [cloud]
    links = ["loopback", "1gbit-1ms"]
    sizes = { video = 100 }
    link_sizes = { 1gbit-1ms = { images = [8] } }
    """
    found = tiers.read(file_of(tmp_path, text))
    loopback, link = tiers.over_links("cloud", tiers.remotes(found)["cloud"], found.sizes)
    assert (loopback.sizes.images, loopback.sizes.video) == ((64,), 100)
    assert (link.sizes.images, link.sizes.video) == ((8,), 100)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[cloud]", "missing required field `device`"),
        ("[device]\nthreads = 1\ncores = 2", "unknown field `cores`"),
        ("[device]\nthreads = 'all'", "Expected `int`, got `str`"),
        ("[device", "Expected ']'"),
        ('[device]\nthreads = 1\n[cloud]\nlinks = ["fast"]', "there is no link 'fast'"),
        ('application = "."\n[device]\nthreads = 1', "there is no OpenPose application in"),
    ],
)
def test_a_wrong_file_is_one_line_and_status_2(tmp_path: Path, text: str, message: str) -> None:
    status, stdout, stderr = execute(*AVEC, "bench", "paper", str(file_of(tmp_path, text)))
    assert (status, stdout) == (2, "")
    assert message in stderr and stderr.count("\n") == 1


def test_its_flags_are_these() -> None:
    flags = {flag for each in cli.paper.params if isinstance(each, click.Option) for flag in each.opts}
    assert flags == {"--small", "--output", "--render", "--plots", "--note"}


def test_a_record_or_tiers_are_needed() -> None:
    status, _, stderr = execute(*AVEC, "bench", "paper")
    assert status == 2 and "name a file of tiers to measure, or a record to --render" in stderr


def test_a_record_of_something_else_is_refused() -> None:
    status, _, stderr = execute(*AVEC, "bench", "paper", "--render", str(BENCHMARKS / "results" / "resume-cpu.json"))
    assert status == 2 and "it is no record that `avec bench paper --output` wrote" in stderr


def test_the_command_renders_a_record_with_plots(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    options = ["--render", str(RECORD), "--plots", str(tmp_path)]
    status, stdout, stderr = execute(*AVEC, "bench", "paper", *options)
    assert status == 0, stderr
    assert all(f"### {title}" in stdout for title in TITLES)
    names = {f"{name}.{suffix}" for name in ("totals", "cycle", "efficiency", "where") for suffix in ("svg", "png")}
    assert {path.name for path in tmp_path.iterdir()} == names


def test_efficiency_is_the_rate_over_that_of_the_destination_itself(record: dict[str, Any]) -> None:
    results = record["results"]
    tests = results["forwarded"]["cloud"]["loopback"]["tests"], results["native"]["cloud"]["tests"]
    forwarded, natively = (each["video"]["frames"] / each["video"]["seconds"] for each in tests)
    (line,) = [each for each in tables.summary(record) if each.startswith("efficiency, device → cloud, loopback")]
    assert f"video {forwarded / natively:.3g} ({forwarded:.3g} fps, cloud natively {natively:.3g})" in line


def test_maps_are_the_same_bits_over_every_link(record: dict[str, Any]) -> None:
    results = record["results"]
    for tier, links in results["forwarded"].items():
        own = results["native"][tier]["tests"]["cycle"]["digest"]
        assert {run["tests"]["cycle"]["digest"] for run in links.values()} == {own}


def test_nothing_is_extrapolated(record: dict[str, Any]) -> None:
    """A total is of the frames that were taken; where these are fewer than a test has, the table says how many."""
    page = tables.page(record)
    for place in rates.places(record["results"]):
        for name in rates.image_tests(record["results"]):
            if (test := place.test(name)) and test["frames"] != int(name.removeprefix("images-")):
                assert f"for {test['frames']} frames" in page


def test_operations_are_counted_as_the_application_counts_them() -> None:
    sys.path.insert(0, str(tiers.APPLICATION))
    try:
        import topologies
    finally:
        sys.path.remove(str(tiers.APPLICATION))
    text = topologies.prototxt("coco", 368, 656)
    assert files.flop(text, 368, 656) == topologies.flop("coco", 368, 656) == 484_634_285_056


def test_what_is_possible_is_bound_by_the_slower_of_accelerator_and_link() -> None:
    assert rates.possible(8.0, 10.0, 40.0) == 0.8
    assert rates.possible(3.0, 10.0, 4.0) == 0.75
    assert rates.possible(3.0, None, 4.0) is None


def test_a_spent_budget_is_said() -> None:
    with pytest.raises(OverBudget, match="left out: the budget of 0 s was spent"):
        Budget(0).check()


def test_a_test_has_the_cycles_that_began_in_it() -> None:
    def cycle(began_ns: int, compute_ns: int) -> dict[str, Any]:
        counts = dict.fromkeys(("tensor_nbytes_up", "tensor_nbytes_down", "wire_nbytes_up", "wire_nbytes_down"), 5)
        stages = (1_000_000, 2_000_000, 0, compute_ns, 3_000_000, 0)
        return {"name": "caffe.forward", "began_ns": began_ns, "stages_ns": stages, "kernels": 7, **counts}

    ran = Ran()
    ran.report = {"origin": None, "transfers": [], "cycles": [cycle(5, 10**7), cycle(15, 10**6), cycle(25, 10**9)]}
    line = {"kind": "application", "window_ns": (10, 20), "ended_s": [0.5], "frames": 1, "seconds": 0.5}
    ran.tests["video"] = json.loads(json.dumps(line))
    found = evaluated(ran, {"model_nbytes": 1})["tests"]["video"]
    assert found["fps"] == 2
    assert found["cycle"]["count"] == 1
    assert found["cycle"]["stages_ms"]["compute"]["p50"] == 1
    assert found["cycle"]["over_compute_ms"]["p50"] == 6
