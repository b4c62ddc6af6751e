"""The process that hosts connect to: it greets them, has the zygote fork a worker for each, and drains on SIGTERM.

One thread, one selector: strangers cost a few kilobytes until they have said hello, and nothing of theirs is parsed
here but that. Tensors never pass through this process. Not here: sessions (`session`), forking (`zygote`).
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Literal, Self

import msgspec
from msgspec.structs import replace as replace_line

from avec import __version__, config
from avec.communication import is_loopback, listen
from avec.communication.tcp import TcpListener
from avec.config import Settings
from avec.destination.admission import Access, Admission
from avec.destination.audit import AuditLog, Line, now
from avec.destination.encryption import Encryption
from avec.destination.encryption import start as start_encryption
from avec.destination.guests import Guest, gone
from avec.destination.orders import DATAGRAM_NBYTES, Ask, Assignment, Drain, Ended, FromZygote, Ready
from avec.destination.sharing import room
from avec.destination.sharing.arbiter import Arbiter
from avec.destination.sharing.board import new_board
from avec.destination.stranger import Stranger
from avec.destination.tenants import model_cache
from avec.destination.users import PRIORITIES, User
from avec.errors import AvecError, DestinationDraining, DestinationError, DestinationFull
from avec.protocol.messages import AcceleratorInfo, Hello, Status

STRANGER_COUNT_LIMIT = 64  # connections that have not said hello yet
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
        ConfigurationError: the address cannot be listened at.
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
            audit = stack.enter_context(contextlib.closing(AuditLog(path)))
        zygote = stack.enter_context(_started_zygote(settings))
        server = stack.enter_context(Server(listener, zygote, access, audit, settings, lifeline_pid))
        return server.run(on_ready)


@contextlib.contextmanager
def _started_zygote(settings: Settings) -> Iterator[socket.socket]:
    """Start the zygote; give the socket that it is commanded over. It ends when that is closed."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    environ = config.environment(replace(settings, token=None), os.environ)  # nobody there has to show one
    environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy's threads would not survive the fork; torch has its own
    # Between two calls OpenMP's threads would spin on the cores that carry the results away; with several sessions on
    # one machine they spin against each other, and a call can take five times as long.
    environ.setdefault("OMP_WAIT_POLICY", "passive")
    environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(settings.cache_dir / "inductor"))
    with ours, theirs:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "avec.destination.zygote", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env=environ,
            stdin=subprocess.DEVNULL,
        )
        theirs.close()
        try:
            yield ours
        finally:
            ours.close()
            process.wait()


