"""The paper's tables and figures as Markdown tables, from a record; beside them what the paper reports.

Each table says what it ran; nothing is extrapolated.
"""

from __future__ import annotations

from collections.abc import Iterator

from avec.bench.paper import published
from avec.bench.paper.cycles import PARTS
from avec.bench.paper.markdown import NONE, gigabytes, ms, number, seconds, table, times
from avec.bench.paper.rates import (
    DEVICE,
    Place,
    by_size,
    image_tests,
    images_fps,
    link_fps,
    native,
    places,
    possible,
    ratio,
    video_fps,
)
from avec.bench.paper.running import Line


def page(record: Line) -> str:
    """All tables."""
    results = record["results"]
    sections = [
        _head(record),
        _tiers(results),
        _totals(results),
        _loads(results),
        _speed_ups(results),
        _rates(results),
        _cycles(results),
        _by_test(results),
        _bytes(results),
        _census(results),
        _host(results),
        _sweep(results),
        _links(results),
        _failures(results),
    ]
    return "\n".join(each for each in sections if each)


def summary(record: Line) -> Iterator[str]:
    """The efficiency of each link, in a line each."""
    results = record["results"]
    for place in places(results):
        if not place.link:
            continue
        own = native(results, place.tier)
        pairs = (
            ("images", images_fps(results, place), images_fps(results, own)),
            ("video", video_fps(place), video_fps(own)),
        )
        said = [
            f"{name} {number(ratio(fps, native_fps))} ({number(fps)} fps, {place.tier} natively {number(native_fps)})"
            for name, fps, native_fps in pairs
        ]
        yield f"efficiency, {place.name}: " + ", ".join(said)


def _head(record: Line) -> str:
    results, environment = record["results"], record["environment"]
    model = results["model"]
    return (
        f"Network: {model['name']}, {model['width']}×{model['height']}, {model['gflop']:.1f} GFLOP a frame,"
        f" {gigabytes(model['model_nbytes'])} of weights, numerics {model['numerics']}."
        f" Measured {environment['date'][:10]} at revision {environment['revision']} by `{environment['command']}`;"
        f" {environment['processor']}, {environment['cores']} cores, Python {environment['python']},"
        f" torch {environment['versions'].get('torch', NONE)}.\n"
    )


def _tiers(results: Line) -> str:
    rows = []
    for place in places(results):
        if place.link:
            continue
        where, cycle = place.run["where"], place.test("cycle")
        net = ratio(results["model"]["gflop"] * 1e3, cycle.get("frame_ms", {}).get("p50"))
        rows.append(
            [
                place.tier,
                str(where.get("accelerator", NONE)),
                gigabytes(where.get("memory_nbytes")),
                str(
                    where.get("multiprocessors")
                    or f"{where.get('threads', NONE)} threads of {where.get('cores', NONE)}"
                ),
                number(where.get("matmul_gflop_s"), 4),
                number(net, 4),
                published.ACCELERATORS[place.tier],
            ]
        )
    head = [
        "tier",
        "accelerator",
        "memory",
        "multiprocessors or threads",
        "GFLOP/s, matrices",
        "GFLOP/s, this network",
        "the paper's",
    ]
    return "### Table I: the tiers\n\n" + table(head, rows)


def _totals(results: Line) -> str:
    tests = [*image_tests(results), "video"]
    rows = [[place.name, *(_total(place.test(name), name) for name in tests)] for place in places(results)]
    return (
        "### Table II and Figure 7: total time\n\n"
        + table(["", *(each.replace("-", " ") for each in tests)], rows)
        + "\nThe network's loading is not in it (Table III). Where a test was stopped early, its frames are said.\n"
    )


def _total(test: Line, name: str) -> str:
    if not test:
        return NONE
    asked = int(name[7:]) if name.startswith("images-") else None
    return f"{seconds(test['seconds'])}" + ("" if test["frames"] == asked else f" for {test['frames']} frames")


def _loads(results: Line) -> str:
    rows = []
    for place in places(results):
        load = place.test("load")
        if not load:
            continue
        where = place.run["where"]
        held = where.get("held_nbytes") or place.run.get("held_nbytes") or [None]
        before = where.get("before_nbytes")
        forwarded = held[0] - before if held[0] is not None and before is not None else None
        memory = forwarded if place.link else where.get("peak_allocated_nbytes")
        runs = [("cold", place.run)] if place.link else [("", place.run)]
        if "warm" in place.run:
            runs.append(("warm", place.run["warm"]))
        for name, run in runs:
            transfers = run.get("transfers") or []
            found = run.get("tests", {}).get("load", {})
            rows.append(
                [
                    f"{place.name}{', ' if name else ''}{name}",
                    gigabytes(transfers[0]["uploaded_nbytes"]) if transfers else NONE,
                    seconds(transfers[0]["seconds"]) if transfers else NONE,
                    ms(run.get("first_load_ms")) if place.link else seconds(found.get("load_s")),
                    seconds(found.get("load_s")),
                    seconds(found.get("first_frame_s")),
                    gigabytes(memory) if name != "warm" else NONE,
                ]
            )
    head = [
        "",
        "model bytes sent",
        "transfer",
        "loading it",
        "session and net",
        "with the first frame",
        "accelerator memory",
    ]
    return (
        "### Table III: transfer and loading of the model\n\n"
        + table(head, rows)
        + f"\nThe paper: {published.MODEL_MEMORY_GB} GB on the GPU, sent and loaded once for each start. A warm start"
        " sends nothing: the destination has the model. Memory natively is torch's peak over all tests; forwarded, what"
        " the GPU has in use, the worker's context included, more than before it came.\n"
    )


