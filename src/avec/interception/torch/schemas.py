"""What an operator's schema says, and the Python source of its kernel's fast path.

Not here: what a kernel does when it sees a call for the first time (`kernels`).
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

# Whose floats decide about the shape of what comes out.
FLOATS_IN_KEY = frozenset({"arange", "range", "linspace", "logspace", "histc", "histogram", "_histogramdd_bin_edges"})
# Operators whose results' shapes depend on elements.
DYNAMIC = frozenset(
    {
        "nonzero", "masked_select", "_unique2", "_unique", "unique_dim", "unique_consecutive",
        "unique_dim_consecutive", "bincount", "_ctc_loss", "repeat_interleave", "nonzero_static", "equal",
        "_local_scalar_dense", "nms", "histogram", "_histogramdd_from_bin_cts", "_histogramdd_bin_edges",
    }
)  # fmt: skip
# Operators that torch lets be called with a plain number in a tensor's place; others want a tensor of no dimension.
NUMBERS_AS_TENSORS = frozenset(
    {"add", "sub", "mul", "div", "true_divide", "floor_divide", "add_", "sub_", "mul_", "div_"}
)
MAY_BE_NUMBERS = frozenset({"other", "exponent", "value", "end"})
# Operators that concern only the host's bookkeeping, beside those whose schema says that they return views.
BOOKKEEPING = frozenset({"set_", "is_set_to"})
INDEXING = frozenset({"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put"})
ASSERTING = frozenset(
    {
        "index", "index_put_", "_index_put_impl_", "index_select", "index_add", "index_copy", "index_fill_",
        "gather", "scatter", "scatter_add", "scatter_reduce", "take", "put_", "embedding_dense_backward",
        "_embedding_bag", "nll_loss_forward", "nll_loss2d_forward", "multi_margin_loss",
        "multilabel_margin_loss_forward",
        "cross_entropy_loss", "bernoulli_", "multinomial", "_assert_async",
    }
)  # fmt: skip
# Operators that torch composes of one with `out=`, given an empty tensor that has to grow: recorded whole instead, they
# are known again when they come again.
WHOLE = (
    "_safe_softmax",
    "abs", "logical_not", "logical_and", "logical_or", "logical_xor", "complex", "polar", "frexp.Tensor",
    "nan_to_num", "mvlgamma", "logsumexp", "logcumsumexp", "cummax", "cummin", "kthvalue", "median.dim",
    "nanmedian.dim", "linalg_lstsq", "huber_loss_backward", "smooth_l1_loss_backward", "soft_margin_loss",
    "soft_margin_loss_backward", "arange", "arange.start", "arange.start_step", "range", "range.step", "eye", "eye.m",
    "linspace", "logspace", "full", "zeros", "ones", "scalar_tensor", "randperm", "randperm.generator",
)  # fmt: skip
# Operators whose results torch's meta kernels do not know, or not for a certain GPU: what the first call of a kind
# gave, the others will give.
LEARNED = frozenset(
    {
        "_logcumsumexp", "lu_unpack", "multi_margin_loss_backward", "multilabel_margin_loss_forward",
        "multilabel_margin_loss_backward",
        "fractional_max_pool2d_backward", "fractional_max_pool3d_backward", "_pdist_forward", "cudnn_batch_norm",
        "_transformer_encoder_layer_fwd", "_native_multi_head_attention", "_cudnn_rnn",
        "_cudnn_init_dropout_state", "_cudnn_ctc_loss",
    }
)  # fmt: skip
# Arguments that torch's own CUDA kernels take from host memory.
ON_HOST = {"_cudnn_ctc_loss": ("targets",)}
# Parts of the names of operators that write to arguments which their schemas call inputs.
WRITING = ("batch_norm", "cudnn_rnn", "rrelu_with_noise")
CROSSING = frozenset({"copy_", "_foreach_copy_", "_foreach_copy"})


@dataclass(frozen=True)
class Operator:
    """One overload of an operator, "add.Tensor"."""

    name: str
    overload: Any  # torch._ops.OpOverload

    @staticmethod
    def named(name: str, namespace: str = "aten") -> Operator:
        """Find an operator of torch's.

        Raises:
            AttributeError: this torch has none of that name.
        """
        packet, _, overload = name.partition(".")
        found = getattr(getattr(getattr(torch.ops, namespace), packet), overload or "default")
        return Operator(name, found)

    @property
    def base(self) -> str:
        """The name without the overload."""
        return self.name.partition(".")[0]

    @cached_property
    def qualified_name(self) -> str:
        """ "aten::add.Tensor"."""
        return f"{self.overload.namespace}::{self.name}"

    @cached_property
    def arguments(self) -> list[Any]:
        """Of the schema; keyword-only ones last."""
        return [*self.positional, *self.keyword_only]

    @cached_property
    def positional(self) -> list[Any]:
        return [each for each in self.overload._schema.arguments if not each.kwarg_only]

    @cached_property
    def keyword_only(self) -> list[Any]:
        return [each for each in self.overload._schema.arguments if each.kwarg_only]

    @cached_property
    def tensors(self) -> frozenset[int]:
        """Places of the positional arguments that are tensors by the schema."""
        return frozenset(place for place, each in enumerate(self.positional) if str(each.type) == "Tensor")

    @cached_property
    def keeps_floats(self) -> bool:
        """Whether floats belong to what a call is recognised by."""
        return self.base in FLOATS_IN_KEY

    @property
    def dynamic(self) -> bool:
        """Whether shapes of results depend on elements."""
        return self.base in DYNAMIC

    @property
    def learned(self) -> bool:
        """Whether what comes out is learned from the first call of a kind."""
        return self.base in LEARNED and not self.written

    @property
    def moves_indices(self) -> bool:
        """Whether it takes indices from the host's memory too."""
        return self.base in INDEXING

    @property
    def crosses_devices(self) -> bool:
        """Whether its tensors may be on several accelerators."""
        return self.base in CROSSING

    @property
    def may_assert(self) -> bool:
        """Whether it fails on an accelerator for what its elements are: indices out of range."""
        return self.base in ASSERTING

    @cached_property
    def written(self) -> tuple[int | str, ...]:
        """The arguments that it writes to: places, or names where they are keyword-only."""
        places: list[int | str] = [
            place for place, each in enumerate(self.positional) if each.alias_info and each.alias_info.is_write
        ]
        return (*places, *(each.name for each in self.keyword_only if each.alias_info and each.alias_info.is_write))

    @cached_property
    def returned(self) -> tuple[int | str, ...] | None:
        """The arguments that it returns, when it returns nothing else; None when it makes new results."""
        returns = self.overload._schema.returns
        if not returns:
            return ()
        if not all(each.alias_info is not None and each.alias_info.is_write for each in returns):
            return None
        found: list[int | str] = []
        for each in returns:
            for where in self.written:
                argument = self.argument(where)
                if argument.alias_info.before_set & each.alias_info.before_set:
                    found.append(where)
                    break
        return tuple(found)

    @cached_property
    def functional(self) -> Operator | None:
        """The form of an `out=` operator that makes its results: masked_select for masked_select.out."""
        if not self.outs:
            return None
        wanted = [(each.name, str(each.type)) for each in self.arguments if each.name not in self.outs]
        packet = self.overload.overloadpacket
        for name in packet.overloads():
            if [(each.name, str(each.type)) for each in getattr(packet, name)._schema.arguments] == wanted:
                return Operator.named(f"{self.base}.{name}".removesuffix(".default"), self.overload.namespace)
        return None

    @cached_property
    def outs(self) -> tuple[str, ...]:
        """The arguments that an `out=` form writes its results to."""
        return tuple(where for where in self.written if isinstance(where, str))

    @cached_property
    def is_view(self) -> bool:
        """Whether it returns a view, so that only the host's bookkeeping is concerned."""
        returns = self.overload._schema.returns
        return bool(returns) and all(each.alias_info is not None and not each.alias_info.is_write for each in returns)

    def argument(self, where: int | str) -> Any:
        """The schema's argument at a place of `written`."""
        if isinstance(where, int):
            return self.positional[where]
        return next(each for each in self.keyword_only if each.name == where)

    def written_arguments(self, args: Sequence[object], kwargs: Mapping[str, object]) -> object:
        """What it returns when that is what it was given."""
        values = [kwargs[where] if isinstance(where, str) else args[where] for where in self.returned or ()]
        if not values:
            return None
        return values[0] if len(values) == 1 else tuple(values)

    def sent(self, kwargs: Mapping[str, object]) -> dict[str, object]:
        """The keyword arguments that the destination has to know: those that are not as by default."""
        return {
            name: value
            for name, value in kwargs.items()
            if name != "pin_memory" and (value is not None or name in self._must_be_given)
        }

    @cached_property
    def _must_be_given(self) -> frozenset[str]:
        return frozenset(each.name for each in self.keyword_only if not each.has_default_value())

    def wants_on_host(self, name: str) -> bool:
        """Whether an argument is a tensor in host memory beside an accelerator."""
        return name in ON_HOST.get(self.base, ())


