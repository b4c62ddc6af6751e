"""What programs do with modules, autograd and optimizers on an accelerator; holds on a machine with a GPU, too."""

from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Callable

import torch
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

x = torch.arange(16.0).view(4, 4).sin().cuda()


def on_both(module: nn.Module) -> tuple[nn.Module, nn.Module]:
    """A module on the accelerator, and its twin on the host."""
    return copy.deepcopy(module).cuda(), module


def same_gradients(module: nn.Module, inputs: torch.Tensor, tolerance: float = 1e-4) -> None:
    """Go forward and backward in both places; compare results and gradients."""
    accelerated, on_host = on_both(module)
    outputs = [each(where) for each, where in ((accelerated, inputs.cuda()), (on_host, inputs.cpu()))]
    outputs = [each[0] if isinstance(each, tuple) else each for each in outputs]
    assert torch.allclose(outputs[0].cpu(), outputs[1], atol=tolerance)
    for each in outputs:
        each.square().sum().backward()
    for mine, expected in zip(accelerated.parameters(), on_host.parameters(), strict=True):
        assert mine.grad is not None
        assert expected.grad is not None
        assert torch.allclose(mine.grad.cpu(), expected.grad, atol=tolerance), (mine.grad, expected.grad)


def check_linear() -> None:
    same_gradients(nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.LayerNorm(8), nn.Linear(8, 2)), x)


def check_convolutions() -> None:
    images = torch.arange(2 * 3 * 8 * 8.0).view(2, 3, 8, 8).cos()
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.ConvTranspose2d(4, 2, 3))
    same_gradients(net, images, 1e-3)
    last = nn.Conv2d(3, 4, 3).to("cuda", memory_format=torch.channels_last)
    outputs = last(images.cuda().to(memory_format=torch.channels_last))
    assert outputs.is_contiguous(memory_format=torch.channels_last)


def check_recurrent() -> None:
    inputs = torch.arange(2 * 5 * 4.0).view(2, 5, 4).sin()
    same_gradients(nn.LSTM(4, 8, 2, batch_first=True), inputs)
    same_gradients(nn.GRU(4, 8), inputs)
    accelerated, on_host = on_both(nn.LSTMCell(4, 8))
    assert torch.allclose(accelerated(x)[0].cpu(), on_host(x.cpu())[0], atol=1e-5)


def check_transformers() -> None:
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), 2).eval()
    inputs = torch.arange(2 * 5 * 16.0).view(2, 5, 16).sin()
    accelerated, on_host = on_both(encoder)
    with torch.no_grad():
        assert torch.allclose(accelerated(inputs.cuda()).cpu(), on_host(inputs), atol=1e-4)
    attention = nn.MultiheadAttention(16, 4, batch_first=True).cuda()
    assert attention(inputs.cuda(), inputs.cuda(), inputs.cuda())[0].shape == (2, 5, 16)


def check_embedding() -> None:
    accelerated, on_host = on_both(nn.Embedding(10, 4, padding_idx=0))
    tokens = torch.tensor([[1, 2, 0], [3, 1, 9]])
    for net, where in ((accelerated, tokens.cuda()), (on_host, tokens)):
        net(where).sum().backward()
    assert torch.equal(accelerated.weight.grad.cpu(), on_host.weight.grad)


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": functools.partial(torch.optim.SGD, momentum=0.9),
    "adam_fused": functools.partial(torch.optim.Adam, fused=True),
    "adam_capturable": functools.partial(torch.optim.Adam, capturable=True),
    "adamw_foreach": functools.partial(torch.optim.AdamW, foreach=True),
    "adamw_single": functools.partial(torch.optim.AdamW, foreach=False),
    "rmsprop": torch.optim.RMSprop,
    "adagrad": torch.optim.Adagrad,
    "nadam": torch.optim.NAdam,
    "lbfgs": functools.partial(torch.optim.LBFGS, max_iter=3),
}


def check_training_with_every_optimizer() -> None:
    for name in OPTIMIZERS:
        _train(name)


