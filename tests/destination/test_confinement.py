"""What a worker cannot do although nobody stops it but the kernel; tried in a process that is confined as one."""

from __future__ import annotations

import json
import os
import platform
import pwd
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from avec.communication.tls import Trust
from avec.config import Settings
from avec.destination import zygote
from avec.destination.certificates import fingerprint_in
from avec.destination.users import Users
from avec.errors import DestinationError
from avec.host.session import Session, probe
from avec.protocol.messages import AcceleratorInfo
from destinations import PYTHON, Destination, await_true, children, floats, open_to_workers, relu, running, start
from launching import AVEC, environ

NOBODY = pwd.getpwnam("nobody")


def _kept_of_root() -> list[str]:
    """What workers keep of root here: one capability where Python is in its home, or all without that."""
    try:
        in_reach = os.geteuid() or subprocess.run([PYTHON, "-c", ""], user="nobody", group=NOBODY.pw_gid, check=True)
    except (PermissionError, subprocess.CalledProcessError):
        in_reach = False
    if in_reach:
        return []
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return [CAPABILITIES if int(status["CapPrm"], 16) & READ_SEARCH else ROOT]


CAPABILITIES, ROOT, READ_SEARCH = "workers without capabilities", "workers not under root", 1 << 2
KEPT = _kept_of_root()
CLONE = {"x86_64": 56, "aarch64": 220}.get(platform.machine())  # its number as a system call
ATTEMPT = """
import fcntl, os, resource, signal, socket, subprocess, sys, tempfile, threading, time, ctypes
from dataclasses import replace
from pathlib import Path
from avec import config
from avec.destination.call_filter import filter_calls
from avec.destination.tenants import confine_to
settings = replace(config.Settings(), cache_dir=Path({cache!r}), secrets_dir=Path({secrets!r}), worker_user={user!r})
measures = confine_to(settings, "ann")
off = [name for name, state in measures.items() if state != "on"]
assert off == {off!r}, measures
def child():
    pid = os.fork()
    if not pid:
        os.closerange(0, 3)  # who reads what this program prints does not wait for it
        time.sleep(5)
        os._exit(0)
    return pid
def filtered():  # as where Landlock does not judge signals
    filter_calls(ctypes.CDLL(None, use_errno=True), may_connect=False, signals=True)
    return True
try:
    result = {attempt}
except OSError as exc:
    print("refused", exc.errno)
else:
    print("done", result)
"""


def attempt(tmp_path: Path, expression: str, off: Sequence[str] = (), worker_user: str = "nobody") -> str:
    """What becomes of an expression in a process with all measures but `off`: "refused ERRNO" or "done RESULT"."""
    open_to_workers(tmp_path)
    return attempting(tmp_path, expression, off, worker_user)


