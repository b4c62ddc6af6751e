"""What programs do with tensors on an accelerator. Written as for a machine with a GPU, where all of it holds, too."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

x = torch.arange(16.0).view(4, 4).sin().cuda()


def raised(kind: type[Exception], call: Callable[[], object]) -> str:
    """The text of the exception that a call has to raise."""
    try:
        call()
    except kind as exc:
        return str(exc)
    raise AssertionError(f"no {kind.__name__}")


def check_type_and_device() -> None:
    assert type(x) is torch.Tensor
    assert x.is_cuda
    assert x.device == torch.device("cuda:0")
    assert type(nn.Parameter(x)) is nn.Parameter
    assert x.type() == "torch.cuda.FloatTensor"


def check_moving_to_where_it_is_gives_itself() -> None:
    assert x.cuda() is x
    assert x.to("cuda") is x
    assert x.to(torch.device("cuda", 0)) is x
    assert x.to("cuda:0") is x
    assert x.to(torch.float32) is x


def check_another_device_raises_at_once() -> None:
    text = raised(RuntimeError, lambda: torch.mm(x, torch.randn(4, 4)))
    assert "Expected all tensors to be on the same device" in text


def check_another_shape_raises_at_once() -> None:
    text = raised(RuntimeError, lambda: torch.mm(x, torch.randn(5, 4, device="cuda")))
    assert "mat1 and mat2 shapes cannot be multiplied (4x4 and 5x4)" in text


def check_numpy_raises_type_error() -> None:
    assert "can't convert cuda:0 device type tensor to numpy" in raised(TypeError, x.numpy)
    assert "can't convert cuda:0 device type tensor to numpy" in raised(TypeError, lambda: np.asarray(x))


def check_views_alias() -> None:
    y = torch.zeros(3, 3, device="cuda")
    y[1] = 5
    y.view(-1)[0] = 7
    assert y.cpu().sum() == 22
    assert y[1]._is_view()
    assert y.t()[0, 1] == 5
    assert y[1].data_ptr() == y.data_ptr() + 12


def check_out_grows() -> None:
    out = torch.empty(0, device="cuda")
    torch.add(x, x, out=out)
    assert torch.equal(out, x * 2)
    for _ in range(2):
        out = torch.zeros(1, device="cuda")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of that
            torch.add(x, x, out=out)
        assert torch.equal(out, x * 2)


def check_values_in_python() -> None:
    assert bool((x == x).all())
    assert len(x.tolist()) == 4
    assert int(torch.tensor(3, device="cuda")) == 3
    assert [0, 1, 2][torch.tensor(1, device="cuda")] == 1
    assert f"{torch.tensor(1.5, device='cuda'):.2f}" == "1.50"
    assert 3.0 in torch.arange(4.0, device="cuda")
    assert [float(each) for each in torch.arange(3.0, device="cuda")] == [0, 1, 2]


def check_shapes_that_depend_on_data() -> None:
    y = torch.tensor([0, 1, 2, 1], device="cuda")
    assert y[y > 0].tolist() == [1, 2, 1]
    assert torch.unique(y).tolist() == [0, 1, 2]
    assert y.nonzero().shape == (3, 1)
    repeats = torch.tensor([1, 2, 1, 0], device="cuda")
    assert torch.repeat_interleave(x, repeats, dim=0).shape == (4, 4)


def check_assignments() -> None:
    y = torch.arange(4.0, device="cuda")
    y[y > 1] = 0
    assert y.tolist() == [0, 1, 0, 0]
    y[[0, 2]] = torch.tensor([5.0, 6.0], device="cuda")
    y[torch.tensor([3], device="cuda")] += 1
    assert y.tolist() == [5, 1, 6, 1]
    y[1:3] = torch.tensor([8.0, 9.0])  # from the host's memory
    assert y.tolist() == [5, 8, 9, 1]


def check_tensors_from_the_host() -> None:
    array = np.arange(3)
    assert torch.as_tensor(array, device="cuda").tolist() == [0, 1, 2]
    assert torch.from_numpy(array).cuda().tolist() == [0, 1, 2]
    assert torch.tensor([1.0, 2.0], device="cuda").tolist() == [1, 2]
    assert torch.asarray(x, device="cuda").data_ptr() == x.data_ptr()
    assert torch.tensor([torch.tensor(1, device="cuda"), 2]).tolist() == [1, 2]
    assert x.new_tensor([1.0]).is_cuda
    assert torch.frombuffer(bytearray(b"abc"), dtype=torch.uint8).cuda().tolist() == [97, 98, 99]


def check_conversions() -> None:
    half = torch.empty(4, 4, device="cuda", dtype=torch.half)
    assert half.copy_(x).dtype is torch.half
    assert x.to("cpu", torch.float64).dtype is torch.float64
    assert torch.equal(x.cpu().to("cuda", torch.float64), x.double())
    assert x.to(torch.float8_e4m3fn).float().shape == (4, 4)
    assert x.type(torch.cuda.DoubleTensor).dtype is torch.float64
    assert torch.equal(torch.zeros(4, 4).copy_(x.t()), x.cpu().t())


def check_legacy_types() -> None:
    y = torch.cuda.FloatTensor(2, 3)
    assert (y.shape, y.is_cuda) == ((2, 3), True)
    assert torch.cuda.LongTensor([1, 2]).tolist() == [1, 2]
    assert isinstance(y, torch.cuda.FloatTensor)


def check_complex() -> None:
    z = torch.fft.fft(x)
    expected = torch.fft.fft(x.cpu())
    assert torch.allclose((z.conj() * z).real.cpu(), (expected.conj() * expected).real, atol=1e-4)
    assert torch.equal(z.conj().cpu(), z.cpu().conj())
    assert torch.equal(z.imag.cpu(), z.cpu().imag)
    assert z.conj().is_conj()


def check_printing_is_as_on_the_host() -> None:
    wide = torch.arange(60 * 70 * 3.0).view(60, 70, 3).cos()
    for y in (x.cpu(), wide, wide > 0, wide.half(), torch.arange(5000), torch.zeros(0, 3), torch.fft.fft(wide).conj()):
        shown = re.sub(r",\s*device='cuda:0'", "", repr(y.cuda()))
        assert shown.split() == repr(y).split(), shown
    assert repr(torch.ones(2, device="cuda", requires_grad=True)) == (
        "tensor([1., 1.], device='cuda:0', requires_grad=True)"
    )


def check_resizing_in_place() -> None:
    y = torch.arange(4.0, device="cuda")
    view = y.view(2, 2)
    y.resize_(6)[0] = 5
    assert y[:4].tolist() == [5, 1, 2, 3]
    assert view.tolist() == [[5, 1], [2, 3]]
    y.set_(torch.ones(2, device="cuda"))
    assert y.tolist() == [1, 1]


def check_data_is_replaced() -> None:
    p = nn.Parameter(x.clone())
    p.data = torch.ones(2, 2, device="cuda")
    assert p.sum() == 4
    p.data.fill_(3)
    assert p.tolist() == [[3, 3], [3, 3]]
    first, second = x.clone(), x + 1
    torch.utils.swap_tensors(first, second)
    assert torch.equal(second, x)


def check_sparse() -> None:
    sparse = x.to_sparse()
    assert torch.allclose(torch.sparse.mm(sparse, x).cpu(), x.cpu() @ x.cpu(), atol=1e-5)
    assert torch.equal(sparse.to_dense(), x)


def check_default_device() -> None:
    with torch.device("cuda"):
        assert nn.Linear(2, 2).weight.is_cuda
        assert torch.zeros(1).is_cuda
    torch.set_default_device("cuda")
    try:
        assert torch.randn(2).is_cuda
        assert torch.tensor([1]).is_cuda
    finally:
        torch.set_default_device(None)
    assert not torch.zeros(1).is_cuda


def check_attention() -> None:
    q, k, v = (torch.arange(2 * 2 * 5 * 8.0).view(2, 2, 5, 8).sin().mul(each).cuda() for each in (1, 2, 3))
    on_host = F.scaled_dot_product_attention(q.cpu(), k.cpu(), v.cpu(), is_causal=True)
    assert torch.allclose(F.scaled_dot_product_attention(q, k, v, is_causal=True).cpu(), on_host, atol=1e-4)


def check_dlpack_within_torch() -> None:
    assert torch.from_dlpack(x).data_ptr() == x.data_ptr()
    assert torch.utils.dlpack.from_dlpack(x).device == x.device
    assert torch.from_dlpack(np.ones(2)).cuda().tolist() == [1, 1]
