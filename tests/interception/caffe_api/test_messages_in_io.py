"""caffe.io's conversions between arrays and messages, with either kind of messages."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.usefixtures("messages")


@pytest.fixture
def values() -> Any:
    return np.arange(24, dtype=np.float32).reshape(2, 3, 4) / 7


def test_blobs_there_and_back(caffe: ModuleType, values: Any) -> None:
    blob = caffe.io.array_to_blobproto(values, -values)
    np.testing.assert_array_equal(caffe.io.blobproto_to_array(blob), values)
    np.testing.assert_array_equal(caffe.io.blobproto_to_array(blob, return_diff=True), -values)


def test_a_mean_file_of_old_has_four_sizes(caffe: ModuleType, values: Any) -> None:
    blob = caffe.io.caffe_pb2.BlobProto(num=1, channels=2, height=3, width=4, data=values.reshape(-1))
    read = caffe.io.caffe_pb2.BlobProto()
    read.ParseFromString(blob.SerializeToString())
    np.testing.assert_array_equal(caffe.io.blobproto_to_array(read), values[np.newaxis])


def test_a_blob_whose_shape_does_not_fit_is_refused(caffe: ModuleType) -> None:
    with pytest.raises(ValueError):
        caffe.io.blobproto_to_array(caffe.io.caffe_pb2.BlobProto(data=[1.0, 2.0]))


def test_lists_of_arrays_there_and_back(caffe: ModuleType, values: Any) -> None:
    data = caffe.io.arraylist_to_blobprotovector_str([values, values[0]])
    first, second = caffe.io.blobprotovector_str_to_arraylist(data)
    np.testing.assert_array_equal(first, values)
    np.testing.assert_array_equal(second, values[0])


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_datums_there_and_back(caffe: ModuleType, dtype: type) -> None:
    pixels = np.arange(24).reshape(2, 3, 4).astype(dtype)
    datum = caffe.io.array_to_datum(pixels, label=5)
    back = caffe.io.datum_to_array(datum)
    np.testing.assert_array_equal(back, pixels)
    assert (datum.label, back.dtype.kind) == (5, "u" if dtype == np.uint8 else "f")


def test_a_label_is_written_only_if_there_is_one(caffe: ModuleType) -> None:
    with_label, without = (caffe.io.array_to_datum(np.zeros((1, 2, 3)), label) for label in (0, None))
    assert with_label.ByteSize() > without.ByteSize()


def test_names_of_the_compiled_module(caffe: ModuleType) -> None:
    import caffe._caffe as compiled

    assert compiled.Net is caffe.Net
    assert compiled.__version__ == caffe.__version__
    assert compiled.Blob.__name__ == "Blob"
    with pytest.raises(AttributeError, match="no_such"):
        _ = compiled.no_such
