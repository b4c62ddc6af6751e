"""Random number generators by the host's numbers for them. An accelerator's default one has its number."""

from __future__ import annotations

import torch

from avec.destination.executors.torch.devices import Devices
from avec.errors import InvalidArgument
from avec.tensor import Array

FIRST_OWN = 256  # below it are the accelerators' default generators
LIMIT = 1 << 16


class Generators:
    """All generators of a session."""

    def __init__(self, devices: Devices) -> None:
        self._devices = devices
        if devices.cuda:
            torch.cuda.init()  # type: ignore[no-untyped-call]  # the default generators are made with the contexts
            defaults = list(torch.cuda.default_generators)
        else:
            defaults = [torch.default_generator, *(torch.Generator() for _ in range(len(devices) - 1))]
        self._generators: dict[int, torch.Generator] = dict(enumerate(defaults))
        self._on: dict[int, int] = {number: number for number in self._generators}  # their devices

    def find(self, number: int) -> torch.Generator:
        """The generator of a number."""
        generator = self._generators.get(number)
        if generator is None:
            raise InvalidArgument(f"there is no random number generator {number}")
        return generator

    def make(self, number: int, device: int) -> None:
        """Make a generator, in place of one that had the number before."""
        if number < FIRST_OWN or len(self._generators) >= LIMIT and number not in self._generators:
            raise InvalidArgument(
                f"a new generator numbered {number}, beside {len(self._generators)} others: numbers begin at "
                f"{FIRST_OWN}, and {LIMIT} generators are the limit"
            )
        self._generators[number] = torch.Generator(self._devices.device(device))
        self._on[number] = device

    def states(self) -> list[tuple[int, int, bytes]]:
        """All generators: number, device and state."""
        return [(number, self._on[number], self.state(number).tobytes()) for number in self._generators]

    def restore(self, number: int, device: int, state: Array) -> None:
        """Give a generator, made if need be, the state of one that was saved."""
        if number not in self._generators:
            self.make(number, device)
        self.set_state(self.find(number), state)

    def state(self, number: int) -> Array:
        """A generator's state, uint8. Source: torch.Generator.get_state."""
        state: Array = self.find(number).get_state().numpy()
        return state

    @staticmethod
    def set_state(generator: torch.Generator, state: Array) -> None:
        """Give a generator the state of another of its kind."""
        try:
            generator.set_state(torch.frombuffer(bytearray(state.tobytes()), dtype=torch.uint8))
        except (RuntimeError, TypeError, ValueError) as exc:
            raise InvalidArgument(f"a generator's state of {state.nbytes} bytes: {exc}") from exc

    @staticmethod
    def copy_state(generator: torch.Generator, source: torch.Generator) -> None:
        """Give a generator the state that another has now."""
        try:
            generator.set_state(source.get_state())
        except (RuntimeError, TypeError, ValueError) as exc:
            raise InvalidArgument(
                f"the state of a generator on {source.device}, for one on {generator.device}: {exc}"
            ) from exc

    def close(self) -> None:
        """Forget all."""
        self._generators.clear()