def _train(name: str) -> None:
    accelerated, on_host = on_both(nn.Linear(4, 2))
    for net, inputs in ((accelerated, x), (on_host, x.cpu())):
        only_here = {"capturable": False} if name == "adam_capturable" and not inputs.is_cuda else {}
        optimizer = OPTIMIZERS[name](net.parameters(), lr=0.01, **only_here)

        def closure(net: nn.Module = net, inputs: torch.Tensor = inputs, optimizer: object = optimizer) -> torch.Tensor:
            optimizer.zero_grad()
            loss = net(inputs).pow(2).sum()
            loss.backward()
            return loss

        for _ in range(3):
            optimizer.step(closure)
    assert torch.allclose(accelerated.weight.cpu(), on_host.weight, atol=1e-5), name


def check_custom_function() -> None:
    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx, a):
            ctx.save_for_backward(a)
            return a * a

        @staticmethod
        def backward(ctx, g):
            (a,) = ctx.saved_tensors
            return 2 * a * g

    p = x.clone().requires_grad_()
    Square.apply(p).sum().backward()
    assert torch.allclose(p.grad, 2 * x)


def check_hooks() -> None:
    p, seen = nn.Parameter(x.clone()), []
    p.register_hook(lambda g: g * 2)
    p.register_post_accumulate_grad_hook(lambda q: seen.append(q.grad.sum().item()))
    p.sum().backward()
    assert seen == [32.0]
    net = nn.Linear(4, 2).cuda()
    net.register_forward_hook(lambda module, inputs, output: output + 1)
    net.register_full_backward_hook(lambda module, into, out: seen.append(out[0].shape))
    net(x).sum().backward()
    assert seen[1:] == [(4, 2)]
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.cpu(), lambda t: t.cuda()):
        net(x.clone().requires_grad_()).sum().backward()
    with torch.autograd.graph.save_on_cpu(pin_memory=True):
        net(x.clone().requires_grad_()).sum().backward()


def check_mixed_precision() -> None:
    net = nn.Linear(4, 4).cuda()
    optimizer, scaler = torch.optim.AdamW(net.parameters()), torch.amp.GradScaler()
    with torch.autocast("cuda"):
        outputs = net(x)
        assert outputs.dtype is torch.float16
        loss = outputs.float().pow(2).mean()
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    assert torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0) > 0
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 65536
    with torch.autocast("cuda", dtype=torch.bfloat16):
        assert net(x).dtype is torch.bfloat16
        assert net(x).softmax(0).dtype is torch.float32


def check_custom_autocast() -> None:
    class Doubled(torch.autograd.Function):
        @staticmethod
        @torch.amp.custom_fwd(device_type="cuda", cast_inputs=torch.float32)
        def forward(ctx, a):
            return a * 2

        @staticmethod
        @torch.amp.custom_bwd(device_type="cuda")
        def backward(ctx, g):
            return g * 2

    with torch.autocast("cuda"):
        assert Doubled.apply(x.half()).dtype is torch.float32


def check_checkpoints() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.Linear(4, 4)).cuda()
    for reentrant in (False, True):
        gradients = []
        for through in (functools.partial(checkpoint, net, use_reentrant=reentrant), net):
            torch.manual_seed(5)
            p = x.clone().requires_grad_()
            through(p).square().sum().backward()
            gradients.append(p.grad)
        assert torch.equal(*gradients)  # the same elements were dropped when the net was computed again
    p = x.clone().requires_grad_()
    checkpoint_sequential(net, 2, p, use_reentrant=False).sum().backward()
    assert p.grad is not None


def check_higher_derivatives() -> None:
    y = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(y.pow(3).sum(), y, create_graph=True)
    (second,) = torch.autograd.grad(gradient.sum(), y)
    assert torch.allclose(second, 6 * x, atol=1e-5)
    assert torch.autograd.functional.hessian(lambda v: v.pow(3).sum(), x[0]).shape == (4, 4)
    dual = torch.func.jvp(torch.sin, (x,), (torch.ones_like(x),))[1]
    assert torch.allclose(dual, x.cos(), atol=1e-6)


def check_function_transforms() -> None:
    assert torch.allclose(torch.func.vmap(torch.func.grad(lambda v: (v**2).sum()))(x), 2 * x)
    assert torch.allclose(torch.func.jacrev(lambda v: v.sin())(x[0]), x[0].cos().diag(), atol=1e-6)
    assert torch.func.vmap(torch.mm, in_dims=(0, None))(x.expand(3, 4, 4), x).shape == (3, 4, 4)
    net = nn.Linear(4, 2).cuda()
    parameters = dict(net.named_parameters())
    per_sample = torch.func.vmap(
        torch.func.grad(lambda p, row: torch.func.functional_call(net, p, row).sum()), in_dims=(None, 0)
    )(parameters, x)
    assert torch.allclose(per_sample["weight"].sum(0), x.sum(0).expand(2, 4), atol=1e-5)


