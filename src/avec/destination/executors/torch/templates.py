"""From a Template to a Python function that carries its operator out with the next numbers of the stream.

Each template is written as source once and compiled: its constants and its operator are bound in the function's
environment, and of the peer's text nothing gets into the source. What a call costs beside the operator is one look-up
for each tensor and one check for each result. Not here: the stream (`model`), own operators (`own_operators`).
"""

from __future__ import annotations

import functools
import keyword
import struct
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field
from types import CodeType

import torch
from torch import Tensor

from avec.destination.executors.torch.constants import constant_of
from avec.destination.executors.torch.devices import Devices
from avec.destination.executors.torch.generators import Generators
from avec.destination.executors.torch.operators import Operator, resolve, scalar_overload
from avec.destination.executors.torch.own_operators import OWN_OPERATORS, Surroundings
from avec.destination.executors.torch.quirks import QUIRKS, STAND_INS
from avec.destination.executors.torch.seeds import SEEDED
from avec.destination.executors.torch.storages import Layout, Memory, named_dtype
from avec.errors import ExecutionError, InvalidArgument, UnsupportedOperation
from avec.protocol.torch import (
    HOST,
    Arg,
    ComplexArg,
    DeviceArg,
    DTypeArg,
    FloatArg,
    GeneratorArg,
    HostScalarArg,
    IntArg,
    LayoutArg,
    ListArg,
    MemoryFormatArg,
    Template,
    TensorArg,
)

SOURCES_LIMIT = 4096  # compiled sources that are kept
INPUTS_LIMIT = 1 << 16  # of one operator: a fused optimizer takes some for each parameter of a net

# numbers, the entry's place in them, floats, the place of the entry's floats in them
CarryOut = Callable[[list[int], int, list[float], int], None]
Hold = Callable[[object, int], None]


@dataclass(slots=True)
class Entry:
    """A template as the stream needs it: how far it reaches, and what carries it out, compiled at its first use."""

    template: Template
    width: int  # numbers in the stream, its own included
    floats: int
    carry_out: CarryOut | None = None


def entry_of(template: Template) -> Entry:
    """Take a template in.

    Raises:
        InvalidArgument: its counts make no sense.
    """
    if not (0 <= template.numbers <= INPUTS_LIMIT and 0 <= template.floats <= INPUTS_LIMIT):
        raise InvalidArgument(
            f"{template.operator} takes {template.numbers} numbers and {template.floats} floats; "
            f"0 to {INPUTS_LIMIT} are possible"
        )
    return Entry(template, 1 + template.numbers + template.addresses, template.floats)


class Compiler:
    """Compiles a session's templates."""

    def __init__(
        self,
        memory: Memory,
        devices: Devices,
        generators: Generators,
        surroundings: Surroundings,
        hold: Hold,
        host_version: str,
    ) -> None:
        """Prepare to compile.

        Args:
            surroundings: what the executor's own operators work on.
            hold: takes the results of an operator whose shapes depend on data, and the accelerator that it ran on.
        """
        self.memory = memory
        self.devices = devices
        self.generators = generators
        self._surroundings = surroundings
        self._hold = hold
        self._host_version = host_version

    def compile(self, entry: Entry) -> CarryOut:
        """Write a template's function.

        Raises:
            UnsupportedOperation: its operator is unknown here, or not for hosts.
            InvalidArgument: the template contradicts itself.
        """
        source = _Source(self, entry.template)
        if entry.template.operator in OWN_OPERATORS:
            return self._compile_own(entry, source)
        operator = resolve(entry.template.operator, self._host_version)
        scalars = _scalars(operator, entry.template)
        if scalars:
            overload = scalar_overload(operator, scalars)
            operator, scalars = (operator, scalars) if overload is None else (overload, frozenset())
        call = source.call(operator.names, scalars)
        source.environment["operator"] = self._callable(operator)
        if entry.template.outputs is None:
            source.environment["hold"] = self._hold
            return source.function(f"hold({call}, {source.device})")
        return source.function(*self._keeping(call, entry.template, operator, source))

    def _callable(self, operator: Operator) -> object:
        if self.devices.cuda:
            return SEEDED.get(operator.name) or operator.call
        return STAND_INS.get(operator.name) or operator.call

    def _compile_own(self, entry: Entry, source: _Source) -> CarryOut:
        template = entry.template
        own = OWN_OPERATORS[template.operator]
        if own.answers is not (template.outputs is None) or template.kwargs:
            raise InvalidArgument(f"{template.operator} has no named arguments, and results that are known")
        source.own = True
        if template.outputs is None:
            call = source.call()
            source.environment["operator"] = functools.partial(own.function, self._surroundings, ())
            source.environment["hold"] = self._hold
            return source.function(f"hold({call}, {source.device})")
        layouts = [None if meta is None else self.memory.layout(meta) for meta in template.outputs]
        needed = len(layouts) if own.outputs is None else own.outputs
        if not needed == len(layouts) - layouts.count(None) == len(layouts):
            raise InvalidArgument(f"{template.operator} with {len(layouts)} outputs; {needed} are needed")
        if own.check is not None:
            own.check(self._surroundings, template.args)
        call = source.call()
        source.environment["operator"] = functools.partial(own.function, self._surroundings, layouts)
        if not own.makes:
            return source.function(call)
        if own.outputs == 1:
            return source.function(f"r = {call}", *source.kept(0, "r", layouts[0]))
        kept = [line for place, layout in enumerate(layouts) for line in source.kept(place, f"r[{place}]", layout)]
        return source.function(f"r = {call}", *kept)

    def _keeping(self, call: str, template: Template, operator: Operator, source: _Source) -> list[str]:
        """The lines that call an operator and bind its results."""
        layouts = [None if meta is None else self.memory.layout(meta) for meta in template.outputs or ()]
        if not any(layouts):
            return [call]
        quirk = None if self.devices.cuda else QUIRKS.get(operator.name)
        direct = operator.results == len(layouts)
        if direct and len(layouts) == 1 and quirk is None:
            return [f"r = {call}", *source.kept(0, "r", layouts[0])]
        lines = [f"r = {call}"]
        if not direct:
            source.environment["flattened"] = _flattened
            lines.append(f"r = flattened(r, {len(layouts)})")
        if quirk is not None:
            source.environment.update(quirk=quirk, predicted=layouts)
            lines.append("r = quirk(r, predicted)")
        for place, layout in enumerate(layouts):
            lines += source.kept(place, f"r[{place}]", layout)
        return lines


