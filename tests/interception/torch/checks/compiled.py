"""What programs do with torch.compile on an accelerator; holds on a machine with a GPU, too."""

from __future__ import annotations

import copy
import functools
import unittest.mock
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch._dynamo.utils import counters
from torch.nn.attention.flex_attention import flex_attention
from torch.utils.checkpoint import checkpoint

CUDA = torch.device("cuda")
TOLERANCE = 1e-4
Batch = tuple[torch.Tensor, torch.Tensor]


def same(actual: Any, expected: Any, tolerance: float = TOLERANCE) -> None:
    """Compare results of either place, nested as they may be."""
    if isinstance(expected, list | tuple):
        for one, other in zip(actual, expected, strict=True):
            same(one, other, tolerance)
    elif isinstance(expected, float):
        assert abs(actual - expected) <= tolerance
    elif isinstance(expected, torch.Tensor):
        assert actual.dtype == expected.dtype
        assert actual.shape == expected.shape
        torch.testing.assert_close(actual.detach().cpu(), expected.detach().cpu(), rtol=tolerance, atol=tolerance)
    else:
        assert actual == expected


def as_eager(function: Callable[..., Any], *args: Any, **options: Any) -> None:
    """Compare a compiled function with itself."""
    torch._dynamo.reset()
    copies = [each.clone() if isinstance(each, torch.Tensor) else each for each in args]
    expected = function(*copies)
    same(torch.compile(function, **options)(*args), expected)
    same(args, copies)  # what the function writes to its arguments as well


def graphs_made_by(run: Callable[[], object]) -> int:
    """How many graphs Dynamo captures meanwhile."""
    before = counters["stats"]["unique_graphs"]
    run()
    return int(counters["stats"]["unique_graphs"] - before)


class Convolutional(nn.Module):
    """Convolutions with batch normalization, whose statistics change with each step."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, bias=False), nn.Conv2d(8, 8, 3, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(8), nn.BatchNorm2d(8)])
        self.last = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.norms[0](self.first(x)))
        x = F.gelu(self.norms[1](self.second(x)))
        return self.last(x.mean((2, 3)))


class Attending(nn.Module):
    """A block of a decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.norm = nn.Embedding(16, 8), nn.LayerNorm(8)
        self.projections, self.last = nn.Linear(8, 24), nn.Linear(8, 16)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embedding(tokens)
        parts = self.projections(self.norm(x)).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        x = x + F.scaled_dot_product_attention(*parts, is_causal=True).transpose(1, 2).flatten(2)
        return self.last(x)


def trained(
    net: nn.Module, batch: Batch, optimizer: Callable[..., torch.optim.Optimizer], where: str, compiled: bool
) -> list[torch.Tensor]:
    """Train for a few steps; losses, and what the net holds afterwards."""
    torch._dynamo.reset()
    net = copy.deepcopy(net).to(where)
    inputs, targets = (each.to(where) for each in batch)
    stepper = optimizer(net.parameters())
    forward = torch.compile(net) if compiled else net
    losses = []
    for _ in range(4):
        loss = F.cross_entropy(forward(inputs).flatten(0, -2), targets.flatten())
        loss.backward()
        stepper.step()
        stepper.zero_grad()
        losses.append(loss.detach())
    net.eval()
    with torch.no_grad():
        return [*losses, forward(inputs), *(each for each in net.buffers())]


def same_training(net: nn.Module, batch: Batch, optimizer: Callable[..., torch.optim.Optimizer]) -> None:
    on_host = trained(net, batch, optimizer, "cpu", compiled=False)
    same(trained(net, batch, optimizer, "cuda", compiled=True), on_host, 1e-3)


def check_training_of_a_convolutional_net_with_sgd() -> None:
    torch.manual_seed(0)
    batch = torch.randn(4, 3, 8, 8), torch.arange(4)
    same_training(Convolutional(), batch, functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9))


def check_training_of_a_decoder_with_adamw() -> None:
    torch.manual_seed(0)
    tokens = torch.randint(16, (2, 6))
    same_training(Attending(), (tokens, tokens.roll(-1, 1)), functools.partial(torch.optim.AdamW, lr=1e-2))


