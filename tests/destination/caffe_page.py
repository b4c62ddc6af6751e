"""The table of docs/caffe.md that derives from the code and the goldens.

Written anew into the page by `PYTHONPATH=src:tests python tests/destination/caffe_page.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from avec.destination.executors.caffe.layers import LAYER_TYPES
from avec.destination.executors.caffe.layers.layer import no_parameters
from avec.protocol.caffe import HOST_LAYERS
from goldens.caffe_goldens import goldens
from goldens.data_goldens import data_cases
from goldens.training_goldens import gradients, training_behaviours, training_goldens

PAGE = Path(__file__).parents[2] / "docs" / "caffe.md"
WRITTEN = Path(__file__).parents[1] / "goldens" / "caffe_data" / "written"  # by real Caffe
_TYPE = re.compile(r'\btype: *"(\w+)"')


def layers_table() -> str:
    """One row for each layer type: where it runs, and what of it was compared with real Caffe."""
    forward = {layer.type for each in (*goldens(), *training_goldens()) for layer in each.layers}
    backward = _types(each.prototxt for each in gradients())
    batches = _types(each.prototxt for each in (*data_cases().values(), *data_cases(random=True).values()))
    programs = _types(str(each.settings) for each in training_behaviours())
    rows = ["| layer type | runs at | learns | checked |", "|---|---|---|---|"]
    for name, kind in sorted(LAYER_TYPES.items()):
        host = name in HOST_LAYERS
        learns = "its own code" if name == "Python" else "yes" if kind.parameters is not no_parameters else ""
        checks = []
        if not host and name in forward:
            checks.append("forward")
        if not host and kind.differentiable and name in backward and name != "Input":
            checks.append("backward")
        if host and name in batches:
            checks.append("batches")
        if name == "Python" and name in programs:
            checks.append("programs")
        if name == "HDF5Output" and f'type: "{name}"' in (WRITTEN / "output.prototxt").read_text():
            checks.append("files")
        rows.append(f"| {name} | {'host' if host else 'destination'} | {learns} | {', '.join(checks) or '–'} |")
    return "\n".join(rows)


def _types(texts: Iterable[str]) -> set[str]:
    return {name for text in texts for name in _TYPE.findall(text.replace('\\"', '"'))}


def with_table(page: str) -> str:
    """The page with its table as the code has it."""
    marked = re.compile(r"(<!-- layers -->\n).*?(<!-- end -->)", re.DOTALL)
    page, count = marked.subn(lambda found: f"{found[1]}{layers_table()}\n{found[2]}", page)
    assert count == 1
    return page


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text("utf-8")), "utf-8")