@dataclass
class _Source:
    """The source of one template's function, and the environment that it is executed in."""

    compiler: Compiler
    template: Template
    own: bool = False  # for an operator of the executor's own, a device is its number
    environment: dict[str, object] = field(default_factory=dict)
    _device: int | None = None
    _named_device: int = 0
    _tensors: dict[TensorArg, str] = field(default_factory=dict)
    _found: list[str] = field(default_factory=list)  # lines that find tensors where they were last
    _searched: list[str] = field(default_factory=list)  # the same, wherever they are
    _bits: list[str] = field(default_factory=list)  # lines that set torch's lazy bits

    @property
    def device(self) -> int:
        """The accelerator that the operator runs on: the first tensor's, else the one that is named."""
        return self._named_device if self._device is None else self._device

    def call(self, names: Sequence[str] = (), scalars: Container[int] = ()) -> str:
        """The call as an expression.

        Args:
            names: the operator's arguments.
            scalars: places of numbers that have to become tensors.
        """
        arguments = [self._argument(arg, place in scalars) for place, arg in enumerate(self.template.args)]
        for given, arg in self.template.kwargs.items():
            if given not in names:
                raise InvalidArgument(f"{self.template.operator} has no argument {given!r}; it has {', '.join(names)}")
            place = names.index(given)
            name = names[place]  # the schema's text, not the peer's
            value = self._argument(arg, place in scalars)
            arguments.append(f"**{{{name!r}: {value}}}" if keyword.iskeyword(name) else f"{name}={value}")
        return f"operator({', '.join(arguments)})"

    def _argument(self, arg: Arg, as_tensor: bool) -> str:
        value = self.expression(arg)
        if not as_tensor:
            return value
        first = next((each for each in self.template.args if isinstance(each, TensorArg)), None)
        like = torch.empty(0, dtype=torch.get_default_dtype() if first is None else named_dtype(first.meta.dtype))
        dtype = self.constant(torch.result_type(like, _EXAMPLES[type(arg)]))
        return f"{self.constant(torch.scalar_tensor)}({value}, dtype={dtype})"

    def kept(self, place: int, result: str, layout: Layout | None) -> list[str]:
        """The line that binds a result, if it is a tensor."""
        if layout is None:
            return []
        self.environment["keep"] = self.compiler.memory.keep
        return [f"keep({self.constant(layout)}, n[i + {1 + self.template.numbers + place}], {result})"]

    def function(self, *lines: str) -> CarryOut:
        """Compile the lines, with what finds their tensors before them."""
        body = [*self._bits, *lines]
        if self._found:
            found, searched = ("\n".join(f"        {line}" for line in each) for each in (self._found, self._searched))
            head = f"    try:\n{found}\n    except KeyError:\n{searched}\n"
        else:
            head = ""
        source = "def carry_out(n, i, f, j):\n" + head + "\n".join(f"    {line}" for line in body)
        exec(_compiled(source, self.template.operator), self.environment)
        carry_out: CarryOut = self.environment["carry_out"]  # type: ignore[assignment]
        return carry_out

    def constant(self, value: object) -> str:
        """Bind a value in the environment; its name there."""
        name = f"c{len(self.environment)}"
        self.environment[name] = value
        return name

    def expression(self, arg: Arg) -> str:
        """An argument as an expression of the stream's numbers `n[i]` and floats `f[j]`."""
        match arg:
            case None | bool():
                return repr(arg)
            case TensorArg():
                return self._tensor(arg)
            case FloatArg(place=place):
                return f"f[j + {self._checked(place, self.template.floats, 'float')}]"
            case IntArg():
                return self._signed(arg.place)
            case GeneratorArg():
                find = self.constant(self.compiler.generators.find)
                return f"{find}({self._number(arg.place)})"
            case HostScalarArg():
                dtype = self.constant(named_dtype(arg.dtype))
                return f"{self.constant(_host_scalar)}({self._number(arg.place)}, {dtype})"
            case ListArg(items=items):
                return f"[{', '.join(self.expression(item) for item in items)}]"
            case DeviceArg(index=index) if self.own:
                return self.constant(index)
            case _:
                return self.constant(self._value(arg))

    def _value(
        self, arg: int | float | str | DTypeArg | DeviceArg | LayoutArg | MemoryFormatArg | ComplexArg
    ) -> object:
        if isinstance(arg, DeviceArg):
            if arg.index == HOST:
                raise UnsupportedOperation(
                    f"{self.template.operator} with a result in the host's memory, which is not at the destination"
                )
            self._named_device = arg.index
        return constant_of(arg, self.compiler.devices)

    def _tensor(self, arg: TensorArg) -> str:
        if arg in self._tensors:
            return self._tensors[arg]
        layout = self.compiler.memory.layout(arg.meta)
        number = self._number(arg.place)
        if self._device is None and layout.index != HOST:
            self._device = layout.index
        name = self._tensors[arg] = f"t{len(self._tensors)}"
        self.environment["find"] = self.compiler.memory.find
        self._found.append(f"{name} = {self.constant(layout.tensors)}[{number}]")
        self._searched.append(f"{name} = find({self.constant(layout)}, {number})")
        if arg.conj:
            self._bits.append(f"{name} = {name}.conj()")
        if arg.neg:
            self._bits.append(f"{name} = {self.constant(torch._neg_view)}({name})")
        return name

    def _number(self, place: int) -> str:
        return f"n[i + {1 + self._checked(place, self.template.numbers, 'number')}]"

    def _signed(self, place: int) -> str:
        return f"(x - {1 << 64} if (x := {self._number(place)}) >> 63 else x)"

    def _checked(self, place: int, count: int, what: str) -> int:
        if not 0 <= place < count:
            raise InvalidArgument(f"{self.template.operator} takes {what} {place} of {count}")
        return place


