"""The one table of settings: what each is, where it may be set, what it accepts.

A value comes from, in this order: a flag of the command line, an `AVEC_*` variable, `avec.toml` (the nearest
one from the current folder upward, then the user's own), the default. Flags, `--help` and docs/settings.md
derive from the fields of `Settings`. Not here: what a setting does.
"""

from __future__ import annotations

import difflib
import ipaddress
import math
import os
import re
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Literal, TypeVar
from urllib.parse import urlsplit

from avec.errors import ConfigurationError

DEFAULT_PORT = 7700  # where `avec serve` listens unless told otherwise
FILE_NAME = "avec.toml"
FILE_VARIABLE = "AVEC_CONFIG"  # names the one file to read in place of the search; an empty file means none
LAUNCH_VARIABLE = "AVEC_LAUNCH_PID"  # `avec run` tells its program's process from that one's children by it
PREFIX = "AVEC_"
SCHEMES = ("tcp", "tls")

Command = Literal["run", "serve", "status", "doctor", "bench"]
Value = str | int | float | bool | Path
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Kind:
    """How one sort of value is written; `parse` raises ValueError for anything but what `allowed` says."""

    metavar: str  # what stands for a value in `--help`; empty for a switch
    allowed: str
    parse: Callable[[str, Path], Value]


def _parse_url(text: str, lowest_port: int) -> str:
    parts = urlsplit(text if "://" in text else f"//{text}")
    # Without a scheme a connection is plain where nobody else can listen to it, and encrypted anywhere else.
    scheme = parts.scheme or ("tcp" if _is_this_machine(parts.hostname or "") else "tls")
    port = DEFAULT_PORT if parts.port is None else parts.port
    extras = parts.path.strip("/") or parts.query or parts.fragment or parts.username or parts.password
    if scheme not in SCHEMES or not parts.hostname or extras or port < lowest_port:
        raise ValueError(text)
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{scheme}://{host}:{port}"


def _is_this_machine(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


def _parse_token(text: str) -> str:
    if not 16 <= len(text) <= 128 or not (text.isascii() and text.isprintable()):
        raise ValueError(text)
    return text


_FINGERPRINT = re.compile(r"sha256:[0-9a-f]{64}")


def _parse_fingerprint(text: str) -> str:
    if not _FINGERPRINT.fullmatch(text.lower()):
        raise ValueError(text)
    return text.lower()


def _parse_seconds(text: str) -> float:
    value = float(text)
    if not (math.isfinite(value) and value > 0):
        raise ValueError(text)
    return value


def _parse_seconds_or_0(text: str) -> float:
    return 0.0 if float(text) == 0 else _parse_seconds(text)


def _parse_count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


def _parse_port(text: str) -> int:
    value = int(text)
    if not 0 <= value <= 65535:
        raise ValueError(text)
    return value


def _parse_percentage(text: str) -> int:
    value = int(text.removesuffix("%"))
    if not 0 <= value <= 90:
        raise ValueError(text)
    return value


CODECS = ("palette", "palette-zstd", "mask", "shuffle-zstd")  # lossless ones
CODECS_OF = {"frames": ("auto", "raw", *CODECS, "jpeg"), "results": ("auto", "raw", *CODECS, "fp16")}


def codec_choices(text: str) -> dict[str, str]:
    """Read the setting `codec`: what `frames`, the tensors of calls, and `results` are sent with.

    Raises:
        ValueError: it says something else.
    """
    choices = dict.fromkeys(CODECS_OF, "auto")
    for each in text.split(","):
        name, _, value = each.strip().rpartition("=")
        for direction in [name] if name else list(CODECS_OF):
            if value not in CODECS_OF.get(direction, ()):
                raise ValueError(text)
            choices[direction] = value
    return choices


def _parse_codec(text: str) -> str:
    codec_choices(text)
    return text


_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([kMGT])(i?)B|B)?", re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def _parse_size(text: str) -> int:
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(text)
    number, unit, binary = match.groups(default="")
    return int(float(number) * (1024 if binary else 1000) ** _POWERS[unit.lower()])


_WORDS = {
    "1": True,
    "true": True,
    "yes": True,
    "on": True,
    "0": False,
    "false": False,
    "no": False,
    "off": False,
}