def _speed_ups(results: Line) -> str:
    device = native(results, DEVICE)
    rows = []
    for place in places(results):
        if place.tier == DEVICE:
            continue
        paper = published.SPEED_UP.get(place.tier, (NONE, NONE)) if place.link else (NONE, NONE)
        values = (
            ratio(images_fps(results, place), images_fps(results, device)),
            ratio(video_fps(place), video_fps(device)),
        )
        rows.append([place.name, times(values[0]), times(values[1]), *paper])
    return "### Table IV: speed-up over the device\n\n" + table(
        ["", "images", "video", "the paper's, images", "video"], rows
    )


def _rates(results: Line) -> str:
    rows = []
    for place in places(results):
        own, limit = native(results, place.tier), link_fps(results, place) if place.link else None
        fps = images_fps(results, place), video_fps(place)
        natively = images_fps(results, own), video_fps(own)
        efficiencies = [NONE, NONE, NONE, NONE]
        if place.link:
            efficiencies = [
                number(ratio(fps[0], natively[0])),
                number(ratio(fps[1], natively[1])),
                number(limit),
                number(possible(fps[1], natively[1], limit)),
            ]
        paper = published.FPS.get((place.tier, "forwarded" if place.link else "native"), (None, None))
        paper_efficiency = published.EFFICIENCY.get(place.tier, (None, None)) if place.link else (None, None)
        rows.append(
            [
                place.name,
                number(fps[0]),
                number(fps[1]),
                *efficiencies,
                number(paper[0]),
                number(paper[1]),
                number(paper_efficiency[0]),
                number(paper_efficiency[1]),
            ]
        )
    head = [
        "",
        "fps, images",
        "fps, video",
        "efficiency, images",
        "efficiency, video",
        "the link carries, fps",
        "of what link and accelerator allow",
        "paper: fps, images",
        "fps, video",
        "efficiency, images",
        "efficiency, video",
    ]
    return (
        "### Table V: frames per second, and efficiency\n\n"
        + table(head, rows)
        + "\nEfficiency: AVEC's rate over that of the same application on the destination itself.\n"
    )


def _cycles(results: Line) -> str:
    rows = []
    for place in places(results):
        test = place.test("cycle")
        if test:
            rows.append([place.name, *_parts(test, place), ms(_over(test)), _paper_cycle(place), _same(results, place)])
    head = ["", "frame", "send", "compute", "receive", "other", "cycle − compute", "paper: frame", "same bits"]
    return (
        "### Figure 8: a frame of the network alone, in turn\n\n"
        + table(head, rows)
        + "\nMedians. Send is encoding and the link, compute includes waiting in the destination's queue, other is the"
        " host's writing of the input. Same bits: the maps are those of the same accelerator natively.\n"
    )


def _parts(test: Line, place: Place) -> list[str]:
    frame = test["frame_ms"]["p50"]
    if not place.link:
        return [ms(frame), NONE, ms(frame), NONE, NONE]
    if not test.get("cycle"):
        return [ms(frame), NONE, NONE, NONE, NONE]
    stages = {name: each["p50"] for name, each in test["cycle"]["stages_ms"].items()}
    parts = [sum(stages[stage] for stage in names) for names in PARTS.values()]
    return [ms(frame), *map(ms, parts), ms(max(0.0, frame - sum(parts)))]


def _over(test: Line) -> float | None:
    return test["cycle"]["over_compute_ms"]["p50"] if test.get("cycle") else None


def _paper_cycle(place: Place) -> str:
    if not place.link:
        return f"{published.FRAME_S[place.tier]} s"
    return f"{published.FRAME_S[place.tier]} + {published.COMMUNICATION_S[place.tier]} s"


def _same(results: Line, place: Place) -> str:
    own = native(results, place.tier).test("cycle").get("digest")
    return NONE if not place.link or not own else "yes" if place.test("cycle")["digest"] == own else "no"


