"""A solver's prototxt as the host reads it: the files that it names, its nets' definitions, and where snapshots go.

Source: ReadSolverParamsFromTextFileOrDie in caffe/src/caffe/util/upgrade_proto.cpp; Solver::Init in solver.cpp.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from avec.errors import InvalidArgument, InvalidModel
from avec.formats.caffe.message import Message, message_class
from avec.formats.caffe.upgrade import upgrade_net

from .definitions import Definition, finish, named_files

SOLVER_TYPES = ("SGD", "Nesterov", "AdaGrad", "RMSProp", "AdaDelta", "Adam")  # by SolverParameter.SolverType


@dataclass(frozen=True, slots=True)
class SolverSettings:
    """What a solver's prototxt says, in today's form."""

    source: str
    prototxt: bytes
    message: Message  # a SolverParameter
    texts: dict[str, bytes]  # of the nets' files and those that they name, by the names in the prototxts
    definitions: list[Definition]  # the train net, then the test nets

    def snapshot_name(self, iteration: int, extension: str) -> str:
        """A snapshot's file. Source: Solver::SnapshotFilename."""
        return f"{self.message.snapshot_prefix}_iter_{iteration}{extension}"


def read_settings(filename: str) -> SolverSettings:
    """Read a solver's prototxt and the files that it names; names are relative to the working directory.

    Raises:
        RuntimeError: a file cannot be opened.
        InvalidModel: the prototxt cannot be read.
        InvalidArgument: its snapshots cannot be written.
    """
    prototxt = _bytes(filename)
    settings = message_class("SolverParameter").from_text(_text(prototxt, filename), filename)
    _upgrade(settings, filename)
    files = [settings.net, settings.train_net, *settings.test_net]
    texts = {name: _bytes(name) for name in dict.fromkeys(files) if name}
    definitions = [_definition(*each) for each in _nets(settings, texts)]
    beside = [name for net, text in texts.items() for name in named_files(text, net)]
    texts |= {name: _bytes(name) for name in dict.fromkeys(beside)}
    found = SolverSettings(filename, prototxt, settings, texts, definitions)
    if settings.snapshot:
        _check_writable(found)
    return found


def _bytes(name: str) -> bytes:
    try:
        return Path(name).read_bytes()
    except OSError as exc:
        raise RuntimeError(f"Could not open file {name} (working directory {os.getcwd()})") from exc


def _text(prototxt: bytes, source: str) -> str:
    try:
        return prototxt.decode()
    except UnicodeDecodeError as exc:
        raise InvalidModel(f"{source}: byte {exc.start} is not UTF-8: this is not prototxt") from exc


def _upgrade(settings: Message, filename: str) -> None:
    if settings.HasField("solver_type") and not settings.HasField("type"):
        settings.type = SOLVER_TYPES[settings.solver_type]
    if not settings.HasField("snapshot_prefix"):
        settings.snapshot_prefix = os.path.splitext(filename)[0]
    elif os.path.isdir(settings.snapshot_prefix):
        stem = os.path.splitext(os.path.basename(filename))[0]
        settings.snapshot_prefix = os.path.join(settings.snapshot_prefix, stem)


def _nets(settings: Message, texts: dict[str, bytes]) -> Iterator[tuple[str, Message | bytes, str, Message | None]]:
    """Source, text or message, phase, and the solver's state for each net; the destination says what is wrong."""
    generic: tuple[str, Message | bytes] | None = None
    if settings.HasField("net_param"):
        generic = "net_param", settings.net_param
    elif settings.HasField("net"):
        generic = settings.net, texts.get(settings.net, b"")
    train = generic
    if settings.HasField("train_net_param"):
        train = "train_net_param", settings.train_net_param
    elif settings.HasField("train_net"):
        train = settings.train_net, texts.get(settings.train_net, b"")
    yield *(train or ("", b"")), "TRAIN", settings.train_state
    tests: list[tuple[str, Message | bytes]] = [("test_net_param", net) for net in settings.test_net_param]
    tests += [(name, texts.get(name, b"")) for name in settings.test_net]
    if generic is not None:
        tests += [generic] * (len(settings.test_iter) - len(tests))
    for place, test in enumerate(tests):
        yield *test, "TEST", settings.test_state[place] if place < len(settings.test_state) else None


def _definition(source: str, given: Message | bytes, phase: str, above: Message | None) -> Definition:
    @cache
    def read() -> Message:
        net = message_class("NetParameter")()
        if isinstance(given, bytes):
            net = message_class("NetParameter").from_text(_text(given, source), source)
        else:
            net.CopyFrom(given)
        upgrade_net(net, source)
        state = message_class("NetState")(phase=phase)
        state.MergeFrom(net.state)
        if above is not None:
            state.MergeFrom(above)
        net.state.CopyFrom(state)
        return finish(net, source)

    return Definition(source, read)


def _check_writable(settings: SolverSettings) -> None:
    """Source: Solver::CheckSnapshotWritePermissions; Caffe aborts the process."""
    probe = settings.snapshot_name(0, ".tempfile")
    try:
        Path(probe).write_bytes(b"")
        Path(probe).unlink()
    except OSError as exc:
        raise InvalidArgument(
            f"{settings.source}: snapshots cannot be written to snapshot_prefix {settings.message.snapshot_prefix!r}: "
            f"{exc.strerror}; make the folder, or name another one"
        ) from exc