def _parse_switch(text: str) -> bool:
    try:
        return _WORDS[text.lower()]
    except KeyError:
        raise ValueError(text) from None


def _choice(*names: str) -> Kind:
    def parse(text: str, folder: Path) -> str:
        if text not in names:
            raise ValueError(text)
        return text

    return Kind("|".join(names), " or ".join(names), parse)


_PORT_RULE = f"port {DEFAULT_PORT} if none is given"
URL = Kind("URL", f"tcp://HOST:PORT or tls://HOST:PORT, {_PORT_RULE}", lambda text, _: _parse_url(text, lowest_port=1))
LISTEN_URL = Kind(
    "URL",
    f"tcp://ADDRESS:PORT or tls://ADDRESS:PORT, {_PORT_RULE}, 0 for any",
    lambda text, _: _parse_url(text, lowest_port=0),
)
SECONDS = Kind("SECONDS", "a number of seconds above 0", lambda text, _: _parse_seconds(text))
MILLISECONDS = Kind("MS", "a number of milliseconds above 0", lambda text, _: _parse_seconds(text))
SECONDS_OR_0 = Kind("SECONDS", "a number of seconds, 0 for not at all", lambda text, _: _parse_seconds_or_0(text))
COUNT = Kind("N", "a whole number above 0", lambda text, _: _parse_count(text))
PORT = Kind("PORT", "a port from 0 to 65535, 0 for any that is free", lambda text, _: _parse_port(text))
PERCENTAGE = Kind("PERCENT", "a whole number from 0 to 90", lambda text, _: _parse_percentage(text))
SIZE = Kind("SIZE", "a size such as 20GB, 512MB or 1.5GiB", lambda text, _: _parse_size(text))
TOKEN = Kind("TOKEN", "a token as `avec user add` prints it", lambda text, _: _parse_token(text))
FINGERPRINT = Kind("SHA256", "sha256: and 64 hex digits", lambda text, _: _parse_fingerprint(text))
CODEC = Kind(
    "CODEC",
    f"auto, raw, {', '.join(CODECS)}, results=NAME or frames=NAME with one of these or results=fp16, frames=jpeg; "
    "several with commas between",
    lambda text, _: _parse_codec(text),
)
USER = Kind("USER", "the name of a user of this machine", lambda text, _: text)
SWITCH = Kind("", "1 or 0", lambda text, _: _parse_switch(text))
PATH = Kind("PATH", "a path", lambda text, folder: Path(os.path.abspath(folder / Path(text).expanduser())))


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the table; `flag` is empty where a flag would only be clutter."""

    name: str
    kind: Kind
    meaning: str
    commands: tuple[Command, ...]
    flag: str
    default_text: str

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return PREFIX + self.name.upper()


def _columns(
    kind: Kind, meaning: str, commands: tuple[Command, ...], flag: str = "", default_text: str = ""
) -> dict[str, object]:
    return {
        "kind": kind,
        "meaning": meaning,
        "commands": commands,
        "flag": flag,
        "default_text": default_text,
    }


def _setting(
    default: V,
    kind: Kind,
    meaning: str,
    commands: tuple[Command, ...],
    flag: str = "",
    default_text: str = "",
) -> V:
    return field(default=default, metadata=_columns(kind, meaning, commands, flag, default_text))


def _user_folder(variable: str, below_home: str) -> Path:
    """Source: XDG Base Directory Specification 0.8, which also says to ignore a relative value."""
    folder = os.environ.get(variable, "")
    return (Path(folder) if os.path.isabs(folder) else Path.home() / below_home) / "avec"


def _cache_folder() -> Path:
    """The machine's for root, because workers are no longer root's and cannot look into its home. Source: FHS 3.0."""
    if os.name == "posix" and os.geteuid() == 0 and not os.path.isabs(os.environ.get("XDG_CACHE_HOME", "")):
        return Path("/var/cache/avec")
    return _user_folder("XDG_CACHE_HOME", ".cache")


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings with their values; immutable. A field's metadata is its row in the table."""

    destination: str | None = _setting(None, URL, "where to compute", ("run", "doctor", "bench"), "--on")
    numerics: Literal["strict", "fast"] = _setting(
        "strict", _choice("strict", "fast"), "strict is IEEE float32; fast lets the accelerator use TF32, "
        "wrong by up to 3e-3", ("run",), "--numerics",
    )  # fmt: skip
    codec: str = _setting(
        "auto", CODEC, "how tensors are sent; auto measures what pays on the link, and loses nothing; results=fp16 and "
        "frames=jpeg lose precision", ("run",), "--codec",
    )  # fmt: skip
    verbose: bool = _setting(
        False, SWITCH, "print a summary of the forwarded calls on stderr at exit", ("run",), "-v/--verbose"
    )
    report: Path | None = _setting(
        None, PATH, "write the forwarded calls' profile to this JSON file at exit", ("run",), "--report"
    )
    trace: Path | None = _setting(
        None,
        PATH,
        "write a Chrome/Perfetto trace of the forwarded calls to this file at exit",
        ("run",),
        "--trace",
    )
    disable: bool = _setting(False, SWITCH, "run the program without interception", ("run",))
    torch_compile: Literal["destination", "eager"] = _setting(
        "destination", _choice("destination", "eager"), "what torch.compile does with its graphs: ships them to be "
        "compiled at the destination, or runs them operator by operator", ("run",),
    )  # fmt: skip
    torch_native: Literal["auto", "off", "required"] = _setting(
        "auto", _choice("auto", "off", "required"), "AVEC's kernels in C++ for PyTorch, which `avec build` compiles: "
        "auto uses them where they are built, required stops where they are not", ("run",),
    )  # fmt: skip
    torch_replay: Literal["on", "off"] = _setting(
        "on", _choice("on", "off"), "on: stretches of PyTorch operators that repeat are sent as a number, and replayed "
        "at the destination", ("run",),
    )  # fmt: skip
    torch_repeats: Path | None = _setting(
        None, PATH, "write which PyTorch operators kept the program from repeating itself to this JSON file at exit; "
        "`avec doctor --trace` shows it", ("run",),
    )  # fmt: skip
    graph: bool = _setting(
        False, SWITCH, "capture PyTorch modules' outermost calls as torch.compile would, and compile them at the "
        "destination", ("run",), "--graph",
    )  # fmt: skip
    memory: int | None = _setting(
        None, SIZE, "how much of the accelerator's memory the program needs: it is promised that and held to it, or "
        "refused; without, it gets what is left", ("run",), "--memory",
    )  # fmt: skip
    connect_timeout_s: float = _setting(
        5.0,
        SECONDS,
        "how long to wait for a destination's hello",
        ("run", "status", "doctor", "bench"),
        "--connect-timeout",
    )
    heartbeat_s: float = _setting(
        0.4, SECONDS, "after this much silence a connection is asked for a sign of life", ("run", "serve")
    )
    heartbeat_misses: int = _setting(
        12,
        COUNT,
        "heartbeats in a row without an answer after which the peer counts as gone",
        ("run", "serve"),
    )
    listen: str = _setting(
        f"tcp://127.0.0.1:{DEFAULT_PORT}", LISTEN_URL, "the address to serve on", ("serve",), "--listen"
    )
    idle_host_timeout_s: float = _setting(
        60.0,
        SECONDS,
        "the connection of a host that says nothing for this long counts as broken",
        ("serve",),
        "--idle-host-timeout",
    )
    resume_timeout_s: float = _setting(
        30.0, SECONDS_OR_0, "for how long a host tries to resume its session after the connection broke, and at a "
        "destination for how long a worker waits for that; the shorter one counts", ("run", "serve"),
        "--resume-timeout",
    )  # fmt: skip
    recovery: Literal["resume", "snapshot", "off"] = _setting(
        "resume", _choice("resume", "snapshot", "off"), "what becomes of a session whose worker has died: resume makes "
        "the calls again that its state came from, for all libraries but PyTorch; snapshot for PyTorch too; off: the "
        "session is lost", ("run",), "--recovery",
    )  # fmt: skip
    journal_limit_nbytes: int = _setting(
        256_000_000, SIZE, "how much of calls a host keeps, to make them again at another worker", ("run",), "", "256MB"
    )
    journal_limit_calls: int = _setting(
        10_000, COUNT, "how many calls a host keeps, to make them again at another worker", ("run",)
    )
    snapshot_limit_nbytes: int = _setting(
        4_000_000_000, SIZE, "how large the state of PyTorch at a destination may be that a host keeps a copy of in "
        "cache_dir", ("run",), "", "4GB",
    )  # fmt: skip
    process_timeout_s: float = _setting(
        45.0, SECONDS, "a process of a destination that gives no sign of life for so long, and a quarter more at most, "
        "is stopped or hangs, and is killed", ("serve",),
    )  # fmt: skip
    hello_timeout_s: float = _setting(5.0, SECONDS, "how long a new connection may take to say who it is", ("serve",))
    max_sessions: int = _setting(
        16, COUNT, "hosts served at the same time; more are refused", ("serve",), "--max-sessions"
    )
    session_memory: int | None = _setting(
        None, SIZE, "the most of the accelerator's memory that one session may have", ("serve",), "--session-memory",
    )  # fmt: skip
    session_max_models: int = _setting(
        1024, COUNT, "nets, sessions and other things that one session may have loaded at a time, unless `avec user "
        "add` said another number", ("serve",),
    )  # fmt: skip
    turn_ms: float = _setting(
        5.0, MILLISECONDS, "for how long a session has the accelerator at a time while others wait for it; a call is "
        "not interrupted", ("serve",),
    )  # fmt: skip
    turns_at_once: int = _setting(
        1, COUNT, "how many sessions have the accelerator at the same time; more than 1 where MPS runs", ("serve",),
    )  # fmt: skip
    cudnn_workspace_mb: int = _setting(
        1024, COUNT, "MiB of scratch memory that cuDNN may take for one convolution, a quarter of what the session may "
        "have at most; unbounded it took 35 GB for one OpenPose net", ("serve",), "--cudnn-workspace",
    )  # fmt: skip
    cpu_accelerators: int = _setting(
        1, COUNT, "as how many accelerators a CPU counts where there is no GPU, to try programs for several GPUs on it",
        ("serve",),
    )  # fmt: skip
    compile_graphs: bool = _setting(
        True, SWITCH, "compile the graphs that hosts capture with torch.compile, where a compiler is there; 0: carry "
        "them out operator by operator", ("serve",),
    )  # fmt: skip
    graph_memory_percent: int = _setting(
        10, PERCENTAGE, "how much of an accelerator's memory CUDA graphs of repeating operators may hold: those of one "
        "session of what it may have, all together of the whole; 0: none are made", ("serve",),
    )  # fmt: skip
    onnx_engine: Literal["auto", "onnxruntime", "torch"] = _setting(
        "auto", _choice("auto", "onnxruntime", "torch"),
        "what computes ONNX models: auto is onnxruntime where it has the accelerator, else torch for models that it "
        "has verified, else onnxruntime on the CPU", ("serve",), "--onnx-engine",
    )  # fmt: skip
    allow_triton: bool = _setting(
        False, SWITCH, "run Triton kernels that hosts' programs contain: code of theirs, which nothing checks",
        ("serve",), "--allow-triton",
    )  # fmt: skip
    token: str | None = field(
        default=None,
        repr=False,  # a traceback shows settings
        metadata=_columns(
            TOKEN, "shown to the destination; `avec login` keeps one for each destination, which is better than this",
            ("run", "status", "doctor", "bench"),
        ),
    )  # fmt: skip
    fingerprint: str | None = _setting(
        None, FINGERPRINT, "of the certificate that a tls destination must have; `avec login` keeps it too",
        ("run", "status", "doctor", "bench"),
    )  # fmt: skip
    host_certificate: Path | None = _setting(
        None, PATH, "this host's own certificate with its key (PEM), for destinations with --client-ca",
        ("run", "status", "doctor", "bench"),
    )  # fmt: skip
    certificate: Path | None = _setting(
        None, PATH, "the destination's certificate with its key (PEM); one is made at the first start if none is named",
        ("serve",), "--certificate", "certificate.pem in secrets_dir",
    )  # fmt: skip
    client_ca: Path | None = _setting(
        None, PATH, "let in hosts with a certificate that this authority (PEM) has signed, in place of a token; "
        "its common name is the user's", ("serve",), "--client-ca",
    )  # fmt: skip
    require_token: bool = _setting(
        False, SWITCH, "ask for a token on loopback too; on other addresses one is always asked for", ("serve",),
        "--require-token",
    )  # fmt: skip
    insecure: bool = _setting(
        False, SWITCH, "serve plain tcp:// on an address that others can reach: no encryption, no token", ("serve",),
        "--insecure",
    )  # fmt: skip
    confine: bool = _setting(
        True, SWITCH, "take from workers what they do not need: Landlock, seccomp, capabilities; see security.md",
        ("serve",),
    )  # fmt: skip
    worker_user: str | None = _setting(
        None, USER, "whom workers and the processes that encrypt run as where root starts the destination; see "
        "security.md", ("serve",), "", "nobody; root beside a GPU",
    )  # fmt: skip
    user_max_sessions: int = _setting(
        8, COUNT, "sessions of one user at the same time, unless `avec user add` said another number", ("serve",),
    )  # fmt: skip
    user_max_connections: int = _setting(
        32, COUNT, "sessions and uploads of one user at the same time, unless `avec user add` said another number",
        ("serve",),
    )  # fmt: skip
    user_memory: int | None = _setting(
        None, SIZE, "the most of the accelerator's memory that all sessions of one user may have, unless `avec user "
        "add` said another size", ("serve",),
    )  # fmt: skip
    secrets_dir: Path = field(
        default_factory=lambda: _user_folder("XDG_CONFIG_HOME", ".config"),
        metadata=_columns(
            PATH, "the folder of logins (on hosts), of the certificate and of users (at a destination)",
            ("run", "serve"), "", "$XDG_CONFIG_HOME/avec, else ~/.config/avec",
        ),
    )  # fmt: skip
    audit_log: Path | None = _setting(
        None, PATH, "where a destination with users writes a JSON line for each connection", ("serve",), "--audit-log",
        "audit.jsonl in cache_dir",
    )  # fmt: skip
    audit_limit_nbytes: int = _setting(
        100_000_000, SIZE, "how large that log may become: older parts are beside it, with .1 to .3 behind the name, "
        "and the oldest is removed", ("serve",), "", "100MB",
    )  # fmt: skip
    drain_timeout_s: float = _setting(
        10.0, SECONDS, "how long calls under way may take to end after SIGTERM", ("serve",), "--drain-timeout"
    )
    cache_dir: Path = field(
        default_factory=_cache_folder,
        metadata=_columns(
            PATH, "the folder of the model cache and of logs", ("run", "serve"), "--cache-dir",
            "$XDG_CACHE_HOME/avec, else ~/.cache/avec, for root /var/cache/avec",
        ),
    )  # fmt: skip
    cache_limit_nbytes: int = _setting(
        20_000_000_000, SIZE, "the model cache's bound; the least recently used models go first", ("serve",),
        "--cache-limit", "20GB",
    )  # fmt: skip
    metrics_port: int | None = _setting(
        None, PORT, "serve metrics in Prometheus's format to this machine at http://127.0.0.1:PORT/metrics",
        ("serve",), "--metrics",
    )  # fmt: skip
    log_level: Literal["debug", "info", "warning", "error"] = _setting(
        "info", _choice("debug", "info", "warning", "error"),
        "the least severe line of the destination's log", ("serve",), "--log-level",
    )  # fmt: skip


