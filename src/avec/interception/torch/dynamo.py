"""What Dynamo has to know of AVEC, told when the program imports it.

It leaves AVEC's own functions alone, which torch calls while Dynamo looks at every frame; and compilers that are asked
for by name are AVEC's where torch.compile's would be. Not here: what is done with a graph (`compiling`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from avec.interception.patching import Patches

_FOLDER = Path(__file__).parents[2].as_posix() + "/"  # of all of AVEC

_patches = Patches()
by_name: dict[str, Callable[..., Any]] = {}  # compilers


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
        known = by_name.get(compiler_fn) if isinstance(compiler_fn, str) else None
        function: Callable[..., Any] = original(compiler_fn) if known is None else known
        return function

    return lookup_backend