def _by_test(results: Line) -> str:
    rows = []
    for name in ("images-in-turn", "video-in-turn"):
        for place in places(results):
            test = place.test(name)
            if not test or not test.get("frame_ms"):
                continue
            stages = {
                stage: test["stage_s"].get(stage, 0.0) * 1e3 / test["frames"]
                for stage in ("read", "prepare", "network", "find", "write")
            }
            parts = _parts(test, place) if test.get("cycle") or not place.link else [NONE] * 5
            rows.append(
                [
                    f"{name.split('-')[0]}, {place.name}",
                    str(test["frames"]),
                    *([parts[0], NONE, ms(stages["network"]), NONE, NONE] if not place.link else parts),
                    ms(stages["read"] + stages["prepare"]),
                    ms(stages["find"]),
                    ms(stages["write"]),
                ]
            )
    head = [
        "",
        "frames",
        "frame",
        "send",
        "compute",
        "receive",
        "other",
        "of it: read and prepare",
        "find",
        "draw and write",
    ]
    return "### Figure 9: a frame by kind of test, all in turn\n\n" + table(head, rows)


def _bytes(results: Line) -> str:
    rows = []
    for place in places(results):
        for name in ("cycle", "video"):
            cycle = place.test(name).get("cycle")
            if cycle:
                equation = published.EQUATION_METADATA_NBYTES + cycle["tensor_nbytes_up"] + cycle["tensor_nbytes_down"]
                wire = cycle["wire_nbytes_up"] + cycle["wire_nbytes_down"]
                rows.append(
                    [
                        f"{name}, {place.name}",
                        f"{equation:,.0f}",
                        f"{cycle['wire_nbytes_up']:,.0f}",
                        f"{cycle['wire_nbytes_down']:,.0f}",
                        number(wire / equation),
                    ]
                )
    head = ["", "Equation 1", "counted up", "counted down", "counted ÷ Equation 1"]
    return (
        "### Equation 1: bytes of a frame\n\n"
        + table(head, rows)
        + f"\nThe paper: {published.FRAME_NBYTES / 1e6} MB.\n"
    )


def _census(results: Line) -> str:
    found = next((test for place in places(results) if (test := place.test("census")) and test.get("operators")), None)
    if found is None:
        return ""
    host, destination = set(found["host"]), set(found["operators"])
    shared = {each.partition(".")[2] for each in host} & {
        each.removeprefix("aten::").rstrip("_") for each in destination
    }
    ours = (len(host) + len(destination) - len(shared), len(host), len(destination), len(shared))
    rows = [
        [name, str(count), str(published.KERNELS[name])] for name, count in zip(published.KERNELS, ours, strict=True)
    ]
    layers = ", ".join(f"{name} {count}" for name, count in found["layers"].items())
    return (
        "### Kernels: which operators run where\n\n"
        + table(["", "kinds", "the paper's"], rows)
        + f"\nHost: {', '.join(sorted(host))}.\n\nDestination: layers {layers};"
        f" by torch's {', '.join(sorted(destination))}.\n\n"
        f"Shared is what has one name on both sides: {', '.join(sorted(shared)) or 'nothing'}.\n"
    )


def _host(results: Line) -> str:
    rows = []
    for place in places(results):
        test = place.test("video")
        if test and test["frames"]:
            stages = [
                test["stage_s"].get(stage, 0.0) * 1e3 / test["frames"] for stage in ("read", "prepare", "find", "write")
            ]
            rows.append([place.name, *map(ms, stages), number(test["people"] / test["frames"])])
    head = ["video", "read", "prepare", "find", "draw and write", "people a frame"]
    return "### The host's own work, a frame\n\n" + table(head, rows)


def _sweep(results: Line) -> str:
    alone = by_size(results, native(results, DEVICE))
    columns = [(place.name, by_size(results, place)) for place in places(results) if place.link]
    if not alone:
        return ""
    head = ["GFLOP a frame", "device natively", *(name for name, _ in columns)]
    rows = []
    for gflop, device_ms in reversed(alone.items()):
        cells = [(found.get(gflop), ratio(device_ms, found.get(gflop))) for _, found in columns]
        rows.append([number(gflop), ms(device_ms), *(f"{ms(each)} ({times(gain)})" for each, gain in cells)])
    return (
        "### Where offloading does not pay\n\nThe COCO topology with its channels scaled, so that input and output"
        " stay as large; a frame in turn, and the speed-up over the device. Below 1× the device is faster.\n\n"
        + table(head, rows)
    )


def _links(results: Line) -> str:
    rows = [
        [name, ms(each["round_trip_ms"]["p50"]), number(each["up_gbit_s"] or None), number(each["down_gbit_s"] or None)]
        for name, each in results["calibration"].items()
    ]
    return "### Links, as calibrated\n\n" + table(["link", "round trip", "Gbit/s up", "down"], rows)


def _failures(results: Line) -> str:
    return "".join(f"- not measured: {name}: {text}\n" for name, text in results["failures"].items())
