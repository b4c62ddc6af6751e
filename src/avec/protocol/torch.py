"""What the PyTorch front-end and the torch executor say to each other in `Load.body`, `Run.body` and `Result.body`.

A session's torch work is one *stream* of operators in strict order. An operator is described once, by a Template;
afterwards it is a few numbers in the stream: the template's number, its input numbers, its output addresses. Tensors
are named by *address*, as in a GPU's memory: the host gives each storage a place, and a view of it is an address in
between with a shape and a stride. The destination never takes an address for a pointer: it looks it up.

    stream   u64 …   template, inputs (Template.numbers of them), outputs (one address each; 0 for one without memory)
    floats   f64 …   what templates take as floats, in the stream's order

Not here: which operators there are, or how either end keeps its tensors.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from typing import TypeAlias

import msgspec

FORMAT = "torch"

# An address is a storage's number in the upper bits and a place in it in the lower ones. A storage begins at ORIGIN,
# not at 0, so that the lower half of its address is never 0.
OFFSET_BITS = 40  # storages of up to 1 TiB
ORIGIN = 512
FIRST_STORAGE = 1 << 16  # addresses from 2**56 on: no address of the host's own memory is that high
LAST_STORAGE = (1 << 24) - 1
FIRST_ADDRESS = FIRST_STORAGE << OFFSET_BITS
OFFSET_MASK = (1 << OFFSET_BITS) - 1

HOST = -1  # in place of an accelerator's number: the destination's own host memory

# The first number of an entry in the stream that is no template's.
FREE = 0  # then an address: the storage is no longer used
BIND = 1  # then a place and an address: that result of the last Evaluate answer gets this address
FIRST_TEMPLATE = 16

# Parts of a Batch, in this order; after them the payloads of avec::upload, in the stream's order. Where none follow,
# empty parts at the end are left out.
STREAM_PART, FLOATS_PART, TEMPLATES_PART, FIRST_PAYLOAD_PART = 0, 1, 2, 3

# What one batch may read ahead: so many tensors, each of so many bytes.
AHEAD_LIMIT = 15
AHEAD_NBYTES = 1 << 20

# How an error says where in a batch's stream its operator stood; the host knows by it what the program did there.
PLACE_TEXT = "at number {} of its stream"
PLACE = re.compile(PLACE_TEXT.format(r"(\d+)"))


class TensorMeta(msgspec.Struct, frozen=True, array_like=True):
    """What a tensor is, without its place: `dtype` as torch writes it ("float32"), sizes and strides in elements."""

    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    device: int = 0  # which of the destination's accelerators

    @property
    def span(self) -> int:
        """Elements from the first to the last that it can reach; 0 when it has none."""
        if 0 in self.shape:
            return 0
        return 1 + sum((size - 1) * stride for size, stride in zip(self.shape, self.stride, strict=True))

    @property
    def numel(self) -> int:
        """How many elements it has."""
        return math.prod(self.shape)


# The arguments of an operator. Plain values (None, bool, int, float, str) stand for themselves.


class TensorArg(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """A tensor whose address is input number `place`; `conj` and `neg` are torch's lazy bits on it."""

    place: int
    meta: TensorMeta
    conj: bool = False
    neg: bool = False


