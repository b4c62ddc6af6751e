"""Random number generators of the destination: torch.Generator("cuda"), torch.cuda's seeds and states.

The numbers themselves are made at the destination, by its own generators. Here is what a program holds: an object that
torch's C++ code takes for a generator (it is one of the CPU's, which nobody draws from) and that knows the handle of
its counterpart. Its seed is kept on the host too, so that seeding and asking for the seed wait for nothing. Default
generators may be seeded before there is a session: they are seeded anew whenever one opens.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, overload

import numpy as np
import torch
import torch.utils.checkpoint

from avec.errors import UnsupportedOperation
from avec.protocol.torch import DeviceArg, GeneratorArg, GeneratorState, IntArg, Template
from avec.tensor import Array

if TYPE_CHECKING:
    from avec.interception.patching import Patches

    from .recording import Recording

Native = torch._C.Generator
_NativeType: Any = type(Native)  # a class of torch's own in some versions
Device = int | str | torch.device
T = TypeVar("T")

FIRST_OWN = 256  # handles below it are the accelerators' default generators
_SEED = Template("avec::seed", (GeneratorArg(0), IntArg(1)), {}, 2, 0)
_SET_STATE = Template("avec::set_generator", (GeneratorArg(0),), {}, 1, 0)
_COPY_STATE = Template("avec::copy_generator", (GeneratorArg(0), GeneratorArg(1)), {}, 2, 0)
_WORD = 8
_STATE_NBYTES = 16  # of a CUDA generator's state: its seed, then the offset; the CPU's begins with its seed, too

_CUDA = 1  # c10::DeviceType
_CPU_BYTES = b"\x00\xff"  # c10::Device{CPU, −1}
_SEARCHED_NBYTES = 128  # of a GeneratorImpl, which is larger than that


class CudaGenerator(Native):
    """A generator of the destination's. Made by `Generators`."""

    avec_handle: int
    avec_generators: Generators

    @property
    def _is_default(self) -> bool:
        return self.avec_handle < FIRST_OWN

    def manual_seed(self, seed: int) -> CudaGenerator:
        super().manual_seed(seed)  # checks it, and keeps it for `initial_seed`
        self.avec_generators.seed(self)
        return self

    def seed(self) -> int:
        seed = super().seed()
        self.avec_generators.seed(self)
        return seed

    def get_state(self) -> torch.Tensor:
        return torch.from_numpy(self.avec_generators.state(self).copy())

    def set_state(self, new_state: torch.Tensor) -> CudaGenerator:
        if not isinstance(new_state, torch.Tensor) or new_state.dtype is not torch.uint8 or new_state.is_cuda:
            raise TypeError("RNG state must be a torch.ByteTensor")
        state = new_state.detach().contiguous().view(-1).numpy().copy()
        super().manual_seed(self.avec_generators.set_state(self, state))
        return self

    def get_offset(self) -> int:
        return int(self._words()[1])

    def set_offset(self, offset: int) -> CudaGenerator:
        words = self._words()
        words[1] = offset
        return self.set_state(torch.from_numpy(words.view(np.uint8)))

    def clone_state(self) -> CudaGenerator:
        return self.avec_generators.copy(self)

    def graphsafe_get_state(self) -> CudaGenerator:
        return self.clone_state()

    def graphsafe_set_state(self, new_state: torch.Generator) -> CudaGenerator:
        if not isinstance(new_state, CudaGenerator):
            return self.set_state(new_state.get_state())
        self.avec_generators.copy_state(self, new_state)
        return self

    def __reduce__(self) -> tuple[type[torch.Generator], tuple[torch.device], tuple[int, int | None, torch.Tensor]]:
        return torch.Generator, (self.device,), (self.initial_seed(), None, self.get_state())

    def __setstate__(self, state: tuple[int, int | None, torch.Tensor]) -> None:
        self.set_state(state[2])

    def _words(self) -> Array:
        state = self.get_state().numpy()
        if state.nbytes != _STATE_NBYTES:
            raise RuntimeError("CPU Generator does not use offset")  # as torch says, of a destination without GPU
        return state.view(np.uint64)