class Kind(enum.IntEnum):
    """What a kernel does with an argument. The kernels in C++ have the same list."""

    TENSOR = 0
    TARGET = 1  # it is written to
    TENSOR_OR_NUMBER = 2
    OPTIONAL_TENSOR = 3
    TENSORS = 4
    NUMBER = 5
    NUMBERS = 6
    GENERATOR = 7
    CONSTANT = 8


def kind_of(argument: Any) -> Kind:
    """What a kernel does with an argument, by its type in the schema."""
    match str(argument.type):
        case "Tensor" if argument.alias_info is not None:
            return Kind.TARGET
        case "Tensor" if argument.name in MAY_BE_NUMBERS:
            return Kind.TENSOR_OR_NUMBER
        case "Tensor" if argument.name.startswith("cum_seq"):  # undefined where sequences are of one length
            return Kind.OPTIONAL_TENSOR
        case "Tensor":
            return Kind.TENSOR
        case "Optional[Tensor]":
            return Kind.OPTIONAL_TENSOR
        case "List[Tensor]" | "List[Optional[Tensor]]":
            return Kind.TENSORS
        case "number" | "float" | "Optional[number]" | "Optional[float]":
            return Kind.NUMBER
        case "List[number]" | "List[float]" | "Optional[List[float]]" | "Optional[List[number]]":
            return Kind.NUMBERS
        case "Optional[Generator]" | "Generator":
            return Kind.GENERATOR
        case _:
            return Kind.CONSTANT


