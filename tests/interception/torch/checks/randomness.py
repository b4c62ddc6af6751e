"""What programs do with random numbers on an accelerator; holds on a machine with a GPU, too."""

from __future__ import annotations

import copy
import pickle

import torch
import torch.nn.functional as F


def generator(seed: int = 7) -> torch.Generator:
    """A seeded generator on the accelerator."""
    return torch.Generator("cuda").manual_seed(seed)


def check_generators_are_torchs() -> None:
    for device in ("cuda", "cuda:0", torch.device("cuda", 0)):
        made = torch.Generator(device)
        assert isinstance(made, torch.Generator)
        assert made.device == torch.device("cuda:0")
        assert made.initial_seed() == 67280421310721
    assert torch.Generator().device.type == "cpu"
    assert isinstance(torch.default_generator, torch.Generator)
    assert not isinstance(torch, torch.Generator)


def check_a_seed_repeats_the_numbers() -> None:
    torch.manual_seed(3)
    first = torch.randn(5, device="cuda")
    second = torch.randn(5, device="cuda")
    torch.manual_seed(3)
    assert torch.equal(torch.randn(5, device="cuda"), first)
    assert torch.equal(torch.randn(5, device="cuda"), second)
    assert not torch.equal(first, second)
    torch.cuda.manual_seed_all(3)
    assert torch.equal(torch.randn(5, device="cuda"), first)
    torch.cuda.manual_seed(3)
    assert torch.equal(torch.randn(5, device="cuda"), first)
    assert torch.cuda.initial_seed() == 3
    assert torch.seed() == torch.cuda.initial_seed()


def check_generators_are_independent() -> None:
    ours = generator()
    first = torch.rand(4, device="cuda", generator=ours)
    torch.rand(3, device="cuda")
    second = torch.rand(4, device="cuda", generator=ours)
    other = generator()
    assert torch.equal(torch.rand(4, device="cuda", generator=other), first)
    assert torch.equal(torch.rand(4, device="cuda", generator=other), second)


def check_operators_take_generators() -> None:
    ones = torch.ones(50, device="cuda")
    for draw in (
        lambda g: torch.randperm(10, device="cuda", generator=g),
        lambda g: torch.randint(0, 90, (4,), device="cuda", generator=g),
        lambda g: torch.multinomial(ones, 3, generator=g),
        lambda g: torch.bernoulli(ones / 2, generator=g),
        lambda g: torch.normal(ones, ones, generator=g),
        lambda g: torch.empty_like(ones).exponential_(generator=g),
        lambda g: torch.empty_like(ones).uniform_(1, 2, generator=g),
        lambda g: torch.nn.init.xavier_normal_(torch.empty(4, 4, device="cuda"), generator=g),
    ):
        assert torch.equal(draw(generator(5)), draw(generator(5)))
        ours = generator(5)
        assert not torch.equal(draw(ours), draw(ours))


def check_states() -> None:
    ours = generator()
    state = ours.get_state()
    assert (state.dtype, state.device.type) == (torch.uint8, "cpu")
    first = torch.rand(2, device="cuda", generator=ours)
    assert torch.equal(torch.rand(2, device="cuda", generator=ours.set_state(state)), first)
    other = torch.Generator("cuda")
    other.set_state(state)
    assert torch.equal(torch.rand(2, device="cuda", generator=other), first)
    assert other.initial_seed() == 7
    clone = ours.clone_state()
    assert torch.equal(*(torch.rand(2, device="cuda", generator=each) for each in (clone, ours)))


def check_states_of_default_generators() -> None:
    state = torch.cuda.get_rng_state()
    first = torch.randn(3, device="cuda")
    torch.cuda.set_rng_state(state)
    assert torch.equal(torch.randn(3, device="cuda"), first)
    states = torch.cuda.get_rng_state_all()
    first = torch.randn(3, device="cuda")
    torch.cuda.set_rng_state_all(states)
    assert torch.equal(torch.randn(3, device="cuda"), first)
    default = torch.cuda.default_generators[0]
    default.set_state(states[0])
    assert torch.equal(torch.randn(3, device="cuda", generator=default), first)


def check_forked_states() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(99)
        first = torch.rand(3, device="cuda")
    with torch.random.fork_rng(devices=[0]):
        inner = torch.rand(3, device="cuda")
    assert torch.equal(torch.rand(3, device="cuda"), inner)
    assert not torch.equal(first, inner)


def check_generators_are_pickled_and_copied() -> None:
    ours = generator()
    torch.rand(1, device="cuda", generator=ours)
    for other in (pickle.loads(pickle.dumps(ours)), copy.deepcopy(ours)):
        assert other.device == ours.device
        assert torch.equal(other.get_state(), ours.get_state())
    assert pickle.loads(pickle.dumps(torch.Generator().manual_seed(4))).initial_seed() == 4


def check_generators_belong_to_a_device() -> None:
    for draw, expected in (
        (lambda: torch.randn(3, generator=generator()), "Expected a 'cpu' device type for generator but found 'cuda'"),
        (
            lambda: torch.randn(3, generator=torch.Generator(), device="cuda"),
            "Expected a 'cuda' device type for generator but found 'cpu'",
        ),
        (lambda: generator().set_state(torch.zeros(3, dtype=torch.uint8)), "RNG state is wrong size"),
    ):
        try:
            draw()
        except RuntimeError as exc:
            assert expected in str(exc)
        else:
            raise AssertionError(expected)


def check_many_generators() -> None:
    numbers = {torch.rand(1, device="cuda", generator=generator(seed)).item() for seed in range(100)}
    assert len(numbers) == 100


def check_dropout() -> None:
    ones = torch.ones(1000, device="cuda")
    torch.manual_seed(1)
    first = F.dropout(ones, 0.5, True)
    torch.manual_seed(1)
    assert torch.equal(F.dropout(ones, 0.5, True), first)
    assert 300 < (first == 0).sum() < 700
    assert torch.nn.Dropout(0.5).cuda().eval()(ones).sum() == 1000


def check_splits() -> None:
    parts = torch.utils.data.random_split(range(10), [7, 3], generator=torch.Generator().manual_seed(0))
    assert sorted([*parts[0], *parts[1]]) == list(range(10))
    sampler = torch.utils.data.RandomSampler(range(5), generator=torch.Generator().manual_seed(1))
    assert sorted(sampler) == list(range(5))
