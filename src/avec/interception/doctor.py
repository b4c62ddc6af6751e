"""What `avec doctor` finds out: what of a program would be intercepted, where it would compute, what stands against it.

It reads the program without running it. Not here: how the findings look (the command line).
"""

from __future__ import annotations

import ast
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avec import __version__
from avec.config import Settings, codec_choices
from avec.errors import ConfigurationError, DestinationError
from avec.interception import FRONT_ENDS, environment
from avec.interception.launch import deaf_flag, interpreter_line
from avec.interception.torch import building

# Libraries that use an accelerator and would do so on this host, because AVEC does not stand under them.
NOT_INTERCEPTED = (
    "tensorflow", "jax", "cupy", "mxnet", "paddle", "openvino", "tensorrt", "pycuda",
)  # fmt: skip
UNREACHED = (
    "A child process is not reached when it is started with -E, -I or -S, with an emptied environment,"
    " or in an interpreter without avec; the last ends with status 78 when it imports an intercepted library."
)
PROBE_TIMEOUT_S = 30.0  # for one interpreter start
_PROBE = "import sys; sys.exit(not any(getattr(each, 'avec_bootstrap', False) for each in sys.meta_path))"


@dataclass(frozen=True, slots=True)
class Library:
    """One library that the program imports, or that AVEC could intercept."""

    module: str
    installed: str  # its version, or why there is none
    interception: str  # "served by avec", "patched", "not intercepted"
    tested: str
    not_covered: str

    @property
    def fine(self) -> bool:
        """Whether it would compute at the destination."""
        return self.interception != "not intercepted"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at, and what was found."""

    subject: str
    fine: bool
    finding: str


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All findings about one program, or about this host when there is no program."""

    libraries: tuple[Library, ...]
    checks: tuple[Check, ...]

    @property
    def fine(self) -> bool:
        """Whether nothing stands against running the program under AVEC."""
        return all(each.fine for each in self.libraries) and all(each.fine for each in self.checks)


def examine(program: Path | None, settings: Settings) -> Diagnosis:
    """Find out what `avec run PROGRAM` would do; blocks while the destination is asked.

    Raises:
        ConfigurationError: the program cannot be read or is not Python.
    """
    imported = _imports_of(program) if program is not None else {each.module for each in FRONT_ENDS}
    checks = [_python(), _bootstrap(settings), _destination(settings), _codecs(settings)]
    if "torch" in imported and (kernels := _torch_kernels(settings)) is not None:
        checks.append(kernels)
    if program is not None:
        checks.append(_first_line(program))
    return Diagnosis(tuple(_libraries(imported)), tuple(checks))


def _libraries(imported: Iterable[str]) -> Iterable[Library]:
    wanted = set(imported)
    distributions = importlib.metadata.packages_distributions()
    for each in FRONT_ENDS:
        if each.module in wanted:
            interception = "served by avec" if each.how == "served" else "patched"
            installed = _version(each.module, distributions)
            yield Library(each.module, installed, interception, each.tested, each.not_covered)
    for module in NOT_INTERCEPTED:
        if module in wanted:
            yield Library(module, _version(module, distributions), "not intercepted", "", "computes on this host")


def _version(module: str, distributions: Mapping[str, Sequence[str]]) -> str:
    found = distributions.get(module, ())
    return f"{found[0]} {importlib.metadata.version(found[0])}" if found else "not installed"


def _imports_of(program: Path) -> set[str]:
    """The first names of all that a program and the modules beside it import, wherever in them."""
    if program.is_dir():
        program = program / "__main__.py"
    found: set[str] = set()
    seen: set[Path] = set()
    waiting = [program]
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        names = _imported_names(path)
        found |= {name.partition(".")[0] for name in names}
        waiting += [beside for name in names for beside in _beside(program.parent, name)]
    return found


