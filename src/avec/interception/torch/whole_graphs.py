"""Captures calls of modules by Dynamo, for whole-graph mode: imported with the first of them, as that takes seconds.

Whatever Dynamo cannot do is carried out at the destination operator by operator, as without this mode; where that is
more than a graph break, a line on stderr says so, once. Not here: which calls are captured (`outermost`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import re
import sys
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from types import CodeType
from typing import Any

from torch import fx, nn
from torch._C._dynamo.eval_frame import _FrameAction as FrameAction
from torch._dynamo import config, eval_frame, exc
from torch._dynamo.convert_frame import ConvertFrame, ConvertFrameAssert
from torch._dynamo.external_utils import wrap_inline
from torch._dynamo.hooks import Hooks
from torch._dynamo.types import ConvertFrameReturn
from torch._functorch import config as _aot_config

from .compiling import chosen, compiled
from .fx_graphs import is_on_accelerator
from .recording import Recording

STRUCTURES = 64  # of modules that are captured: a program that makes ever new ones would spend its time on that
ATTEMPTS = 3  # at code that Dynamo cannot capture, while the calls that it is part of raise an exception
_INSTEAD = "carried out at the destination operator by operator"
_LIMIT = "recompile limit exceeded"  # in the text of what Dynamo raises
_GOT = re.compile(r"fake tensors: .*: got (.+)")  # the error of an operator that fails while Dynamo captures it
# What Dynamo takes to stay as it is, for speed: that is right for who knows of it, and nobody here has asked for it.
_GUARDS = {
    "skip_nnmodule_hook_guards": False,
    "skip_tensor_guards_with_matching_dict_tags": False,  # whether a parameter needs a gradient, and its dtype
    "use_recursive_dict_tags_for_guards": False,
}
_LOGS = ("torch._dynamo", "torch._subclasses")

Call = Callable[..., Any]

aot_config: Any = _aot_config  # its settings have no types


class WholeGraphs:
    """Functions that call modules as graphs, one for all modules of the same structure."""

    def __init__(self, recording: Recording, call: Call) -> None:
        """Prepare.

        Args:
            call: `nn.Module.__call__`.
        """
        self._call = call
        self._functions: dict[object, Call] = {}
        self._converting = _Converting(recording)
        self._optimized = eval_frame._optimize_catch_errors(self._converting, Hooks(), error_on_graph_break=False)
        # With it torch refuses `backward(retain_graph=True)`, when it compiles and later. What it is good for, that a
        # compiler may write to what was kept for the backward pass, a destination's does not do.
        self._donated_buffer: bool = aot_config.donated_buffer
        aot_config.donated_buffer = False

    def leave(self) -> None:
        """Put back what was set."""
        aot_config.donated_buffer = self._donated_buffer

    def function(self, module: nn.Module) -> Call | None:
        """A function that takes a module and what it is called with; None where there are too many already."""
        structure = _structure(module)
        function = self._functions.get(structure)
        if function is None and len(self._functions) >= STRUCTURES:
            _tell_once(f"modules of {STRUCTURES} structures have been captured as graphs; others are {_INSTEAD}")
        elif function is None:
            function = self._functions[structure] = self._new(type(module).__qualname__)
        return function

    def _new(self, name: str) -> Call:
        # Dynamo keeps what it has compiled, and counts that, by code: each structure has a code of its own.
        own: Any = wrap_inline(self._call)
        own.__code__ = own.__code__.replace(co_name=name)
        optimized, end = self._optimized(own), self._converting.end

        def call(module: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
            try:
                result = optimized(module, *args, **kwargs)
            except BaseException:
                end(raised=True)
                raise
            end(raised=False)
            return result

        return call


class _Thread(threading.local):
    """What could not be captured in a thread's outermost call: the code, and why unless that is a mere graph break."""

    def __init__(self) -> None:
        self.failed: list[tuple[CodeType, str]] = []


