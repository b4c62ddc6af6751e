"""What programs do with single operators that need more than the usual way; holds on a machine with a GPU, too."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

x = torch.arange(12.0).view(3, 4).sin().cuda()
INDICES = torch.tensor([[0, 1, 1, 2], [2, 0, 0, 1]])
VALUES = torch.tensor([1.0, 2.0, 3.0, 4.0])
MATRIX = torch.arange(9.0).view(3, 3)


def same(function: Callable[[str], torch.Tensor]) -> None:
    """Compare what a function makes of CUDA tensors with what it makes of the CPU's."""
    expected, given = function("cpu"), function("cuda")
    assert given.is_cuda
    assert given.layout is expected.layout
    if expected.layout is not torch.strided:
        expected, given = expected.to_dense(), given.to_dense()
    torch.testing.assert_close(given.detach().cpu(), expected.detach())


def coo(device: str) -> torch.Tensor:
    """A sparse matrix with an element that is given twice."""
    return torch.sparse_coo_tensor(INDICES.to(device), VALUES.to(device), (3, 3), check_invariants=True)


def check_results_of_unknown_size_go_where_the_program_wants_them() -> None:
    out = torch.empty(0, device="cuda")
    assert torch.masked_select(x, x > 0, out=out) is out
    assert torch.equal(out.cpu(), x.cpu()[x.cpu() > 0])


def check_an_out_tensor_of_another_dtype_is_refused() -> None:
    try:
        torch.masked_select(x, x > 0, out=torch.empty(0, dtype=torch.int64, device="cuda"))
    except RuntimeError:
        return
    raise AssertionError("floats went into integers")


def check_numbers_take_part_as_numbers() -> None:
    whole = torch.arange(3, device="cuda")
    assert (whole * 2.5).dtype is torch.float32
    assert (x.half() * 2.5).dtype is torch.float16
    assert (2 - x).cpu().equal(2 - x.cpu())
    assert (x * 2j).cpu().equal(x.cpu() * 2j)
    assert (x * torch.tensor(2, dtype=torch.bfloat16)).cpu().equal(x.cpu() * 2)


def check_sparse_matrices_are_made_summed_and_read() -> None:
    same(coo)
    same(lambda device: coo(device).coalesce())
    same(lambda device: coo(device) + coo(device))
    same(lambda device: MATRIX.to(device) + coo(device))
    same(lambda device: coo(device) * 2.5)
    same(lambda device: coo(device) * MATRIX.to(device))
    same(lambda device: coo(device) * coo(device))
    same(lambda device: torch.sparse.softmax(coo(device), 1))
    same(lambda device: torch.sparse.sum(coo(device), 0))
    same(lambda device: MATRIX.to(device).to_sparse())
    assert not coo("cuda").cpu().is_cuda


def check_sparse_matrices_are_multiplied() -> None:
    same(lambda device: coo(device) @ MATRIX.to(device))
    same(lambda device: torch.sparse.addmm(MATRIX.to(device), coo(device), MATRIX.to(device), beta=2, alpha=3))
    same(lambda device: MATRIX.to(device).to_sparse_csr() @ MATRIX.to(device))