@functools.lru_cache(SOURCES_LIMIT)
def _compiled(source: str, operator: str) -> CodeType:
    """Templates that differ in shapes and constants alone have one source; to compile it takes longest."""
    return compile(source, f"<{operator}>", "exec")


def _scalars(operator: Operator, template: Template) -> frozenset[int]:
    """The arguments that are numbers where this operator takes tensors alone, by their places in its schema."""
    if operator.takes_numbers:
        return frozenset()
    named = {name: place for place, name in enumerate(operator.names)}
    given = [*enumerate(template.args), *((named.get(name, -1), arg) for name, arg in template.kwargs.items())]
    return frozenset(
        place
        for place, arg in given
        if 0 <= place < len(operator.kinds) and type(arg) in _EXAMPLES and operator.kinds[place] == "Tensor"
    )


# Arguments that are numbers, with an example for torch.result_type.
_EXAMPLES: dict[type, bool | int | float | complex] = {
    bool: True, int: 1, IntArg: 1, float: 1.0, FloatArg: 1.0, ComplexArg: 1j
}  # fmt: skip


def _host_scalar(bits: int, dtype: torch.dtype) -> Tensor:
    """A tensor of no dimension from its bits."""
    return torch.frombuffer(bytearray(struct.pack("<Q", bits)), dtype=dtype, count=1).view(())


def _flattened(results: object, count: int) -> Sequence[Tensor | None]:
    """An operator's results with its lists unfolded."""
    if isinstance(results, list | tuple):
        flat = [one for each in results for one in (each if isinstance(each, list | tuple) else (each,))]
    else:
        flat = [results]
    if len(flat) != count:
        raise ExecutionError(
            f"the host predicted {count} results, the destination's torch {torch.__version__} gave {len(flat)}"
        )
    return flat