class _Source:
    """Collects the parts of a kernel's fast path, argument by argument.

    Names of AVEC's own begin with an underscore there, as no argument of an operator does.
    """

    def __init__(self, operator: Operator, conjugate: bool, devices: bool) -> None:
        self._operator = operator
        self._devices = devices
        bits = ", {0}.is_conj(), {0}.is_neg()" if conjugate else ""
        index = ", {0}.get_device()" if devices else ""
        self._meta = f"{{0}}.dtype, {{0}}.shape, {{0}}.stride(){bits}{index}"
        self.lines: list[str] = []
        self.key: list[str] = []
        self.inputs: list[str] = []
        self.floats: list[str] = []

    def add(self, argument: Any) -> None:
        """Add the code for one argument."""
        name = _local(argument)
        match kind_of(argument):
            case Kind.TENSOR | Kind.TARGET as kind:
                self._tensor(name, kind is Kind.TARGET)
            case Kind.TENSOR_OR_NUMBER:
                self._tensor_or_number(name)
            case Kind.OPTIONAL_TENSOR:
                self._optional_tensor(name)
            case Kind.TENSORS:
                self._tensors(name)
            case Kind.NUMBER:
                self._number(name)
            case Kind.NUMBERS:
                self._number_list(name)
            case Kind.GENERATOR:
                self._generator(name)
            case Kind.CONSTANT if "List[" in str(argument.type):
                self.key.append(f"None if {name} is None else tuple({name})")
            case Kind.CONSTANT:
                self.key.append(name)
                if self._devices and argument.name == "device":
                    self.key.append("_current()")  # what a device without an index means

    def _tensor(self, name: str, written: bool) -> None:
        # One without elements has address 0; as the target of `out=` it will have to grow.
        empty = "" if written else f" and ({name}_p or not {name}.is_cuda)"
        self.lines.append(f"{name}_p = {name}.data_ptr()")
        self.lines.append(f"if {name}_p < _FIRST{empty}: return _slow({{call}})")
        self.key.append(self._meta.format(name))
        self.inputs.append(f"{name}_p")

    def _tensor_or_number(self, name: str) -> None:
        self.lines += [
            f"{name}_t = type({name})",
            f"if {name}_t is _Tensor or {name}_t is _Parameter:",
            f" {name}_p = {name}.data_ptr(); {name}_k = ({self._meta.format(name)}); {name}_x = ({name}_p,)",
            f" if {name}_p < _FIRST and ({name}_p or not {name}.is_cuda): return _slow({{call}})",
        ]
        if self._operator.base in NUMBERS_AS_TENSORS:
            self.lines += [
                f" {name}_f = ()",
                f"elif {name}_t is float: {name}_x = (); {name}_f = ({name},); {name}_k = float",
                f"elif {name}_t is int or {name}_t is bool: {name}_x = {name}_f = (); {name}_k = ({name}_t, {name})",
            ]
            self.floats.append(f"*{name}_f")
        self.lines.append("else: return _slow({call})")
        self.key.append(f"{name}_k")
        self.inputs.append(f"*{name}_x")

    def _optional_tensor(self, name: str) -> None:
        self.lines += [
            f"if {name} is None: {name}_k = None; {name}_x = ()",
            "else:",
            f" {name}_p = {name}.data_ptr(); {name}_k = ({self._meta.format(name)}); {name}_x = ({name}_p,)",
            f" if {name}_p < _FIRST and ({name}_p or not {name}.is_cuda): return _slow({{call}})",
        ]
        self.key.append(f"{name}_k")
        self.inputs.append(f"*{name}_x")

    def _tensors(self, name: str) -> None:
        self.lines += [
            f"{name}_x = [_each.data_ptr() for _each in {name} if _each is not None]",
            f"if {name}_x and min({name}_x) < _FIRST: return _slow({{call}})",
            f"{name}_k = tuple([None if _each is None else ({self._meta.format('_each')}) for _each in {name}])",
        ]
        self.key.append(f"{name}_k")
        self.inputs.append(f"*{name}_x")

    def _generator(self, name: str) -> None:
        self.lines += [
            f"{name}_x = () if {name} is None else (_handle({name}),)",
            f"if {name}_x == (None,): return _slow({{call}})",  # one of the host's own: refused there
        ]
        self.key.append(f"len({name}_x)")
        self.inputs.append(f"*{name}_x")

    def _number(self, name: str) -> None:
        if self._operator.keeps_floats:
            self.key += [name, f"type({name})"]
            return
        self.lines += [
            f"{name}_t = type({name})",
            f"if {name}_t is float: {name}_f = ({name},); {name}_k = float",
            f"elif {name}_t is complex: return _slow({{call}})",
            f"else: {name}_f = (); {name}_k = ({name}_t, {name})",
        ]
        self.key.append(f"{name}_k")
        self.floats.append(f"*{name}_f")

    def _number_list(self, name: str) -> None:
        if self._operator.keeps_floats:
            self.key.append(f"None if {name} is None else tuple([(type(_each), _each) for _each in {name}])")
            return
        self.lines += [
            f"if {name} is None: {name}_k = None; {name}_f = ()",
            "else:",
            f" {name}_f = [_each for _each in {name} if type(_each) is float]",
            f" {name}_k = tuple([float if type(_each) is float else (type(_each), _each) for _each in {name}])",
        ]
        self.key.append(f"{name}_k")
        self.floats.append(f"*{name}_f")


