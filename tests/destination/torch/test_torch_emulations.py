"""CUDA's own operators at a destination without GPU: the same numbers as torch's other ways to them."""

from __future__ import annotations

import pytest
import torch

from avec.protocol.torch import DTypeArg, Evaluated, EvaluatedValue
from destination.torch.stream import Generator, Ref, Stream, meta_of

BATCH, SIZE = 3, 4


@pytest.fixture(autouse=True)
def same_numbers() -> None:
    torch.manual_seed(5)


def leaves(*shapes: tuple[int, ...]) -> list[torch.Tensor]:
    return [torch.randn(shape, dtype=torch.float64).requires_grad_() for shape in shapes]


def like(*tensors: torch.Tensor) -> list[object]:
    return [meta_of(tensor.detach().contiguous()) for tensor in tensors]


def put(stream: Stream, *tensors: torch.Tensor) -> list[Ref]:
    return [stream.put(tensor.detach().contiguous()) for tensor in tensors]


def read(stream: Stream, refs: list[Ref], expected: list[torch.Tensor]) -> None:
    for ref, tensor in zip(refs, expected, strict=True):
        torch.testing.assert_close(stream.read(ref), tensor.detach())


@pytest.mark.parametrize("biased", [False, True])
def test_an_lstm_cell_forward_and_backward(stream: Stream, biased: bool) -> None:
    gates, hidden, cx, *biases = leaves(
        (BATCH, 4 * SIZE), (BATCH, 4 * SIZE), (BATCH, SIZE), *[(4 * SIZE,)] * 2 * biased
    )
    i, f, g, o = (gates + hidden + sum(biases)).chunk(4, 1)
    cy = f.sigmoid() * cx + i.sigmoid() * g.tanh()
    hy = o.sigmoid() * cy.tanh()
    grads = torch.randn_like(hy), torch.randn_like(cy)
    expected = torch.autograd.grad((hy, cy), [gates, cx, *biases[:1]], grads)
    refs = stream.call(
        "aten::_thnn_fused_lstm_cell", *put(stream, gates, hidden, cx, *biases), outputs=like(hy, cy, gates)
    )
    read(stream, refs[:2], [hy, cy])
    back = stream.call(
        "aten::_thnn_fused_lstm_cell_backward_impl", *put(stream, *grads, cx), refs[1], refs[2], biased,
        outputs=[*like(gates, cx), *(like(biases[0]) if biased else [None])],
    )  # fmt: skip
    read(stream, back, list(expected))


def test_an_lstm_cell_with_one_gradient(stream: Stream) -> None:
    cx, cy, workspace, grad = (torch.rand(BATCH, size) for size in (SIZE, SIZE, 4 * SIZE, SIZE))
    x, y, w, g = put(stream, cx, cy, workspace, grad)
    name, outputs = "aten::_thnn_fused_lstm_cell_backward_impl", [*like(workspace, cx), None]
    zero = stream.put(torch.zeros_like(grad))
    for with_none, with_zero in [((None, g), (zero, g)), ((g, None), (g, zero))]:
        first = stream.call(name, *with_none, x, y, w, False, outputs=outputs)
        second = stream.call(name, *with_zero, x, y, w, False, outputs=outputs)
        assert stream.read(first[0]).equal(stream.read(second[0]))
        assert stream.read(first[1]).equal(stream.read(second[1]))


@pytest.mark.parametrize("biased", [False, True])
def test_a_gru_cell_forward_and_backward(stream: Stream, biased: bool) -> None:
    gates, hidden, hx, *biases = leaves(
        (BATCH, 3 * SIZE), (BATCH, 3 * SIZE), (BATCH, SIZE), *[(3 * SIZE,)] * 2 * biased
    )
    of_input, of_hidden = (gates + biases[0], hidden + biases[1]) if biased else (gates, hidden)
    (ir, iz, i_n), (hr, hz, hn) = of_input.chunk(3, 1), of_hidden.chunk(3, 1)
    update, new = (iz + hz).sigmoid(), (i_n + (ir + hr).sigmoid() * hn).tanh()
    hy = (1 - update) * new + update * hx
    grad = torch.randn_like(hy)
    expected = torch.autograd.grad(hy, [gates, hidden, hx, *biases], grad)
    workspace = torch.empty(BATCH, 5 * SIZE, dtype=hy.dtype)
    refs = stream.call(
        "aten::_thnn_fused_gru_cell", *put(stream, gates, hidden, hx, *biases), outputs=like(hy, workspace)
    )
    read(stream, refs[:1], [hy])
    back = stream.call(
        "aten::_thnn_fused_gru_cell_backward", *put(stream, grad), refs[1], biased,
        outputs=[*like(gates, hidden, hx), *(like(*biases) if biased else [None, None])],
    )  # fmt: skip
    read(stream, back, list(expected))


@pytest.mark.parametrize("shape", [(2, 3, SIZE), (SIZE,)])
def test_rms_norm_backward(stream: Stream, shape: tuple[int, ...]) -> None:
    x, weight = leaves(shape, (SIZE,))
    y = torch.nn.functional.rms_norm(x, (SIZE,), weight, 1e-5)
    rstd = (x.square().mean(-1, keepdim=True) + 1e-5).rsqrt()
    grad = torch.randn_like(y)
    expected = torch.autograd.grad(y, [x, weight], grad)
    refs = put(stream, grad, x, rstd, weight)
    back = stream.call(
        "aten::_fused_rms_norm_backward", refs[0], refs[1], [SIZE], refs[2], refs[3], [True, True],
        outputs=like(x, weight),
    )  # fmt: skip
    read(stream, back, list(expected))


def test_fused_dropout_keeps_and_scales(stream: Stream) -> None:
    x = torch.rand(1000) + 1
    stream.call("avec::new_generator", 300, 0)
    kept, mask = stream.call(
        "aten::_fused_dropout", *put(stream, x), 0.75, Generator(300), outputs=[meta_of(x), meta_of(x.byte())]
    )
    scaled = stream.one("aten::_masked_scale", *put(stream, x), mask, 2.0, output=x)
    drawn = stream.read(mask)
    assert 650 < int(drawn.sum()) < 850
    torch.testing.assert_close(stream.read(kept), x * drawn / 0.75)
    torch.testing.assert_close(stream.read(scaled), x * drawn * 2)


@pytest.mark.parametrize("operator", ["mm", "bmm", "addmm", "baddbmm"])
def test_products_with_a_wider_result(stream: Stream, operator: str) -> None:
    batch = (2,) if "bmm" in operator else ()
    a, b = torch.randn(*batch, 3, 4).bfloat16(), torch.randn(*batch, 4, 5).bfloat16()
    operands = [torch.randn(*batch, 3, 5).bfloat16(), a, b] if "add" in operator else [a, b]
    named = {"beta": 2.0, "alpha": 0.5} if "add" in operator else {}
    expected = getattr(torch, operator)(*(each.float() for each in operands), **named)
    result = stream.one(
        f"aten::{operator}.dtype", *put(stream, *operands), DTypeArg("float32"), output=expected, **named
    )
    torch.testing.assert_close(stream.read(result), expected)


def test_cudnn_is_said_not_to_be_there(stream: Stream) -> None:
    x, targets = put(stream, torch.randn(5, 1, 3), torch.ones(1, 2, dtype=torch.int64))
    stream.call("aten::_use_cudnn_ctc_loss", x, targets, [5], [2], 0, outputs=None)
    assert stream.answer() == Evaluated((EvaluatedValue(value=False),))
