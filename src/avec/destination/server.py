"""The process that hosts connect to: it greets them, has the zygote fork a worker for each, and drains on SIGTERM.

One thread, one selector: strangers cost a few kilobytes until they have said hello, and nothing of theirs is parsed
here but that. Tensors never pass through this process. Not here: those who have not said hello (`reception`), sessions
(`session`), forking (`zygote`).
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Self

import msgspec
from msgspec.structs import replace as replace_line

from avec.communication import is_loopback, listen
from avec.communication.compression import available
from avec.communication.tcp import TcpListener
from avec.config import Settings
from avec.destination.admission import Access
from avec.destination.audit import AuditLog, Line, now
from avec.destination.encryption import Encryption
from avec.destination.encryption import start as start_encryption
from avec.destination.guests import Guest, gone, vacatable
from avec.destination.life import Lives
from avec.destination.life import pair as life_pair
from avec.destination.metrics import MetricsProcess
from avec.destination.orders import DATAGRAM_NBYTES, Ask, Assignment, Drain, Ended, FromZygote, Kill, Ready
from avec.destination.reception import Reception
from avec.destination.refusals import Refusals
from avec.destination.sharing import room
from avec.destination.sharing.arbiter import Arbiter
from avec.destination.sharing.board import new_board
from avec.destination.status import Tally, put_together
from avec.destination.stranger import Stranger
from avec.destination.tenants import model_cache
from avec.destination.users import PRIORITIES, User
from avec.destination.vacancies import Vacancies
from avec.destination.waiting_room import STRANGER_COUNT_LIMIT
from avec.destination.watch import Watch
from avec.destination.worker_user import worker_user
from avec.destination.zygote_process import ZygoteProcess
from avec.errors import AvecError, DestinationDraining, DestinationError, DestinationFull
from avec.protocol.messages import AcceleratorInfo, Hello, Places, Status

UPLOAD_COUNT_LIMIT = 64  # upload connections, which hold no accelerator
PROGRAM_LIMIT = 64  # characters of an application's name
ZYGOTE_TIMEOUT_S = 120.0  # importing torch from a cold disk

log = logging.getLogger("avec.destination")


def serve(
    url: str,
    settings: Settings,
    on_ready: Callable[[str, AcceleratorInfo, tuple[str, ...]], None],
    access: Access,
    lifeline_pid: int | None = None,
) -> int:
    """Serve hosts until SIGTERM or SIGINT; blocks. To be called from the main thread.

    Args:
        url: where to listen, `tcp://address:port` or `tls://address:port`.
        on_ready: called once with the bound URL, the accelerator and the formats, when hosts may come.
        access: what is asked of hosts, as `admission.prepare` decided for this URL.
        lifeline_pid: a process; when it is gone and no session is left, the server ends.

    Returns:
        The process's exit status.

    Raises:
        ConfigurationError: the address, or the port for metrics, cannot be listened at.
        CacheUnavailable: the cache folder cannot be used.
        DestinationError: the zygote did not start.
    """
    if access.users is None:
        model_cache(settings, "")  # to find out now what is wrong with the folder
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(contextlib.closing(listen(url)))
        audit = None
        if access.users is not None:
            path = settings.audit_log or settings.cache_dir / "audit.jsonl"
            audit = stack.enter_context(contextlib.closing(AuditLog(path, settings.audit_limit_nbytes)))
        metrics = None
        if settings.metrics_port is not None:
            metrics = stack.enter_context(MetricsProcess(settings.metrics_port))
        zygote = stack.enter_context(ZygoteProcess(settings))
        server = stack.enter_context(Server(listener, zygote, access, audit, metrics, settings, lifeline_pid))
        return server.run(on_ready)


class Server:
    """Owns the listening socket and the selector; everything happens in `run`."""

    def __init__(
        self,
        listener: TcpListener,
        zygote: ZygoteProcess,
        access: Access,
        audit: AuditLog | None,
        metrics: MetricsProcess | None,
        settings: Settings,
        lifeline_pid: int | None,
    ) -> None:
        self._listener = listener
        self._zygote = zygote
        self._access = access
        self._vacancies = Vacancies(listener.url, settings)
        self._audit = audit
        self._metrics = metrics
        self._settings = settings
        self._lifeline_pid = lifeline_pid
        self._lifeline: int | None = None
        self._zygote_ready = False  # the one that runs now
        self._ready = Ready(AcceleratorInfo("cpu", "", 0), ())
        self._guests: dict[str, Guest] = {}
        self._arbiter = Arbiter(settings.turns_at_once)
        self._lives = Lives(settings.process_timeout_s)
        self._encryptions: dict[int, tuple[Encryption, Guest]] = {}  # by process
        self._workers = {"session": 0, "upload": 0}
        self._tally = Tally()
        self._refusals = Refusals(self._tally.refused, audit)
        self._watch = Watch(self._refusals)
        self._reception = Reception(
            listener, access.context, settings.hello_timeout_s, self._watch, self._refusals, self._greet
        )
        self._ends_s: float | None = None  # draining: when patience ends
        self._wakeup, self._alarm = os.pipe()

    def __enter__(self) -> Self:
        os.set_blocking(self._wakeup, False)
        os.set_blocking(self._alarm, False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, lambda number, frame: None)  # the wake-up descriptor carries the news
        signal.set_wakeup_fd(self._alarm, warn_on_full_buffer=False)
        return self

    def __exit__(self, *exc_info: object) -> None:
        signal.set_wakeup_fd(-1)
        self._reception.close()
        for guest in self._guests.values():
            guest.close()
        self._refusals.close()
        self._watch.close()
        for descriptor in (self._wakeup, self._alarm, self._lifeline):
            if descriptor is not None:
                os.close(descriptor)

    def run(self, on_ready: Callable[[str, AcceleratorInfo, tuple[str, ...]], None]) -> int:
        """Serve until told to stop and drained."""
        self._watch.add(self._wakeup, self._take_signal)
        self._watch.add(self._zygote.socket.fileno(), self._hear_zygote)
        self._await_zygote()
        if self._ends_s is not None:  # told to end before it began
            return 0
        self._reception.open()
        self._watch_lifeline()
        if self._metrics is not None:
            self._watch.add(self._metrics.socket.fileno(), self._answer_metrics)
        if not is_loopback(self._listener.url) and self._access.context is None:
            log.warning(
                "%s is open to everybody who can reach it: --insecure means no encryption and no authentication",
                self._listener.url,
            )
        on_ready(self._listener.url, self._ready.accelerator, self._ready.formats)
        while not self._finished():
            self._watch.wait(self._patience_s())
            self._arbiter.look()
            self._refusals.look()
            (self._lives.look if self._zygote_ready else self._lives.pardon)()
            self._reception.look()
        return 0

    def _await_zygote(self) -> None:
        deadline_s = time.monotonic() + ZYGOTE_TIMEOUT_S
        while not self._ready.formats and self._ends_s is None:
            if time.monotonic() > deadline_s:
                raise DestinationError(f"the zygote was not ready after {ZYGOTE_TIMEOUT_S:.0f} s")
            self._watch.wait(1.0)

    def _watch_lifeline(self) -> None:
        if self._lifeline_pid is None:
            return
        try:
            self._lifeline = os.pidfd_open(self._lifeline_pid)
        except ProcessLookupError:
            self._drain("the application is gone")
        else:
            self._watch.add(self._lifeline, self._lose_lifeline)

    def _lose_lifeline(self) -> None:
        assert self._lifeline is not None
        self._watch.remove(self._lifeline)
        self._reception.stop()
        # Children of the application may still compute: no deadline, the last session's end is the end.
        self._ends_s = float("inf")

    def _finished(self) -> bool:
        if self._ends_s is None:
            return False
        return not self._workers["session"] or time.monotonic() > self._ends_s

    def _patience_s(self) -> float | None:
        deadlines_s = (
            self._ends_s,
            self._arbiter.deadline_s(),
            self._refusals.deadline_s(),
            self._reception.deadline_s(),
            self._lives.deadline_s(),
        )
        soonest_s = min((each for each in deadlines_s if each is not None), default=float("inf"))
        return max(0.0, soonest_s - time.monotonic()) if soonest_s != float("inf") else None

    def _take_signal(self) -> None:
        numbers = os.read(self._wakeup, 64)
        if signal.SIGCHLD in numbers:
            self._reap()
        if not (ends := [number for number in numbers if number != signal.SIGCHLD]):
            return
        name = signal.Signals(ends[-1]).name
        if self._ends_s is not None and self._ends_s != float("inf"):
            log.info("%s again: ending at once", name)
            self._ends_s = 0.0
        else:
            self._drain(name)

    def _drain(self, reason: str) -> None:
        """Take no more hosts, tell those here, give what is under way its time. Who comes now is told why not."""
        log.info("draining: %s", reason)
        self._ends_s = time.monotonic() + self._settings.drain_timeout_s
        with contextlib.suppress(DestinationError):  # one that takes no orders is ended when the time is over
            self._zygote.tell(msgspec.json.encode(Drain()))

    def _hear_zygote(self) -> None:
        data = b""
        with contextlib.suppress(ConnectionError):
            data = self._zygote.socket.recv(DATAGRAM_NBYTES)
        if not data:
            self._lose_zygote()
            return
        match msgspec.json.decode(data, type=FromZygote):
            case Ready() as ready:
                self._ready = ready
                self._zygote_ready = True
                self._lives.watch("the zygote", self._zygote.life, self._zygote.kill)
            case Ended(session, purpose, status):
                how = f"killed by {signal.Signals(-status).name}" if status < 0 else f"status {status}"
                log.log(logging.WARNING if status else logging.INFO, "%s %s ended: %s", purpose, session, how)
                self._note_end(session, how if status else "left")

    def _lose_zygote(self) -> None:
        """The zygote has died, and the kernel has killed its workers: start another, and serve on.

        Raises:
            DestinationError: it died before it was ready, and so would the next.
        """
        self._watch.remove(self._zygote.socket.fileno())
        self._lives.forget("the zygote")
        self._zygote.end()
        for session in list(self._guests):
            self._note_end(session, "its zygote died")
        if self._ends_s is not None:
            self._ends_s = 0.0  # there is nothing left to wait for
            return
        if not self._zygote_ready:
            raise DestinationError("the zygote ended before it was ready; its log is above")
        log.error("the zygote died, and all sessions with it; starting another")
        self._zygote_ready = False
        self._tally.zygote_restarts += 1
        self._zygote.start()
        self._watch.add(self._zygote.socket.fileno(), self._hear_zygote)

    def _hear_worker(self, session: str) -> None:
        guest = self._guests.get(session)  # the zygote may have told of its end in the same moment
        if guest is not None and not guest.hear():
            self._part(guest)

    def _part(self, guest: Guest) -> None:
        """Hear no more from a guest's worker."""
        self._arbiter.leave(guest.session)
        if guest.worker is not None:
            self._watch.remove(guest.worker.fileno())
            guest.worker.close()
            guest.worker = None

    def _note_end(self, session: str, outcome: str) -> None:
        guest = self._guests.pop(session)
        self._lives.forget(f"{guest.line.purpose} {session}")
        self._workers["upload" if guest.line.purpose == "upload" else "session"] -= 1
        self._part(guest)
        self._tally.note_end(guest)
        received, sent = guest.counts()
        seconds = round(time.monotonic() - guest.began_s, 3)
        used_s = None if guest.board is None else round(guest.board["used_ns"] / 1e9, 3)
        line = replace_line(guest.line, seconds=seconds, outcome=outcome, received=received, sent=sent)
        if self._audit is not None:
            self._audit.note(replace_line(line, accelerator_s=used_s))
        guest.close()
        self._divide_replay()

    def _reap(self) -> None:
        """Take leave of the processes that encrypted connections; the zygote's end shows elsewhere."""
        for pid in list(self._encryptions):
            if os.waitpid(pid, os.WNOHANG)[0]:
                encryption, guest = self._encryptions.pop(pid)
                self._lives.forget(f"encryption {pid}")
                guest.note_ended(encryption)

    def _greet(self, stranger: Stranger, hello: Hello) -> None:
        program = ascii(hello.program[:PROGRAM_LIMIT])[1:-1]  # it goes into datagrams and the log
        line = Line(now(), 0.0, "", stranger.transport.peer, hello.purpose, "", "left")
        try:
            user = self._access.admit(hello.token, stranger.names)
            line = replace_line(line, user=user.name if user else "", program=program)
            if hello.purpose == "status":
                stranger.answer(self._status(user, [user] if user else [], asking=1))
                return
            if hello.purpose == "resume":
                self._resume(stranger, hello, line.user)
                return
            limit_nbytes = self._make_room(hello, user)
        except AvecError as exc:
            self._reception.refuse(stranger, exc, line)
            return
        session = str(self._tally.sessions + self._tally.uploads + 1)
        guest = Guest(line, session, promised_nbytes=max(0, hello.memory_nbytes), limit_nbytes=limit_nbytes)
        if hello.purpose == "session":  # of two numbers the first is given where the other is none
            guest.resume_s = max(0.0, min(self._settings.resume_timeout_s, hello.resume_s))
        assignment = Assignment(
            hello.purpose,
            session,
            program,
            hello.numerics,
            self._workers["session"],
            line.user,
            stranger.transport.peer,
            user.cache_limit_nbytes if user else None,
            guest.secret,
            guest.resume_s,
            limit_nbytes,
            (user.max_models if user else None) or self._settings.session_max_models,
            tuple(codec for codec in available() if codec in hello.codecs),
        )
        self._assign(stranger, guest, msgspec.json.encode(assignment))
        self._guests[session] = guest
        self._workers[hello.purpose] += 1
        if hello.purpose == "session":
            self._tally.sessions += 1
        else:
            self._tally.uploads += 1
        if guest.worker is not None:
            hear, drop = partial(self._hear_worker, session), partial(self._part, guest)
            self._watch.add_peer(guest.worker.fileno(), hear, drop, f"the worker of session {session}")
        self._share(guest, user)
        log.info("%s %s: %s from %s", hello.purpose, session, program or "a host", stranger.transport.peer)

    def _share(self, guest: Guest, user: User | None) -> None:
        """Let a session have turns on the accelerator."""
        session, arbiter = guest.session, self._arbiter
        if guest.board is None:  # an upload
            return
        weight, priority = (user.weight, PRIORITIES[user.priority]) if user else (1.0, 0)
        arbiter.enter(session, guest.line.user, weight, priority, guest.board, guest.tell)
        self._divide_replay()
        guest.on_turn = lambda said: (
            arbiter.ask(session) if isinstance(said, Ask) else arbiter.give_back(session, said.used_ns, said.again)
        )

    def _resume(self, stranger: Stranger, hello: Hello, user: str) -> None:
        """Pass a connection to the worker of the session that its host has come back to."""
        self._check_open()
        guest = self._guests.get(hello.session)
        if guest is None or guest.line.purpose != "session":
            raise gone()
        guest.check(hello, user)
        with self._connection(stranger, guest) as descriptor:
            guest.pass_on(hello, descriptor, stranger.transport.peer)
        self._tally.resumed += 1
        log.info("session %s: its host has come back from %s", hello.session, stranger.transport.peer)

    def _assign(self, stranger: Stranger, guest: Guest, assignment: bytes) -> None:
        """Have a worker forked for a connection."""
        guest.life, its_life = life_pair()
        with self._connection(stranger, guest) as descriptor, its_life, contextlib.ExitStack() as more:
            descriptors = [descriptor]
            if guest.line.purpose == "session":
                guest.worker, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                more.enter_context(theirs)
                guest.board, page = more.enter_context(new_board())
                descriptors += [theirs.fileno(), page]
            try:
                self._zygote.tell(assignment, [*descriptors, its_life.fileno()])
            except DestinationError:
                guest.close()
                raise
        self._lives.watch(f"{guest.line.purpose} {guest.session}", guest.life, lambda: self._kill(guest.session))

    def _kill(self, session: str) -> None:
        with contextlib.suppress(DestinationError):  # a zygote that takes no orders is ended itself
            self._zygote.tell(msgspec.json.encode(Kill(session)))

    @contextlib.contextmanager
    def _connection(self, stranger: Stranger, guest: Guest) -> Iterator[int]:
        """The descriptor of a connection for a worker, behind a process that encrypts where that is to be done."""
        transport = stranger.open_transport()
        if not stranger.encrypted:
            yield transport.fileno()
            return
        encryption, plain = start_encryption(transport, worker_user(self._settings.worker_user))
        guest.encrypted = True
        guest.encryptions.append(encryption)
        self._encryptions[encryption.pid] = encryption, guest
        self._lives.watch(f"encryption {encryption.pid}", encryption.life, encryption.kill)
        with plain:
            yield plain.fileno()

    def _check_open(self) -> None:
        if self._ends_s is not None:
            raise DestinationDraining(f"{self._listener.url} is shutting down and takes no more hosts")

    def _make_room(self, hello: Hello, user: User | None) -> int | None:
        """How much memory one more session may have; None where nothing limits it.

        A session of the same user's that waits for its host is ended where that makes room.
        """
        self._check_open()
        while True:
            try:
                return self._vacancies.check(hello, user, self._places(), self._staying(), self._ready.accelerator)
            except DestinationFull:
                name = user.name if user else ""
                own = [guest for guest in self._staying() if guest.line.user == name]
                left = vacatable(own, time.monotonic()) if hello.purpose == "session" else None
                if left is None:
                    raise
                log.info("session %s is ended, which waits for its host: its place is needed", left.session)
                left.vacate("its host was away, and another session of the same user needed its place")
                self._tally.vacated += 1

    def _staying(self) -> list[Guest]:
        """All that take a place: not the sessions that were told to leave it."""
        return [guest for guest in self._guests.values() if not guest.vacated]

    def _divide_replay(self) -> None:
        """Say to each session what it may keep for graphs, which depends on how many there are."""
        sessions = [guest for guest in self._guests.values() if guest.board is not None]
        for guest in sessions:
            assert guest.board is not None
            guest.board["replay_nbytes"] = room.replay_nbytes(
                self._settings.graph_memory_percent,
                self._ready.accelerator.memory_nbytes,
                len(sessions),
                guest.limit_nbytes,
            )

    def _places(self, asking: int = 0) -> Places:
        return Places(
            sum(guest.line.purpose == "session" for guest in self._staying()),
            self._settings.max_sessions,
            self._workers["upload"],
            UPLOAD_COUNT_LIMIT,
            len(self._reception) - asking,  # who asks has said hello
            STRANGER_COUNT_LIMIT,
        )

    def _answer_metrics(self) -> None:
        """Tell the process that serves Prometheus what it asks."""
        assert self._metrics is not None
        try:
            owners = self._access.users.all() if self._access.users is not None else ()
            self._metrics.answer(self._status(None, owners))
        except (AvecError, OSError) as exc:
            log.error("metrics are not served any more: %s", exc)
            self._watch.remove(self._metrics.socket.fileno())

    def _status(self, viewer: User | None, owners: Sequence[User], asking: int = 0) -> Status:
        return put_together(
            self._tally,
            self._guests,
            self._places(asking),
            self._ready,
            self._security(),
            self._settings,
            viewer,
            self._ends_s is not None,
            owners,
        )

    def _security(self) -> dict[str, str]:
        """What protects hosts from others here, as it is."""
        asked = "off: loopback asks nobody" if is_loopback(self._listener.url) else "off: --insecure"
        if self._access.users is not None:
            asked = "certificates" if self._access.by_certificate else "tokens"
        return {
            "encryption": "TLS 1.3" if self._access.context is not None else "off: tcp://",
            "authentication": asked,
            "audit log": "on" if self._audit is not None else "off: there are no users",
            **self._ready.confinement,
        }
