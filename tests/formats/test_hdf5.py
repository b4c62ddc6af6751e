"""Values in HDF5 files become float32 as Caffe reads them."""

from __future__ import annotations

import io
from typing import Any

import h5py
import numpy as np
import pytest

from avec.formats import hdf5


def file_with(name: str, value: Any, **settings: Any) -> io.BytesIO:
    file = io.BytesIO()
    with h5py.File(file, "w") as root:
        root.create_dataset(name, data=value, **settings)
    return file


@pytest.mark.parametrize("kind", ["<f4", ">f4", "<f8", ">f8", "<f2", "|u1", "|i1", "<i4", ">i8", "<u8"])
def test_numbers_of_all_sizes_and_orders_are_read(kind: str) -> None:
    values = np.array([[0, 1, 2], [3, 100, 7]], kind)
    with hdf5.reading(file_with("data", values), "x") as root:
        found = hdf5.floats(root, "data", "x")
    assert (found.dtype, found.tolist()) == (np.float32, values.astype(np.float64).tolist())


def test_doubles_beyond_floats_become_infinite() -> None:
    with hdf5.reading(file_with("data", np.array([1e300, -1e300])), "x") as root:
        assert hdf5.floats(root, "data", "x").tolist() == [np.inf, -np.inf]


def test_compressed_values_are_read() -> None:
    values = np.arange(1000, dtype=np.float32)
    with hdf5.reading(file_with("data", values, compression="gzip", shuffle=True), "x") as root:
        np.testing.assert_array_equal(hdf5.floats(root, "data", "x"), values)


@pytest.mark.parametrize("text", ["model.caffemodel", "", "mod\udce9le", "模型"])
def test_texts_come_back(text: str) -> None:
    file = io.BytesIO()
    with hdf5.writing(file, "x") as root:
        hdf5.put_text(root, "name", text)
    with hdf5.reading(file, "x") as root:
        assert hdf5.text(root, "name", "x") == text
