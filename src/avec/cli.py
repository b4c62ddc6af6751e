"""The command `avec`: parse, call, print. What it does is done elsewhere; its options come from the table of settings.

Errors are one line on stderr and an exit status, never a traceback. `avec run` writes nothing to stdout.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeVar

import rich_click as click

from avec import __version__, config
from avec.errors import AvecError, ConfigurationError, DestinationError, UnsupportedOperation

if TYPE_CHECKING:
    from avec.interception.doctor import Diagnosis
    from avec.protocol.messages import AcceleratorInfo

C = TypeVar("C", bound=click.Command)

USAGE = 2  # as click and Python have it
UNAVAILABLE = 69  # EX_UNAVAILABLE of sysexits.h
FOUND_FAULTS = 1
INTERRUPTED = 130  # 128 + SIGINT, as shells report it

_STATUSES = """\
Exit statuses of avec's own; every other is the program's:

2 wrong usage or a wrong setting

69 the destination cannot be reached, or could not be started

78 a process of the program could not be intercepted

126 the program cannot be executed

127 the program was not found

130 interrupted before the program began
"""


class RunCommand(click.RichCommand):
    """A command whose options end where the program begins, be that a path, `-m` or `-c`, as Python's own do."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put `--` before the program."""
        return super().parse_args(ctx, _separated(args, _value_options(self)))


def _value_options(command: click.Command) -> set[str]:
    options = (each for each in command.params if isinstance(each, click.Option) and not each.is_flag)
    return {name for each in options for name in each.opts}


def _separated(args: Sequence[str], value_options: set[str]) -> list[str]:
    place = 0
    while place < len(args):
        word = args[place]
        if word == "--" or not word.startswith("-"):
            break
        if word.startswith(("-m", "-c")):
            return [*args[:place], "--", *args[place:]]
        place += 2 if word in value_options else 1
    return list(args)


def _settings_options(command: config.Command) -> Callable[[C], C]:
    """Give a command the options that the table of settings has for it."""

    def add(to: C) -> C:
        to.params[:0] = [_option(each) for each in config.for_command(command)]
        return to

    return add


def _option(setting: config.Setting) -> click.Option:
    return click.RichOption(
        [*setting.flag.split("/"), setting.name],
        is_flag=setting.kind is config.SWITCH,
        metavar=setting.kind.metavar or None,
        help=f"{setting.meaning} (default {setting.default_text}; {setting.variable})",
    )


def _load(flags: dict[str, object]) -> config.Settings:
    """The settings, from what click made of the flags: None or False where one was not given."""
    texts = {name: config.written(value) for name, value in flags.items() if value is not None and value is not False}
    return config.load(texts)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="avec", message="%(prog)s %(version)s")
def avec() -> None:
    """Run the accelerator part of an unmodified deep-learning program on another machine."""


@_settings_options("run")
@avec.command(
    cls=RunCommand,
    context_settings={"allow_interspersed_args": False},
    options_metavar="[OPTIONS]",
    epilog=_STATUSES,
)
@click.option("--local", is_flag=True, help="compute on this machine, at a destination started for this program")
@click.option("--no-check", is_flag=True, help="do not ask the destination for a sign of life first")
@click.argument("program", nargs=-1, required=True, type=click.UNPROCESSED, metavar="PROGRAM [ARGS]...")
def run(program: tuple[str, ...], local: bool, no_check: bool, **flags: object) -> None:
    """Run a program whose deep-learning calls compute at a destination.

    PROGRAM is `app.py`, a folder or .pyz with a `__main__.py`, `-m MODULE`, `-c CODE`, or any command. All that
    follows it is the program's own.
    """
    if local and flags["destination"]:
        raise click.UsageError("--local and --on exclude each other")
    from avec.interception import launch

    launch.run(program, _load(flags), local=local, check=not no_check)


@_settings_options("serve")
@avec.command()
@click.option("--lifeline", type=int, metavar="PID", hidden=True, help="end when this process and all sessions have")
def serve(lifeline: int | None, **flags: object) -> None:
    """Offer this machine's accelerator to hosts, until SIGTERM or Ctrl-C."""
    settings = _load(flags)
    from avec.interception import environment, release

    release()  # a program under `avec run` may start a destination, which must use the real libraries
    environment.stand_aside(os.environ)
    if find_spec("torch") is None:
        raise DestinationError("cannot serve: torch is not installed here; pip install 'avec[destination]'")
    from avec.destination import LOG_FORMAT, admission, server

    logging.basicConfig(level=settings.log_level.upper(), format=LOG_FORMAT, stream=sys.stderr)
    access = admission.prepare(settings.listen, settings)

    def announce(url: str, accelerator: AcceleratorInfo, formats: Sequence[str]) -> None:
        _announce(url, accelerator, formats, access.invitation(url))

    sys.exit(server.serve(settings.listen, settings, announce, access, lifeline))