def attempting(tmp_path: Path, expression: str, off: Sequence[str], worker_user: str = "nobody") -> str:
    """The same in a folder that may be one which other users cannot look into."""
    secrets, cache = tmp_path / "secrets", tmp_path / "cache"
    secrets.mkdir(exist_ok=True)
    (secrets / "certificate.pem").write_text("a private key")
    (cache / "users" / "bob" / "models").mkdir(parents=True, exist_ok=True)
    (cache / "users" / "bob" / "models" / "secret").write_text("bob's")
    code = ATTEMPT.format(
        cache=str(cache),
        secrets=str(secrets),
        attempt=expression.format(tmp=tmp_path, clone=CLONE),
        off=[*KEPT, *off],
        user=worker_user,
    )
    done = subprocess.run(
        [PYTHON, "-P", "-c", code], env=environ(), cwd="/", capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(autouse=True)
def _can_be_confined() -> None:
    try:
        found = Path("/sys/kernel/security/lsm").read_text()
    except OSError:
        return  # it cannot be told from here; the test tells
    if "landlock" not in found:
        pytest.skip("this kernel has no Landlock")


REFUSED = {
    "another user's models": "open('{tmp}/cache/users/bob/models/secret').read()",
    "the destination's key": "open('{tmp}/secrets/certificate.pem').read()",
    "the shared cache": "os.listdir('{tmp}/cache')",
    "home": "os.listdir(os.path.expanduser('~'))",
    "a file anywhere": "open('/var/tmp/avec-written', 'w')",
    "a way round by a link": "os.symlink('{tmp}/secrets/certificate.pem', tempfile.gettempdir() + '/x') "
    "or open(tempfile.gettempdir() + '/x').read()",
    "a connection": "socket.create_connection(('127.0.0.1', 1))",
    "a listening socket": "socket.create_server(('127.0.0.1', 0))",
    "a packet": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
    "a local service": "socket.socket(socket.AF_UNIX).connect('/run/any.sock')",
    "another process's environment": "open('/proc/' + str(os.getppid()) + '/environ', 'rb').read()",
    "a signal to another process": "os.kill(os.getppid(), 0)",
    "limits of another process of its user": "resource.prlimit(child(), resource.RLIMIT_CPU, (1, 1))",
    "processors of another": "os.sched_setaffinity(child(), {{0}})",
    "the scheduling of another": "os.sched_setscheduler(child(), os.SCHED_BATCH, os.sched_param(0))",
    "the priority of another": "os.setpriority(os.PRIO_PROCESS, child(), 19)",
    "the priority of all": "os.setpriority(os.PRIO_USER, 0, 19)",
    "a mount": "0 if ctypes.CDLL(None, use_errno=True).mount(b'x', b'/mnt', b'tmpfs', 0, None) == 0 "
    "else (_ for _ in ()).throw(OSError(ctypes.get_errno(), 'mount'))",
    "a namespace": "0 if ctypes.CDLL(None, use_errno=True).unshare(0x10000000) == 0 "
    "else (_ for _ in ()).throw(OSError(ctypes.get_errno(), 'unshare'))",
    "a namespace by clone": "0 if ctypes.CDLL(None, use_errno=True).syscall({clone}, 0x10000011, 0, 0, 0, 0) >= 0 "
    "else (_ for _ in ()).throw(OSError(ctypes.get_errno(), 'clone'))",
    "a packet to a local service": "[each.sendto(b'', '/run/any.sock') for each in [socket.socket(socket.AF_UNIX, "
    "socket.SOCK_DGRAM)]]",
    "a packet by one of a pair": "[each.sendto(b'', '/run/any.sock') for each in socket.socketpair(socket.AF_UNIX, "
    "socket.SOCK_DGRAM)]",
    "a device that is no accelerator": "open('/dev/ptmx', 'rb')",
    "what the machine keeps to itself": "open('/etc/shadow', 'rb')",
    "root's powers": "os.chown(tempfile.gettempdir(), 12345, 12345)",
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_worker_is_refused(tmp_path: Path, what: str) -> None:
    assert attempt(tmp_path, REFUSED[what]) in ("refused 1", "refused 13")


REFUSED_SIGNALS = {
    "to another process": "filtered() and os.kill(child(), signal.SIGTERM)",
    "to its group": "filtered() and os.kill(0, 0)",
    "to all": "filtered() and os.kill(-1, 0)",
    "by a descriptor": "[filtered() and signal.pidfd_send_signal(each, 0) for each in [os.pidfd_open(child())]]",
    "by a file that can be read": "filtered() and fcntl.fcntl(os.pipe()[0], fcntl.F_SETOWN, os.getppid())",
}


@pytest.mark.parametrize("which", REFUSED_SIGNALS)
def test_a_worker_is_refused_signals_where_landlock_does_not_judge_them(tmp_path: Path, which: str) -> None:
    assert attempt(tmp_path, REFUSED_SIGNALS[which]) == "refused 1"


def test_a_worker_has_signals_of_its_own_there(tmp_path: Path) -> None:
    own = "filtered() and [os.kill(os.getpid(), 0), signal.pthread_kill(threading.get_ident(), 0)] and None"
    assert attempt(tmp_path, own) == "done None"
    assert attempt(tmp_path, "filtered() and fcntl.fcntl(0, fcntl.F_GETFL) * 0 or None") == "done None"


GRANTED = {
    "its own models": "open('{tmp}/cache/users/ann/models/x', 'w').close()",
    "its own temporary files": "tempfile.TemporaryFile().close()",
    "devices that all programs use": "[open('/dev/' + name, 'r+b').close() for name in ('null', 'zero', 'urandom')] "
    "and None",
    "threads": "threading.Thread(target=int).start()",
    "compilers, which graphs are compiled with": "subprocess.run([sys.executable, '-c', ''], check=True) and None",
    "children": "[os.waitpid(pid, 0)[1] for pid in [os.fork() or os._exit(0)]] and None",
    "pairs of sockets": "[each.close() for each in socket.socketpair()] and None",
    "pairs of sockets that keep messages apart": "[each.close() for each in socket.socketpair(socket.AF_UNIX, "
    "socket.SOCK_SEQPACKET)] and None",
    "a signal to itself": "os.kill(os.getpid(), 0)",
    "a signal to a child": "os.kill(child(), 0)",
    "limits of its own": "[resource.prlimit(who, resource.RLIMIT_CPU, (99, 99)) for who in (0, os.getpid())] and None",
    "its own priority": "[os.setpriority(os.PRIO_PROCESS, who, 19) for who in (0, os.getpid())] and None",
    "its own processors": "[os.sched_setaffinity(who, {{0}}) for who in (0, os.getpid())] and None",
    "what its children may": "subprocess.run(['cat', '/proc/self/status'], capture_output=True).returncode or None",
}


@pytest.mark.parametrize("what", GRANTED)
def test_a_worker_still_has(tmp_path: Path, what: str) -> None:
    assert attempt(tmp_path, GRANTED[what]) == "done None"


MPS_CLIENT = "[each.connect('{tmp}/mps/control') for each in [socket.socket(socket.AF_UNIX)]] and None"


def test_a_worker_reaches_mps_where_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mps").mkdir()
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", str(tmp_path / "mps"))
    with socket.socket(socket.AF_UNIX) as control:
        control.bind(str(tmp_path / "mps" / "control"))
        (tmp_path / "mps" / "control").chmod(0o666)  # as MPS does, which serves any user's processes
        control.listen()
        assert attempt(tmp_path, MPS_CLIENT, off=["local services out of workers' reach"]) == "done None"
        packet = "socket.socket(socket.AF_INET, socket.SOCK_DGRAM)"
        assert attempt(tmp_path, packet, off=["local services out of workers' reach"]) == "refused 1"
    monkeypatch.delenv("CUDA_MPS_PIPE_DIRECTORY")
    assert attempt(tmp_path, MPS_CLIENT) == "refused 1"


def test_what_a_worker_starts_is_confined_too(tmp_path: Path) -> None:
    code = "subprocess.run(['cat', '{tmp}/secrets/certificate.pem'], capture_output=True).returncode"
    assert attempt(tmp_path, code) == "done 1"


ROOTS = pytest.mark.skipif(os.geteuid() != 0 or ROOT in KEPT, reason="only root's workers become another user's")


@ROOTS
@pytest.mark.parametrize(
    "expression",
    [
        "open('{tmp}/roots', 'rb')",
        "os.chmod('/etc/passwd', 0o644)",  # which it is
        "os.setuid(0)",
    ],
)
def test_a_worker_that_root_started_is_not_root(tmp_path: Path, expression: str) -> None:
    (tmp_path / "roots").touch(mode=0o600)
    assert attempt(tmp_path, expression) in ("refused 1", "refused 13")
    assert attempt(tmp_path, "os.getresuid() + os.getresgid()") == f"done {(NOBODY.pw_uid,) * 3 + (NOBODY.pw_gid,) * 3}"


@ROOTS
def test_what_root_left_in_a_users_folders_is_the_workers(tmp_path: Path) -> None:
    models = tmp_path / "cache" / "users" / "ann" / "models"
    for folder in (models / "models", models / "used"):
        folder.mkdir(parents=True, mode=0o700)
        (folder / "old").touch(mode=0o600)
    (tmp_path / "outside").touch(mode=0o600)
    (models / "used" / "link").symlink_to(tmp_path / "outside")
    read = "open('{tmp}/cache/users/ann/models/models/old').read()"
    assert attempt(tmp_path, read) == "done"
    (models / "derived").mkdir(mode=0o700)  # a server that was started again, and has root's rights
    assert attempt(tmp_path, "os.listdir('{tmp}/cache/users/ann/models/derived')") == "done []"
    assert (tmp_path / "outside").stat().st_uid == 0


@ROOTS
def test_workers_of_root_have_a_folder_that_others_cannot_look_into_by_one_capability(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "cache"):
        folder.mkdir(mode=0o700, exist_ok=True)
    write = "open('{tmp}/cache/users/ann/models/x', 'w').close()"
    done = attempting(tmp_path, write, [] if KEPT else [CAPABILITIES])
    assert done == "done None"


@ROOTS
def test_a_user_that_there_is_not_keeps_a_destination_from_starting(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="the user 'no-such', whom this machine does not know"):
        start(tmp_path, AVEC_WORKER_USER="no-such")


@ROOTS
def test_workers_that_the_administrator_wants_as_root_are_said_to_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert attempt(tmp_path, "os.getuid()") == f"done {NOBODY.pw_uid}"
    monkeypatch.setattr(sys.modules[__name__], "KEPT", [])
    user = "[os.getuid(), open('{tmp}/cache/users/ann/models/x', 'w').close()]"
    assert attempt(tmp_path, user, [ROOT], worker_user="root") == "done [0, None]"


@ROOTS
def test_the_processes_of_a_destination_that_root_started_are_not_roots(tmp_path: Path, settings: Settings) -> None:
    with running(tmp_path, "--listen", "tls://127.0.0.1:0", "--require-token") as destination:
        token = Users(tmp_path / "secrets" / "users.json").add("ann")
        fingerprint = fingerprint_in(tmp_path / "secrets" / "certificate.pem")
        known = replace(settings, token=token, fingerprint=Trust(fingerprint).fingerprint)
        with Session(destination.url, known, "test") as session:
            relu(session).forward(floats(1, 2, 3, 4)).wait()
            encrypting = set(children(destination.process.pid)) - {destination.zygote_pid}
            found = {Path(f"/proc/{pid}/status").read_text() for pid in (*destination.workers(), *encrypting)}
    assert len(found) == 2
    for status in found:
        (uids,) = [line.split()[1:] for line in status.splitlines() if line.startswith("Uid:")]
        assert set(uids) == {str(NOBODY.pw_uid)}


def test_real_workers_are_confined_and_leave_no_temporary_files(destination: Destination, settings: Settings) -> None:
    folder = destination.cache_dir / "tmp"
    with Session(destination.url, settings, "test") as session:
        relu(session).forward(floats(1, 2, 3, 4)).wait()
        (worker,) = [pid for pid in destination.workers() if (folder / f"worker-{pid}").exists()]
        status = dict(line.split(":", 1) for line in Path(f"/proc/{worker}/status").read_text().splitlines())
        assert (status["NoNewPrivs"].strip(), status["Seccomp"].strip()) == ("1", "2")
        kept = READ_SEARCH if KEPT == [CAPABILITIES] else 0
        assert int(status["CapEff"], 16) == kept
        assert int(status["CapBnd"], 16) == kept or os.geteuid() != 0
    await_true(lambda: not os.listdir(folder), "its temporary folder is removed")


def test_the_doctor_says_what_is_on_and_what_is_not(tmp_path: Path, settings: Settings) -> None:
    with running(tmp_path, "--listen", "tls://127.0.0.1:0", "--require-token") as destination:
        token = Users(tmp_path / "secrets" / "users.json").add("ann")
        fingerprint = fingerprint_in(tmp_path / "secrets" / "certificate.pem")
        variables = environ(AVEC_TOKEN=token, AVEC_FINGERPRINT=fingerprint, COLUMNS="200")
        done = subprocess.run(
            [*AVEC, "doctor", "--security", destination.url], env=variables, capture_output=True, text=True, check=False
        )
        known = replace(settings, token=token, fingerprint=Trust(fingerprint).fingerprint)
        security = probe(destination.url, known).security
    assert done.stderr == ""
    assert all(f"{measure}" in done.stdout for measure in security), json.dumps(security)
    assert done.returncode == any(state.startswith("off") for state in security.values())
    assert (security["encryption"], security["authentication"]) == ("TLS 1.3", "tokens")


def test_confinement_that_is_switched_off_is_said_to_be(tmp_path: Path, settings: Settings) -> None:
    with running(tmp_path, AVEC_CONFINE="0") as destination:
        assert probe(destination.url, settings).security["confinement of workers"] == "off: AVEC_CONFINE=0"


CPU = (AcceleratorInfo("cpu", "a CPU", 1), {"Landlock": "on"})
CUDA = (AcceleratorInfo("cuda", "a GPU", 1), {"Landlock": "on"})


def probe_as(
    monkeypatch: pytest.MonkeyPatch, settings: Settings, *confined: zygote.Probed | None, free: zygote.Probed
) -> zygote.Probed:
    """Probe where confined looks find, one after another, something else than one that is not confined."""
    finds = iter(confined)
    monkeypatch.setattr(zygote, "_probe_in_child", lambda asked: next(finds) if asked.confine else free)
    return zygote._probe(settings)


def test_what_confined_workers_see_is_what_is_offered(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> None:
    assert probe_as(monkeypatch, settings, CUDA, free=CUDA) == CUDA
    assert probe_as(monkeypatch, settings, CPU, free=CPU) == CPU
    assert probe_as(monkeypatch, settings, CPU, CUDA, free=CUDA) == CUDA  # its device files had to be made first


@pytest.mark.parametrize("seen", [CPU, None])
def test_a_gpu_that_confined_workers_cannot_use_is_an_error_and_not_a_cpu(
    monkeypatch: pytest.MonkeyPatch, settings: Settings, seen: zygote.Probed | None
) -> None:
    with pytest.raises(DestinationError, match="a GPU cannot be used by confined workers; AVEC_CONFINE=0"):
        probe_as(monkeypatch, settings, seen, seen, free=CUDA)