# What a program sees of them.
CudaGenerator.__name__ = CudaGenerator.__qualname__ = "Generator"
CudaGenerator.__module__ = Native.__module__


class _GeneratorType(_NativeType):  # type: ignore[misc]
    """Makes torch.Generator stand for all generators, of which some are made by torch and some here.

    A class that is called and asked `isinstance` by programs, and whose instances torch's C++ code makes as well, has
    no other way to do both.
    """

    avec_generators: Generators

    def __call__(cls, device: Device | None = None) -> torch.Generator:
        if device is not None and (wanted := torch.device(device)).type == "cuda":
            return cls.avec_generators.make(torch.cuda.current_device() if wanted.index is None else wanted.index)
        return Native() if device is None else Native(device)

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, Native)

    def __subclasscheck__(cls, subclass: type) -> bool:
        return issubclass(subclass, Native)


class Generators:
    """All generators of the destination's that this process knows. Thread-safe."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._lock = threading.Lock()  # nothing is recorded while it is held: whoever opens a session comes here, too
        self._handles: dict[int, int] = {}  # by the address of torch's C++ object
        self._free: list[int] = []  # handles of generators that died
        self._next = FIRST_OWN
        self._defaults: list[CudaGenerator] = []
        self._states: dict[int, Array] = {}  # of default generators, set before there was a session
        self._thread = threading.local()
        self._seedings: Counter[int] = Counter()  # by handle
        self._all_seed: int | None = None  # for default generators that are not known yet

    def handle(self, generator: torch.Generator) -> int | None:
        """The destination's handle of a generator; None for one of the host's own.

        torch passes a new Python object for the same C++ one, so a generator is known by the latter's address.
        """
        return self._handles.get(_address(generator))

    def make(self, index: int) -> CudaGenerator:
        """Make a generator on an accelerator, seeded as torch seeds new ones."""
        count = len(self._recording.destination.devices)
        if not 0 <= index < count:
            raise RuntimeError(f"Generator of cuda:{index}: there are {count} devices, numbered from 0")
        with self._lock:
            handle = self._free.pop() if self._free else self._next
            self._next = max(self._next, handle + 1)
        generator = self._new(handle, index)
        template = Template("avec::new_generator", (IntArg(0), DeviceArg(index)), {}, 1, 0)
        self._recording.record(self._recording.template(template), (handle,))
        weakref.finalize(generator, self._forget, _address(generator), handle).atexit = False
        return generator

    def default(self, index: int) -> CudaGenerator:
        """The default generator of an accelerator, whether there is a session or not."""
        with self._lock:
            while len(self._defaults) <= index:
                generator = self._new(len(self._defaults), len(self._defaults))
                if self._all_seed is None:
                    Native.seed(generator)  # torch's default generators begin with a random seed
                else:
                    Native.manual_seed(generator, self._all_seed)
                self._defaults.append(generator)
            return self._defaults[index]

    def seed_all(self, seed: int) -> None:
        """Seed the default generators of all accelerators."""
        self._all_seed = seed
        for index in range(len(self._recording.destination.devices) if self._usable else len(self._defaults)):
            self.default(index).manual_seed(seed)

    def seed(self, generator: CudaGenerator) -> None:
        """Begin a generator's numbers anew with the seed that it has on the host."""
        self._states.pop(generator.avec_handle, None)
        self._seedings[generator.avec_handle] += 1
        if self._usable:
            numbers = (generator.avec_handle, generator.initial_seed())
            self._recording.record(self._recording.template(_SEED), numbers)

    def seeding(self, index: int) -> int:
        """How many times the default generator of an accelerator was seeded."""
        return self._seedings[self.default(index).avec_handle]

    def state(self, generator: CudaGenerator) -> Array:
        """Ask the destination for a generator's state; waits."""
        _ = self._recording.destination  # opens the session, which seeds the default generators
        request = self._recording.request(GeneratorState(0, generator.avec_handle))
        state: Array = self._recording.wait(request).arrays[0]
        return state

    def copy(self, generator: CudaGenerator) -> CudaGenerator:
        """Make a generator with the state that another has now, without waiting for that state."""
        copy = self.make(generator.device.index)
        self.copy_state(copy, generator)
        return copy

    def copy_state(self, generator: CudaGenerator, source: CudaGenerator) -> None:
        """Give a generator the state that another has now, likewise."""
        _ = self._recording.destination
        Native.manual_seed(generator, source.initial_seed())
        numbers = (generator.avec_handle, source.avec_handle)
        self._recording.record(self._recording.template(_COPY_STATE), numbers)

    def set_state(self, generator: CudaGenerator, state: Array) -> int:
        """Give a generator a state; returns the seed in it.

        Raises:
            RuntimeError: it cannot be a generator's state.
        """
        on_gpu = not self._usable or self._recording.destination.devices[0].kind == "cuda"
        if state.nbytes < _STATE_NBYTES or self._usable and on_gpu is not (state.nbytes == _STATE_NBYTES):
            raise RuntimeError("RNG state is wrong size")
        if self._usable:
            self._send_state(generator.avec_handle, state)
        else:
            self._states[generator.avec_handle] = state
        return int(state[:_WORD].view(np.uint64)[0])

    def after_fork(self) -> None:
        """In a forked child: a thread that is not there may have held the lock."""
        self._lock = threading.Lock()

    def on_open(self) -> None:
        """A session was opened: its default generators become what the host's program has made of them."""
        for index in range(len(self._recording.destination.devices)):
            generator = self.default(index)
            state = self._states.pop(index, None)
            if state is None:
                self.seed(generator)
            else:
                self._send_state(index, state)

    @property
    def keeping(self) -> bool:
        """Whether this thread asks for states within `keep`."""
        return getattr(self._thread, "keeping", False)

    @contextlib.contextmanager
    def keep(self) -> Iterator[None]:
        """Let get_rng_state give generators in place of states, for callers who only give them to set_rng_state.

        A state has to be waited for. Checkpoints of activations ask for one in every step.
        """
        before, self._thread.keeping = self.keeping, True
        try:
            yield
        finally:
            self._thread.keeping = before

    @property
    def _usable(self) -> bool:
        return self._recording.opened and not self._recording.inherited

    def _send_state(self, handle: int, state: Array) -> None:
        self._recording.upload(self._recording.template(_SET_STATE), (handle,), state, borrowed=False)

    def _new(self, handle: int, index: int) -> CudaGenerator:
        generator = CudaGenerator("cpu")
        generator.avec_handle, generator.avec_generators = handle, self
        _place_on(generator, index)
        self._handles[_address(generator)] = handle
        return generator

    def _forget(self, address: int, handle: int) -> None:
        del self._handles[address]
        self._free.append(handle)