def _announce(url: str, accelerator: AcceleratorInfo, formats: Sequence[str], invitation: str) -> None:
    memory = f"{accelerator.memory_nbytes / 2**30:.0f} GiB"
    text = f"avec: serving {url} · {accelerator.name} · {memory} · formats {', '.join(formats)}"
    if invitation:
        text += f"\navec: paste on a host: {invitation}"
    # In one piece, which print() is not where PYTHONUNBUFFERED is set: who started it may read one line and close.
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


@avec.command()
@click.argument("url", metavar="URL")
@click.option("--fingerprint", metavar="SHA256", help="of the destination's certificate, as `avec serve` printed it")
@click.option("--token", metavar="TOKEN", help="as `avec serve` or `avec user add` printed it; - reads it from stdin")
def login(url: str, fingerprint: str | None, token: str | None) -> None:
    """Remember how to know a destination, and what to show it.

    Paste the line that `avec serve` printed there. It is kept in a file that only you can read.
    """
    flags = {"destination": url, "fingerprint": fingerprint, "token": _read_token(token)}
    settings = config.load(flags, {**os.environ, "AVEC_TOKEN": "", "AVEC_FINGERPRINT": ""})
    from avec.host.credentials import Login, keep_login

    assert settings.destination is not None
    if settings.destination.startswith("tls:") and not settings.fingerprint:
        raise click.UsageError("a tls destination is known by its certificate: add --fingerprint sha256:…")
    path = keep_login(settings.destination, Login(settings.fingerprint or "", settings.token or ""), settings)
    print(f"avec: {settings.destination} is remembered in {path}; avec run --on {settings.destination} app.py")


def _read_token(text: str | None) -> str | None:
    return sys.stdin.readline().strip() if text == "-" else text


@avec.group()
def user() -> None:
    """Say who may use the destination on this machine. Changes hold from the next connection on."""


@user.command("add")
@click.argument("name")
@click.option("--max-sessions", metavar="N", type=click.IntRange(1), help="sessions at the same time")
@click.option("--cache-limit", metavar="SIZE", help="bytes of models on disk, such as 20GB")
@click.option("--memory", metavar="SIZE", help="of the accelerator, for all sessions together")
@click.option("--max-models", metavar="N", type=click.IntRange(1), help="loaded in one session")
@click.option("--max-connections", metavar="N", type=click.IntRange(1), help="sessions and uploads at the same time")
@click.option(
    "--weight", metavar="W", type=click.FloatRange(0.01, 100), default=1.0, help="part of the accelerator (default 1)"
)
@click.option("--priority", type=click.Choice(["low", "normal", "high"]), default="normal", help="whose calls go first")
def add_user(
    name: str,
    max_sessions: int | None,
    cache_limit: str | None,
    memory: str | None,
    max_models: int | None,
    max_connections: int | None,
    weight: float,
    priority: Literal["low", "normal", "high"],
) -> None:
    """Add a user and print the token, once; for one that is there, the old token and quotas hold no longer."""
    settings = config.load({})
    limit = config.load({"cache_limit_nbytes": cache_limit}, {}).cache_limit_nbytes if cache_limit else None
    nbytes = config.load({"memory": memory}, {}).memory if memory else None
    from avec.destination.admission import described_users

    users, words = described_users(settings)
    token = users.add(
        name,
        max_sessions,
        limit,
        weight=weight,
        priority=priority,
        memory_nbytes=nbytes,
        max_models=max_models,
        max_connections=max_connections,
    )
    print(f"avec: paste on a host of {name}: avec login {words} --token {token}")


@user.command("list")
def list_users() -> None:
    """Print the users' names, when they were added, and their quotas."""
    settings = config.load({})
    from avec.destination.admission import described_users

    for each in described_users(settings)[0].all():
        sessions = each.max_sessions or settings.user_max_sessions
        nbytes = each.cache_limit_nbytes or settings.cache_limit_nbytes
        added = time.strftime("%Y-%m-%d", time.gmtime(each.created_s))
        memory = each.memory_nbytes or settings.user_memory
        print(
            f"{each.name}  added {added}  sessions {sessions}  models {nbytes / 1e9:g} GB"
            f"  memory {f'{memory / 1e9:g} GB' if memory else 'all'}  weight {each.weight:g}  priority {each.priority}"
        )


@user.command("revoke")
@click.argument("name")
def revoke_user(name: str) -> None:
    """Let a user in no longer. Sessions that are open stay until they end."""
    from avec.destination.admission import described_users

    described_users(config.load({}))[0].revoke(name)
    print(f"avec: {name} is let in no longer")