def _imported_names(path: Path) -> set[str]:
    try:
        tree = ast.parse(path.read_bytes(), str(path))
    except (OSError, SyntaxError, ValueError) as exc:
        raise ConfigurationError(f"cannot read the imports of {path}: {exc}; give a Python program's source") from exc
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def _beside(folder: Path, name: str) -> list[Path]:
    """The files beside the program that an import of `name` executes."""
    parts = name.split(".")
    packages = [folder.joinpath(*parts[:depth], "__init__.py") for depth in range(1, len(parts) + 1)]
    return [path for path in (*packages, folder.joinpath(*parts).with_suffix(".py")) if path.is_file()]


def _python() -> Check:
    return Check("python", True, f"{platform.python_version()} ({sys.executable}), avec {__version__}")


def _bootstrap(settings: Settings) -> Check:
    """Start an interpreter as `avec run` would and look whether interception stands in it."""
    variables = environment.intercepted(settings, os.environ)
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PROBE], env=variables, capture_output=True, timeout=PROBE_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        return Check("interception", False, f"cannot start {sys.executable}: {exc}")
    if settings.disable:
        return Check("interception", False, "switched off by the setting `disable`")
    said = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
    if done.returncode:
        return Check("interception", False, f"does not reach {sys.executable} (status {done.returncode}) {said}")
    return Check("interception", True, "reaches this interpreter's programs through PYTHONPATH")


def _destination(settings: Settings) -> Check:
    if settings.destination is None:
        return Check("destination", False, "none is set; say --on URL, or start the program with `avec run --local`")
    from avec.host.session import probe

    try:
        status = probe(settings.destination, settings)
    except DestinationError as exc:
        return Check("destination", False, str(exc))
    accelerators = ", ".join(f"{each.name} ({each.kind})" for each in status.accelerators)
    waiting = f", {status.waiting} of which wait for their host" if status.waiting else ""
    formats = ", ".join(status.formats)
    text = f"{settings.destination}: {accelerators}; formats {formats}; {status.sessions} sessions{waiting}"
    return Check("destination", True, text)


def _codecs(settings: Settings) -> Check:
    """What tensors may be sent as from here."""
    from avec.communication.compression import available

    named = set(codec_choices(settings.codec).values()) - {"auto", "raw", *available()}
    if named:
        return Check("codecs", False, f"the setting `codec` names {named.pop()}, which needs Pillow; install it")
    return Check("codecs", True, f"{settings.codec}; this host reads {', '.join(available())}")


def _torch_kernels(settings: Settings) -> Check | None:
    """Look whether the kernels in C++ are there for the torch that is installed; None where torch is not."""
    installed = building.installed_torch()
    if installed is None:
        return None
    subject = "torch kernels"
    if settings.torch_native == "off":
        return Check(subject, True, "those in Python; those in C++ are switched off by the setting `torch_native`")
    path = building.library_path(settings.cache_dir, installed[1])
    if path.exists():
        return Check(subject, True, f"those in C++, {path}")
    finding = f"those in Python; `avec build` compiles some in C++ for torch {installed[1]}, which cost the host less"
    if settings.torch_native == "required":
        return Check(subject, False, f"the setting `torch_native` requires those in C++; run `avec build` ({path})")
    return Check(subject, True, finding)


def _first_line(program: Path) -> Check:
    flag = deaf_flag(interpreter_line(program)) if program.is_file() else None
    if flag is None:
        return Check("program", True, f"{program} can be intercepted")
    return Check(
        "program", False, f"the first line of {program} has {flag}: started as a command it would not be intercepted"
    )


def trace_repeats(program: Sequence[str], settings: Settings) -> tuple[int, dict[str, Any] | None]:
    """Run a program under AVEC and look at what of its PyTorch operators repeated.

    Returns:
        Its exit status, and what `avec.interception.torch.repeats` has written; None where there was nothing.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "repeats.json")
        where = ("--local",) if settings.destination is None else ("--on", settings.destination)
        command = (sys.executable, "-m", "avec", "run", *where, *program)
        status = subprocess.run(command, env={**os.environ, "AVEC_TORCH_REPEATS": str(path)}, check=False).returncode
        return status, json.loads(path.read_text("utf-8")) if path.exists() else None