def generate(operator: Operator, conjugate: bool, devices: bool, inline: bool) -> tuple[str, dict[str, object]]:
    """Write a kernel's fast path.

    Args:
        conjugate: tensors may come with torch's lazy bits set.
        devices: there are several accelerators to tell apart.
        inline: the stream is a `Lists`, which is extended inline.

    Returns:
        Source of a function `kernel`, and the values of the arguments' defaults that it names.
    """
    parts = _Source(operator, conjugate, devices)
    for each in operator.arguments:
        parts.add(each)
    defaults: dict[str, object] = {}
    parameters = [_parameter(each, defaults) for each in operator.positional]
    if operator.keyword_only:
        parameters += ["*", *(_parameter(each, defaults) for each in operator.keyword_only)]
    positional = "".join(f"{_local(each)}, " for each in operator.positional)
    named = ", ".join(f"{each.name!r}: {each.name}" for each in operator.keyword_only)
    call = f"({positional}), {{{named}}}"
    lines = [f"def kernel({', '.join(parameters)}):", " try:"]
    lines += ["  " + line.replace("{call}", call) for line in parts.lines]
    lines += [
        f"  _entry = _find(_key := ({''.join(each + ', ' for each in parts.key)}))",
        " except (AttributeError, TypeError):",  # arguments of a rare kind
        f"  return _slow({call})",
        f" if _entry is None: return _miss(_key, {call})",
    ]
    lines += [" " + line for line in _recorded(operator, parts, inline)]
    return "\n".join(lines) + "\n", defaults