@_settings_options("status")
@avec.command()
@click.argument("url", metavar="URL")
@click.option("--json", "as_json", is_flag=True, help="print it as JSON, sizes in bytes and times in seconds")
def status(url: str, as_json: bool, **flags: object) -> None:
    """Say what a destination is doing: sessions, memory, models, what was refused.

    A user sees the sums and his own sessions; the owner sees all.
    """
    settings = _load({**flags, "destination": url})
    from avec.host import status_page
    from avec.host.session import probe

    assert settings.destination is not None
    answer = probe(settings.destination, settings)
    if as_json:
        print(status_page.as_json(answer))
        return
    from rich.console import Console

    console = Console(highlight=False, width=None if sys.stdout.isatty() else status_page.WIDTH)
    console.print(status_page.as_tables(settings.destination, answer))


@avec.command()
def build() -> None:
    """Compile AVEC's kernels for PyTorch in C++ on a host with a compiler; programs issue their operators faster then.

    They are kept for this version of torch and of Python, and used from then on; AVEC_TORCH_NATIVE=off leaves them out.
    """
    from avec.interception.torch import building

    try:
        path, compiled = building.build(config.load({}).cache_dir)
    except UnsupportedOperation as exc:
        sys.exit(_fail(str(exc), FOUND_FAULTS))
    print(f"avec: {path} {'is compiled' if compiled else 'is there already'}")


@_settings_options("doctor")
@avec.command(cls=RunCommand, context_settings={"allow_interspersed_args": False}, options_metavar="[OPTIONS]")
@click.option("--security", metavar="URL", help="say instead what protects hosts from one another at a destination")
@click.option("--trace", is_flag=True, help="run the program, then say which operators kept it from repeating itself")
@click.argument("program", nargs=-1, type=click.UNPROCESSED, metavar="[PROGRAM [ARGS]...]")
def doctor(program: tuple[str, ...], security: str | None, trace: bool, **flags: object) -> None:
    """Say what of a program would be intercepted, where it would compute, and what stands against it.

    The exit status is 1 when something does.
    """
    if security is not None:
        sys.exit(_show_security(_load({**flags, "destination": security})))
    settings = _load(flags)
    if trace:
        if not program:
            raise click.UsageError("--trace runs a program: name it")
        sys.exit(_show_repeats(program, settings))
    if len(program) > 1:
        raise click.UsageError(f"{program[1]!r}: arguments of the program are of use with --trace only")
    from avec.interception import release
    from avec.interception.doctor import examine

    release()
    diagnosis = examine(Path(program[0]) if program else None, settings)
    _show(diagnosis)
    sys.exit(0 if diagnosis.fine else FOUND_FAULTS)


def _show_security(settings: config.Settings) -> int:
    from rich.console import Console
    from rich.table import Table

    from avec.host.session import probe

    assert settings.destination is not None
    measures = probe(settings.destination, settings).security
    table = Table("measure", "state", title=f"Security of {settings.destination}")
    for measure, state in measures.items():
        table.add_row(measure, f"[red]{state}[/]" if state.startswith("off") else state)
    Console(highlight=False).print(table)
    return FOUND_FAULTS if any(state.startswith("off") for state in measures.values()) else 0


def _show_repeats(program: Sequence[str], settings: config.Settings) -> int:
    from rich.console import Console
    from rich.table import Table

    from avec.interception.doctor import trace_repeats

    status, found = trace_repeats(program, settings)
    if found is None:
        print("avec: the program issued no PyTorch operators on cuda", file=sys.stderr)
        return status
    console = Console(highlight=False)
    console.print(
        f"{found['stretches']} stretches of operators were sent: {found['repeated']} as repeats, "
        f"{found['first']} because nothing like them had come before, the others because of:"
    )
    table = Table("times", "operator", "called at", "what was different")
    for each in found["breaks"]:
        table.add_row(str(each["count"]), each["operator"], each["site"], each["reason"])
    console.print(table)
    return status


def _show(diagnosis: Diagnosis) -> None:
    from rich.console import Console
    from rich.table import Table

    from avec.interception.doctor import UNREACHED

    console = Console(highlight=False)
    libraries = Table("library", "installed", "interception", "tested with", "not covered", title="Libraries")
    for library in diagnosis.libraries:
        row = (library.module, library.installed, library.interception, library.tested, library.not_covered)
        libraries.add_row(*row, style="" if library.fine else "red")
    checks = Table("", "looked at", "found", title="Checks")
    for check in diagnosis.checks:
        checks.add_row("ok" if check.fine else "[red]no[/]", check.subject, check.finding)
    if diagnosis.libraries:
        console.print(libraries)
    else:
        console.print("The program imports no library that AVEC intercepts, nor any other that it knows.")
    console.print(checks)
    console.print(UNREACHED)


