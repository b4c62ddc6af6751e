"""Hypothesis strategies for Caffe's messages, drawn from the schema itself."""

from __future__ import annotations

import struct

import numpy as np
from hypothesis import strategies as st

from avec.formats.caffe.schema import ARRAY_DTYPES, INTEGER_RANGES, MESSAGES, Field, MessageType, Plain

DEPTH = 3


def float32(bits: int) -> float:
    """The float32 of a bit pattern; all NaNs are one, for text keeps none of their payloads."""
    return one_nan(float(struct.unpack("<f", struct.pack("<I", bits))[0]))


def one_nan(value: float) -> float:
    return float("nan") if value != value else value


def scalars(field: Field) -> st.SearchStrategy[object]:
    """Values that a field which is no message can hold."""
    if field.enum is not None:
        return st.sampled_from(sorted(field.enum.names))
    if field.type in INTEGER_RANGES:
        return st.integers(*INTEGER_RANGES[field.type])
    return {
        "float": st.integers(0, 2**32 - 1).map(float32),
        "double": st.floats().map(one_nan),
        "bool": st.booleans(),
        "string": st.text(st.characters(codec="utf-8"), max_size=8),
        "bytes": st.binary(max_size=8),
    }[field.type]


@st.composite
def plains(draw: st.DrawFn, message: MessageType, depth: int = 0) -> Plain:
    """A message as plain values, with a few of its fields set."""
    usable = [field for field in message.fields if depth < DEPTH or field.type != "message"]
    if not usable:
        return {}
    chosen = draw(st.lists(st.sampled_from(usable), max_size=4, unique_by=lambda field: field.name))
    plain: Plain = {}
    for field in chosen:
        values = scalars(field) if field.type != "message" else plains(MESSAGES[field.message], depth + 1)
        if not field.repeated:
            plain[field.name] = draw(values)
            continue
        drawn = draw(st.lists(values, min_size=1, max_size=3))
        plain[field.name] = np.array(drawn, ARRAY_DTYPES[field.type]) if field.holds_array else drawn
    return plain


def comparable(message: MessageType, plain: Plain) -> object:
    """A plain message in a form that `==` compares whole: arrays and floats by their bytes."""
    found = {}
    for name, value in plain.items():
        field = message.by_name[name]
        items = list(value) if field.repeated else [value]
        if field.type == "message":
            found[name] = [comparable(MESSAGES[field.message], item) for item in items]
        elif field.type in ARRAY_DTYPES:
            found[name] = np.array(items, ARRAY_DTYPES[field.type]).tobytes()
        else:
            found[name] = items
    return found
