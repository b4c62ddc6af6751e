"""`python -m avec.caffe`: parse, intercept, call. Errors are one line on stderr and an exit status.

As with Caffe's `caffe`, an option may be written with one dash or two, and what is measured is logged to stderr.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import rich_click as click

from avec.errors import AvecError, ConfigurationError

FAILURE = 1
USAGE = 2  # as click and Python have it
INTERRUPTED = 130  # 128 + SIGINT, as shells report it
EFFECTS = click.Choice(["stop", "snapshot", "none"])
UPGRADES = ("net_proto_text", "net_proto_binary", "solver_proto_text")

Decorator = Callable[[click.Command], click.Command]


def _option(name: str, meaning: str, **how: object) -> click.RichOption:
    return click.RichOption([f"--{name}", f"-{name}"], help=meaning, **how)  # type: ignore[arg-type]  # click's own


def _options(*names: str) -> Decorator:
    """Give a command some of the options below, those that say where to compute among them."""

    def add(to: click.Command) -> click.Command:
        to.params += [OPTIONS[name] for name in (*names, "on", "local", "gpu")]
        return to

    return add


OPTIONS = {
    "model": _option("model", "the net's prototxt", required=True, metavar="FILE"),
    "solver": _option("solver", "the solver's prototxt", required=True, metavar="FILE"),
    "weights": _option("weights", "caffemodels to start from, separated by commas", metavar="FILES"),
    "snapshot": _option("snapshot", "a solver state to go on from", metavar="FILE"),
    "iterations": _option("iterations", "how often to run", type=click.IntRange(min=1), default=50, show_default=True),
    "phase": _option("phase", "the net's phase", type=click.Choice(["TRAIN", "TEST"]), default="TRAIN"),
    "level": _option("level", "the net's level", type=int, default=0),
    "stage": _option("stage", "the net's stages, separated by commas", default=""),
    "sigint_effect": _option("sigint_effect", "what Ctrl-C does", type=EFFECTS, default="stop", show_default=True),
    "sighup_effect": _option("sighup_effect", "what SIGHUP does", type=EFFECTS, default="snapshot", show_default=True),
    "on": _option("on", "where to compute (default: AVEC_DESTINATION, avec.toml)", metavar="URL"),
    "local": _option("local", "compute on this machine, at a destination started for this command", is_flag=True),
    "gpu": _option("gpu", "accepted; a session has one accelerator, which the destination chose", default=""),
}


@click.group("avec.caffe", context_settings={"help_option_names": ["-h", "--help"]})
def tools() -> None:
    """Run Caffe's commands at a destination; under `avec run` they compute where that says."""


@_options("model", "phase", "level", "stage", "iterations")
@tools.command("time", cls=click.RichCommand)
def measure(model: str, phase: str, level: int, stage: str, iterations: int, **where: object) -> None:
    """Measure how long a net's layers take, forward and backward."""
    _intercept(**where)
    from avec.caffe.timing import measure_net

    measure_net(model, phase, level, _split(stage), iterations)


@_options("model", "weights", "level", "stage", "iterations")
@tools.command("test", cls=click.RichCommand)
def score(model: str, weights: str | None, level: int, stage: str, iterations: int, **where: object) -> None:
    """Run a net in the phase TEST, and average its outputs."""
    if weights is None:
        raise click.UsageError("Missing option '--weights': a net is scored with weights.")
    _intercept(**where)
    from avec.caffe.scoring import score_net

    score_net(model, _split(weights), level, _split(stage), iterations)


@_options("solver", "snapshot", "weights", "level", "stage", "sigint_effect", "sighup_effect")
@tools.command(cls=click.RichCommand)
def train(
    solver: str, snapshot: str | None, weights: str | None, level: int, stage: str, sigint_effect: str,
    sighup_effect: str, **where: object,
) -> None:  # fmt: skip
    """Train a net, anew, from weights or from a snapshot.

    Ctrl-C ends it after the next displayed iteration and a snapshot; a second Ctrl-C ends it at once.
    """
    if snapshot is not None and weights is not None:
        raise click.UsageError("--snapshot goes on with a training and --weights begins one: give one of them")
    _intercept(**where)
    from avec.caffe.training import Start, train_solver

    start = Start(solver, snapshot, tuple(_split(weights or "")), level, tuple(_split(stage)))
    train_solver(start, sigint_effect, sighup_effect)


@_options()
@tools.command("device_query", cls=click.RichCommand)
def device_query(**where: object) -> None:
    """Say which accelerator the destination computes on."""
    _intercept(**where)
    from avec.host.session import describe
    from avec.interception import session

    found = session()
    click.echo(f"Device id: 0\nName: {describe(found.accelerator)}\nDestination: {found.url}")


@tools.command()
@click.argument("what", type=click.Choice(UPGRADES))
@click.argument("old", type=click.Path(path_type=Path), metavar="OLD")
@click.argument("new", type=click.Path(path_type=Path), metavar="NEW")
def upgrade(what: str, old: Path, new: Path) -> None:
    """Write an old net or solver prototxt, or an old caffemodel, in today's form. Needs no destination."""
    from avec.caffe.upgrading import upgrade_file

    upgrade_file(what, old, new)


def _split(text: str) -> list[str]:
    return [each for each in text.split(",") if each]


def _intercept(on: object, local: object, gpu: object) -> None:
    """Let `import caffe` compute at the destination that the options, or else the settings, say."""
    if on and local:
        raise click.UsageError("--local and --on exclude each other")
    if "," in str(gpu):
        raise click.UsageError(f"--gpu {gpu}: a session has one accelerator, so several cannot be used together")
    from avec.interception import intercept

    intercept(str(on) if on else None, local=bool(local))
    import caffe  # type: ignore[import-not-found]  # it is there from the line above on

    caffe.init_log(0, True)


def main() -> NoReturn:
    """The entry point of `python -m avec.caffe`."""
    sys.exit(_status(sys.argv[1:]))


def _status(arguments: list[str]) -> int:
    try:
        tools.main(arguments, prog_name="python -m avec.caffe", standalone_mode=False)
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except click.ClickException as exc:
        context = getattr(exc, "ctx", None)
        see = f" (see {context.command_path} --help)" if context is not None else ""
        return _fail(f"{exc.format_message()}{see}", USAGE)
    except ConfigurationError as exc:
        return _fail(str(exc), USAGE)
    except AvecError as exc:
        return _fail(str(exc), FAILURE)
    except OSError as exc:
        return _fail(f"{exc.filename}: {exc.strerror}" if exc.filename else str(exc), FAILURE)
    except RuntimeError as exc:
        if not _is_pycaffe_s(exc):
            raise
        return _fail(str(exc), FAILURE)
    return 0


def _is_pycaffe_s(exc: BaseException) -> bool:
    """Whether Caffe itself raised it: what a layer of the application's raises keeps its traceback."""
    trace = exc.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and str(trace.tb_frame.f_globals.get("__name__", "")).partition(".")[0] == "caffe"


def _fail(text: str, status: int) -> int:
    first = text.splitlines()[0] if text else "failed"
    click.echo(f"avec.caffe: {first}", err=True)
    return status


if __name__ == "__main__":
    main()
