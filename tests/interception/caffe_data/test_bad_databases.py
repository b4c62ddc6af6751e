"""Malformed databases and means, and settings of Data layers and transformations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import lmdb
import numpy as np
import pytest

from avec.errors import InvalidArgument, InvalidData, UnsupportedOperation
from avec.formats.caffe.message import Message, message_class
from avec.interception.caffe.data import open_source
from interception.caffe_data.bad_data import (
    TEST,
    Bad,
    check,
    data,
    datum,
    mean,
    records,
    truncated,
)

BlobProto = message_class("BlobProto")
SMALL = datum(channels=1, height=2, width=2, data=b"abcd")
WIDE = datum(channels=1, height=2, width=3, data=b"abcdef")
SQUARE = np.zeros((2, 2, 3), np.uint8)
MEAN = 'mean_file: "bad.binaryproto"'


def png(pixels: Any) -> bytes:
    return cv2.imencode(".png", pixels)[1].tobytes()


CASES = {
    "lmdb_missing": Bad(
        data("none.lmdb"), "none.lmdb: there is no such folder (working directory ", "name the LMDB's folder"
    ),
    "lmdb_is_a_file": Bad(
        data("pixels.lmdb/data.mdb"), "pixels.lmdb/data.mdb: this is a file", "the folder that holds data.mdb"
    ),
    "lmdb_without_data": Bad(data("images"), "images: the folder holds no data.mdb", "convert_imageset"),
    "lmdb_is_a_leveldb": Bad(
        data("images"),
        "images: the folder is a LevelDB",
        "name the folder of an LMDB",
        lambda folder: (folder / "images" / "CURRENT").write_text("MANIFEST-1"),
    ),
    "leveldb": Bad(
        'layer { name: "in" type: "Data" top: "data" data_param { source: "some.leveldb" batch_size: 1 } }',
        "layer 'in' (Data): some.leveldb: LevelDB is not supported",
        "set backend: LMDB",
        error=UnsupportedOperation,
    ),
    "lmdb_empty": Bad(data("bad.lmdb"), "bad.lmdb: the LMDB holds no record", "fill it", records()),
    "lmdb_empty_file": Bad(
        data("pixels.lmdb"),
        "pixels.lmdb: the LMDB cannot be read: ",
        "copy it again",
        truncated("pixels.lmdb/data.mdb", 0),
    ),
    "lmdb_truncated": Bad(
        data("pixels.lmdb"),
        "pixels.lmdb: the LMDB cannot be read: ",
        "copy it again",
        truncated("pixels.lmdb/data.mdb", 8192),
    ),
    "lmdb_is_something_else": Bad(
        data("pixels.lmdb"),
        "pixels.lmdb: the LMDB cannot be read: ",
        "copy it again",
        lambda folder: (folder / "pixels.lmdb" / "data.mdb").write_bytes(b"not an LMDB " * 2000),
    ),
    "datum_is_something_else": Bad(
        data("bad.lmdb"),
        "the record is no Datum of Caffe's: bad.lmdb, record '0000': byte ",
        "copy it again",
        records(b"\xff\xff\xff"),
    ),
    "datum_without_pixels": Bad(
        data("bad.lmdb"),
        "bad.lmdb, record '0000': the Datum holds 0 values and says 3 x 4 x 5",
        "write the record anew",
        records(datum(channels=3, height=4, width=5)),
    ),
    "datum_too_short": Bad(
        data("bad.lmdb"),
        "bad.lmdb, record '0001': the Datum holds 3 values and says 1 x 2 x 2",
        "write the record anew",
        records(SMALL, datum(channels=1, height=2, width=2, data=b"abc")),
    ),
    "datum_negative": Bad(
        data("bad.lmdb"),
        "bad.lmdb, record '0000': the Datum holds 4 values and says 1 x -2 x -2",
        "write the record anew",
        records(datum(channels=1, height=-2, width=-2, data=b"abcd")),
    ),
    "datum_of_another_size": Bad(
        data("bad.lmdb"),
        "bad.lmdb, record '0001': the item becomes (1, 2, 3), the first one of its batch (1, 2, 2)",
        "or set batch_size: 1",
        records(SMALL, WIDE),
    ),
    "datum_below_the_crop": Bad(
        data("bad.lmdb", transform="crop_size: 3"),
        "bad.lmdb, record '0000': 2 x 2 pixels are less than layer 'in' (Data)",
        "lower it",
        records(SMALL),
    ),
    "encoded_empty": Bad(
        data("bad.lmdb"), "bad.lmdb, record '0000': the image is empty", "write it anew", records(datum(encoded=True))
    ),
    "encoded_damaged": Bad(
        data("bad.lmdb"),
        "bad.lmdb, record '0000': the 9 bytes, which begin with 61 20 70 69, are no image",
        "replace the file",
        records(datum(encoded=True, data=b"a picture")),
    ),
    "encoded_in_16_bits": Bad(
        data("bad.lmdb"),
        "bad.lmdb, record '0000': the image has values of uint16 and Caffe takes 8 bits",
        "force_color",
        records(datum(encoded=True, data=png(SQUARE.astype(np.uint16)))),
    ),
    "encoded_grey_among_coloured": Bad(
        data("bad.lmdb"),
        "bad.lmdb, record '0001': the item becomes (1, 2, 2)",
        "give all one size",
        records(datum(encoded=True, data=png(SQUARE)), datum(encoded=True, data=png(SQUARE[:, :, 0]))),
    ),
    "force_both": Bad(
        data("pixels.lmdb", transform="force_color: true force_gray: true"),
        "layer 'in' (Data): force_color and force_gray are both set",
        "keep one",
        error=InvalidArgument,
    ),
    "no_batch_size": Bad(
        data("pixels.lmdb", ""),
        "layer 'in' (Data): batch_size is 0",
        "set data_param { batch_size: … }",
        error=InvalidArgument,
    ),
    "three_tops": Bad(
        data("pixels.lmdb", tops=3), "layer 'in' (Data): it has 3 tops", "it takes 1 or 2", error=InvalidArgument
    ),
    "mean_missing": Bad(
        data("pixels.lmdb", transform='mean_file: "none.binaryproto"'),
        "none.binaryproto: the mean file cannot be opened: No such file",
        "check mean_file",
    ),
    "mean_is_something_else": Bad(
        data("pixels.lmdb", transform=MEAN),
        "the mean file is no binaryproto of an image: bad.binaryproto: byte ",
        "copy it again",
        mean(b"\x89PNG\r\n\x1a\n"),
    ),
    "mean_truncated": Bad(
        data("pixels.lmdb", transform='mean_file: "mean.binaryproto"'),
        "the mean file is no binaryproto of an image: mean.binaryproto: byte ",
        "copy it again",
        truncated("mean.binaryproto", 800),
    ),
    "mean_without_values": Bad(
        data("pixels.lmdb", transform=MEAN),
        "bad.binaryproto: the mean file holds 0 values and the shape (1, 3, 10, 12)",
        "compute the mean anew",
        mean(BlobProto(num=1, channels=3, height=10, width=12).SerializeToString()),
    ),
    "mean_of_another_size": Bad(
        data("pixels.lmdb", transform='mean_file: "legacy_mean.binaryproto"'),
        "pixels.lmdb, record '00000000': the item is (3, 10, 12) and the mean in legacy_mean.binaryproto (3, 20, 20)",
        "compute the mean from this data",
    ),
    "mean_twice": Bad(
        data("pixels.lmdb", transform='mean_file: "mean.binaryproto" mean_value: 3'),
        "layer 'in' (Data): mean_file and mean_value are both set",
        "keep one",
        error=InvalidArgument,
    ),
    "mean_values_of_too_few": Bad(
        data("pixels.lmdb", transform="mean_value: 3 mean_value: 4"),
        "layer 'in' (Data): 2 mean_value for 3 channels",
        "one for each",
        error=InvalidArgument,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_it_is_refused_in_one_line(name: str, files: Path, layer: Callable[[str], Message]) -> None:
    check(CASES[name], files, layer)


def test_a_database_that_the_program_has_open_is_named(files: Path, layer: Callable[[str], Message]) -> None:
    with (
        lmdb.open(str(files / "pixels.lmdb")),
        pytest.raises(InvalidData, match="the program itself has this LMDB open"),
    ):
        open_source(layer(data("pixels.lmdb")), TEST, seed=0)
