"""The exceptions of AVEC, and how they cross the wire without losing their type.

    AvecError
    ├─ ConfigurationError (ValueError)          a setting, a flag or a URL that cannot be used
    ├─ DestinationError                         the destination failed: elsewhere it may work
    │  ├─ DestinationUnreachable (ConnectionError)
    │  ├─ DestinationUntrusted (ConnectionError)   who answered is not, or may not be, the one that was meant
    │  ├─ AuthenticationFailed (PermissionError)   the destination does not know this host
    │  ├─ SessionLost (ConnectionError)         the connection or the worker is gone
    │  ├─ DestinationDraining (ConnectionError)
    │  ├─ DestinationFull                       it has no room for one more session, or this user has no more
    │  ├─ ProtocolMismatch                      the peer speaks another version
    │  ├─ ProtocolError                         the peer broke the protocol
    │  └─ CacheUnavailable (OSError)            the model cache cannot store or give back
    └─ ExecutionError                           the call failed: it fails anywhere, do not retry
       ├─ InvalidModel (ValueError)             a model file that cannot be read
       ├─ InvalidData (ValueError)              a data file that cannot be read
       ├─ InvalidArgument (ValueError)          a wrong name, shape, type or range
       ├─ UnsupportedOperation (NotImplementedError)
       ├─ AcceleratorOutOfMemory (MemoryError)
       ├─ QuotaExceeded                         the session has as many models as it may have
       └─ RemoteError (RuntimeError)            any other exception at the destination

Each class has a stable `code`. `pack` turns an exception into plain values, `unpack` rebuilds it as the same
class, with the remote traceback as a note. Not here: any wire format (see `protocol`).
"""

from __future__ import annotations

import traceback
from typing import ClassVar

import msgspec

MESSAGE_LIMIT = 4096  # bytes of an error's text that cross the wire
TRACEBACK_LIMIT = 16384  # bytes of a remote traceback that cross the wire, the last ones


class AvecError(Exception):
    """Base of all exceptions that AVEC raises; `code` is stable across versions."""

    code: ClassVar[str] = "error"
    call_number: int = 0  # of the session's call that failed with it


class ConfigurationError(AvecError, ValueError):
    """A setting, a flag or a URL cannot be used."""

    code = "configuration"


class DestinationError(AvecError):
    """The destination failed; the same call may work elsewhere or later."""

    code = "destination"


class DestinationUnreachable(DestinationError, ConnectionError):
    """No destination answered at the URL."""

    code = "unreachable"


class DestinationUntrusted(DestinationError, ConnectionError):
    """Who answered at the URL did not prove to be the destination that was meant; nothing was told to it."""

    code = "untrusted"


class AuthenticationFailed(DestinationError, PermissionError):
    """The destination does not know this host, or no longer; nothing says which part was wrong."""

    code = "authentication"


class SessionLost(DestinationError, ConnectionError):
    """The connection to the destination, or its worker, is gone; its state with it."""

    code = "session-lost"


class DestinationDraining(DestinationError, ConnectionError):
    """The destination is shutting down and takes no more work."""

    code = "draining"


class DestinationFull(DestinationError):
    """The destination has no room for one more session, or for one more of this user's; the text says what is free."""

    code = "full"


class ProtocolMismatch(DestinationError):
    """Host and destination share no protocol version."""

    code = "protocol-mismatch"


class ProtocolError(DestinationError):
    """The peer sent something that the protocol does not allow."""

    code = "protocol"


class CacheUnavailable(DestinationError, OSError):
    """The model cache cannot store or give back a model (full disk, no permission, damaged file)."""

    code = "cache"


class ExecutionError(AvecError):
    """The call itself failed; it would fail at any destination."""

    code = "execution"


class InvalidModel(ExecutionError, ValueError):
    """A model file cannot be read: truncated, corrupt, of an unknown format or inconsistent."""

    code = "invalid-model"


class InvalidData(ExecutionError, ValueError):
    """A file with data for a net cannot be read: missing, truncated, corrupt or inconsistent."""

    code = "invalid-data"


class InvalidArgument(ExecutionError, ValueError):
    """An argument has a wrong name, shape, type or range."""

    code = "invalid-argument"


class UnsupportedOperation(ExecutionError, NotImplementedError):
    """The destination does not know this operator, layer or option."""

    code = "unsupported"


class AcceleratorOutOfMemory(ExecutionError, MemoryError):
    """The accelerator has no room for this call."""

    code = "out-of-memory"


class QuotaExceeded(ExecutionError):
    """The session has as many models as it may have; release some."""

    code = "quota-exceeded"


class RemoteError(ExecutionError, RuntimeError):
    """An exception at the destination that has no class of its own here."""

    code = "remote"


class ErrorRecord(msgspec.Struct, frozen=True, array_like=True):
    """An exception as plain values: its class's code, its text, the traceback of where it was raised."""

    code: str
    message: str
    traceback: str = ""


def _subclasses(cls: type[AvecError]) -> dict[str, type[AvecError]]:
    found = {cls.code: cls} if "code" in vars(cls) else {}  # one without a code crosses the wire as its base
    for child in cls.__subclasses__():
        found.update(_subclasses(child))
    return found


def pack(exc: BaseException) -> ErrorRecord:
    """Turn any exception into a record; one that is not AVEC's becomes one that names its type, a RemoteError or, where
    memory ran out, AcceleratorOutOfMemory."""
    trace = _encoded("".join(traceback.format_exception(exc)))[-TRACEBACK_LIMIT:].decode("utf-8", "ignore")
    if isinstance(exc, AvecError):
        code, text = exc.code, str(exc)
    else:
        code = (AcceleratorOutOfMemory if isinstance(exc, MemoryError) else RemoteError).code
        text = f"{type(exc).__name__}: {exc}"
    return ErrorRecord(code, _encoded(text)[:MESSAGE_LIMIT].decode("utf-8", "ignore"), trace)


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")  # a file's name may hold what UTF-8 cannot


def unpack(record: ErrorRecord) -> AvecError:
    """Rebuild the exception of a record; an unknown code becomes a RemoteError that keeps the code."""
    cls = _subclasses(AvecError).get(record.code)
    exc = cls(record.message) if cls else RemoteError(f"{record.code}: {record.message}")
    if record.traceback:
        exc.add_note(f"Traceback at the destination:\n{record.traceback.rstrip()}")
    return exc