class _DefaultGenerators(Sequence[CudaGenerator]):
    """torch.cuda.default_generators; how many they are is asked of the destination when a program asks."""

    def __init__(self, generators: Generators, count: Callable[[], int]) -> None:
        self._generators = generators
        self._count = count

    def __len__(self) -> int:
        return self._count()

    @overload
    def __getitem__(self, index: int) -> CudaGenerator: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[CudaGenerator]: ...
    def __getitem__(self, index: int | slice) -> CudaGenerator | Sequence[CudaGenerator]:
        places = range(self._count())[index]
        if isinstance(places, range):
            return tuple(self._generators.default(place) for place in places)
        return self._generators.default(places)

    def __iter__(self) -> Iterator[CudaGenerator]:
        return (self._generators.default(place) for place in range(self._count()))


def _address(generator: Any) -> int:
    """Where torch's C++ object is."""
    address: int = generator._cdata
    return address


def _place_on(generator: torch.Generator, index: int) -> None:
    """Let torch's C++ code see a generator on an accelerator, so that the CPU's operators refuse it.

    Its device is found by its value, and the change by asking torch. Source: c10/core/GeneratorImpl.h, device_.
    """
    address = _address(generator)
    memory = ctypes.string_at(address, _SEARCHED_NBYTES)
    places = (place for place in range(_WORD, _SEARCHED_NBYTES, 2) if memory[place : place + 2] == _CPU_BYTES)
    for place in places:  # the first: before it are counts and a mutex, behind it the state
        ctypes.memmove(address + place, bytes((_CUDA, index)), 2)
        if generator.device == torch.device("cuda", index):
            return
        ctypes.memmove(address + place, _CPU_BYTES, 2)
        break
    raise UnsupportedOperation(
        f"torch {torch.__version__} lays its random number generators out in a way that AVEC does not know; AVEC was"
        " tested with torch 2.11 to 2.15"
    )


