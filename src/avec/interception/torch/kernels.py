"""The kernels on torch's CUDA dispatch key: each records its operator and makes the result's tensors.

A kernel's fast path is generated from its operator's schema when it is first called: it looks the call up by dtypes,
shapes, strides and constants, makes the outputs, and appends a few numbers to the stream. A call that was never seen
like this goes through `Kernels.miss`, which asks torch's meta kernels what will come out.

Not here: operators that need more than that (`special`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import FunctionType
from typing import Any, cast

import torch

from avec.protocol.torch import BIND, FIRST_ADDRESS, Evaluated, Template, TensorMeta

from . import resizing
from .operators import conjugate_aware, negative_aware
from .prediction import NUMBER, Predictor, on_meta, zero_dimensional
from .random import Generators
from .recording import BATCH_NUMBERS, Recording, cuts_after
from .schemas import BOOKKEEPING, NUMBERS_AS_TENSORS, Operator, generate
from .storages import Arena, Layout, from_dlpack, new_capsule
from .stream import Lists
from .templates import Description, meta_of_layout, name_of
from .uploads import Uploads

Kernel = Callable[..., Any]
_FOLDER = __file__.removesuffix("kernels.py")  # by which frames are known as AVEC's own
MARKED_NBYTES = 8 << 20  # outputs that may be too large for what is left of the accelerator's memory
LARGE_NBYTES = 64 << 20  # after an output of this size a batch is sent, so that what has died is soon freed there


class Entry:
    """What a call that was seen before gives: its template, and the layouts of its outputs."""

    __slots__ = ("cuts", "first", "layouts", "marked", "plain", "predicted", "template")

    def __init__(
        self,
        template: int,
        layouts: Sequence[Layout | None],
        plain: Sequence[object],
        marked: bool,
        predicted: object = None,
    ) -> None:
        self.template = template  # 0 if nothing is recorded
        self.cuts = cuts_after(template)
        self.predicted = predicted  # the results together
        self.marked = marked  # its calls are noted with their places in the application
        self.layouts = layouts
        self.plain = plain  # in the place of outputs that are no tensors
        self.first = layouts[0] if layouts else None


def _first(*args: object, **kwargs: object) -> object:
    """What a kernel does when it is called first; its code is replaced by that of the written one."""
    _write()  # type: ignore[name-defined]  # noqa: F821
    return _self(*args, **kwargs)  # type: ignore[name-defined]  # noqa: F821


def _bookkeeping(*args: object, **kwargs: object) -> object:
    """The kernel of an operator that changes sizes, strides and offsets only: the CPU's, which touches no memory."""
    return _redispatch(_keys, *args, **kwargs)  # type: ignore[name-defined]  # noqa: F821


