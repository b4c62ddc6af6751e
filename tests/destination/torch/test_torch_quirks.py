"""Operators whose CPU forms differ from CUDA's: the host's predictions, which are CUDA's, hold at a CPU as well."""

from __future__ import annotations

import pytest
import torch

from avec.errors import InvalidArgument
from avec.protocol.torch import TensorMeta
from destination.torch.stream import Ref, Stream, meta_of

aten = torch.ops.aten


def put(stream: Stream, *values: object) -> list[object]:
    return [stream.put(value) if isinstance(value, torch.Tensor) else value for value in values]


def described(*shapes: tuple[int, ...], dtype: torch.dtype = torch.float32) -> list[TensorMeta]:
    return [meta_of(torch.empty(shape, dtype=dtype)) for shape in shapes]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    ("dtype", "parameters"),
    [(torch.float32, torch.float32), (torch.bfloat16, torch.float32), (torch.bfloat16, torch.bfloat16)],
)
def test_batch_norm_forward_and_backward(
    stream: Stream, training: bool, dtype: torch.dtype, parameters: torch.dtype
) -> None:
    x, grad = torch.randn(2, 3, 4, dtype=dtype), torch.randn(2, 3, 4, dtype=dtype)
    weight, mean = torch.rand(3, dtype=parameters), torch.rand(3, dtype=parameters)
    arguments = (x, weight, weight, mean, mean + 1, training, 0.1, 1e-5)
    expected = aten.native_batch_norm(*(each.clone() if isinstance(each, torch.Tensor) else each for each in arguments))
    back = (grad, x, weight, mean, mean + 1, expected[1], expected[2], training, 1e-5, [True] * 3)
    expected_back = aten.native_batch_norm_backward(*back)
    refs = stream.call(
        "aten::native_batch_norm", *put(stream, *arguments), outputs=[meta_of(x), *described((3,), (3,))]
    )
    assert stream.read(refs[0]).equal(expected[0])
    assert training or stream.read(refs[1]).equal(torch.zeros(3))
    given = put(stream, *back[:5]), refs[1:], back[7:]
    grads = stream.call(
        "aten::native_batch_norm_backward", *(value for part in given for value in part),
        outputs=[meta_of(each) for each in expected_back],
    )  # fmt: skip
    for ref, tensor in zip(grads, expected_back, strict=True):
        assert stream.read(ref).equal(tensor)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_layer_norm_forward_and_backward(stream: Stream, weighted: bool, dtype: torch.dtype) -> None:
    x, grad, weight = torch.randn(2, 4).to(dtype), torch.randn(2, 4).to(dtype), torch.rand(4).to(dtype)
    parameters = (weight, weight) if weighted else (None, None)
    expected = aten.native_layer_norm(x, [4], *parameters, 1e-5)
    mask = [True, weighted, weighted]
    expected_back = aten.native_layer_norm_backward(grad, x, [4], *expected[1:], *parameters, mask)
    refs = stream.call(
        "aten::native_layer_norm", *put(stream, x, [4], *parameters, 1e-5),
        outputs=[meta_of(x), *described((2, 1), (2, 1))],
    )  # fmt: skip
    assert stream.read(refs[0]).equal(expected[0])
    grads = stream.call(
        "aten::native_layer_norm_backward", *put(stream, grad, x, [4]), *refs[1:], *put(stream, *parameters), mask,
        outputs=[None if each is None else meta_of(each) for each in expected_back],
    )  # fmt: skip
    for ref, tensor in zip(grads, (each for each in expected_back if each is not None), strict=True):
        assert stream.read(ref).equal(tensor)


@pytest.mark.parametrize(("mode", "maxima"), [(0, (0,)), (1, (0,)), (2, (3, 5))])
@pytest.mark.parametrize("last", [False, True])
def test_embedding_bag_forward_and_backward(stream: Stream, mode: int, maxima: tuple[int, ...], last: bool) -> None:
    weight, indices = torch.randn(10, 5), torch.tensor([1, 4, 4, 9, 2, 0])
    offsets = torch.tensor([0, 2, 2] + [6] * last)
    expected = aten._embedding_bag(weight, indices, offsets, False, mode, False, None, last)
    refs: list[Ref | None] = [*stream.call(
        "aten::_embedding_bag", *put(stream, weight, indices, offsets), False, mode, False, None, last,
        outputs=[meta_of(expected[0]), *described((6,), tuple(offsets.shape), maxima, dtype=torch.int64)],
    )]  # fmt: skip
    assert stream.read(refs[0]).equal(expected[0])
    assert stream.read(refs[1]).tolist() == [0, 0, 2, 2, 2, 2]
    grad = torch.randn_like(expected[0])
    dense = aten._embedding_bag_backward(grad, indices, offsets, *expected[1:], 10, False, mode, False, None)
    (back,) = stream.call(
        "aten::_embedding_bag_backward", *put(stream, grad, indices, offsets), *refs[1:], 10, False, mode, False, None,
        outputs=[meta_of(weight)],
    )  # fmt: skip
    assert stream.read(back).equal(dense)


INDICES = torch.int64
FAR = 1 << 40


@pytest.mark.parametrize(
    "begins", [[0, FAR, 4], [0, 2, 3], [1, 2, 4], [0, 5, 4], [0, FAR << 22, -(FAR << 22), 4], [FAR]]
)
def test_compressed_indices_are_checked_before_a_cpu_writes_as_far_as_they_say(
    stream: Stream, begins: list[int]
) -> None:
    crow, col = torch.tensor(begins), torch.zeros(4, dtype=INDICES)
    name = "aten::_convert_indices_from_csr_to_coo"
    stream.one(name, *put(stream, crow, col), output=torch.zeros(2, 4, dtype=INDICES))
    with pytest.raises(InvalidArgument, match="that do not rise from 0 to 4"):
        stream.send()


@pytest.mark.parametrize("rows", [[0, FAR], [-FAR, 0], [0, 2]])
def test_rows_are_checked_before_a_cpu_writes_where_they_say(stream: Stream, rows: list[int]) -> None:
    name = "aten::_convert_indices_from_coo_to_csr"
    stream.one(name, *put(stream, torch.tensor(rows)), 2, output=torch.zeros(3, dtype=INDICES))
    with pytest.raises(InvalidArgument, match="for 2 rows"):
        stream.send()


def test_indices_that_are_right_are_converted(stream: Stream) -> None:
    crow, col, rows = torch.tensor([0, 1, 4]), torch.tensor([2, 0, 1, 2]), torch.tensor([0, 1, 1, 1])
    coordinates = torch.stack((rows, col))
    names = [f"aten::_convert_indices_from_{each}" for each in ("csr_to_coo", "coo_to_csr")]
    assert stream.read(stream.one(names[0], *put(stream, crow, col), output=coordinates)).equal(coordinates)
    assert stream.read(stream.one(names[1], *put(stream, rows), 2, output=crow)).equal(crow)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_log_sigmoid_keeps_no_buffer_as_on_cuda(stream: Stream, dtype: torch.dtype) -> None:
    x, grad = torch.randn(2, 3).to(dtype), torch.randn(2, 3).to(dtype)
    expected, buffer = aten.log_sigmoid_forward(x)
    refs = stream.call(
        "aten::log_sigmoid_forward", *put(stream, x), outputs=[meta_of(x), *described((0,), dtype=dtype)]
    )
    assert stream.read(refs[0]).equal(expected)
    (back,) = stream.call("aten::log_sigmoid_backward", *put(stream, grad, x), refs[1], outputs=[meta_of(x)])
    assert stream.read(back).equal(aten.log_sigmoid_backward(grad, x, buffer))