def patch(patches: Patches, recording: Recording, generators: Generators) -> None:
    """Put the destination's generators under torch.Generator and torch.cuda."""
    recording.on_open.append(generators.on_open)
    os.register_at_fork(after_in_child=generators.after_fork)
    namespace = {"avec_generators": generators, "__module__": "torch", "__doc__": Native.__doc__}
    patches.replace(torch, "Generator", lambda original: _GeneratorType("Generator", (Native,), namespace))
    defaults = _DefaultGenerators(generators, lambda: len(recording.destination.devices))
    patches.replace(torch.cuda, "default_generators", lambda original: defaults)
    for name, function in _surface(generators).items():
        for module in (torch.cuda, torch.cuda.random):
            patches.replace(module, name, lambda original, function=function: functools.wraps(original)(function))
    patches.replace(torch.utils.checkpoint, "get_device_states", lambda original: _keeping(generators, original))
    patches.replace(torch.random, "fork_rng", lambda original: _forking(generators, original))


def _keeping(generators: Generators, original: Callable[..., T]) -> Callable[..., T]:
    @functools.wraps(original)
    def get_device_states(*args: object) -> T:
        with generators.keep():
            return original(*args)

    return get_device_states


def _forking(
    generators: Generators, original: Callable[..., contextlib.AbstractContextManager[None]]
) -> Callable[..., contextlib.AbstractContextManager[None]]:
    @contextlib.contextmanager
    @functools.wraps(original)
    def fork_rng(*args: object, **kwargs: object) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            with generators.keep():
                stack.enter_context(original(*args, **kwargs))
            yield

    return fork_rng


def _surface(generators: Generators) -> dict[str, Callable[..., object]]:
    """The functions of torch.cuda.random that must not open a session, by name."""

    def current() -> int:
        return int(torch._C._cuda_getDevice())  # torch.cuda.current_device() would open one

    def index_of(device: Device) -> int:
        device = torch.device("cuda", device) if isinstance(device, int) else torch.device(device)
        return current() if device.index is None else device.index

    def manual_seed(seed: int) -> None:
        generators.default(current()).manual_seed(int(seed))

    def manual_seed_all(seed: int) -> None:
        generators.seed_all(int(seed))

    def seed() -> None:
        generators.default(current()).seed()

    def seed_all() -> None:
        generators.seed_all(Native.seed(Native()))

    def initial_seed() -> int:
        return generators.default(current()).initial_seed()

    def get_rng_state(device: Device = "cuda") -> torch.Tensor | CudaGenerator:
        generator = generators.default(index_of(device))
        return generator.clone_state() if generators.keeping else generator.get_state()

    def set_rng_state(new_state: torch.Tensor | CudaGenerator, device: Device = "cuda") -> None:
        generator = generators.default(index_of(device))
        if isinstance(new_state, CudaGenerator):  # kept by one of torch's own functions
            generator.graphsafe_set_state(new_state)
        else:
            generator.set_state(new_state)

    def set_rng_state_all(new_states: Iterable[torch.Tensor]) -> None:
        for index, state in enumerate(new_states):
            set_rng_state(state, index)

    return {
        function.__name__: function
        for function in (
            manual_seed, manual_seed_all, seed, seed_all, initial_seed, get_rng_state, set_rng_state, set_rng_state_all
        )
    }  # fmt: skip