class Kernels:
    """Makes kernels that record into one stream."""

    def __init__(self, recording: Recording, arena: Arena) -> None:
        self.recording = recording
        self.arena = arena
        self._empties = recording.cache()
        self._seen = recording.cache()  # by all that the destination is told, for calls that have no shorter key
        self._generated: dict[str, Kernel] = {}
        # Told what calls of an operator give, when one was made that was not known by a short key.
        self.teach: Callable[[str, Entry], None] = lambda operator, entry: None
        self._predictor = Predictor()
        self.generators = Generators(recording)
        self.uploads = Uploads(recording)

    def kernel(self, name: str, namespace: str = "aten") -> Kernel:
        """The kernel of an operator, "add.Tensor"; its code is written at the first call."""
        environment: dict[str, object] = {}
        function = FunctionType(_first.__code__, environment, name)

        def write() -> None:
            kernel = self._write(Operator.named(name, namespace), environment)
            function.__defaults__, function.__kwdefaults__ = kernel.__defaults__, kernel.__kwdefaults__
            function.__code__ = kernel.__code__

        environment.update(_write=write, _self=function)
        return function

    def generated(self, name: str, namespace: str = "aten") -> Kernel:
        """The one generated kernel of an operator, for special ones that leave the usual case to it."""
        qualified = f"{namespace}::{name}"
        kernel = self._generated.get(qualified)
        if kernel is None:
            kernel = self._generated[qualified] = self.kernel(name, namespace)
        return kernel

    def _write(self, operator: Operator, environment: dict[str, object]) -> FunctionType:
        """Write a kernel's function, with all that its code names in the environment."""
        if operator.is_view or operator.base in BOOKKEEPING:
            environment.update(_redispatch=operator.overload.redispatch, _keys=CPU)
            assert isinstance(_bookkeeping, FunctionType)  # for mypy
            return _bookkeeping
        cache, stream = self.recording.cache(), self.recording.stream

        def slow(args: Sequence[object], kwargs: Mapping[str, object]) -> object:
            result, entry = self.call(operator, args, kwargs)
            if entry is not None:
                self.teach(operator.qualified_name, entry)
            return result

        def miss(key: object, args: Sequence[object], kwargs: Mapping[str, object]) -> object:
            result, entry = self.call(operator, args, kwargs)
            if entry is not None:
                cache[key] = entry
                self.teach(operator.qualified_name, entry)
            return result

        environment.update(
            _Tensor=torch.Tensor, _Parameter=torch.nn.Parameter, _FIRST=FIRST_ADDRESS, _LIMIT=BATCH_NUMBERS,
            _find=cache.get, _slow=slow, _miss=miss, _from_dlpack=from_dlpack, _new_capsule=new_capsule,
            _take=self.arena.take, _numbers=stream, _extend=stream.extend, _add=stream.add,
            _extend_floats=stream.floats.extend if isinstance(stream, Lists) else None,
            _lock=self.recording.lock, _flush=self.recording.flush,
            _current=torch.cuda.current_device, _mark=self.recording.mark, _like=_like, _handle=self.generators.handle,
        )  # fmt: skip
        lazy_bits = operator.overload.namespace == "aten" and (
            conjugate_aware(operator.name) or negative_aware(operator.name)
        )
        devices = len(self.recording.destination.devices) > 1
        source, defaults = generate(operator, lazy_bits, devices, isinstance(stream, Lists))
        environment.update(defaults)
        exec(compile(source, f"{_FOLDER}<kernel {operator.name}>", "exec"), environment)
        kernel = environment["kernel"]
        assert isinstance(kernel, FunctionType)
        return kernel

    def call(
        self, operator: Operator, args: Sequence[object], kwargs: Mapping[str, object]
    ) -> tuple[object, Entry | None]:
        """Record one call of an operator, whatever its arguments.

        Returns:
            Its result, and what the next call of the same kind needs; None if there is no such kind.
        """
        args, kwargs = self._arranged(operator, args, kwargs)
        device = _device(operator, args, kwargs)
        if operator.dynamic:
            return self.evaluate(operator, args, kwargs), None
        description = self._described(operator, args, kwargs)
        key = description.key(operator.qualified_name, device)
        entry = cast("Entry | None", self._seen.get(key))
        grown = False
        if entry is None:
            prediction = self._predict(operator, args, kwargs)
            if prediction is None:
                result = self.evaluate(operator, args, kwargs)
                if operator.learned:
                    self._seen[key] = self._entry(operator, description, on_meta(result), device)
                return result, None
            predicted, grown = prediction
            if grown:
                description = self._described(operator, args, kwargs)
            entry = self._entry(operator, description, predicted, device)
            if not grown:
                self._seen[key] = entry
        tensors = [None if layout is None else layout.new() for layout in entry.layouts]
        addresses = [0 if tensor is None else tensor.data_ptr() for tensor in tensors]
        with self.recording.lock:
            if entry.marked:
                self.recording.mark()
            self.recording.record(entry.template, (*description.numbers, *addresses), description.floats)
        if any(layout is not None and layout.nbytes > LARGE_NBYTES for layout in entry.layouts):
            self.recording.flush()
        if operator.returned is not None:
            result = operator.written_arguments(args, kwargs)
        else:
            result = _like(entry.predicted, iter(tensors))
        # What has to grow for one call has to grow for the next that looks like it.
        return result, entry if description.cacheable and not grown else None

    def _predict(
        self, operator: Operator, args: Sequence[object], kwargs: Mapping[str, object]
    ) -> tuple[object, bool] | None:
        """Tell what comes out, and whether a tensor that is written to has grown for it; None if it cannot be told."""
        if operator.learned:
            return None
        try:
            predicted, written = self._predictor.predict(operator, args, kwargs)
        except (NotImplementedError, RuntimeError) as exc:
            # item(), in the middle of a composite operator
            if not isinstance(exc, NotImplementedError) and "cannot be called on meta tensors" not in str(exc):
                raise
            if operator.returned is None or operator.functional is not None:
                return None
            return None, False  # what it writes to keeps its sizes
        grown = [(tensor, meta) for tensor, meta in written if tensor.shape != meta.shape]
        for tensor, meta in grown:
            self.resize(tensor, meta.shape, meta.stride())
        return predicted, bool(grown)

    def _entry(self, operator: Operator, description: Description, predicted: object, device: int) -> Entry:
        if operator.returned is not None:
            predicted = None
        flat = _flat(predicted)
        layouts = [
            self.arena.layout(each.dtype, each.shape, each.stride(), device) if isinstance(each, torch.Tensor) else None
            for each in flat
        ]
        outputs = tuple(None if layout is None else meta_of_layout(layout) for layout in layouts)
        template = self.recording.template(description.template(operator.qualified_name, outputs))
        marked = operator.may_assert or self.recording.repeats is not None
        marked = marked or any(layout is not None and layout.nbytes >= MARKED_NBYTES for layout in layouts)
        return Entry(template, layouts, flat, marked, predicted)

    def _described(self, operator: Operator, args: Sequence[object], kwargs: Mapping[str, object]) -> Description:
        description = Description(operator.keeps_floats, self.uploads.to_host_memory, self.generators.handle)
        description.describe(args, operator.sent(kwargs))
        return description

    def _arranged(
        self, operator: Operator, args: Sequence[object], kwargs: Mapping[str, object]
    ) -> tuple[list[object], dict[str, object]]:
        """Put every argument into the form that is sent: plain numbers for tensors, tensors that are on the host."""
        arranged = list(args)
        named = dict(kwargs)
        like = next((each for each in args if isinstance(each, torch.Tensor)), None)
        for place, argument in enumerate(operator.arguments):
            if place < len(operator.positional):
                if place >= len(args):
                    continue
                arranged[place] = self._placed(operator, argument, args[place], like)
            elif argument.name in kwargs:
                named[argument.name] = self._placed(operator, argument, kwargs[argument.name], like)
        return arranged, named

    def _placed(self, operator: Operator, argument: Any, value: object, like: torch.Tensor | None) -> object:
        if isinstance(value, torch.Tensor):
            return self._on_accelerator(operator, argument, value)
        if isinstance(value, list | tuple) and any(isinstance(each, torch.Tensor) for each in value):
            return [
                self._on_accelerator(operator, argument, each) if isinstance(each, torch.Tensor) else each
                for each in value
            ]
        if isinstance(value, NUMBER) and "Tensor" in str(argument.type):
            if operator.base not in NUMBERS_AS_TENSORS:
                return zero_dimensional(value, like)
        return value

    def _on_accelerator(self, operator: Operator, argument: Any, tensor: torch.Tensor) -> torch.Tensor:
        if tensor.is_cuda or tensor.device.type == "meta" or tensor.dim() == 0 or operator.wants_on_host(argument.name):
            return tensor
        if operator.moves_indices or tensor.numel() == 0:
            return tensor.to(torch.device("cuda", torch.cuda.current_device()))
        if operator.base == "convolution":
            kinds = [tensor.type(), tensor.type().replace("torch.", "torch.cuda.")]
            if argument.name == "input":
                raise RuntimeError(f"Input type ({kinds[0]}) and weight type ({kinds[1]}) should be the same")
            raise RuntimeError(f"Input type ({kinds[1]}) and {argument.name} type ({kinds[0]}) should be the same")
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and"
            f" {tensor.device}! (when checking argument for argument {argument.name} in method"
            f" wrapper_CUDA_{operator.name.replace('.', '_')})"
        )

    def evaluate(self, operator: Operator, args: Sequence[object], kwargs: Mapping[str, object]) -> object:
        """Carry out an operator whose results depend on data: the one kind that waits."""
        if operator.functional is not None:
            return self._evaluate_into(operator, operator.functional, args, kwargs)
        description = self._described(operator, args, kwargs)
        template = description.template(operator.qualified_name, None)
        return self.evaluate_template(template, description.numbers, description.floats)

    def _evaluate_into(
        self, operator: Operator, functional: Operator, args: Sequence[object], kwargs: Mapping[str, object]
    ) -> object:
        """Carry out the `out=` form of an operator by its other form."""
        kept = {name: each for name, each in kwargs.items() if name not in operator.outs}
        results, _ = self.call(functional, args, kept)
        targets = [kwargs[name] for name in operator.outs]
        for target, result in zip(_flat(targets), _flat(results), strict=True):
            if isinstance(target, torch.Tensor) and isinstance(result, torch.Tensor):
                self.write(operator, target, result)
        return operator.written_arguments(args, kwargs)

    def write(self, operator: Operator, target: torch.Tensor, result: torch.Tensor) -> None:
        """Put a result into the tensor that the application gave for it, as torch does: it may have to grow."""
        if not torch.can_cast(result.dtype, target.dtype):
            raise RuntimeError(
                f"result type {name_of(result.dtype)} can't be cast to the desired output type"
                f" {name_of(target.dtype)} (in {operator.name})"
            )
        if target.shape != result.shape:
            self.resize(target, result.shape, result.stride())
        target.copy_(result)

    def evaluate_template(self, template: Template, numbers: Sequence[int], floats: Sequence[float]) -> object:
        """Carry out what a template without outputs says; give what came back, tensors on the accelerator."""
        # One lock over both: results have to be bound by the next batch, which another thread might send.
        with self.recording.lock:
            answer = self.recording.evaluate(self.recording.template(template), numbers, floats)
            if not isinstance(answer, Evaluated):
                raise RuntimeError(f"{template.operator}: the destination answered {answer!r} where results were due")
            results: list[object] = []
            for place, each in enumerate(answer.results):
                results.append(each.value if each.meta is None else self._bound(place, each.meta))
        if answer.sequence or len(results) > 1:
            return results if answer.sequence else tuple(results)
        return results[0] if results else None

    def ask(self, operator: str, args: Sequence[object]) -> Any:
        """Ask the destination by one of its own operators; wait for the answer."""
        description = Description(False, self.uploads.to_host_memory, self.generators.handle)
        description.describe(args, {})
        return self.evaluate_template(description.template(operator, None), description.numbers, description.floats)

    def _bound(self, place: int, meta: TensorMeta) -> torch.Tensor:
        dtype: torch.dtype = getattr(torch, meta.dtype)
        tensor = self.arena.layout(dtype, meta.shape, meta.stride, meta.device).new()
        if tensor.numel():
            self.recording.record(BIND, (place, tensor.data_ptr()))
        return tensor

    def empty(
        self, dtype: torch.dtype, shape: Sequence[int], stride: Sequence[int], device: int, operator: str = ""
    ) -> torch.Tensor:
        """Make a tensor whose elements are not defined.

        Args:
            operator: the one that was called for that, "aten::empty_strided".
        """
        layout = self.arena.layout(dtype, shape, stride, device)
        tensor = layout.new()
        entry = cast("Entry | None", self._empties.get(layout))
        if entry is None:
            entry = self._empties[layout] = self._empty_entry(layout)
        if entry.template:
            with self.recording.lock:
                if entry.marked:
                    self.recording.mark()
                self.recording.record(entry.template, (tensor.data_ptr(),))
        if layout.nbytes > LARGE_NBYTES:
            self.recording.flush()
        elif operator:
            self.teach(operator, entry)
        return tensor

    def _empty_entry(self, layout: Layout) -> Entry:
        if not layout.numel:
            return Entry(0, (layout,), (None,), False)
        arguments = {"dtype": layout.dtype, "device": torch.device("cuda", layout.device)}
        description = self._described(Operator.named("empty_strided"), (layout.shape, layout.stride), arguments)
        template = description.template("aten::empty_strided", (meta_of_layout(layout),))
        return Entry(self.recording.template(template), (layout,), (None,), layout.nbytes >= MARKED_NBYTES)

    def empty_bytes(self, nbytes: int, device: int) -> torch.Tensor:
        """Make a tensor of so many bytes, which are not defined."""
        return self.empty(torch.uint8, (nbytes,), (1,), device)

    def resize(self, tensor: torch.Tensor, shape: Sequence[int], stride: Sequence[int]) -> None:
        """Give a tensor other sizes; its storage grows where it is too small, and keeps what it holds."""
        layout = self.arena.layout(tensor.dtype, shape, stride, tensor.get_device())
        storage, offset = tensor.untyped_storage(), tensor.storage_offset()
        needed_nbytes = layout.nbytes + offset * tensor.dtype.itemsize
        if layout.nbytes and storage.nbytes() < needed_nbytes:
            resizing.resize(storage, int(needed_nbytes), self.empty_bytes)
        _set.redispatch(CPU, tensor, storage, offset, tuple(shape), tuple(stride))