def check_a_compiled_optimizer() -> None:
    net = nn.Linear(4, 4).to(CUDA)
    twin = copy.deepcopy(net)
    compiled, plain = (torch.optim.AdamW(each.parameters(), lr=1e-2) for each in (net, twin))
    step = torch.compile(compiled.step)
    x = torch.ones(2, 4, device=CUDA)
    for _ in range(3):
        net(x).square().sum().backward()
        step()
        compiled.zero_grad()
        twin(x).square().sum().backward()
        plain.step()
        plain.zero_grad()
    same(list(net.parameters()), list(twin.parameters()))


def check_results_that_are_views_inputs_and_numbers() -> None:
    def function(x: torch.Tensor) -> tuple[Any, ...]:
        y = x * 2
        return y, y.t(), y[1:], x.t(), x[0], x, None, 3, y.sum(0).expand(3, 5)

    as_eager(function, torch.randn(4, 5, device=CUDA))
    x = torch.randn(4, 5, device=CUDA)
    y, turned, *_ = torch.compile(function)(x)
    turned.zero_()
    assert y.count_nonzero() == 0  # still one storage


def check_inputs_that_are_written() -> None:
    def function(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        x.add_(1)
        x[0].mul_(2)
        y.copy_(x)
        return x.sum()

    as_eager(function, torch.randn(4, 5, device=CUDA), torch.zeros(4, 5, device=CUDA))


def check_strides_of_single_elements_do_not_matter() -> None:
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: (x * 2).relu().sum(1))
    for x in (torch.ones(1, 5, device=CUDA), torch.ones(5, device=CUDA).as_strided((1, 5), (1, 1))):
        same(compiled(x), torch.full((1,), 10.0))
    weights = torch.ones(4, 1, 3, device=CUDA, requires_grad=True)
    y = torch.compile(lambda x: x.transpose(0, 1) * 2)(weights)
    y.backward(torch.ones(1, 4, 3, device=CUDA).as_strided((1, 4, 3), (1, 3, 1)))
    same(weights.grad, torch.full((4, 1, 3), 2.0))


def check_sizes_that_vary_make_few_graphs() -> None:
    def function(x: torch.Tensor, factor: float) -> torch.Tensor:
        return (x.reshape(-1, 2) * factor).relu().sum(0) + x.shape[0]

    torch._dynamo.reset()
    compiled = torch.compile(function)

    def run() -> None:
        for rows in (4, 6, 8, 10, 12, 14, 20):
            x = torch.randn(rows, 3, device=CUDA)
            same(compiled(x, 2.0), function(x, 2.0))

    assert graphs_made_by(run) <= 2
    assert graphs_made_by(run) == 0


def check_training_with_sizes_that_vary() -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).to(CUDA)
    torch._dynamo.reset()
    compiled = torch.compile(net, dynamic=True)
    for rows in (2, 3, 5, 7):
        x = torch.randn(rows, 4, device=CUDA)
        gradients = []
        for each in (compiled, net):
            net.zero_grad()
            each(x).square().sum().backward()
            gradients.append([parameter.grad for parameter in net.parameters()])
        same(*gradients)


def check_graph_breaks() -> None:
    def function(x: torch.Tensor) -> tuple[int, torch.Tensor]:
        y = x.sin()
        if y.sum().item() > 0:
            y = y + 1
        return y.nonzero().shape[0], y * 2

    as_eager(function, torch.randn(4, 5, device=CUDA))


def check_sizes_that_depend_on_data() -> None:
    with torch._dynamo.config.patch(capture_scalar_outputs=True, capture_dynamic_output_shape_ops=True):
        as_eager(lambda x: (x * x.sum().item(), x[x > 0].sum(), x.nonzero()), torch.randn(4, 5, device=CUDA))