def _row(of: Field[object]) -> Setting:
    columns = dict(of.metadata)
    columns["default_text"] = columns["default_text"] or ("none" if of.default is None else written(of.default))
    return Setting(of.name, **columns)


def written(value: object) -> str:
    """Write a setting's value as a flag, a variable or a table shows it; parsing it gives the value back."""
    if isinstance(value, bool):
        return "1" if value else "0"
    return str(value).removesuffix(".0") if isinstance(value, float) else str(value)


TABLE: tuple[Setting, ...] = tuple(_row(each) for each in fields(Settings))
_BY_NAME = {each.name: each for each in TABLE}


def load(
    flags: Mapping[str, str | None] | None = None,
    environ: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Settings:
    """Collect the settings from flags, variables, files and defaults.

    Args:
        flags: setting name → what the command line said, None where it said nothing.
        environ: the variables; those of the process when None.
        folder: where the search for avec.toml begins and what relative paths refer to; by default the current.

    Raises:
        ConfigurationError: an unknown name or a value that is not allowed; the text names its source.
    """
    environ = os.environ if environ is None else environ
    folder = Path.cwd() if folder is None else folder
    values: dict[str, Value] = {}
    for path in _files(environ, folder):
        values.update(_read_file(path))
    values.update(_read_environ(environ, folder))
    for name, text in (flags or {}).items():
        if text is not None:
            setting = _BY_NAME[name]
            values[name] = _parse(setting, text, folder, setting.flag.rpartition("/")[2] or name)
    return Settings(**values)  # type: ignore[arg-type]  # each value was parsed by its own field's kind


def environment(settings: Settings, environ: Mapping[str, str]) -> dict[str, str]:
    """Copy an environment so that a process in it arrives at these settings, in whatever folder it runs."""
    variables = {name: text for name, text in environ.items() if not name.startswith(PREFIX)}
    variables[FILE_VARIABLE] = os.devnull  # what the files said is in the variables now
    for setting, of in zip(TABLE, fields(Settings), strict=True):
        value = getattr(settings, setting.name)
        if value != of.default:
            variables[setting.variable] = written(value)
    return variables


def for_command(command: Command) -> Iterator[Setting]:
    """The settings that have a flag of this command, in the table's order."""
    return (each for each in TABLE if each.flag and command in each.commands)


def _files(environ: Mapping[str, str], folder: Path) -> list[Path]:
    """The files to read, the weakest first."""
    if named := environ.get(FILE_VARIABLE):
        return [folder / named]
    users = _user_folder("XDG_CONFIG_HOME", ".config") / FILE_NAME
    nearest = next((each / FILE_NAME for each in (folder, *folder.parents) if (each / FILE_NAME).is_file()), None)
    return [each for each in (users, nearest) if each is not None and each.is_file()]


def _read_file(path: Path) -> Iterator[tuple[str, Value]]:
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as exc:
        raise ConfigurationError(f"cannot read the settings in {path}: {exc}") from exc
    for name, value in content.items():
        source = f"{path}: {name}"
        if name not in _BY_NAME:
            raise _unknown(source, name, list(_BY_NAME))
        text = written(value) if isinstance(value, str | int | float) else repr(value)
        yield name, _parse(_BY_NAME[name], text, path.parent, source)


def _read_environ(environ: Mapping[str, str], folder: Path) -> Iterator[tuple[str, Value]]:
    by_variable = {each.variable: each for each in TABLE}
    for variable in sorted(environ):
        text = environ[variable]
        if not variable.startswith(PREFIX) or variable in (FILE_VARIABLE, LAUNCH_VARIABLE) or not text:
            continue
        if variable not in by_variable:
            raise _unknown(variable, variable, [*by_variable, FILE_VARIABLE])
        setting = by_variable[variable]
        yield setting.name, _parse(setting, text, folder, variable)


def _parse(setting: Setting, text: str, folder: Path, source: str) -> Value:
    try:
        return setting.kind.parse(text.strip(), folder)
    except ValueError as exc:
        shown = "not one" if setting.kind is TOKEN else repr(text)  # what was meant to be secret stays so
        raise ConfigurationError(f"{source} is {shown}; allowed is {setting.kind.allowed}") from exc


def _unknown(source: str, name: str, known: list[str]) -> ConfigurationError:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
    return ConfigurationError(f"{source}: no such setting; {hint}")


def markdown() -> str:
    """The table as the page docs/settings.md, written by `python -m avec.config > docs/settings.md`."""
    lines = [
        "# Settings",
        "",
        "A value comes from the first of: a flag, an `AVEC_*` variable, `avec.toml` (the nearest one from",
        "the current folder upward, then `$XDG_CONFIG_HOME/avec/avec.toml` or `~/.config/avec/avec.toml`), the",
        "default. `AVEC_CONFIG` names one file to read in place of that search. `avec.toml` is flat:",
        '`destination = "tls://box"`. This page is written by `python -m avec.config`.',
        "",
        "| in avec.toml | variable | flag | of | default | accepts | meaning |",
        "|---|---|---|---|---|---|---|",
    ]
    for each in TABLE:
        flag = " ".join(f"`{part}`" for part in each.flag.split("/") if part) or "–"
        names = f"`{each.name}` | `{each.variable}` | {flag} | {', '.join(each.commands)}"
        lines.append(f"| {names} | {each.default_text} | {each.kind.allowed} | {each.meaning} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(markdown())