class FloatArg(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """A float: number `place` among the template's floats."""

    place: int


class IntArg(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """An integer: input number `place`, in two's complement."""

    place: int


class HostScalarArg(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """A tensor of no dimension in the host's memory, which torch lets take part; input number `place` is its bits."""

    place: int
    dtype: str


class GeneratorArg(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """A random number generator: input number `place` is its handle."""

    place: int


class DTypeArg(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """A torch.dtype, "float32"."""

    name: str


class DeviceArg(msgspec.Struct, frozen=True, array_like=True, tag=7):
    """One of the destination's accelerators; −1: the destination's own host memory ("cpu" in the application)."""

    index: int


class LayoutArg(msgspec.Struct, frozen=True, array_like=True, tag=8):
    """A torch.layout, "strided"."""

    name: str


class MemoryFormatArg(msgspec.Struct, frozen=True, array_like=True, tag=9):
    """A torch.memory_format, "channels_last"."""

    name: str


class ComplexArg(msgspec.Struct, frozen=True, array_like=True, tag=10):
    """A complex constant."""

    real: float
    imag: float


class ListArg(msgspec.Struct, frozen=True, array_like=True, tag=11):
    """A list of arguments."""

    items: tuple[Arg, ...]


Arg: TypeAlias = (
    None
    | bool
    | int
    | float
    | str
    | TensorArg
    | FloatArg
    | IntArg
    | HostScalarArg
    | GeneratorArg
    | DTypeArg
    | DeviceArg
    | LayoutArg
    | MemoryFormatArg
    | ComplexArg
    | ListArg
)


class Template(msgspec.Struct, frozen=True, array_like=True):
    """One operator with all that does not vary. Templates are numbered from FIRST_TEMPLATE on, in the order sent.

    `operator` is a name of torch's with its overload, "aten::add.Tensor", or one of the executor's own, "avec::…":

        avec::upload(target)              the next payload part, of the meta in `outputs[0]`, is copied into `target`;
                                          no address of an output follows in the stream
        avec::upload_file(target, i)      the same, from the model file with the role str(i)
        avec::receive()                   the next payload part becomes a new tensor, the only output; its device may
                                          be −1, the destination's own host memory, for operators that want it there
        avec::seed(generator, i)          begin a generator's numbers anew with seed i
        avec::new_generator(i, device)    make the generator that handle i names
        avec::set_generator(generator)    the next payload part is a generator's state
        avec::copy_generator(generator, source)   give a generator the state that `source` has now
        avec::flag(name, value)           one of torch.backends' settings, "cudnn.deterministic"
        avec::record_event(i, device)     note the time now, on the accelerator, as event i
        avec::sdp_choice(query, key, value, mask, dropout, causal, scale, gqa, gradients, order)
                                          which kernel torch would choose; answered by Evaluated: an int
        avec::sleep(cycles, device)       keep the accelerator busy. Source: torch.cuda._sleep
        avec::call_graph(i, input…)       call the graph that came as LoadGraph i; its results are the outputs
        avec::forget_graph(i)             graph i will not be called again
        avec::launch_kernel(i, …)         launch the kernel that came as LoadKernel i; see protocol/torch_triton
    """

    operator: str
    args: tuple[Arg, ...]
    kwargs: dict[str, Arg]
    numbers: int  # inputs from the stream
    floats: int
    # What the results have to be, with None for those that are no tensors; None in place of all: they depend on data,
    # and the entry is the last of its batch, answered by Evaluated.
    outputs: tuple[TensorMeta | None, ...] | None = ()

    @property
    def addresses(self) -> int:
        """How many addresses of results follow in the stream."""
        makes = not self.operator.startswith("avec::") or self.operator in MAKING
        return len(self.outputs or ()) if makes else 0


# The executor's own operators whose results are new tensors.
MAKING = frozenset({"avec::receive", "avec::call_graph"})


def all_args(template: Template) -> Iterator[Arg]:
    """All arguments of a template; lists unfolded."""
    return listed((*template.args, *template.kwargs.values()))


def listed(args: Iterable[Arg]) -> Iterator[Arg]:
    """Some arguments; lists unfolded."""
    waiting = [*args]
    while waiting:
        arg = waiting.pop(0)
        if isinstance(arg, ListArg):
            waiting[:0] = arg.items
        else:
            yield arg


class Open(msgspec.Struct, frozen=True, array_like=True):
    """Load.body: begin the session's stream. The answer's body is Opened."""

    version: str  # the host's torch


class Device(msgspec.Struct, frozen=True, array_like=True):
    """One accelerator. Source: torch.cuda.get_device_properties; for a CPU, what comes nearest."""

    kind: str  # "cuda" or "cpu"
    name: str
    total_memory: int
    major: int
    minor: int
    multi_processor_count: int
    properties: dict[str, int | str] = {}  # the others


class Opened(msgspec.Struct, frozen=True, array_like=True):
    """The answer to Open: what the destination's torch can do."""

    version: str  # its torch
    devices: tuple[Device, ...]
    cuda: str = ""  # torch.version.cuda; empty where the accelerator is a CPU
    cudnn: int = 0  # torch.backends.cudnn.version(); 0 without
    architectures: tuple[str, ...] = ()
    nccl: tuple[int, ...] = ()
    sdp_order: tuple[int, ...] = ()  # which kernels of attention it prefers. Source: torch._C._get_sdp_priority_order


class Read(msgspec.Struct, frozen=True, array_like=True):
    """Send a tensor's elements back, in C order: a part of the answer, uint8."""

    address: int
    meta: TensorMeta
    conj: bool = False
    neg: bool = False


class Batch(msgspec.Struct, frozen=True, array_like=True, tag="batch"):
    """Carry out a stretch of the stream. Answered by an empty body, or Evaluated; or Skipped.

    After a failure nothing more takes effect, FREE apart, until a batch comes with a higher epoch: the host has raised
    the error then, and what it had sent before it knew is answered by Skipped.
    """

    epoch: int
    read: Read | None = None  # what to send back afterwards
    ahead: tuple[Read, ...] = ()  # the same, for which nobody has asked yet: empty parts for what cannot be read
    first_template: int = FIRST_TEMPLATE  # the number of the first one that comes with this batch
    forget: bool = False  # first of all: forget all templates and traces that came before
    forget_traces: bool = False  # first of all: forget all traces
    # The trace that this stretch is; 0: none. It comes once with its numbers, which are kept whether it is carried out
    # or not. When it is repeated, the stream part has the names of its storages in the order in which they first
    # appear in it, as u64; none if they are the same. Floats and payloads come with it each time.
    trace: int = 0
    repeat: bool = False


class Synchronize(msgspec.Struct, frozen=True, array_like=True, tag="synchronize"):
    """Answer when an accelerator has done all that was asked of it. Source: torch.cuda.synchronize."""

    epoch: int
    device: int = 0


class MemoryStatistics(msgspec.Struct, frozen=True, array_like=True, tag="memory"):
    """Answered by Memory. Source: torch.cuda.memory_stats, mem_get_info."""

    epoch: int
    device: int = 0
    reset_peak: bool = False
    empty_cache: bool = False


class GeneratorState(msgspec.Struct, frozen=True, array_like=True, tag="generator"):
    """Send a generator's state back: part 0, uint8. Source: torch.Generator.get_state."""

    epoch: int
    generator: int


class ElapsedTime(msgspec.Struct, frozen=True, array_like=True, tag="elapsed"):
    """Answered by Elapsed: the time between two events. Source: torch.cuda.Event.elapsed_time."""

    epoch: int
    start: int
    end: int


class LoadGraph(msgspec.Struct, frozen=True, array_like=True, tag="graph"):
    """Keep a graph for avec::call_graph, whatever has failed before: part 0, uint8, as in protocol/torch_graph."""

    epoch: int
    number: int  # higher than any before


class LoadKernel(msgspec.Struct, frozen=True, array_like=True, tag="kernel"):
    """Keep a kernel for avec::launch_kernel, whatever has failed before: part 0, uint8, as in protocol/torch_triton."""

    epoch: int
    number: int


class Save(msgspec.Struct, frozen=True, array_like=True, tag="save"):
    """Send the stream's state back: part 0, uint8, is Saved; part 1 the bytes of its storages, one after the other.

    Answered by Skipped where an operator has failed, or results wait for addresses; by TooLarge where it is that.
    """

    epoch: int
    limit_nbytes: int


class SavedStorage(msgspec.Struct, frozen=True, array_like=True):
    """One storage: the tensor that it was made for, and all its bytes."""

    address: int
    meta: TensorMeta
    nbytes: int
    beside: bool = False  # it is in host memory, although its meta says otherwise


class SavedGenerator(msgspec.Struct, frozen=True, array_like=True):
    """One random number generator."""

    number: int
    device: int
    state: bytes


class Saved(msgspec.Struct, frozen=True, array_like=True):
    """What a stream has apart from what its host can describe again."""

    storages: tuple[SavedStorage, ...]
    generators: tuple[SavedGenerator, ...]
    settings: tuple[tuple[str, bool | int | str], ...]
    events: tuple[tuple[int, int], ...]  # numbers and devices; their times are not kept


class Described(msgspec.Struct, frozen=True, array_like=True):
    """What a host has described to a stream: templates and traces by their numbers."""

    templates: tuple[tuple[int, Template], ...]
    traces: tuple[tuple[int, bytes, bytes], ...]  # with the numbers and floats that they came with


class Restore(msgspec.Struct, frozen=True, array_like=True, tag="restore"):
    """Give a stream that has just been opened the state of another: parts as Save gave them, then Described, uint8."""

    epoch: int


Request: TypeAlias = (
    Batch | Synchronize | MemoryStatistics | GeneratorState | ElapsedTime | LoadGraph | LoadKernel | Save | Restore
)


class Evaluated(msgspec.Struct, frozen=True, array_like=True, tag="evaluated"):
    """The results of an operator whose shapes depend on data: tensors wait for BIND, plain values are here."""

    results: tuple[EvaluatedValue, ...]
    sequence: bool = False  # the operator gave one list, not so many results


class EvaluatedValue(msgspec.Struct, frozen=True, array_like=True):
    """One result: a tensor's meta or a plain value."""

    meta: TensorMeta | None = None
    value: None | bool | int | float | str = None


class Skipped(msgspec.Struct, frozen=True, array_like=True, tag="skipped"):
    """Not carried out: an earlier request failed, and its error is on the way."""


class Memory(msgspec.Struct, frozen=True, array_like=True, tag="memory"):
    """An accelerator's memory in bytes, and this session's statistics as torch.cuda.memory_stats names them."""

    free: int
    total: int
    statistics: dict[str, int]


class Elapsed(msgspec.Struct, frozen=True, array_like=True, tag="elapsed"):
    """Milliseconds."""

    milliseconds: float


class TooLarge(msgspec.Struct, frozen=True, array_like=True, tag="too_large"):
    """The state is larger than the host will keep."""

    nbytes: int


Answer: TypeAlias = Evaluated | Skipped | Memory | Elapsed | TooLarge
