"""A process that has imported everything a worker needs and forks one for each connection.

Forking takes 18 ms where importing torch takes 2 s. It has one thread and no accelerator context, because neither
survives a fork; the server passes connections to it over a socket. Started as `python -m avec.destination.zygote FD`.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import logging
import os
import select
import shutil
import signal
import socket
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import msgspec

from avec import config
from avec.config import Settings
from avec.destination import LOG_FORMAT
from avec.destination.accelerators import Accelerator
from avec.destination.confinement import NOT_ROOT, ON
from avec.destination.executors import EXECUTORS
from avec.destination.life import answer
from avec.destination.orders import DATAGRAM_NBYTES, Assignment, Drain, Ended, FromServer, Kill, Ready
from avec.destination.tenants import confine_to, remove_temporary_folders, temporary_folder
from avec.destination.worker import ExecutorFactory, work
from avec.errors import DestinationError
from avec.protocol.messages import AcceleratorInfo

PR_SET_PDEATHSIG = 1  # linux/prctl.h
OOM_SCORE = "500"  # of 1000: as if a worker had half of the machine's memory more than it has. Source: proc(5)

log = logging.getLogger("avec.destination")


def run(control: socket.socket, life: socket.socket, settings: Settings) -> None:
    """Fork workers as the server asks; ends when the server does, and takes the workers along."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends Ctrl-C to all; the server alone decides
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    factories = _factories()
    remove_temporary_folders(settings)
    accelerator, confinement = _probe(settings)
    if (state := confinement.get(NOT_ROOT, ON)) != ON:
        log.warning("workers run as root (%s); see docs/security.md", state.removeprefix("off: "))
    control.send(msgspec.json.encode(Ready(accelerator, tuple(factories), confinement)))
    gc.freeze()  # what is here now is shared with all workers; their collectors need not touch it
    _Zygote(control, life, factories, settings).run()


