"""What a golden case is, and the few words of prototxt that the case lists are written in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from zlib import crc32

Shape = tuple[int, ...]
FRAME: Shape = (2, 4, 7, 9)  # no two axes alike, so that a swapped axis shows


@dataclass(frozen=True, slots=True)
class Case:
    """One network to run through real Caffe, and what to keep of the run."""

    group: str  # the file that the golden goes to
    name: str
    prototxt: str
    seed: int
    phase: str = "TEST"
    level: int = 0
    stages: tuple[str, ...] = ()
    input_scale: float = 1.0
    fill: bool = True  # parameters from the seed; else what the net's fillers give
    weights: str = "caffemodel"  # "caffemodel": stored as Caffe saves them; "seeded": not stored; "v1": in V1 layers
    rounded: bool = False  # inputs are whole numbers, so that they tie
    classes: int = 0  # input "label" holds numbers below this; 0: it is an input as any other
    backward: bool = True  # its gradients are kept too, where its group's are
    forced: bool = True  # by force_backward, so that inputs get gradients
    samples: int = 0  # values kept of each blob, evenly spread; 0: all


def layer(name: str, kind: str, bottoms: str, tops: str, body: str = "") -> str:
    """Write one layer; bottoms and tops are words separated by spaces."""
    bottom_lines = "".join(f'  bottom: "{blob}"\n' for blob in bottoms.split())
    top_lines = "".join(f'  top: "{blob}"\n' for blob in tops.split())
    body_line = f"  {body}\n" if body else ""
    return f'layer {{\n  name: "{name}"\n  type: "{kind}"\n{bottom_lines}{top_lines}{body_line}}}\n'


def input_layer(blob: str, shape: Sequence[int]) -> str:
    return layer(blob, "Input", "", blob, f"input_param {{ shape {{ {dims(shape)} }} }}")


def dims(shape: Sequence[int]) -> str:
    return " ".join(f"dim: {size}" for size in shape)


def inputs(**shapes: Sequence[int]) -> str:
    """Write one Input layer for each blob."""
    return "".join(input_layer(blob, shape) for blob, shape in shapes.items())


def one_layer(kind: str, table: dict[str, tuple[Shape, str]], seed: int, scale: float = 1.0) -> Iterator[Case]:
    """One net per row of the table: an input of that shape, and the layer with that body."""
    for place, (name, (shape, body)) in enumerate(table.items()):
        net = inputs(data=shape) + layer("tested", kind, "data", "out", body)
        yield Case(kind, name, net, seed + place, input_scale=scale)


def named_seed(case: Case) -> Case:
    """Draw the seed from the case's name, so that a case more or less changes no other."""
    return replace(case, seed=crc32(case.name.encode()) >> 2)