def check_dropout_is_reproducible() -> None:
    net = nn.Sequential(nn.Linear(16, 32), nn.Dropout(0.5), nn.Linear(32, 4)).to(CUDA)
    torch._dynamo.reset()
    compiled = torch.compile(net)
    x = torch.ones(8, 16, device=CUDA)

    def gradients(seed: int) -> list[torch.Tensor]:
        torch.manual_seed(seed)
        net.zero_grad()
        compiled(x).sum().backward()
        return [each.grad.clone() for each in net.parameters() if each.grad is not None]

    same(gradients(1), gradients(1), 0)
    assert not gradients(1)[0].equal(gradients(2)[0])
    dropped = torch.compile(lambda x: F.dropout(x, 0.25))(torch.ones(100, 100, device=CUDA))
    assert 0.2 < (dropped == 0).float().mean().item() < 0.3


def check_checkpointed_dropout_is_drawn_once() -> None:
    block = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5)).to(CUDA)
    x = torch.ones(4, 8, device=CUDA, requires_grad=True)
    torch._dynamo.reset()
    y = torch.compile(lambda x: checkpoint(block, x, use_reentrant=False))(x)
    y.sum().backward()
    kept = (y != 0).float() * 2
    same(x.grad, kept @ block[0].weight)


def check_autocast() -> None:
    net = nn.Linear(8, 8).to(CUDA)
    torch._dynamo.reset()
    compiled = torch.compile(net)
    x = torch.randn(2, 8, device=CUDA)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        y = compiled(x)
    assert y.dtype == torch.bfloat16
    y.sum().backward()
    same(y.float(), net(x), 3e-2)


def check_constants_and_numbers_of_the_host() -> None:
    weights, factor = torch.randn(3, device=CUDA), torch.tensor(2.0)

    def function(x: torch.Tensor) -> torch.Tensor:
        return x * weights * factor + torch.tensor([1.0, 2.0, 3.0], device=CUDA) + torch.tensor(2.0) + float("inf")

    as_eager(function, torch.randn(3, device=CUDA))


def check_tensors_of_the_host_beside_those_of_the_accelerator() -> None:
    as_eager(lambda x, h: (x + h.to(x.device), h * 2), torch.randn(3, device=CUDA), torch.randn(3))


def check_a_graph_without_inputs() -> None:
    as_eager(lambda count: torch.zeros(count, device=CUDA) + torch.arange(count, device=CUDA), 4)


def check_modes_and_options() -> None:
    x = torch.randn(4, 4, device=CUDA)
    for mode in ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"):
        as_eager(lambda x: (x @ x).relu(), x, mode=mode)
    as_eager(lambda x: (x @ x).relu(), x, fullgraph=True, options={"epilogue_fusion": True, "triton.cudagraphs": True})


def check_compilers_by_name() -> None:
    x = torch.randn(4, 4, device=CUDA)
    for name in ("eager", "aot_eager", "aot_eager_decomp_partition", "cudagraphs", "inductor"):
        as_eager(lambda x: (x @ x).relu(), x, backend=name)
    torch._dynamo.reset()
    same(torch._dynamo.optimize("inductor")(torch.sin)(x), x.sin())


def check_a_compiler_of_the_programs_own() -> None:
    seen = []

    def compiler(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., Any]:
        seen.append([each.device.type for each in inputs])
        return graph.forward

    as_eager(lambda x: x @ x, torch.randn(4, 4, device=CUDA), backend=compiler)
    assert seen == [["cuda"]]


def check_transforms() -> None:
    as_eager(lambda x: torch.func.vmap(lambda row: row @ row)(x), torch.randn(3, 4, device=CUDA))
    as_eager(torch.func.grad(lambda x: (x * x).sum()), torch.randn(4, device=CUDA))


def check_autograd_functions() -> None:
    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
            return 2 * gradient * ctx.saved_tensors[0]

    x = torch.randn(4, device=CUDA, requires_grad=True)
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: Square.apply(x).sin().sum())
    same(torch.autograd.grad(compiled(x), x)[0], 2 * x * (x * x).cos())


@torch.library.custom_op("avec_checks::twice", mutates_args=())
def twice(x: torch.Tensor) -> torch.Tensor:
    return x * 2


twice.register_fake(torch.empty_like)
twice.register_autograd(lambda context, gradient: gradient * 2)


