"""Malformed HDF5 files and settings; packages that are missing."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from avec.errors import InvalidArgument, InvalidData, UnsupportedOperation
from avec.formats.caffe.message import Message
from avec.interception.caffe.data import HDF5Output, open_source
from interception.caffe_data.bad_data import (
    TEST,
    Bad,
    both,
    check,
    data,
    hdf5_data,
    image_data,
    listed,
    rows,
    truncated,
)

CASES = {
    "hdf5_list_missing": Bad(
        hdf5_data(source="none.txt"),
        "layer 'in' (HDF5Data): its source 'none.txt' cannot be opened",
        "lists HDF5 files",
    ),
    "hdf5_list_empty": Bad(
        hdf5_data(), "list.txt: the list is empty", "one HDF5 file's name on each line", listed(" \n")
    ),
    "hdf5_named_as_the_list": Bad(
        hdf5_data(source="rows0.h5"), "rows0.h5: this is a binary file", "a text file that lists HDF5 files"
    ),
    "hdf5_missing": Bad(
        hdf5_data(), "none.h5: there is no such file (working directory ", "check the name", listed("none.h5")
    ),
    "hdf5_is_something_else": Bad(
        hdf5_data(), "list.txt: the HDF5 file cannot be read: ", "copy it again", listed("list.txt")
    ),
    "hdf5_truncated": Bad(
        hdf5_data(),
        "rows0.h5: the HDF5 file cannot be read: ",
        "copy it again",
        both(listed("rows0.h5"), truncated("rows0.h5", 3000)),
    ),
    "hdf5_without_the_dataset": Bad(
        hdf5_data(), "rows.h5: there is no dataset /label; / holds data, labels", "", rows(data=[[1.0]], labels=[1.0])
    ),
    "hdf5_dataset_is_a_group": Bad(
        hdf5_data(), "rows.h5: there is no dataset /data; ", "", rows(**{"data/x": [1.0], "label": [1.0]})
    ),
    "hdf5_of_text": Bad(
        hdf5_data(), "rows.h5: dataset /data holds text", "floats and integers", rows(data=[b"a"], label=[1])
    ),
    "hdf5_of_complex": Bad(
        hdf5_data(), "rows.h5: dataset /data holds complex numbers", "floats and integers", rows(data=[1j], label=[1])
    ),
    "hdf5_of_booleans": Bad(
        hdf5_data(),
        "rows.h5: dataset /label holds an enumeration",
        "floats and integers",
        rows(data=[1.0], label=[True]),
    ),
    "hdf5_scalar": Bad(
        hdf5_data(), "rows.h5: dataset 'label' has the shape (): no rows", "add", rows(data=[1.0], label=1)
    ),
    "hdf5_without_rows": Bad(
        hdf5_data(),
        "rows.h5: dataset 'data' has the shape (0, 4): no rows",
        "remove it",
        rows(data=np.zeros((0, 4)), label=[1]),
    ),
    "hdf5_rows_differ": Bad(
        hdf5_data(),
        "rows.h5: dataset 'label' has 3 rows and 'data' 2",
        "the same number",
        rows(data=[1, 2], label=[1, 2, 3]),
    ),
    "hdf5_later_file_differs": Bad(
        hdf5_data(),
        "rows.h5: its rows have the shapes [(), ()] and those of the first file [(2, 3, 4), ()]",
        "one shape",
        rows(data=[1.0], label=[1.0], after_first=True),
    ),
    "hdf5_does_not_fit_into_memory": Bad(
        hdf5_data(),
        "rows.h5: an array of this file does not fit into memory",
        "",
        both(
            listed("rows.h5"),
            lambda folder: (
                h5py.File(folder / "rows.h5", "w").create_dataset("data", (1 << 50,), "f4", chunks=(1024,)).file.close()
            ),
        ),
    ),
    "hdf5_transformed": Bad(
        hdf5_data(more="transform_param { scale: 2 }", source="rows.txt"),
        "layer 'in' (HDF5Data): HDF5Data does not transform",
        "remove transform_param",
        error=InvalidArgument,
    ),
    "hdf5_no_batch_size": Bad(
        hdf5_data("", source="rows.txt"), "layer 'in' (HDF5Data): batch_size is 0", "above zero", error=InvalidArgument
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_it_is_refused_in_one_line(name: str, files: Path, layer: Callable[[str], Message]) -> None:
    check(CASES[name], files, layer)


@pytest.mark.parametrize(
    ("missing", "prototxt", "text"),
    [
        (["lmdb"], data("pixels.lmdb"), "pixels.lmdb: reading an LMDB needs the package lmdb; pip install lmdb"),
        (["h5py"], hdf5_data(source="row.txt"), "rows0.h5: HDF5 files need the package h5py; pip install h5py"),
        (
            ["cv2", "PIL.Image"],
            image_data("same.txt", 'root_folder: "images/"'),
            "same.txt, line 1: 'images/one.png': images need OpenCV or pillow; pip install opencv-python-headless",
        ),
    ],
)
def test_a_missing_package_is_named(
    missing: list[str],
    prototxt: str,
    text: str,
    files: Path,
    layer: Callable[[str], Message],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in missing:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UnsupportedOperation) as caught:
        open_source(layer(prototxt), TEST, seed=0)
    assert str(caught.value) == text


@contextmanager
def output(folder: Path) -> Iterator[HDF5Output]:
    with HDF5Output(str(folder / "out.h5")) as opened:
        yield opened


ROWS = np.zeros((2, 3), np.float32)


def test_hdf5_output_refuses_a_second_pass(tmp_path: Path) -> None:
    with output(tmp_path) as out:
        out.write(ROWS, ROWS)
        with pytest.raises(InvalidArgument, match="has written this file in an earlier forward pass"):
            out.write(ROWS, ROWS)


@pytest.mark.parametrize(
    ("label", "text"),
    [
        (np.zeros(3, np.float32), "data has the shape (2, 3) and label (3,); both need the same batch size"),
        (
            np.zeros((2, 1, 1, 1, 1), np.float32),
            "label has the shape (2, 1, 1, 1, 1); HDF5Output writes at most 4 axes",
        ),
    ],
)
def test_hdf5_output_refuses_shapes(label: Any, text: str, tmp_path: Path) -> None:
    with output(tmp_path) as out, pytest.raises(InvalidArgument) as caught:
        out.write(ROWS, label)
    assert str(caught.value) == f"{tmp_path}/out.h5: {text}"


def test_hdf5_output_names_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match="none/out.h5: the HDF5 file cannot be written: .*; check the folder"):
        HDF5Output(str(tmp_path / "none" / "out.h5"))
