"""Malformed data files and settings: how they are prepared, and what the error has to say."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import lmdb
import pytest

from avec.errors import AvecError, InvalidData
from avec.formats.caffe.message import Message, message_class
from avec.interception.caffe.data import open_source

TEST = 1


def nothing(folder: Path) -> None:
    """For settings that are wrong with any files."""


@dataclass(frozen=True, slots=True)
class Bad:
    """What is prepared, the layer that reads it, and where the error's text begins and what it also says."""

    prototxt: str
    begins: str
    says: str
    prepare: Callable[[Path], object] = nothing
    error: type[AvecError] = InvalidData


def data(source: str, settings: str = "batch_size: 2", transform: str = "", tops: int = 2) -> str:
    names = " ".join(['top: "data"', 'top: "label"', 'top: "more"'][:tops])
    return (
        f'layer {{ name: "in" type: "Data" {names} data_param {{ source: "{source}" backend: LMDB {settings} }} '
        f"transform_param {{ {transform} }} }}"
    )


def image_data(source: str = "list.txt", settings: str = "batch_size: 2", transform: str = "") -> str:
    return (
        'layer { name: "in" type: "ImageData" top: "data" top: "label" '
        f'image_data_param {{ source: "{source}" {settings} }} transform_param {{ {transform} }} }}'
    )


def hdf5_data(settings: str = "batch_size: 2", more: str = "", source: str = "list.txt") -> str:
    return (
        'layer { name: "in" type: "HDF5Data" top: "data" top: "label" '
        f'hdf5_data_param {{ source: "{source}" {settings} }} {more} }}'
    )


def window_data(settings: str = "", transform: str = "crop_size: 8", source: str = "list.txt") -> str:
    return (
        'layer { name: "in" type: "WindowData" top: "data" top: "label" '
        f'window_data_param {{ source: "{source}" batch_size: 2 {settings} }} transform_param {{ {transform} }} }}'
    )


def listed(content: str | bytes) -> Callable[[Path], object]:
    raw = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / "list.txt").write_bytes(raw)


def records(*values: bytes) -> Callable[[Path], None]:
    """Make bad.lmdb with these values."""

    def prepare(folder: Path) -> None:
        with (
            lmdb.open(str(folder / "bad.lmdb"), map_size=1 << 20) as environment,
            environment.begin(write=True) as write,
        ):
            for number, value in enumerate(values):
                write.put(b"%04d" % number, value)

    return prepare


def datum(**fields: Any) -> bytes:
    return bytes(message_class("Datum")(**fields).SerializeToString())


def truncated(name: str, nbytes: int) -> Callable[[Path], None]:
    return lambda folder: os.truncate(folder / name, nbytes)


def mean(data: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / "bad.binaryproto").write_bytes(data)


def rows(**datasets: Any) -> Callable[[Path], None]:
    """Make rows.h5 and a list that names it."""

    def prepare(folder: Path) -> None:
        (folder / "list.txt").write_text("rows0.h5 rows.h5" if "after_first" in datasets else "rows.h5")
        with h5py.File(folder / "rows.h5", "w") as file:
            for name, values in datasets.items():
                if name != "after_first":
                    file[name] = values

    return prepare


def both(*steps: Callable[[Path], object]) -> Callable[[Path], None]:
    def prepare(folder: Path) -> None:
        for step in steps:
            step(folder)

    return prepare


def check(bad: Bad, folder: Path, layer: Callable[[str], Message]) -> None:
    """Assert that what is bad is refused in one line that names the file, the place in it and the remedy."""
    bad.prepare(folder)
    with pytest.raises(bad.error) as caught, open_source(layer(bad.prototxt), TEST, seed=0) as source:
        for _ in range(3):
            source.next_batch()
    text = str(caught.value)
    assert type(caught.value) is bad.error
    assert text.startswith(bad.begins)
    assert bad.says in text
    assert "\n" not in text
