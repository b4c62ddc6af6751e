"""Generators without a destination: what torch's C++ code takes them for, and what is kept until there is a session."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from avec.errors import UnsupportedOperation
from avec.interception.torch import random
from avec.interception.torch.random import Generators
from avec.protocol.torch import Device, Opened, Template

DEVICE = Device("cuda", "a GPU", 1, 9, 0, 1)


@dataclass
class Stream:
    """In place of a Recording: what would be sent."""

    opened: bool = False
    inherited: bool = False
    destination: Opened = field(default_factory=lambda: Opened("2", (DEVICE, DEVICE)))
    recorded: list[tuple[str, tuple[int, ...]]] = field(default_factory=list)

    def template(self, template: Template) -> str:
        return template.operator

    def record(self, operator: str, numbers: tuple[int, ...]) -> None:
        self.recorded.append((operator, numbers))

    def upload(self, operator: str, numbers: tuple[int, ...], payload: np.ndarray, borrowed: bool) -> None:
        self.recorded.append((operator, (*numbers, payload.nbytes)))


@pytest.fixture
def stream() -> Stream:
    return Stream()


@pytest.fixture
def generators(stream: Stream) -> Generators:
    return Generators(stream)  # type: ignore[arg-type]


def test_torch_sees_a_generator_on_its_accelerator(generators: Generators) -> None:
    generator = generators.make(1)
    assert isinstance(generator, torch._C.Generator)
    assert generator.device == torch.device("cuda:1")
    with pytest.raises(RuntimeError, match="Expected a 'cpu' device type for generator but found 'cuda'"):
        torch.rand(2, generator=generator)


def test_a_generator_that_is_laid_out_otherwise_is_refused(
    generators: Generators, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(random, "_CPU_BYTES", b"\x12\x34")
    with pytest.raises(UnsupportedOperation, match="lays its random number generators out"):
        generators.make(0)


def test_the_handles_of_the_dead_are_used_again(generators: Generators) -> None:
    first, second = generators.make(0), generators.make(0)
    handle = first.avec_handle
    assert {handle, second.avec_handle} == {random.FIRST_OWN, random.FIRST_OWN + 1}
    del first
    assert generators.make(0).avec_handle == handle


def test_a_generator_is_known_by_what_it_is_in_cpp(generators: Generators) -> None:
    generator = generators.make(0)
    assert generators.handle(generator) == generator.avec_handle
    assert generators.handle(torch.Generator()) is None
    assert generators.handle(torch.default_generator) is None


def test_seeds_are_sent_when_a_session_opens(generators: Generators, stream: Stream) -> None:
    generators.seed_all(5)
    generators.default(1).manual_seed(6)
    assert stream.recorded == []
    stream.opened = True
    generators.on_open()
    assert stream.recorded == [("avec::seed", (0, 5)), ("avec::seed", (1, 6))]


def test_a_state_is_sent_when_a_session_opens(generators: Generators, stream: Stream) -> None:
    generators.seed_all(5)
    state = torch.tensor([9, *[0] * 15], dtype=torch.uint8)
    assert generators.default(0).set_state(state).initial_seed() == 9
    stream.opened = True
    generators.on_open()
    assert stream.recorded == [("avec::set_generator", (0, 16)), ("avec::seed", (1, 5))]


def test_default_generators_begin_with_seeds_that_nobody_knows(generators: Generators) -> None:
    assert generators.default(0).initial_seed() != generators.default(1).initial_seed()


def test_a_negative_seed_is_what_torch_makes_of_it(generators: Generators, stream: Stream) -> None:
    stream.opened = True
    generators.make(0).manual_seed(-2)
    assert stream.recorded[-1] == ("avec::seed", (random.FIRST_OWN, (1 << 64) - 2))


@pytest.mark.parametrize("nbytes", [0, 8, 17, 5056])
def test_a_gpus_state_has_sixteen_bytes(generators: Generators, stream: Stream, nbytes: int) -> None:
    stream.opened = True
    with pytest.raises(RuntimeError, match="RNG state is wrong size"):
        generators.make(0).set_state(torch.zeros(nbytes, dtype=torch.uint8))


def test_a_state_is_no_list(generators: Generators) -> None:
    for state in ([0] * 16, torch.zeros(16)):
        with pytest.raises(TypeError, match=r"RNG state must be a torch\.ByteTensor"):
            generators.make(0).set_state(state)  # type: ignore[arg-type]


def test_there_is_no_generator_on_an_accelerator_that_is_not_there(generators: Generators) -> None:
    with pytest.raises(RuntimeError, match="cuda:2: there are 2 devices"):
        generators.make(2)