@_settings_options("bench")
@avec.group(invoke_without_command=True)
@click.option("--local", is_flag=True, help="compute at a destination started on this machine (default without --on)")
@click.option("--work", metavar="LIST", help="of the workloads, such as W2,W6 (default all)")
@click.option(
    "--link",
    metavar="LIST",
    help="loopback, or RATE-ROUNDTRIP as in 1gbit-20ms, 1ms (default four links, see the docs)",
)
@click.option(
    "--repeats", type=click.IntRange(2), metavar="N", help="of a measurement, where they do not take too long"
)
@click.option("--quick", is_flag=True, help="small sizes, which a CPU computes in a minute")
@click.option(
    "--output", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="write the record (JSON)"
)
@click.option(
    "--compare", type=click.Path(path_type=Path), metavar="RECORD", help="say what has changed since a record"
)
@click.option("--note", default="", metavar="TEXT", help="for the record: what else was going on")
@click.pass_context
def bench(
    context: click.RichContext,
    /,
    local: bool,
    work: str | None,
    link: str | None,
    repeats: int | None,
    quick: bool,
    output: Path | None,
    compare: Path | None,
    note: str,
    **flags: object,
) -> None:
    """Measure standard workloads natively and under AVEC, over links of stated rates and round trips.

    The exit status is 1 when something could not be measured, or gave other values than natively.
    """
    if context.invoked_subcommand is not None:
        return
    if local and flags["destination"]:
        raise click.UsageError("--local and --on exclude each other")
    settings = _load(flags)
    if local:
        settings = replace(settings, destination=None)
    from rich.console import Console

    from avec.bench import comparison, measuring, record, tables
    from avec.interception import environment, release

    release()
    environment.stand_aside(os.environ)
    earlier = None if compare is None else comparison.read(compare)["results"]

    def keep(results: dict[str, Any]) -> None:
        if output is not None:
            record.write(output, measuring.accelerators(results), measuring.links(results), {"note": note, **results})

    results = measuring.measure(
        measuring.plan(work, link, repeats, quick, settings.destination),
        settings,
        lambda line: print(f"avec: {line}", file=sys.stderr),
        keep,
    )
    console = Console(highlight=False, width=None if sys.stdout.isatty() else tables.WIDTH)
    console.print(tables.tables(results))
    if earlier is not None:
        found = list(comparison.changes(earlier, results))
        console.print(tables.changed(found, comparison.unlike(earlier, results)))
    if output is not None:
        print(f"record: {output}")
    sys.exit(FOUND_FAULTS if measuring.failed(results) else 0)


@bench.command()
@click.argument("tiers", required=False, type=click.Path(path_type=Path), metavar="[TIERS.toml]")
@click.option("--small", is_flag=True, help="the small network, which a CPU computes in a fraction of a second")
@click.option(
    "--output", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="write the record (JSON)"
)
@click.option("--render", type=click.Path(path_type=Path), metavar="RECORD", help="measure nothing: tables of a record")
@click.option(
    "--plots",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    help="draw the figures, as SVG and PNG",
)
@click.option("--note", default="", metavar="TEXT", help="for the record: what else was going on")
def paper(
    tiers: Path | None, small: bool, output: Path | None, render: Path | None, plots: Path | None, note: str
) -> None:
    """Do the paper's experiments on the tiers of a file: device, edge, cloud; print its tables.

    The exit status is 1 when something could not be measured.
    """
    if (tiers is None) == (render is None):
        raise click.UsageError("name a file of tiers to measure, or a record to --render")
    from avec.bench.paper import measuring, plotting, rates, tables
    from avec.interception import environment, release

    if plots is not None:
        plotting.require()
    if render is not None:
        record = rates.read(render)
    else:
        assert tiers is not None  # for mypy
        release()
        environment.stand_aside(os.environ)
        record = measuring.recorded(tiers, small, output, note)
    print(tables.page(record))
    if plots is not None:
        for path in plotting.draw(record, plots):
            print(f"plot: {path}")
    for line in tables.summary(record):
        print(line)
    if output is not None and render is None:
        print(f"record: {output}")
    sys.exit(FOUND_FAULTS if render is None and record["results"]["failures"] else 0)


def main() -> NoReturn:
    """The entry point of the command `avec`."""
    sys.exit(_status(sys.argv[1:]))


def _status(args: Sequence[str]) -> int:
    try:
        result = avec.main(list(args), prog_name="avec", standalone_mode=False)
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except click.ClickException as exc:
        return _fail(f"{exc.format_message()}{_see(exc)}", USAGE)
    except ConfigurationError as exc:
        return _fail(str(exc), USAGE)
    except AvecError as exc:
        return _fail(str(exc), getattr(exc, "status", UNAVAILABLE))
    return result if isinstance(result, int) else 0


def _see(exc: click.ClickException) -> str:
    context = getattr(exc, "ctx", None)
    return f" (see {context.command_path} --help)" if context is not None else ""


def _fail(text: str, status: int) -> int:
    print(f"avec: {text}", file=sys.stderr)
    return status