class _Converting(ConvertFrame):
    """Makes graphs of a frame, in the way that Dynamo calls it; an error of Dynamo's own is never the program's.

    Dynamo gives up code that it could not capture once. Where it could not because the call raises an exception, which
    is as good a reason as any, the next call may be another one: that code is given up when a call has ended.
    """

    def __init__(self, recording: Recording) -> None:
        super().__init__(functools.partial(_compiled, recording), Hooks())
        self._inner_convert: Any = _Limited(self._torchdynamo_orig_backend, one_graph=False)
        self._thread = _Thread()
        self._attempts: Counter[CodeType] = Counter()
        self._given_up: set[CodeType] = set()

    def __call__(self, frame: Any, *args: Any, **kwargs: Any) -> ConvertFrameReturn:
        """Convert a frame. Source: torch._dynamo.convert_frame.ConvertFrameProtocol."""
        if frame.f_code in self._given_up:
            return ConvertFrameReturn()
        reason = ""
        with config.patch(_GUARDS), _quiet():
            try:
                converted = super().__call__(frame, *args, **kwargs)
            except exc.ResumePrologueTracingError:
                raise
            except Exception as error:
                converted = ConvertFrameReturn()
                reason = _line(error)
        if converted.guarded_code is None and converted.frame_exec_strategy.cur_action == FrameAction.SKIP:
            self._thread.failed.append((frame.f_code, reason))
            return dataclasses.replace(converted, apply_to_code=False)
        self._attempts.pop(frame.f_code, None)
        return converted

    def end(self, *, raised: bool) -> None:
        """An outermost call has ended."""
        failed, self._thread.failed = self._thread.failed, []
        places: dict[str, CodeType] = {}  # the innermost by what failed there
        for code, reason in failed:
            self._attempts[code] += 1
            if not raised or self._attempts[code] >= ATTEMPTS:
                self._given_up.add(code)
                if reason:
                    places[reason] = code
        for reason, code in places.items():
            _tell_once(f"{_place(code)} cannot be captured as a graph: {reason}; it is {_INSTEAD}")


class _Limited(ConvertFrameAssert):
    """Tells when Dynamo has had enough of one piece of code."""

    def __call__(self, frame: Any, *args: Any, **kwargs: Any) -> ConvertFrameReturn:
        try:
            return super().__call__(frame, *args, **kwargs)
        except exc.Unsupported as error:
            if _LIMIT in str(error):
                _tell_once(
                    f"{_place(frame.f_code)} was captured {config.recompile_limit} times, which is"
                    f" torch._dynamo.config.recompile_limit; what fits none of these is {_INSTEAD};"
                    " TORCH_LOGS=recompiles says what varies"
                )
            raise


def _compiled(recording: Recording, module: fx.GraphModule, inputs: Sequence[Any]) -> Call:
    return compiled(recording, module, inputs, chosen({})) if is_on_accelerator(module, inputs) else module.forward


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep from the program what torch tells those who have asked it to compile something."""
    quieted = []
    for name in _LOGS:
        log = logging.getLogger(name)
        if log.getEffectiveLevel() == logging.WARNING:  # else somebody wants to see more
            quieted.append((log, log.level))
            log.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"torch\._dynamo\.")
            yield
    finally:
        for log, level in quieted:
            log.setLevel(level)


def _structure(module: nn.Module) -> object:
    """What modules have in common that are likely to be captured as the same graphs."""
    types = tuple((name, type(each)) for name, each in module.named_modules())
    parameters = tuple((name, tuple(each.shape), each.dtype) for name, each in module.named_parameters())
    return types, parameters


def _place(code: CodeType) -> str:
    if code.co_filename == wrap_inline.__code__.co_filename:
        return f"a call of {code.co_name}"
    return f"{code.co_name} ({code.co_filename}:{code.co_firstlineno})"


def _line(error: Exception) -> str:
    if found := _GOT.search(str(error)):
        return found[1]
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


_told: set[str] = set()


def _tell_once(text: str) -> None:
    if text not in _told:
        _told.add(text)
        sys.stderr.write(f"avec: --graph: {text}\n")
