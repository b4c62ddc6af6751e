"""What programs that compile nothing may do with modules in whole-graph mode, which is to be on."""

from __future__ import annotations

import contextlib
import copy
import gc
import io
import pickle
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

CUDA = torch.device("cuda")


class Net(nn.Module):
    """Small, with statistics and dropped units."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.drop = nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Dropout(0.25)
        self.last = nn.Linear(16, 3)

    def forward(self, x: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        return self.last(self.drop(self.norm(self.first(x)).relu())) * scale


def net() -> Net:
    torch._dynamo.reset()
    torch.manual_seed(0)
    return Net().to(CUDA)


def inputs(rows: int = 4) -> torch.Tensor:
    return torch.arange(rows * 8, device=CUDA, dtype=torch.float32).view(rows, 8).sin()


def graphs_made_by(run: Callable[[], object]) -> int:
    """How many graphs Dynamo captures meanwhile."""
    from torch._dynamo.utils import counters

    before = counters["stats"]["unique_graphs"]
    run()
    return int(counters["stats"]["unique_graphs"] - before)


def same_as_eager(run: Callable[[], Any], graphs: int | None = None) -> None:
    """Compare what a function gives with what it gives where nothing is captured; it has to start from a seed."""
    found: list[Any] = []
    made = graphs_made_by(lambda: found.append(run()))
    assert graphs is None or made == graphs, made
    with torch.compiler.set_stance("force_eager"):
        expected = run()
    torch.testing.assert_close(found[0], expected, rtol=1e-4, atol=1e-4)


@contextlib.contextmanager
def told() -> Iterator[list[str]]:
    """What is written to stderr meanwhile, line by line."""
    lines: list[str] = []
    with contextlib.redirect_stderr(io.StringIO()) as text:
        yield lines
    lines += text.getvalue().splitlines()


def gradients(module: nn.Module) -> list[torch.Tensor]:
    return [each.grad.clone() for each in module.parameters() if each.grad is not None]


def check_one_graph_serves_all_modules_of_a_structure() -> None:
    def run() -> None:
        for each in [net().eval(), *(Net().to(CUDA).eval() for _ in range(4))]:
            each(inputs())

    assert graphs_made_by(run) == 1


def check_only_the_outermost_is_captured() -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.nets = nn.ModuleList([Net(), Net()])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.nets[0](x) + self.nets[1](x)

    torch._dynamo.reset()
    outer = Outer().to(CUDA)
    assert graphs_made_by(lambda: outer(inputs())) == 1


def check_single_layers_are_not_captured() -> None:
    layer, loss = nn.Linear(8, 8).to(CUDA), nn.MSELoss()
    assert graphs_made_by(lambda: loss(layer(inputs()), inputs()).backward()) == 0


def check_modules_on_the_host_are_not_captured() -> None:
    assert graphs_made_by(lambda: Net()(torch.ones(4, 8))) == 0


def check_module_and_class_are_what_they_were() -> None:
    module = net()
    before = dict(vars(module))
    module(inputs())
    assert type(module) is Net
    assert list(vars(module)) == list(before)
    assert vars(nn.Module)["forward"] is nn.Module.forward
    module.eval()
    expected = module(inputs())
    stored = io.BytesIO()
    torch.save(module, stored)
    stored.seek(0)
    copies = [copy.deepcopy(module), pickle.loads(pickle.dumps(module)), torch.load(stored, weights_only=False), Net()]
    copies[-1].to(CUDA).eval().load_state_dict(module.state_dict())
    for each in copies:
        assert type(each) is Net
        assert each(inputs()).equal(expected)


def check_a_module_dies_as_ever() -> None:
    module = net()
    module(inputs()).sum().backward()
    seen = weakref.ref(module)
    del module
    gc.collect()
    assert seen() is None


def check_training_and_evaluation() -> None:
    def run() -> list[torch.Tensor]:
        module = net()
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        seen = []
        for step in range(4):
            module.train(step != 2)
            module.drop.p = 0.0  # which a compiler draws otherwise
            y = module(inputs()).square().sum()
            y.backward()
            optimizer.step()
            seen += [y.detach(), *gradients(module), *(each.clone() for each in module.buffers())]
            module.zero_grad()
        return seen

    same_as_eager(run)


def check_hooks_that_come_and_go() -> None:
    def run() -> list[torch.Tensor]:
        module = net().eval()
        seen = [module(inputs())]
        for add in (
            lambda: module.register_forward_hook(lambda module, args, result: result * 2),
            lambda: module.first.register_forward_pre_hook(lambda module, args: (args[0] * 0,)),
            lambda: module.norm.register_forward_hook(lambda module, args, result: result + 1),
            lambda: nn.modules.module.register_module_forward_hook(lambda module, args, result: result * 3),
        ):
            handle = add()
            seen.append(module(inputs()))
            handle.remove()
            seen.append(module(inputs()))
        return seen

    same_as_eager(run)


def check_hooks_of_gradients() -> None:
    module = net()
    seen: list[str] = []
    module.register_full_backward_hook(lambda *_: seen.append("module"))
    module.first.register_full_backward_hook(lambda *_: seen.append("first"))
    module.last.weight.register_hook(lambda gradient: gradient * 0)
    module.first.weight.register_post_accumulate_grad_hook(lambda _: seen.append("weight"))
    module(inputs().requires_grad_()).sum().backward()
    assert sorted(seen) == ["first", "module", "weight"]
    assert module.last.weight.grad is not None
    assert module.last.weight.grad.count_nonzero() == 0


def check_parameters_that_change() -> None:
    def run() -> list[Any]:
        module = net().eval()
        seen: list[Any] = []
        for change in (
            lambda: module.first.requires_grad_(False),
            lambda: module.first.requires_grad_(True),
            lambda: module.first.weight.data.mul_(2),
            lambda: setattr(module.last.weight, "data", torch.ones(3, 16, device=CUDA)),
            lambda: setattr(module, "last", nn.Linear(16, 2, bias=False).to(CUDA)),
            lambda: setattr(module.first, "forward", lambda x: x.repeat(1, 2)),
        ):
            torch.manual_seed(1)
            change()
            module.zero_grad()
            y = module(inputs())
            y.sum().backward()
            seen += [y, *gradients(module)]
        return seen

    same_as_eager(run)


def check_a_dtype_that_changes() -> None:
    module = net().eval()
    module(inputs())
    assert module.double()(inputs().double()).dtype == torch.float64


def check_autocast() -> None:
    module = net()
    seen = []
    for dtype in (torch.bfloat16, None, torch.bfloat16):
        with torch.autocast("cuda", dtype=dtype, enabled=dtype is not None):
            seen.append(module(inputs()).dtype)
    assert seen == [torch.bfloat16, torch.float32, torch.bfloat16]


def check_modes_of_gradients() -> None:
    module = net().eval()
    with torch.no_grad():
        assert not module(inputs()).requires_grad
    with torch.inference_mode():
        assert module(inputs()).is_inference()
    y = module(inputs()).sum()
    y.backward(retain_graph=True)
    once = gradients(module)
    y.backward()
    assert all(two.equal(one * 2) for one, two in zip(once, gradients(module), strict=True))


def check_sizes_and_numbers_that_vary_make_few_graphs() -> None:
    module = net().eval()

    def run() -> None:
        for rows in range(2, 20):
            module(inputs(rows), float(rows))

    assert graphs_made_by(run) <= 4


@dataclass
class Given:
    """What some modules return."""

    loss: torch.Tensor
    rest: dict[str, Any]


def check_keywords_and_dataclasses() -> None:
    class Keyed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = Net()

        def forward(self, *, x: torch.Tensor, label: str | None = None, **others: Any) -> Given:
            y = self.net(x)
            return Given(y.sum(), {"y": [y], "label": label, **others})

    def run() -> None:
        given = Keyed().to(CUDA)(x=inputs(), label="a", other=3)
        assert type(given) is Given
        assert given.rest["y"][0].shape == (4, 3)
        assert (given.rest["label"], given.rest["other"]) == ("a", 3)

    assert graphs_made_by(run) == 1


def check_what_a_module_keeps() -> None:
    class Keeping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.calls = Net(), 0
            self.features: torch.Tensor | None = None

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            self.features = self.net(x)
            return self.features.sum()

    module = Keeping().to(CUDA)
    for _ in range(5):
        module(inputs()).backward()
    assert module.calls == 5
    assert module.features is not None
    assert module.features.shape == (4, 3)


def check_transforms_and_modules_as_functions() -> None:
    def run() -> list[torch.Tensor]:
        module = net().eval()
        given = {name: each.detach() for name, each in module.named_parameters()}

        def loss(given: dict[str, torch.Tensor], row: torch.Tensor) -> torch.Tensor:
            return torch.func.functional_call(module, given, (row[None],)).sum()

        each = torch.func.vmap(torch.func.grad(loss), (None, 0))(given, inputs())
        doubled = torch.func.functional_call(module, {name: each * 2 for name, each in given.items()}, (inputs(),))
        return [*each.values(), doubled, torch.func.jvp(module, (inputs(),), (inputs(),))[1]]

    same_as_eager(run)


def check_checkpointing() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = Net()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if x.sum().item() > 1e9:
                x = x * 2
            return checkpoint(self.net, x, use_reentrant=False)

    for run in (
        lambda x: checkpoint(net(), x, use_reentrant=False),
        lambda x: checkpoint(net(), x, use_reentrant=True),
        lambda x: Branching().to(CUDA)(x),
    ):
        x = inputs().requires_grad_()
        run(x).sum().backward()
        assert x.grad is not None


def check_modules_that_the_program_compiles_itself() -> None:
    module = net().eval()
    expected = module(inputs())
    named = copy.deepcopy(module)
    named.compile()
    forward = copy.deepcopy(module)
    forward.forward = torch.compile(forward.forward)  # type: ignore[method-assign]

    @torch.compile
    def step(x: torch.Tensor) -> torch.Tensor:
        print("a graph break", file=io.StringIO())
        return module(x)

    for call in (torch.compile(module), named, forward, step):
        torch.testing.assert_close(call(inputs()), expected, rtol=1e-4, atol=1e-4)


def check_who_traces_sees_operators() -> None:
    module = net().eval()
    expected = module(inputs())
    traced = torch.jit.trace(module, (inputs(),), check_trace=False)
    exported = torch.export.export(module, (inputs(),)).module()
    for call in (torch.fx.symbolic_trace(module), exported):
        torch.testing.assert_close(call(inputs()), expected, rtol=1e-4, atol=1e-4)
    assert "aten::batch_norm" in {node.kind() for node in traced.inlined_graph.nodes()}

    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        module(inputs())
    assert counter.get_total_flops() == 2 * 4 * (8 * 16 + 16 * 3)


def check_a_cuda_graph() -> None:
    module = net().eval()
    with torch.no_grad():
        module(inputs())
        x = inputs()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = module(x)
        x.copy_(inputs() * 2)
        graph.replay()
        torch.testing.assert_close(y, module(inputs() * 2), rtol=1e-4, atol=1e-4)


def check_lazy_modules() -> None:
    module = nn.Sequential(nn.LazyLinear(4), nn.ReLU()).to(CUDA)
    assert module(inputs()).shape == module(inputs()).shape == (4, 4)


def check_several_accelerators_by_data_parallel() -> None:
    module = net().eval()
    parallel = nn.DataParallel(module)
    assert graphs_made_by(lambda: parallel(inputs())) == 1
    torch.testing.assert_close(parallel(inputs()), module(inputs()))


def check_threads() -> None:
    module = net().eval()
    expected = [module(inputs() + number) for number in range(4)]
    seen: list[Any] = [None] * 4

    def run(number: int) -> None:
        seen[number] = [module(inputs() + number) for _ in range(5)][-1]

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    torch.testing.assert_close(seen, expected, rtol=1e-4, atol=1e-4)


def check_a_late_error_names_the_place_of_the_call() -> None:
    class Looking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(4, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.table(x).sum()

    module = Looking().to(CUDA)
    try:
        module(torch.tensor([9], device=CUDA)).item()
    except RuntimeError as exc:
        assert any(f"{__file__}:" in note for note in exc.__notes__)
    else:
        raise AssertionError("no error")
    module(torch.tensor([3], device=CUDA)).item()


def check_wrong_shapes_raise_what_they_did_and_say_nothing() -> None:
    module = nn.Sequential(nn.Linear(8, 5), nn.ReLU()).to(CUDA)

    def run() -> None:
        for width in (9, 8, 9, 9, 8):
            try:
                assert module(torch.ones(4, width, device=CUDA)).shape == (4, 5)
            except RuntimeError as exc:
                assert width == 9
                assert "mat1 and mat2 shapes cannot be multiplied" in str(exc)

    with told() as lines:
        assert graphs_made_by(run) == 1
    assert not lines


def check_the_limit_of_recompilations_is_told_once() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = Net()

        def forward(self, x: torch.Tensor, name: str) -> torch.Tensor:
            return self.net(x) * len(name)

    module = Named().to(CUDA).eval()
    with told() as lines:
        seen = [module(inputs(), "a" * count).sum().item() for count in range(1, 14)]
    assert all(abs(value - seen[0] * count) < 1e-3 for count, value in enumerate(seen, 1))
    assert len(lines) == 1
    assert lines[0].startswith("avec: --graph: a call of ")
    assert "Named was captured 8 times, which is torch._dynamo.config.recompile_limit" in lines[0]
    assert "at the destination operator by operator" in lines[0]


@torch.library.custom_op("avec_whole::twice", mutates_args=())
def twice(x: torch.Tensor) -> torch.Tensor:
    return x * 2


@twice.register_fake
def _(x: torch.Tensor) -> torch.Tensor:
    raise RuntimeError("no shapes are known")


def check_an_error_of_dynamo_is_told_once_and_the_call_goes_on() -> None:
    class Unknown(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = Net()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return twice(self.net(x))

    module = Unknown().to(CUDA).eval()
    module.requires_grad_(False)
    with told() as lines:
        for _ in range(3):
            torch.testing.assert_close(module(inputs()), module.net(inputs()) * 2, rtol=1e-4, atol=1e-4)
    assert len(lines) == 1
    assert lines[0].startswith("avec: --graph: forward (")
    assert "no shapes are known" in lines[0]
    assert lines[0].endswith("it is carried out at the destination operator by operator")


def check_second_derivatives_are_refused_as_by_torch_compile() -> None:
    module, x = net().eval(), inputs().requires_grad_()
    (gradient,) = torch.autograd.grad(module(x).square().sum(), x, create_graph=True)
    try:
        gradient.square().sum().backward()
    except RuntimeError as exc:
        assert "does not currently support double backward" in str(exc)
    else:
        raise AssertionError("no error")


def check_modules_of_too_many_structures_are_told_once() -> None:
    from avec.interception.torch.whole_graphs import STRUCTURES

    torch._dynamo.reset()
    with told() as lines, torch.compiler.set_stance("force_eager"):  # which is quicker, and counts as well
        for width in range(1, STRUCTURES + 5):
            nn.Sequential(nn.Linear(8, width), nn.ReLU()).to(CUDA)(inputs())
    assert len(lines) == 1, lines
    assert lines[0].startswith(f"avec: --graph: modules of {STRUCTURES} structures have been captured")
