"""Whatever numbers, templates and bytes a host sends, the torch executor answers or refuses, and goes on."""

from __future__ import annotations

import msgspec
import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from avec.errors import AvecError, pack
from avec.protocol.torch import (
    BIND,
    FREE,
    Batch,
    DeviceArg,
    DTypeArg,
    FloatArg,
    GeneratorArg,
    HostScalarArg,
    IntArg,
    ListArg,
    Read,
    Template,
    TensorArg,
    TensorMeta,
)
from destination.torch.stream import Stream, address, encode, meta_of, open_model

EXAMPLES = settings(max_examples=150, deadline=None, derandomize=True)
X = torch.arange(6.0).view(2, 3)

sizes = st.one_of(st.integers(0, 4), st.integers(-2, 1 << 62))
metas = st.builds(
    TensorMeta,
    st.sampled_from(["float32", "int64", "bool", "complex64", "Tensor", ""]),
    st.lists(sizes, max_size=4).map(tuple),
    st.lists(sizes, max_size=4).map(tuple),
    st.integers(-2, 1),
)
known_metas = st.one_of(metas, st.just(meta_of(X)))
places = st.integers(-1, 3)
leaves = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 3), st.floats(), st.text(max_size=3),
    st.builds(TensorArg, places, known_metas, st.booleans(), st.booleans()), st.builds(FloatArg, places),
    st.builds(IntArg, places), st.builds(HostScalarArg, places, st.sampled_from(["float32", "complex128", "x"])),
    st.builds(GeneratorArg, places), st.builds(DTypeArg, st.sampled_from(["float32", "device", "__doc__"])),
    st.builds(DeviceArg, st.integers(-2, 2)),
)  # fmt: skip
arguments = st.recursive(leaves, lambda inner: st.builds(ListArg, st.lists(inner, max_size=3).map(tuple)), max_leaves=4)
operators = st.sampled_from(
    ["aten::relu", "aten::add.Tensor", "aten::mul_.Tensor", "aten::cat", "aten::index.Tensor", "aten::as_strided",
     "aten::empty_strided", "aten::view", "aten::expand", "aten::sum.dim_IntList", "aten::_foreach_add.Scalar",
     "aten::nonzero", "aten::item", "avec::upload", "avec::upload_file", "avec::receive", "avec::new_generator",
     "avec::set_generator", "avec::flag", "avec::record_event", "aten::from_file", "x'); import os"]
)  # fmt: skip
templates = st.builds(
    Template,
    operators,
    st.lists(arguments, max_size=4).map(tuple),
    st.dictionaries(st.sampled_from(["self", "dim", "out", "dtype", "x=1"]), arguments, max_size=2),
    st.integers(-1, 4),
    st.integers(-1, 2),
    st.one_of(st.none(), st.lists(st.one_of(st.none(), known_metas), max_size=3).map(tuple)),
)
words = st.one_of(
    st.sampled_from([FREE, BIND, 16, 17, 18, address(1), address(2), address(3), address(1, 4)]),
    st.integers(0, 40),
    st.integers(0, (1 << 64) - 1),
)


def still_works(stream: Stream) -> None:
    """A fresh batch of a higher epoch is carried out as ever."""
    stream.epoch += 1
    stream.known = {}
    stream.storages = 1000 * stream.epoch
    x = stream.put(X)
    relu = stream.one("aten::neg", x, output=X)
    answer = stream.send(relu, forget=True)
    assert answer.arrays[0].view(np.float32).tolist() == (-X).flatten().tolist()
    stream.free(x)
    stream.free(relu)
    stream.send()


def attempt(stream: Stream, *parts: bytes | list[int] | list[float], body: bytes = b"", payloads: int = 0) -> None:
    """Send it; whatever is raised has a form on the wire, and nothing but an exception comes of it."""
    numbers, floats, described = parts
    arrays = [
        np.array(numbers, np.uint64),
        np.array(floats, np.float64),
        np.frombuffer(described, np.uint8) if isinstance(described, bytes) else np.array(described, np.uint8),
        *(np.zeros(24, np.uint8) for _ in range(payloads)),
    ]
    try:
        stream.model.run(body or encode(Batch(stream.epoch)), arrays, {})
    except AvecError as exc:
        assert pack(exc).message


class TestHostileStreams:
    @EXAMPLES
    @given(st.lists(words, max_size=20), st.lists(st.floats(), max_size=4))
    def test_any_numbers(self, numbers: list[int], floats: list[float]) -> None:
        stream = Stream(open_model()[0])
        stream.one("aten::relu", stream.put(X), output=X)
        stream.call("aten::add_.Scalar", stream.put(X), 1.0, 1)
        stream.send()
        attempt(stream, numbers, floats, b"\x90", payloads=1)
        still_works(stream)

    @EXAMPLES
    @given(st.lists(templates, min_size=1, max_size=2), st.lists(words, max_size=6))
    def test_any_templates(self, described: list[Template], numbers: list[int]) -> None:
        stream = Stream(open_model()[0])
        stream.put(X)
        stream.send()
        for place in range(len(described)):
            attempt(stream, [17 + place, *numbers], [0.5, 2.0], encode(described) if not place else b"\x90", payloads=1)
            stream.epoch += 1
        still_works(stream)

    @EXAMPLES
    @given(words, known_metas, st.booleans(), st.booleans())
    def test_any_read(self, where: int, meta: TensorMeta, conj: bool, neg: bool) -> None:
        stream = Stream(open_model()[0])
        stream.put(X)
        stream.send()
        attempt(stream, [], [], b"\x90", body=encode(Batch(0, Read(where, meta, conj, neg))))
        still_works(stream)

    @EXAMPLES
    @given(st.binary(max_size=40), st.binary(max_size=40))
    def test_any_bytes(self, body: bytes, described: bytes) -> None:
        stream = Stream(open_model()[0])
        attempt(stream, [], [], described)
        attempt(stream, [], [], b"", body=body)
        still_works(stream)

    def test_lists_nested_without_end(self) -> None:
        stream = Stream(open_model()[0])
        nested = b"\x92\x0b\x91" * 5000 + b"\xc0"
        template = b"\x91\x96" + msgspec.msgpack.encode("aten::relu") + b"\x91" + nested + b"\x80\x00\x00\x90"
        attempt(stream, [16], [], template)
        still_works(stream)
