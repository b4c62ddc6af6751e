"""What Dynamo has to know of AVEC, told when the program imports it: importing it takes long, and few programs do.

It leaves AVEC's own functions alone, which torch calls while Dynamo looks at every frame; and compilers that are asked
for by name are AVEC's where torch.compile's would be. Not here: what is done with a graph (`compiling`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from avec.interception.patching import Finder, FrontEnd, Patches

_NAME = "torch._dynamo"
_FOLDER = Path(__file__).parents[2].as_posix() + "/"  # of all of AVEC
_ROW = FrontEnd(module=_NAME, how="patched", home=__name__, tested="", not_covered="")

_finder = Finder((_ROW,))
_patches = Patches()
_by_name: dict[str, Callable[..., Any]] = {}


def attend(captured: Callable[[Any, Sequence[Any]], Callable[..., Any]]) -> None:
    """Patch Dynamo now if it is imported, else as soon as it is.

    Args:
        captured: does what the compiler "cudagraphs" does: makes a function of a graph that is called as one piece.
    """
    _by_name.update(inductor=_inductor, cudagraphs=captured)
    if _NAME in sys.modules:
        patch(sys.modules[_NAME])
    elif _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)


def leave() -> None:
    """Undo `attend`."""
    sys.meta_path[:] = [each for each in sys.meta_path if each is not _finder]
    if _NAME in sys.modules:
        unpatch(sys.modules[_NAME])


def patch(module: ModuleType) -> None:
    """Tell Dynamo."""
    from torch._dynamo import eval_frame, trace_rules
    from torch._dynamo.backends import registry

    for owner in (registry, eval_frame, module):
        _patches.replace(owner, "lookup_backend", _looking_up)
    if _FOLDER not in trace_rules.SKIP_DIRS:
        trace_rules.SKIP_DIRS.append(_FOLDER)
        trace_rules._recompile_re()


def unpatch(module: ModuleType) -> None:
    """Undo `patch`."""
    from torch._dynamo import trace_rules

    _patches.restore()
    if _FOLDER in trace_rules.SKIP_DIRS:
        trace_rules.SKIP_DIRS.remove(_FOLDER)
        trace_rules._recompile_re()


def _looking_up(original: Any) -> Callable[..., Any]:
    def lookup_backend(compiler_fn: str | Callable[..., Any]) -> Callable[..., Any]:
        known = _by_name.get(compiler_fn) if isinstance(compiler_fn, str) else None
        function: Callable[..., Any] = original(compiler_fn) if known is None else known
        return function

    return lookup_backend


def _inductor(module: Any, inputs: Sequence[Any], **kwargs: Any) -> Callable[..., Any]:
    wrapper: Any = torch._TorchCompileInductorWrapper
    compile_graph = wrapper(kwargs.get("mode"), kwargs.get("options"), None)
    function: Callable[..., Any] = compile_graph(module, inputs, config_patches=kwargs.get("config_patches"))
    return function