def check_operators_of_the_programs_own() -> None:
    nets = [nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.LayerNorm(8), nn.Linear(8, 8)).to(CUDA) for _ in range(2)]
    x = torch.randn(4, 8, device=CUDA, requires_grad=True)
    torch._dynamo.reset()

    def function(x: torch.Tensor) -> torch.Tensor:
        return nets[1](twice(nets[0](x)))

    gradients = [torch.autograd.grad(each(x).square().sum(), x) for each in (torch.compile(function), function)]
    same(*gradients)

    def writing(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
        x.add_(1)
        z = twice(x)
        x.mul_(2)
        y[0] = z.sum()
        return (x.sin() + z.cos()).relu().sum(), z, x.t()

    as_eager(writing, torch.randn(4, 4, device=CUDA), torch.zeros(3, device=CUDA))


def check_graphs_that_are_captured_by_hand() -> None:
    from torch._inductor import compile as compile_graph

    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU()).to(CUDA)
    x = torch.randn(2, 4, device=CUDA)
    same(compile_graph(torch.fx.symbolic_trace(net), [x])(x), net(x))


def check_a_cuda_graph_of_a_compiled_function() -> None:
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: (x @ x).relu() + 1)
    x = torch.randn(4, 4, device=CUDA)
    compiled(x)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = compiled(x)
    x.copy_(torch.eye(4))
    graph.replay()
    same(y, torch.eye(4) + 1)


def check_threads() -> None:
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: (x * 2).sin().sum())
    inputs = [torch.full((8, 8), float(place), device=CUDA) for place in range(4)]
    compiled(inputs[0])
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda x: [compiled(x).item() for _ in range(10)], inputs))
    same(results, [[x.mul(2).sin().sum().item()] * 10 for x in inputs], 1e-5)


def check_control_flow_and_flexible_attention() -> None:
    def branches(x: torch.Tensor) -> torch.Tensor:
        return torch.cond(x.sum() > 0, torch.sin, torch.cos, (x,))

    as_eager(branches, torch.randn(4, device=CUDA))
    q = torch.randn(1, 2, 128, 16, device=CUDA)
    torch._dynamo.reset()
    attended = torch.compile(flex_attention)(q, q, q, score_mod=lambda score, b, h, i, j: score + (i - j))
    places = torch.arange(128, device=CUDA)
    same(attended, F.scaled_dot_product_attention(q, q, q, attn_mask=(places[:, None] - places).float()))


def check_complex_numbers() -> None:
    as_eager(lambda x: torch.view_as_real(torch.fft.fft(x) * 2), torch.randn(8, device=CUDA))
    as_eager(lambda z: z.conj() * z, torch.randn(8, device=CUDA, dtype=torch.complex64))


def check_recurrent_nets_run() -> None:
    net = nn.LSTM(4, 8, batch_first=True).to(CUDA)
    x = torch.randn(2, 5, 4, device=CUDA)
    torch._dynamo.reset()
    y = torch.compile(net)(x)[0]
    same(y, net(x)[0])
    y.sum().backward()


def check_export() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU()).to(CUDA)
    x = torch.randn(2, 4, device=CUDA)
    module = torch.export.export(net, (x,)).module()
    same(module(x), net(x))
    same(torch.compile(module)(x), net(x))


def check_an_error_of_shapes_is_raised_at_once() -> None:
    torch._dynamo.reset()
    try:
        torch.compile(lambda x: x @ torch.ones(3, 3, device=CUDA))(torch.ones(4, 4, device=CUDA))
    except Exception as exc:
        assert "[4, 4] X [3, 3]" in str(exc)
    else:
        raise AssertionError("nothing was raised")


def check_graphs_of_the_host_alone_are_compiled_there() -> None:
    graphs = []

    def compile_fx(graph: torch.fx.GraphModule, *args: Any, **kwargs: Any) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    with unittest.mock.patch("torch._inductor.compile_fx.compile_fx", compile_fx):
        as_eager(lambda x: x.sin() + 1, torch.ones(3))
        as_eager(lambda x: x.cos() + 1, torch.ones(3, device=CUDA))
    assert len(graphs) == 1