def _local(argument: Any) -> str:
    """The name of an argument in the kernel; positional ones may be called `from`."""
    return str(argument.name) if argument.kwarg_only else f"{argument.name}_"


def _parameter(argument: Any, defaults: dict[str, object]) -> str:
    if not argument.has_default_value():
        return _local(argument)
    defaults[f"_default_{argument.name}"] = argument.default_value
    return f"{_local(argument)}=_default_{argument.name}"


def _recorded(operator: Operator, parts: _Source, inline: bool) -> list[str]:
    """The end of a fast path: outputs are made, the operator is recorded."""
    inputs = "".join(f"{each}, " for each in parts.inputs)
    returns = operator.overload._schema.returns
    made: list[str] = []
    if operator.returned is not None:
        arguments = [operator.argument(where) for where in operator.returned]
        outputs, result = "", ", ".join(_local(each) for each in arguments) or "None"
    elif len(returns) == 1 and str(returns[0].type) == "Tensor":
        made = [
            "_layout = _entry.first; _free = _layout.free",
            "try: _result = _from_dlpack(_new_capsule(_free.pop() if _free else _take(_layout), b'dltensor', None))",
            "except IndexError: _result = _layout.new()",  # another thread was faster
        ]
        outputs, result = "_result.data_ptr(), ", "_result"
    elif all(str(each.type) == "Tensor" for each in returns):
        made = ["".join(f"_l{place}, " for place in range(len(returns))) + "= _entry.layouts"]
        for place in range(len(returns)):
            made += [
                f"if _l{place} is None: _r{place} = _entry.plain[{place}]; _a{place} = 0",
                "else:",
                f" _free = _l{place}.free",
                f" try: _p = _free.pop() if _free else _take(_l{place})",
                f" except IndexError: _p = _take(_l{place})",  # another thread was faster
                f" _r{place} = _from_dlpack(_new_capsule(_p, b'dltensor', None))",
                f" _a{place} = _r{place}.data_ptr()",
            ]
        outputs = "".join(f"_a{place}, " for place in range(len(returns)))
        result = "(" + "".join(f"_r{place}, " for place in range(len(returns))) + ")"
    else:
        made = ["_results = [None if _each is None else _each.new() for _each in _entry.layouts]"]
        outputs = "*[0 if _each is None else _each.data_ptr() for _each in _results], "
        lists = [str(each.type) == "List[Tensor]" for each in returns]
        filled = "[_plain if _each is None else _each for _each, _plain in zip(_results, _entry.plain)]"
        result = f"tuple({filled})"
        if any(lists):
            result = "_results" if len(lists) == 1 else "_like(_entry.predicted, iter(_results))"
    recorded = f"_extend((_entry.template, {inputs}{outputs}))"
    if parts.floats and not inline:
        recorded = f"_add((_entry.template, {inputs}{outputs}), ({', '.join(parts.floats)},))"
    if parts.floats and inline:
        made += [
            "with _lock:",
            " if _entry.marked: _mark()",
            f" _recorded = (_entry.template, {inputs}{outputs})",
            " try: _extend(_recorded)",
            f" finally: _extend_floats(({', '.join(parts.floats)},))",  # even after an interrupt, see Recording
        ]
    else:
        made += ["if _entry.marked:", f" with _lock: _mark(); {recorded}", f"else: {recorded}"]
    due = "if len(_numbers) > _numbers.least and (_entry.cuts or len(_numbers) > _LIMIT): _flush()"
    return [*made, due, f"return {result}"]