def check_scripts() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        net = nn.Sequential(nn.Linear(4, 4), nn.ReLU()).cuda()
        for made in (torch.jit.script(net), torch.jit.trace(net, x)):
            assert torch.equal(made(x), net(x))


def check_inference_mode() -> None:
    with torch.inference_mode():
        assert nn.Linear(4, 4).cuda()(x).is_inference()
    with torch.no_grad():
        assert not (x * nn.Parameter(x)).requires_grad


def check_parametrizations() -> None:
    for make in (parametrizations.weight_norm, parametrizations.spectral_norm, parametrizations.orthogonal):
        net = make(nn.Linear(4, 4)).cuda()
        net(x).sum().backward()
        assert net.weight.is_cuda
    pruned = prune.l1_unstructured(nn.Linear(4, 4).cuda(), "weight", 0.5)
    assert (pruned.weight == 0).sum() == 8


def check_parameters_as_vectors() -> None:
    net = nn.Linear(4, 2).cuda()
    vector = nn.utils.parameters_to_vector(net.parameters())
    nn.utils.vector_to_parameters(vector * 0 + 1, net.parameters())
    assert net.weight.sum() == 8
    net(x).sum().backward()
    nn.utils.clip_grad_value_(net.parameters(), 0.1)
    assert net.weight.grad.abs().max() <= 0.1
    lengths = torch.tensor([3, 2, 2, 1])
    packed = nn.utils.rnn.pack_padded_sequence(x.view(4, 4, 1), lengths, batch_first=True)
    unpacked, back = nn.utils.rnn.pad_packed_sequence(packed, batch_first=True)
    assert (unpacked.shape, back.tolist()) == ((4, 3, 1), [3, 2, 2, 1])


def check_moving_modules() -> None:
    net = nn.Linear(4, 4)
    weight = net.weight
    assert net.cuda().weight is weight
    assert net.half().weight.dtype is torch.half
    assert net.cpu().weight.device.type == "cpu"
    assert net.to("cuda", torch.float64).weight.dtype is torch.float64
    assert nn.Linear(4, 4, device="meta").to_empty(device="cuda").weight.is_cuda
    assert net.share_memory().weight.is_shared()
    assert [each.is_cuda for each in net.state_dict().values()] == [True, True]


def check_state_dict() -> None:
    net, other = nn.Linear(4, 4).cuda(), nn.Linear(4, 4).cuda()
    other.load_state_dict({name: each.cpu() for name, each in net.state_dict().items()})
    assert torch.equal(net.weight, other.weight)
    other.load_state_dict(net.state_dict(), assign=True)
    assert other.weight.data_ptr() == net.weight.data_ptr()


def check_deepcopy() -> None:
    y = copy.deepcopy(x).add_(1)
    assert torch.allclose(y, x + 1)
    net = nn.Linear(4, 4).cuda()
    other = copy.deepcopy(net)
    assert other.weight.data_ptr() != net.weight.data_ptr()
    assert torch.equal(net.weight, other.weight)
    averaged = torch.optim.swa_utils.AveragedModel(net)
    averaged.update_parameters(net)
    assert torch.equal(averaged.module.weight, net.weight)


def check_data_parallel_with_one_device() -> None:
    assert nn.DataParallel(nn.Linear(4, 2).cuda())(x).shape == (4, 2)


def check_anomalies_are_detected() -> None:
    y = torch.zeros(2, device="cuda", requires_grad=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with torch.autograd.detect_anomaly():
            try:
                (y.sqrt() * 0).sum().backward()
            except RuntimeError as exc:
                assert "returned nan values" in str(exc)
            else:
                raise AssertionError("no anomaly was detected")


def check_version_counters() -> None:
    y = x.clone().requires_grad_()
    z = y.exp()
    z.add_(1)
    try:
        z.sum().backward()
    except RuntimeError as exc:
        assert "modified by an inplace operation" in str(exc)
    else:
        raise AssertionError("nobody noticed")


def check_gradients_are_checked() -> None:
    inputs = torch.arange(6.0, dtype=torch.float64, device="cuda").view(2, 3).div(5).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: v.tanh() * v, (inputs,))