CPU = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)
_set = torch.ops.aten.set_.source_Storage_storage_offset


def _device(operator: Operator, args: Sequence[object], kwargs: Mapping[str, object]) -> int:
    """The accelerator that an operator works on: that of its tensors, else the one that it is told."""
    found = -1
    for each in (*args, *kwargs.values()):
        for tensor in each if isinstance(each, list | tuple) else (each,):
            if not isinstance(tensor, torch.Tensor) or not tensor.is_cuda or tensor.dim() == 0 and found >= 0:
                continue
            index = tensor.get_device()
            if found >= 0 and index != found and not operator.crosses_devices:
                raise RuntimeError(
                    "Expected all tensors to be on the same device, but found at least two devices,"
                    f" cuda:{found} and cuda:{index}! (in {operator.name})"
                )
            found = index if found < 0 else found
    if found >= 0:
        return found
    device = kwargs.get("device")
    if isinstance(device, torch.device) and device.index is not None:
        return device.index
    return torch.cuda.current_device()


def _flat(result: object) -> list[object]:
    if result is None:
        return []
    if isinstance(result, torch.Tensor) or not isinstance(result, list | tuple):
        return [result]
    return [each for one in result for each in (one if isinstance(one, list | tuple) else (one,))]


def _like(predicted: object, tensors: Any) -> object:
    """Build what the operator returns, with the new tensors in the places of the predicted ones."""
    if isinstance(predicted, list | tuple):
        items = [_like(each, tensors) for each in predicted]
        return tuple(items) if isinstance(predicted, tuple) else items
    tensor = next(tensors)  # None in the place of what is no tensor
    return tensor if isinstance(predicted, torch.Tensor) else predicted
