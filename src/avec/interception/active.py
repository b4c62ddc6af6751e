"""This process's one active session: opened at first use, forgotten by forks, ended in bounded time at exit.

At exit it also says what was forwarded, on stderr and in files, if the settings ask for that. It installs no signal
handler: death by a signal is noticed by the destination, whose connection closes.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from avec.errors import ConfigurationError

if TYPE_CHECKING:
    from avec.config import Settings
    from avec.host.session import Session

CLOSE_TIMEOUT_S = 2.0  # a program must not hang at its end because a destination does not answer


@dataclass(slots=True)
class _Active:
    lock: threading.Lock = field(default_factory=threading.Lock)
    destination: str | None = None  # what `intercept` said, above all settings
    session: Session | None = None
    settings: Settings | None = None  # those that the session was opened with
    main_pid: int = 0  # the process that reports to the very paths in the settings; 0 before `prepare`


_active = _Active()


def prepare() -> None:
    """Register for the process's forks and its end, once.

    That is done when a library is imported, not when a session opens: what the application registers with atexit
    after its imports then runs first and may still make calls.
    """
    if _active.main_pid:
        return
    from avec.config import LAUNCH_VARIABLE

    launched = os.environ.get(LAUNCH_VARIABLE, "")
    _active.main_pid = int(launched) if launched.isdigit() else os.getpid()
    os.register_at_fork(after_in_child=_forget)
    atexit.register(end)


def choose(destination: str | None, local: bool) -> None:
    """Set where the session will be opened; see `avec.intercept`."""
    if destination is not None and local:
        raise ConfigurationError("intercept: a destination and local=True exclude each other; give one of them")
    if destination is None and not local:
        return
    from avec import config
    from avec.interception.local import start

    with _active.lock:
        url = start(config.load(), os.getpid()) if local else config.load({"destination": destination}).destination
        if _active.session is not None and _active.session.url != url:
            raise ConfigurationError(
                f"a session with {_active.session.url} is open; call avec.release() before going to {url}"
            )
        _active.destination = url


def session() -> Session:
    """This process's session, opened at the first call; a forked child opens its own. Thread-safe, may block.

    Once a session is lost, what lived in it is too, but the process can go on: the next call here opens a new one.

    Raises:
        ConfigurationError: no destination is set, or a setting is wrong.
        DestinationError: the destination cannot be reached or refuses.
    """
    prepare()
    with _active.lock:
        if _active.session is not None and not _active.session.usable:
            _active.session.close(CLOSE_TIMEOUT_S)
            _active.session = None
        if _active.session is None:
            _active.session = _open()
        return _active.session


def opened() -> Session | None:
    """This process's session if one is open; never opens one."""
    return _active.session


def _open() -> Session:
    from avec import config
    from avec.host.session import Session

    settings = config.load({"destination": _active.destination})
    if settings.destination is None:
        raise ConfigurationError(
            "no destination to compute at; start with `avec run --on URL` or `avec run --local`, or set"
            " AVEC_DESTINATION"
        )
    opened = Session(settings.destination, settings, _program(), _say if settings.verbose else None)
    _active.settings = settings
    if "multiprocessing.util" in sys.modules:
        from multiprocessing.util import Finalize

        # A forked multiprocessing child ends by os._exit and runs these instead of atexit's functions.
        Finalize(None, end, exitpriority=-100)
    return opened


def _program() -> str:
    return os.path.basename(sys.argv[0]) if sys.argv and sys.argv[0] else "python"


def end() -> None:
    """Close the session, waiting a bounded time, and report on it as the settings ask; harmless without one."""
    with _active.lock:
        session, settings = _active.session, _active.settings
        _active.session = _active.settings = None
    if session is None or settings is None:
        return
    session.close(CLOSE_TIMEOUT_S)
    for failure in session.undelivered():
        _say(f"a call failed and nothing waited for it: {failure}")
    _report(session, settings)


def leave() -> None:
    """Close the session and take back what `choose` has set."""
    end()
    with _active.lock:
        _active.destination = None


def _report(session: Session, settings: Settings) -> None:
    from avec import profiling
    from avec.interception.summary import summary

    if settings.verbose:
        sys.stderr.write(summary(session.recorder))
    writers: list[tuple[Path | None, Callable[[Path, profiling.Recorder], None]]] = [
        (settings.report, profiling.write_report),
        (settings.trace, profiling.write_trace),
    ]
    for path, write in writers:
        if path is not None:
            try:
                write(_path_of_this_process(path), session.recorder)
            except ConfigurationError as exc:
                _say(str(exc))


def _path_of_this_process(path: Path) -> Path:
    """The path itself for the program's main process; its children add their process number."""
    return path if os.getpid() == _active.main_pid else path.with_stem(f"{path.stem}.{os.getpid()}")


def _say(text: str) -> None:
    sys.stderr.write(f"avec: {text}\n")


def _forget() -> None:
    """In a forked child: the session, its threads and perhaps the lock belong to the parent."""
    _active.lock = threading.Lock()
    session, _active.session, _active.settings = _active.session, None, None
    if session is not None:
        session.forget()