class _Zygote:
    def __init__(
        self,
        control: socket.socket,
        life: socket.socket,
        factories: Mapping[str, ExecutorFactory],
        settings: Settings,
    ) -> None:
        self._control = control
        self._life = life
        self._factories = factories
        self._settings = settings
        self._workers: dict[int, Assignment] = {}
        self._wakeup, self._alarm = os.pipe()

    def run(self) -> None:
        os.set_blocking(self._wakeup, False)
        os.set_blocking(self._alarm, False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(self._alarm, warn_on_full_buffer=False)
        poll = select.poll()
        poll.register(self._wakeup, select.POLLIN)
        poll.register(self._control, select.POLLIN)
        poll.register(self._life, select.POLLIN)
        while True:
            for descriptor, _ in poll.poll():
                if descriptor == self._life.fileno():
                    if not answer(self._life):
                        poll.unregister(self._life)
                    continue
                if descriptor == self._wakeup:
                    os.read(self._wakeup, DATAGRAM_NBYTES)
                    self._reap()
                elif not self._obey():
                    self._signal_all(signal.SIGKILL)
                    return

    def _obey(self) -> bool:
        """Carry out one order of the server; False when the server is gone."""
        data, descriptors, _, _ = socket.recv_fds(self._control, DATAGRAM_NBYTES, maxfds=4)
        if not data:
            return False
        match msgspec.json.decode(data, type=FromServer):
            case Drain():
                self._signal_all(signal.SIGTERM)
            case Kill(session):
                for pid in [pid for pid, each in self._workers.items() if each.session == session]:
                    os.kill(pid, signal.SIGKILL)
            case Assignment() as assignment:
                self._fork(assignment, descriptors)
        return True

    def _fork(self, assignment: Assignment, descriptors: Sequence[int]) -> None:
        try:
            pid = os.fork()
        except OSError as exc:  # no process or no memory is left; those that there are go on
            log.error("%s %s got no worker: %s", assignment.purpose, assignment.session, exc)
            _close(descriptors)
            self._control.send(msgspec.json.encode(Ended(assignment.session, assignment.purpose, 1)))
            return
        if pid:
            self._workers[pid] = assignment
            _close(descriptors)
            return
        status = 1
        try:
            self._leave_zygote()
            status = work(descriptors, assignment, self._factories, self._settings)
        except BaseException:
            traceback.print_exc()
        finally:
            logging.shutdown()
            os._exit(status)

    def _leave_zygote(self) -> None:
        _die_with_parent()
        _offer_to_the_kernel()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.close(self._wakeup)
        os.close(self._alarm)
        self._control.close()
        self._life.close()

    def _reap(self) -> None:
        while self._workers:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            if (assignment := self._workers.pop(pid, None)) is not None:
                shutil.rmtree(temporary_folder(self._settings, pid), ignore_errors=True)
                ended = Ended(assignment.session, assignment.purpose, os.waitstatus_to_exitcode(status))
                self._control.send(msgspec.json.encode(ended))

    def _signal_all(self, number: signal.Signals) -> None:
        for pid in self._workers:
            os.kill(pid, number)


def _close(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _factories() -> dict[str, ExecutorFactory]:
    """Import the executors, so that forked workers have them at once; those whose library is missing are left out."""
    factories: dict[str, ExecutorFactory] = {}
    for name, place in EXECUTORS.items():
        module, _, attribute = place.partition(":")
        try:
            factories[name] = getattr(import_module(module), attribute)
        except ImportError as exc:
            if (exc.name or "").partition(".")[0] == "avec":
                raise
            log.info("the format %s is not offered: %s", name, exc)
    return factories


Probed = tuple[AcceleratorInfo, dict[str, str]]


def _probe(settings: Settings) -> Probed:
    """Look at the accelerator as a confined worker sees it; tell how it is confined.

    Raises:
        DestinationError: there is one, and workers could not use it; they would compute on the CPU in its place.
    """
    probed = _probe_in_child(settings)
    if probed is not None and (probed[0].kind != "cpu" or not settings.confine):
        return probed
    unconfined = _probe_in_child(replace(settings, confine=False))  # which may also have made its device files
    if unconfined is not None and unconfined[0].kind != "cpu":
        probed = _probe_in_child(settings)
    if probed is None or (unconfined is not None and probed[0].kind != unconfined[0].kind):
        found = unconfined[0].name if unconfined is not None else "the accelerator"
        raise DestinationError(f"{found} cannot be used by confined workers; AVEC_CONFINE=0 serves without confinement")
    return probed


def _probe_in_child(settings: Settings) -> Probed | None:
    """Look from a child, because a process that has made its context must not fork; None when that failed."""
    readable, writable = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            confinement = confine_to(settings, "")
            info = Accelerator("strict", settings.cudnn_workspace_mb).info
            os.write(writable, msgspec.json.encode((info, confinement)))
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(writable)
    with os.fdopen(readable, "rb") as pipe:
        data = pipe.read()
    os.waitpid(pid, 0)
    shutil.rmtree(temporary_folder(settings, pid), ignore_errors=True)
    return msgspec.json.decode(data, type=Probed) if data else None


def _die_with_parent() -> None:
    """Have the kernel kill this process when the zygote is gone, even by kill -9 (Linux)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if hasattr(libc, "prctl"):
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _offer_to_the_kernel() -> None:
    """Where the machine has no memory left, the kernel shall end the greediest worker, not the server or the zygote."""
    with contextlib.suppress(OSError):  # not Linux
        Path("/proc/self/oom_score_adj").write_text(OOM_SCORE, "ascii")


def main() -> None:
    """Entry point of the zygote's own process."""
    settings = config.load()
    logging.basicConfig(level=settings.log_level.upper(), format=LOG_FORMAT, stream=sys.stderr)
    _die_with_parent()
    with socket.socket(fileno=int(sys.argv[1])) as control, socket.socket(fileno=int(sys.argv[2])) as life:
        run(control, life, settings)


if __name__ == "__main__":
    main()
