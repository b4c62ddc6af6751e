"""Caffe's binary files: round trips, what is not copied, and how damaged files are refused."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avec.errors import InvalidModel
from avec.formats.caffe import wire
from avec.formats.caffe.message import Message, message_class
from avec.formats.caffe.schema import MESSAGES, Plain
from formats.caffe_messages import comparable, plains

NET = MESSAGES["NetParameter"]


def encoded(message: str, plain: Plain) -> bytes:
    return b"".join(wire.encode(MESSAGES[message], plain))


def blob(data: bytes, *, shape: bytes = b"") -> bytes:
    """A net with one layer with one BlobProto of these bytes."""
    return net(b"\x3a" + bytes([len(data) + len(shape)]) + data + shape)


def net(layer: bytes) -> bytes:
    """A net with one V2 layer of these bytes (field 100, length-delimited)."""
    return b"\xa2\x06" + bytes([len(layer)]) + layer


class TestRoundTrips:
    @settings(max_examples=60, deadline=None)
    @given(st.data())
    @pytest.mark.parametrize("name", ["NetParameter", "SolverParameter", "BlobProto", "V1LayerParameter", "Datum"])
    def test_what_is_written_reads_back(self, name: str, data: st.DataObject) -> None:
        plain = data.draw(plains(MESSAGES[name]))
        again = wire.decode(MESSAGES[name], encoded(name, plain), "file")
        assert comparable(MESSAGES[name], again) == comparable(MESSAGES[name], plain)

    def test_numbers_are_written_as_protobuf_writes_them(self) -> None:
        plain: Plain = {"axis": -1, "num_axes": 300}
        assert encoded("ScaleParameter", plain).hex() == "08ffffffffffffffffff01" + "10ac02"

    def test_packed_floats_are_a_view_on_the_file(self) -> None:
        values = np.arange(1000, dtype=np.float32)
        content = bytearray(encoded("BlobProto", {"data": values}))
        read = wire.decode(MESSAGES["BlobProto"], content, "file")["data"]
        assert isinstance(read, np.ndarray)
        assert np.shares_memory(read, np.frombuffer(content, np.uint8))
        np.testing.assert_array_equal(read, values)

    def test_arrays_are_written_without_a_copy(self) -> None:
        values = np.arange(1000, dtype=np.float32)
        pieces = wire.encode(MESSAGES["BlobProto"], {"data": values})
        assert any(np.shares_memory(np.frombuffer(piece, np.uint8), values) for piece in pieces)

    def test_unpacked_floats_of_old_files(self) -> None:
        values = np.array([1.5, -2.0, 3.25], np.float32)
        old = b"".join(b"\x2d" + value.tobytes() for value in values)
        read = wire.decode(MESSAGES["BlobProto"], old + b"\x08\x03", "file")
        np.testing.assert_array_equal(read["data"], values)
        assert read["num"] == 3

    def test_packed_and_unpacked_runs_of_one_field_join(self) -> None:
        one, two = np.float32(1).tobytes(), np.float32(2).tobytes()
        mixed = b"\x2d" + one + b"\x2a\x08" + two + one + b"\x08\x07" + b"\x2d" + two
        read = wire.decode(MESSAGES["BlobProto"], mixed, "file")
        np.testing.assert_array_equal(read["data"], np.array([1, 2, 1, 2], np.float32))

    def test_double_data(self) -> None:
        values = np.array([0.1, 1e300])
        read = wire.decode(MESSAGES["BlobProto"], encoded("BlobProto", {"double_data": values}), "file")
        np.testing.assert_array_equal(read["double_data"], values)

    def test_packed_integers_may_come_unpacked(self) -> None:
        assert wire.decode(MESSAGES["BlobShape"], b"\x08\x02\x08\x03", "file") == {"dim": [2, 3]}

    def test_unknown_fields_of_every_kind_are_skipped(self) -> None:
        unknown = b"\xa0\x3f\x96\x01" + b"\xa1\x3f" + b"8" * 8 + b"\xa2\x3f\x02ab" + b"\xa3\x3f\x08\x01\xa4\x3f"
        unknown += b"\xa5\x3f" + b"4" * 4
        assert wire.decode(NET, unknown + b"\x0a\x01n" + unknown, "file") == {"name": "n"}

    def test_an_enum_value_of_a_later_version_is_skipped(self) -> None:
        assert wire.decode(MESSAGES["PoolingParameter"], b"\x08\x63\x10\x02", "file") == {"kernel_size": 2}

    def test_a_message_met_twice_is_merged(self) -> None:
        twice = encoded("NetParameter", {"state": {"level": 1, "stage": ["a"]}})
        twice += encoded("NetParameter", {"state": {"level": 2, "stage": ["b"]}})
        assert wire.decode(NET, twice, "file") == {"state": {"level": 2, "stage": ["a", "b"]}}

    def test_large_models_read_at_once(self) -> None:
        layers = [
            {"name": f"l{i}", "blobs": [{"shape": {"dim": [1 << 18]}, "data": np.zeros(1 << 18, np.float32)}]}
            for i in range(64)
        ]
        content = encoded("NetParameter", {"layer": layers})
        took_s = []
        for _ in range(5):
            begun = time.perf_counter()
            wire.decode(NET, content, "file")
            took_s.append(time.perf_counter() - begun)
        assert min(took_s) < 0.05  # 64 MiB; a copy of it alone would take about as long
        assert len(content) > 64 << 20


MODEL = encoded(
    "NetParameter",
    {
        "name": "net",
        "layer": [
            {
                "name": "conv",
                "type": "Convolution",
                "blobs": [{"shape": {"dim": [2, 3]}, "data": np.arange(6, dtype=np.float32)}],
            }
        ],
    },
)
LONG_VARINT = b"\xff" * 10 + b"\x01"
GROUP = b"\xa3\x3f"  # an unknown field that begins a group

BAD = {
    "ends inside a tag": b"\xa2",
    "ends after a tag": b"\xa2\x06",
    "ends inside a length": b"\x0a\xff",
    "string longer than the file": b"\x0a\x05ab",
    "layer longer than the file": b"\xa2\x06\x7f\x0a",
    "length of 2^63": b"\x0a" + b"\xff" * 9 + b"\x01",
    "length of more than ten bytes": b"\x0a" + LONG_VARINT,
    "tag of more than ten bytes": LONG_VARINT,
    "field number 0": b"\x00\x01",
    "field number of 2^29": b"\x80\x80\x80\x80\x10",
    "wire type 6": b"\x0e\x00",
    "wire type 7": b"\x0f\x00",
    "group that ends elsewhere": b"\x0c",
    "group without an end": GROUP + b"\x08\x01",
    "groups nested too deep": GROUP * 100,
    "text instead of a model": b'name: "net"\nlayer {\n',
    "PNG instead of a model": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
    "ZIP instead of a model": b"PK\x03\x04\x14\0\0\0\x08\0",
    "packed floats of 5 bytes": blob(b"\x2a\x05abcde"),
    "packed doubles of 4 bytes": blob(b"\x42\x04abcd"),
    "float array longer than its blob": blob(b"\x2a\x7fabcd"),
    "unpacked float cut short": blob(b"\x2d\x00\x00"),
    "unpacked double cut short": blob(b"\x41\x00\x00\x00\x00"),
    "shape longer than its blob": blob(b"", shape=b"\x3a\x7f\x0a"),
    "dimensions cut short": blob(b"", shape=b"\x3a\x03\x0a\x01\xff"),
    "dimensions longer than the shape": blob(b"", shape=b"\x3a\x03\x0a\x09\x01"),
    "old dimension cut short": blob(b"\x08\xff"),
    "layer name not UTF-8": net(b"\x0a\x02\xff\xfe"),
    "setting cut short": net(b"\xd2\x06\x05\x08"),
    "float setting cut short": net(b"\xb2\x07\x03\x15\x00\x00"),
    "unknown fixed32 cut short": b"\xa5\x3f\x00",
    "unknown fixed64 cut short": b"\xa1\x3f\x00\x00",
    "unknown bytes cut short": b"\xa2\x3f\x09\x00",
    "a million empty layers": b"\xa2\x06\x00" * ((1 << 20) + 1),
}


class TestDamagedFiles:
    @pytest.mark.parametrize("content", [pytest.param(v, id=k) for k, v in BAD.items()])
    def test_is_refused_in_one_line_with_file_and_byte(self, content: bytes) -> None:
        with pytest.raises(InvalidModel, match=r"^some\.caffemodel: byte \d+") as caught:
            wire.decode(NET, content, "some.caffemodel")
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("length", range(1, len(MODEL)))
    def test_no_truncated_model_passes_for_the_whole(self, length: int) -> None:
        try:
            read = wire.decode(NET, MODEL[:length], "cut.caffemodel")
        except InvalidModel as refusal:
            assert str(refusal).startswith("cut.caffemodel: byte ")
        else:  # it ended between two fields of the net itself
            assert comparable(NET, read) != comparable(NET, wire.decode(NET, MODEL, "whole"))

    @settings(max_examples=300, deadline=None)
    @given(st.binary(max_size=64))
    def test_any_bytes_are_read_or_refused(self, content: bytes) -> None:
        try:
            wire.decode(NET, content, "noise")
        except InvalidModel as refusal:
            assert "\n" not in str(refusal)

    @settings(max_examples=300, deadline=None)
    @given(st.integers(0, len(MODEL) - 1), st.integers(1, 255))
    def test_any_flipped_byte_is_read_or_refused(self, place: int, flip: int) -> None:
        damaged = bytearray(MODEL)
        damaged[place] ^= flip
        try:
            wire.decode(NET, damaged, "flipped")
        except InvalidModel as refusal:
            assert "\n" not in str(refusal)

    def test_many_short_runs_of_floats_take_linear_time(self) -> None:
        content = (b"\x2d\0\0\0\0" + b"\x08\x01") * 50_000
        begun = time.perf_counter()
        read = wire.decode(MESSAGES["BlobProto"], content, "runs")
        assert len(read["data"]) == 50_000  # type: ignore[arg-type]
        assert time.perf_counter() - begun < 10


def test_a_message_serialises_what_it_parsed() -> None:
    message: Message = message_class("NetParameter").from_wire(MODEL, "file")
    assert message.SerializeToString() == MODEL