def check_sparse_gradients_train_an_embedding() -> None:
    torch.manual_seed(0)
    table = nn.Embedding(6, 3, sparse=True)
    tables = {"cpu": table, "cuda": copy.deepcopy(table).cuda()}

    def trained(device: str) -> torch.Tensor:
        optimizer = torch.optim.SparseAdam(tables[device].parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            tables[device](torch.tensor([1, 2, 2, 5], device=device)).square().sum().backward()
            optimizer.step()
        return tables[device].weight

    same(trained)


def check_nested_tensors() -> None:
    torch.manual_seed(0)
    parts, linear = [torch.randn(3, 4), torch.randn(5, 4)], nn.Linear(4, 8)
    linears = {"cpu": linear, "cuda": copy.deepcopy(linear).cuda()}

    def nested(device: str, layout: torch.layout) -> torch.Tensor:
        return linears[device](torch.nested.nested_tensor([part.to(device) for part in parts], layout=layout))

    def attention(device: str) -> torch.Tensor:
        heads = nested(device, torch.jagged).unflatten(-1, [2, 4]).transpose(1, 2)
        return F.scaled_dot_product_attention(heads, heads, heads).transpose(1, 2).flatten(-2).to_padded_tensor(0)

    same(lambda device: nested(device, torch.jagged).to_padded_tensor(0))
    same(lambda device: F.softmax(nested(device, torch.strided), -1).to_padded_tensor(0))
    same(attention)


def check_recurrent_networks_take_sequences_of_several_lengths() -> None:
    torch.manual_seed(0)
    data = torch.randn(3, 5, 4)
    for kind in (nn.LSTM, nn.GRU, nn.RNN):
        net = kind(4, 6, num_layers=2, bidirectional=True, batch_first=True)
        nets = {"cpu": net, "cuda": copy.deepcopy(net).cuda()}

        def output(device: str, nets: dict[str, nn.Module] = nets) -> torch.Tensor:
            packed = nn.utils.rnn.pack_padded_sequence(data.to(device), torch.tensor([5, 3, 2]), batch_first=True)
            return nn.utils.rnn.pad_packed_sequence(nets[device](packed)[0], batch_first=True)[0]

        same(output)


def check_attention_with_masks() -> None:
    torch.manual_seed(0)
    query, key = torch.randn(2, 4, 5, 8), torch.randn(2, 2, 7, 8)
    mask = torch.rand(5, 7) > 0.3
    for given in (None, mask, mask.float()):
        same(
            lambda device, given=given: F.scaled_dot_product_attention(
                query.to(device),
                key.to(device),
                key.to(device),
                None if given is None else given.to(device),
                is_causal=given is None,
                enable_gqa=True,
            )
        )


def check_attention_of_different_dtypes_raises_at_once() -> None:
    q = torch.zeros(1, 1, 2, 8, device="cuda")
    try:
        F.scaled_dot_product_attention(q, q.half(), q)
    except RuntimeError as exc:
        assert "to have the same dtype" in str(exc)
        return
    raise AssertionError("nothing was raised")


def check_a_convolution_of_what_does_not_fit_raises_at_once() -> None:
    picture, weight = torch.zeros(1, 3, 8, 8, device="cuda"), torch.zeros(4, 2, 3, 3, device="cuda")
    expected = {
        "expected input[1, 3, 8, 8] to have 2 channels, but got 3 channels instead": (picture, weight),
        "Input type (torch.cuda.HalfTensor) and weight type (torch.cuda.FloatTensor)": (picture.half(), weight),
        "Input type (torch.cuda.FloatTensor) and weight type (torch.FloatTensor)": (picture, weight.cpu()),
        "Input type (torch.FloatTensor) and weight type (torch.cuda.FloatTensor)": (picture.cpu(), weight),
    }
    for text, given in expected.items():
        try:
            F.conv2d(*given)
        except RuntimeError as exc:
            assert text in str(exc), str(exc)
            continue
        raise AssertionError(f"nothing was raised; {text} was expected")


def check_an_encoder_with_padding_in_evaluation() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    net = nn.TransformerEncoder(layer, 2).eval()
    nets = {"cpu": net, "cuda": copy.deepcopy(net).cuda()}
    data, padding = torch.randn(2, 4, 8), torch.tensor([[False] * 4, [False, False, True, True]])

    def output(device: str) -> torch.Tensor:
        with torch.no_grad():
            return nets[device](data.to(device), src_key_padding_mask=padding.to(device))

    same(output)


def check_a_loss_with_targets_on_the_host() -> None:
    torch.manual_seed(0)
    scores = torch.randn(10, 2, 5).log_softmax(-1)
    targets = torch.tensor([1, 2, 3, 4, 1], dtype=torch.int32)
    same(lambda device: F.ctc_loss(scores.to(device), targets, (10, 10), (3, 2)))


def check_a_softmax_of_halves_is_float32_under_autocast() -> None:
    for softmax in (F.softmax, F.log_softmax):
        halves = x.half().requires_grad_()
        with torch.autocast("cuda"):
            result = softmax(halves, -1)
        assert result.dtype is torch.float32
        expected = x.half().cpu().float().requires_grad_()
        softmax(expected, -1).square().sum().backward()
        result.square().sum().backward()
        assert halves.grad is not None
        assert expected.grad is not None
        assert halves.grad.dtype is torch.float16
        torch.testing.assert_close(result.detach().cpu(), softmax(expected.detach(), -1))
        torch.testing.assert_close(halves.grad.cpu(), expected.grad.half())


def check_integers_are_counted() -> None:
    values = torch.tensor([3, 0, 1, 1, 7, 2, 4, -1], dtype=torch.int32, device="cuda")
    for limits, expected in (((0, 3), [1, 2, 1, 1]), ((0, 7), [3, 2, 1, 1]), ((0, 0), [2, 3, 2, 1])):
        counts = torch.histc(values, 4, *limits)
        assert counts.dtype is torch.int32
        assert counts.tolist() == expected, (limits, counts)
        assert torch.equal(torch.histc(values, 4, *limits, out=torch.empty_like(counts)), counts)


def check_an_operator_for_cpus_alone_is_refused_as_torch_does() -> None:
    try:
        torch.histogram(x, 3)
    except NotImplementedError as exc:
        assert "aten::histogram.bin_ct" in str(exc)
        return
    raise AssertionError("nothing was raised")


def check_an_extension_without_a_kernel_is_named() -> None:
    library = torch.library.Library("avec_tests", "DEF")
    library.define("twice(Tensor x) -> Tensor")
    library.impl("twice", lambda tensor: tensor * 2, "CPU")
    assert torch.ops.avec_tests.twice(torch.ones(1)).item() == 2
    try:
        torch.ops.avec_tests.twice(x)
    except NotImplementedError as exc:
        assert "avec_tests::twice" in str(exc)
        return
    raise AssertionError("nothing was raised")
