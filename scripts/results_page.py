"""Writes docs/results.md and its plots from the committed records of `avec bench paper`.

    python scripts/results_page.py [--check]

The numbers of that page are these records'. With --check nothing is written; the status is 1 where the page differs.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from avec.bench.paper import plotting, rates, tables

ROOT = Path(__file__).parents[1]
RECORDS = ROOT / "benchmarks" / "results"
PAGE, PLOTS = ROOT / "docs" / "results.md", ROOT / "docs" / "results"
PLOT_TITLES = {
    "totals": "Figure 7: time of a frame in the whole application",
    "cycle": "Figure 8: the execution cycle",
    "efficiency": "Efficiency: AVEC's rate over the destination's own",
    "where": "Where offloading does not pay",
}
HEAD = """\
# Results: the paper's evaluation

<!-- Written by scripts/results_page.py from benchmarks/results/paper-*.json; edit those, and it. -->

The experiments of the paper that AVEC follows, done by `avec bench paper` and told in its tables and figures, with the
paper's own values beside ours. Machines differ, so it is ratios that can be compared: how much faster than the device,
and how much of the destination's own rate is left. How they are measured, and how to do it on other machines, is in
[benchmarks](benchmarks.md#the-papers-evaluation).

"""


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for path in sorted(RECORDS.glob("paper-*.json")):
        record = rates.read(path)
        parts += [
            f"## {record['environment']['accelerator']}\n\nRecord: [{path.stem}](../benchmarks/results/{path.name})"
        ]
        parts += [
            f"; {record['results']['note']}" if record["results"].get("note") else "",
            ".\n\n",
            tables.page(record),
        ]
        for name, title in PLOT_TITLES.items():
            if (PLOTS / path.stem / f"{name}.svg").exists():
                parts.append(f"\n![{title}](results/{path.stem}/{name}.svg)\n")
        parts.append("\n")
    return "".join(parts)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; is the page what the records say?")
    if parser.parse_args().check:
        same = PAGE.read_text("utf-8") == page()
        print("docs/results.md is what the records say" if same else "docs/results.md differs from the records")
        return 0 if same else 1
    plotting.require()
    for path in RECORDS.glob("paper-*.json"):
        for plot in plotting.draw(rates.read(path), PLOTS / path.stem):
            if plot.suffix == ".png":  # the page shows the others
                plot.unlink()
    PAGE.write_text(page(), "utf-8")
    print(PAGE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
