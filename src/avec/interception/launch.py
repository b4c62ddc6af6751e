"""How `avec run` becomes the application: a command line, an environment, checks, and then exec.

Nothing of the launcher stays in between, so the process number, the terminal, signals, the exit status and
tracebacks are those of the application. Not here: what interception does (the bootstrap and the front-ends).
"""

from __future__ import annotations

import errno
import os
import shlex
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

from avec import config
from avec.errors import AvecError, ConfigurationError
from avec.interception import environment

NOT_FOUND, NOT_EXECUTABLE = 127, 126  # exit statuses. Source: POSIX.1-2017, the shell's "Exit Status for Commands"
PYTHON_SUFFIXES = (".py", ".pyw", ".pyz", ".pyc")
SHEBANG_LIMIT = 256  # bytes of a first line that Linux reads (BINPRM_BUF_SIZE)


class CannotStart(AvecError):
    """The application's command cannot be executed; `status` is what a shell would exit with."""

    code = "cannot-start"

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Application:
    """What to execute: a file, and the argument vector that it gets."""

    executable: str
    argv: tuple[str, ...]


def application(command: Sequence[str]) -> Application:
    """Find what a command line means: a Python program for this interpreter, or any command as a shell finds it.

    Raises:
        CannotStart: there is no such file or command, or it cannot be executed.
        ConfigurationError: it is a Python that ignores PYTHONPATH, so interception would not reach it.
    """
    first = command[0]
    if first.startswith(("-m", "-c")):
        return Application(sys.executable, (sys.executable, *command))
    if first.endswith(PYTHON_SUFFIXES) or (Path(first) / "__main__.py").is_file():
        if not os.path.exists(first):
            raise CannotStart(f"cannot run {first}: there is no such file", NOT_FOUND)
        return Application(sys.executable, (sys.executable, *command))
    executable = _find(first)
    if flag := deaf_flag([*interpreter_line(Path(executable)), *command]):
        raise ConfigurationError(
            f"cannot intercept {shlex.join(command)}: with {flag} Python ignores PYTHONPATH, through which AVEC"
            " reaches it; leave that option out, or call avec.intercept() in the program"
        )
    return Application(executable, tuple(command))


def _find(name: str) -> str:
    """Look a command up as execvp(3) does."""
    found = shutil.which(name)
    if found is not None:
        return found
    if os.sep in name and os.path.isdir(name):
        raise CannotStart(f"cannot run {name}: it is a folder without a __main__.py", NOT_EXECUTABLE)
    if shutil.which(name, mode=os.F_OK) is not None:
        raise CannotStart(f"cannot run {name}: it is not executable", NOT_EXECUTABLE)
    where = "there is no such file" if os.sep in name else "it is no file here and no command on PATH"
    raise CannotStart(f"cannot run {name}: {where}", NOT_FOUND)


def interpreter_line(path: Path) -> list[str]:
    """The words of a script's first line after `#!`; none for anything else."""
    try:
        with path.open("rb") as file:
            line = file.readline(SHEBANG_LIMIT)
    except OSError:  # unreadable but executable is possible; exec will know
        return []
    return line[2:].decode("utf-8", "replace").split() if line.startswith(b"#!") else []


def deaf_flag(words: Sequence[str]) -> str | None:
    """The option with which a Python command line shuts the bootstrap out (-E, -I, -S), if it has one."""
    places = [place for place, word in enumerate(words[:3]) if os.path.basename(word).startswith(("python", "pypy"))]
    if not places:
        return None
    arguments = iter(words[places[0] + 1 :])
    for word in arguments:
        if not word.startswith("-") or word.startswith(("--", "-m", "-c")) or word == "-":
            return None
        if word in ("-X", "-W"):
            next(arguments, None)
        elif word[1] not in "XW" and (deaf := set(word[1:].partition("c")[0].partition("m")[0]) & set("EIS")):
            return f"-{min(deaf)}"
    return None


def run(command: Sequence[str], settings: config.Settings, *, local: bool, check: bool) -> NoReturn:
    """Check all that can be checked beforehand, then replace this process by the application.

    Args:
        local: start a destination on this machine for it.
        check: ask the destination for a sign of life first.

    Raises:
        CannotStart: the command cannot be executed.
        ConfigurationError: there is no destination, or interception would not reach the command.
        DestinationError: the destination is not there, speaks another protocol or did not start.
    """
    app = application(command)
    if settings.disable:
        _execute(app, environment.plain(settings, os.environ))
    if local:
        from avec.interception.local import start

        settings = replace(settings, destination=start(settings, os.getpid()))
    elif settings.destination is None:
        raise ConfigurationError(
            "no destination to compute at; say --on URL for one that `avec serve` has announced, or --local for one"
            " on this machine"
        )
    elif check:
        from avec.host.session import probe

        probe(settings.destination, settings)
    _execute(app, environment.intercepted(settings, os.environ))


def _execute(app: Application, variables: Mapping[str, str]) -> NoReturn:
    # Python ignores these two; what is executed would inherit that, where a shell's child has the defaults.
    for ignored in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(ignored, signal.SIG_DFL)
    try:
        os.execve(app.executable, app.argv, variables)
    except OSError as exc:
        if exc.errno == errno.ENOEXEC:  # a script without a first line is the shell's, as in execvp(3)
            os.execve("/bin/sh", ["/bin/sh", app.executable, *app.argv[1:]], variables)
        raise CannotStart(f"cannot run {app.executable}: {exc.strerror}", NOT_EXECUTABLE) from exc