class Server:
    """Owns the listening socket and the selector; everything happens in `run`."""

    def __init__(
        self,
        listener: TcpListener,
        zygote: socket.socket,
        access: Access,
        audit: AuditLog | None,
        settings: Settings,
        lifeline_pid: int | None,
    ) -> None:
        self._listener = listener
        self._zygote = zygote
        self._access = access
        self._admission = Admission(access)
        self._audit = audit
        self._settings = settings
        self._lifeline_pid = lifeline_pid
        self._lifeline: int | None = None
        self._ready = Ready(AcceleratorInfo("cpu", "", 0), ())
        self._strangers: dict[int, Stranger] = {}
        self._guests: dict[str, Guest] = {}
        self._arbiter = Arbiter(settings.turns_at_once)
        self._encryptions: dict[int, tuple[Encryption, Guest]] = {}  # by process
        self._workers = {"session": 0, "upload": 0}
        self._sessions_so_far = 0
        self._ends_s: float | None = None  # draining: when patience ends
        self._selector = selectors.DefaultSelector()
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
        for stranger in self._strangers.values():
            stranger.transport.close()
        for guest in self._guests.values():
            guest.close()
        self._selector.close()
        for descriptor in (self._wakeup, self._alarm, self._lifeline):
            if descriptor is not None:
                os.close(descriptor)

    def run(self, on_ready: Callable[[str, AcceleratorInfo, tuple[str, ...]], None]) -> int:
        """Serve until told to stop and drained."""
        self._watch(self._wakeup, self._take_signal)
        self._watch(self._zygote.fileno(), self._hear_zygote)
        self._await_zygote()
        if self._ends_s is not None:  # told to end before it began
            return 0
        self._watch(self._listener.fileno(), self._accept)
        self._watch_lifeline()
        if not is_loopback(self._listener.url) and self._access.context is None:
            log.warning(
                "%s is open to everybody who can reach it: --insecure means no encryption and no authentication",
                self._listener.url,
            )
        on_ready(self._listener.url, self._ready.accelerator, self._ready.formats)
        while not self._finished():
            for key, _ in self._selector.select(self._patience_s()):
                key.data()
            self._arbiter.look()
            self._drop_silent_strangers()
        return 0

    def _watch(self, descriptor: int, act: Callable[[], None]) -> None:
        self._selector.register(descriptor, selectors.EVENT_READ, act)

    def _await_zygote(self) -> None:
        deadline_s = time.monotonic() + ZYGOTE_TIMEOUT_S
        while not self._ready.formats and self._ends_s is None:
            if time.monotonic() > deadline_s:
                raise DestinationError(f"the zygote was not ready after {ZYGOTE_TIMEOUT_S:.0f} s")
            for key, _ in self._selector.select(1.0):
                key.data()

    def _watch_lifeline(self) -> None:
        if self._lifeline_pid is None:
            return
        try:
            self._lifeline = os.pidfd_open(self._lifeline_pid)
        except ProcessLookupError:
            self._drain("the application is gone")
        else:
            self._watch(self._lifeline, self._lose_lifeline)

    def _lose_lifeline(self) -> None:
        assert self._lifeline is not None
        self._selector.unregister(self._lifeline)
        self._stop_listening()
        # Children of the application may still compute: no deadline, the last session's end is the end.
        self._ends_s = float("inf")

    def _finished(self) -> bool:
        if self._ends_s is None:
            return False
        return not self._workers["session"] or time.monotonic() > self._ends_s

    def _patience_s(self) -> float | None:
        deadlines_s = [stranger.deadline_s for stranger in self._strangers.values()]
        if self._ends_s is not None and self._ends_s != float("inf"):
            deadlines_s.append(self._ends_s)
        if (lease_ends_s := self._arbiter.deadline_s()) is not None:
            deadlines_s.append(lease_ends_s)
        return max(0.0, min(deadlines_s) - time.monotonic()) if deadlines_s else None

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
        """Take no more hosts, tell those here, give what is under way its time."""
        log.info("draining: %s", reason)
        self._stop_listening()
        self._ends_s = time.monotonic() + self._settings.drain_timeout_s
        self._zygote.send(msgspec.json.encode(Drain()))

    def _stop_listening(self) -> None:
        with contextlib.suppress(KeyError, ValueError):  # not yet, or no longer
            self._selector.unregister(self._listener.fileno())
        self._listener.close()  # so that hosts are refused at once, rather than wait for a hello

    def _hear_zygote(self) -> None:
        data = self._zygote.recv(DATAGRAM_NBYTES)
        if not data:
            raise DestinationError("the zygote ended; its log is above")
        match msgspec.json.decode(data, type=FromZygote):
            case Ready() as ready:
                self._ready = ready
            case Ended(session, purpose, status):
                self._workers[purpose] -= 1
                how = f"killed by {signal.Signals(-status).name}" if status < 0 else f"status {status}"
                log.log(logging.WARNING if status else logging.INFO, "%s %s ended: %s", purpose, session, how)
                self._note_end(self._guests.pop(session), how if status else "left")

    def _hear_worker(self, session: str) -> None:
        guest = self._guests.get(session)  # the zygote may have told of its end in the same moment
        if guest is not None and not guest.hear():
            self._part(guest)

    def _part(self, guest: Guest) -> None:
        """Hear no more from a guest's worker."""
        self._arbiter.leave(guest.session)
        if guest.worker is not None:
            self._selector.unregister(guest.worker)
            guest.worker.close()
            guest.worker = None

    def _note_end(self, guest: Guest, outcome: str) -> None:
        self._part(guest)
        received, sent = guest.counts()
        seconds = round(time.monotonic() - guest.began_s, 3)
        used_s = None if guest.board is None else round(guest.board["used_ns"] / 1e9, 3)
        line = replace_line(guest.line, seconds=seconds, outcome=outcome, received=received, sent=sent)
        self._write_audit(replace_line(line, accelerator_s=used_s))
        guest.close()
        self._divide_replay()

    def _write_audit(self, line: Line) -> None:
        if self._audit is None:
            return
        try:
            self._audit.note(line)
        except OSError as exc:  # hosts are served all the same; the log says that the audit has a gap
            log.error("the audit log lacks a line: %s; %s", exc.strerror, line)

    def _reap(self) -> None:
        """Take leave of the processes that encrypted connections; the zygote's end shows elsewhere."""
        for pid in list(self._encryptions):
            if os.waitpid(pid, os.WNOHANG)[0]:
                encryption, guest = self._encryptions.pop(pid)
                guest.note_ended(encryption)

    def _accept(self) -> None:
        try:
            transport = self._listener.accept()
        except OSError as exc:  # it left while it was being accepted, or descriptors have run out
            log.warning("a connection was not accepted: %s", exc)
            return
        if len(self._strangers) >= STRANGER_COUNT_LIMIT:
            log.warning("%s turned away: %d connections have not said hello", transport.peer, len(self._strangers))
            transport.close()
            return
        descriptor = transport.fileno()
        deadline_s = time.monotonic() + self._settings.hello_timeout_s
        self._strangers[descriptor] = Stranger(transport, self._access.context, deadline_s)
        self._watch(descriptor, lambda: self._hear_stranger(descriptor))

    def _hear_stranger(self, descriptor: int) -> None:
        stranger = self._strangers[descriptor]
        try:
            hello = stranger.receive()
            if hello is None:
                return
            self._greet(stranger, hello)
        except AvecError as exc:
            log.warning("%s refused: %s", stranger.transport.peer, exc)
            stranger.refuse(exc)
        except OSError as exc:
            log.debug("%s left: %s", stranger.transport.peer, exc)
        self._drop(descriptor)

    def _greet(self, stranger: Stranger, hello: Hello) -> None:
        program = ascii(hello.program[:PROGRAM_LIMIT])[1:-1]  # it goes into datagrams and the log
        line = Line(now(), 0.0, "", stranger.transport.peer, hello.purpose, program, "left")
        try:
            user = self._admission.admit(stranger.address, hello.token, stranger.names)
            line = replace_line(line, user=user.name if user else "")
            if hello.purpose == "status":
                stranger.answer(self._status(user))
                return
            if hello.purpose == "resume":
                self._resume(stranger, hello, line.user)
                return
            limit_nbytes = self._check_room(hello, user)
        except AvecError as exc:
            self._write_audit(replace_line(line, outcome=f"refused: {exc.code}"))
            raise
        self._sessions_so_far += 1
        session = str(self._sessions_so_far)
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
        )
        self._assign(stranger, guest, msgspec.json.encode(assignment))
        self._guests[session] = guest
        self._workers[hello.purpose] += 1
        if guest.worker is not None:
            self._watch(guest.worker.fileno(), lambda: self._hear_worker(session))
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
            arbiter.ask(session) if isinstance(said, Ask) else arbiter.give_back(session, said.again)
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
        log.info("session %s: its host has come back from %s", hello.session, stranger.transport.peer)

    def _assign(self, stranger: Stranger, guest: Guest, assignment: bytes) -> None:
        """Have a worker forked for a connection."""
        with self._connection(stranger, guest) as descriptor:
            if guest.line.purpose != "session":
                socket.send_fds(self._zygote, [assignment], [descriptor])
                return
            guest.worker, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs, new_board() as (guest.board, page):
                socket.send_fds(self._zygote, [assignment], [descriptor, theirs.fileno(), page])

    @contextlib.contextmanager
    def _connection(self, stranger: Stranger, guest: Guest) -> Iterator[int]:
        """The descriptor of a connection for a worker, behind a process that encrypts where that is to be done."""
        transport = stranger.open_transport()
        if not stranger.encrypted:
            yield transport.fileno()
            return
        encryption, plain = start_encryption(transport)
        guest.encrypted = True
        guest.encryptions.append(encryption)
        self._encryptions[encryption.pid] = encryption, guest
        with plain:
            yield plain.fileno()

    def _check_open(self) -> None:
        if self._ends_s is not None:
            raise DestinationDraining(f"{self._listener.url} is shutting down and takes no more hosts")

    def _check_room(self, hello: Hello, user: User | None) -> int | None:
        """How much memory one more session may have; None where nothing limits it."""
        self._check_open()
        purpose: Literal["session", "upload"] = "upload" if hello.purpose == "upload" else "session"
        limit = self._settings.max_sessions if purpose == "session" else UPLOAD_COUNT_LIMIT
        if self._workers[purpose] >= limit:
            raise DestinationFull(
                f"{self._listener.url} is full: it serves {self._workers[purpose]} {purpose}s, which is its limit "
                f"(--max-sessions {self._settings.max_sessions}); try again later or elsewhere"
            )
        if user is not None:
            self._check_quota(purpose, user)
        return self._admit_memory(hello.memory_nbytes, user) if purpose == "session" else None

    def _check_quota(self, purpose: Literal["session", "upload"], user: User) -> None:
        purposes = [guest.line.purpose for guest in self._guests.values() if guest.line.user == user.name]
        sessions = user.max_sessions or self._settings.user_max_sessions
        connections = user.max_connections or self._settings.user_max_connections
        for what, count, limit in (
            ("sessions", purposes.count("session") if purpose == "session" else -1, sessions),
            ("connections", len(purposes), connections),
        ):
            if count >= limit:
                raise DestinationFull(
                    f"{user.name} has {count} {what} at {self._listener.url}, and {limit} are allowed; end one, or ask "
                    f"the administrator for more (avec user add --max-{what})"
                )

    def _admit_memory(self, needed_nbytes: int, user: User | None) -> int | None:
        settings, accelerator = self._settings, self._ready.accelerator
        tenants = [
            room.Tenant(guest.line.user, guest.promised_nbytes, guest.board["memory_nbytes"])
            for guest in self._guests.values()
            if guest.board is not None
        ]
        of_user = (user.memory_nbytes or settings.user_memory) if user else None
        return room.admit(
            max(0, needed_nbytes),
            user.name if user else "",
            tenants,
            accelerator.memory_nbytes,
            room.CONTEXT_NBYTES if accelerator.kind == "cuda" else 0,
            room.Limits(settings.session_memory, of_user),
        )

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

    def _status(self, user: User | None) -> Status:
        name, limit_nbytes = (user.name, user.cache_limit_nbytes) if user else ("", None)
        usage = model_cache(self._settings, name, limit_nbytes).usage()
        return Status(
            accelerators=(self._ready.accelerator,),
            formats=self._ready.formats,
            software=f"avec {__version__}",
            sessions=self._workers["session"],
            models=usage.models,
            models_nbytes=usage.models_nbytes,
            security=self._security(),
            waiting=sum(guest.waiting for guest in self._guests.values()),
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

    def _drop_silent_strangers(self) -> None:
        now_s = time.monotonic()
        for descriptor, stranger in list(self._strangers.items()):
            if stranger.deadline_s < now_s:
                log.warning("%s said no hello in %.1f s", stranger.transport.peer, self._settings.hello_timeout_s)
                self._drop(descriptor)

    def _drop(self, descriptor: int) -> None:
        """Let go of a connection here; a worker that took it over holds it by a descriptor of its own."""
        self._selector.unregister(descriptor)
        self._strangers.pop(descriptor).transport.close()
