"""What a worker gives up before it does anything for a host, so that whoever takes it over has gained little.

Each measure is applied on its own and says what became of it: an old kernel lacks some, and `avec doctor --security`
shows which. Linux alone has them. Applied by a process's only thread; threads and children that follow inherit them.
Not here: what a call may ask for (executors) and which models a user has (`tenants`).
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import socket
import struct
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from avec.destination.worker_user import ROOT, WorkerUser, become, hand_over, out_of_reach, own_proc

ON = "on"
NOT_ROOT = "workers not under root"

# Source: linux/prctl.h, linux/landlock.h, linux/seccomp.h, linux/filter.h, linux/capability.h.
_PR_CAPBSET_DROP, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 24, 22, 38
_SECCOMP_MODE_FILTER, _SECCOMP_ALLOW, _SECCOMP_ERRNO = 2, 0x7FFF0000, 0x00050000
_NAMESPACES = 0x7E020000  # flags of clone; that of time alone is not among them, and needs unshare or clone3
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446  # the same on every processor
_LANDLOCK_VERSION_FLAG, _PATH_BENEATH = 1, 1
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR, _TRUNCATE, _IOCTL = 1, 2, 4, 8, 1 << 14, 1 << 15
_CREATE_FILE, _REMOVE_FILE = 1 << 8, 1 << 5
_FILE_RIGHTS = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL  # the others are a folder's
_FS_RIGHTS_BY_ABI = {1: 13, 2: 14, 3: 15, 4: 15}  # bits; from 5 on 16
_NET_RIGHTS = 3  # bind and connect of TCP
_SCOPES = 3  # abstract Unix sockets and signals of processes outside
_CAPABILITY_HEADER = struct.pack("=Ii", 0x20080522, 0)  # version 3; this process
_READ_SEARCH = 1 << 2  # CAP_DAC_READ_SEARCH: read files and look into folders, whosever they are
_PR_CAP_AMBIENT, _AMBIENT_RAISE = 47, 2
_LAST_CAPABILITY = 63

SYSTEM_FOLDERS = ("/usr", "/lib", "/lib64", "/bin", "/sbin", "/opt", "/proc", "/sys", "/nix", "/run/nvidia")
# What libraries look up of the machine. Not all of /etc: keys and passwords lie there, which root's workers could read.
SYSTEM_FILES = tuple(
    f"/etc/{name}" for name in
    "ld.so.cache ld.so.conf ld.so.conf.d ld.so.preload alternatives static localtime timezone os-release passwd group "
    "nsswitch.conf hosts gai.conf machine-id mime.types locale.alias locale.conf fonts OpenCL vulkan glvnd nvidia "
    "nvidia-container-runtime nvidia-imex cuda ssl/openssl.cnf pki/tls/openssl.cnf crypto-policies".split()
)  # fmt: skip
# NVIDIA's on PCs and on Tegra, WSL's, AMD's and Intel's.
ACCELERATORS = ("nvidia*", "nvhost*", "nvmap", "nvgpu", "dxg", "dri", "kfd")
DEVICES = (*ACCELERATORS, "null", "zero", "full", "random", "urandom")

# Refused system calls and their numbers on (x86_64, aarch64): other processes' memory, other namespaces, the kernel's
# inside, and connections. Not execve: compiling graphs starts compilers. Not bind, listen and accept: CUDA opens a
# local socket of its own when it starts, and sockets of other families cannot be made.
REFUSED_CALLS = {
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "pidfd_getfd": (438, 438), "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51),
    "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430), "fsmount": (432, 432),
    "mount_setattr": (442, 442), "unshare": (272, 97), "setns": (308, 268), "bpf": (321, 280),
    "userfaultfd": (323, 282), "perf_event_open": (298, 241), "kexec_load": (246, 104), "kexec_file_load": (320, 294),
    "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106), "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426), "io_uring_register": (427, 427), "add_key": (248, 217), "request_key": (249, 218),
    "keyctl": (250, 219), "swapon": (167, 224), "swapoff": (168, 225), "reboot": (169, 142), "syslog": (103, 116),
    "acct": (163, 89), "quotactl": (179, 60), "open_by_handle_at": (304, 265), "personality": (135, 92),
    "connect": (42, 203),
}  # fmt: skip
# Judged by their arguments, too.
_CLONE, _CLONE3 = (56, 220), (435, 435)
_SOCKET, _SOCKETPAIR = (41, 198), (53, 199)
_SOCKET_TYPE = 0xF  # the rest are flags. Source: linux/net.h
_PROCESSORS = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # place in the tables, AUDIT_ARCH


def mps_folder() -> Path | None:
    """Where NVIDIA's MPS listens, if the administrator runs it. Source: NVIDIA's MPS documentation, appendix A.1."""
    folder = Path(os.environ.get("CUDA_MPS_PIPE_DIRECTORY") or "/tmp/nvidia-mps")
    return folder if (folder / "control").exists() else None


def confine(
    writable: Iterable[Path], temporary: Path, cache: Path, mps: Path | None = None, user: WorkerUser | None = None
) -> dict[str, str]:
    """Give up what a worker does not need.

    Args:
        writable: the folders that it may write; made if needed.
        temporary: where its temporary files go, made anew; who started the worker removes it.
        cache: the folder that all folders of workers are in, unless the administrator named others.
        mps: where MPS listens, which the worker shall reach; then it may connect to other local services too.
        user: whose the worker shall be, where it is root's.

    Returns:
        Measure → "on", or "off: " and why.
    """
    folders = [*writable, temporary]
    for folder in folders:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.environ["TMPDIR"] = str(temporary)
    tempfile.tempdir = str(temporary)
    if sys.platform != "linux":
        return {"workers' own temporary folders": ON, "confinement of workers": f"off: {sys.platform} has none of it"}
    libc = ctypes.CDLL(None, use_errno=True)
    not_root, barred = (ON, None) if user is None else _leave_root(libc, user, folders, cache)
    return {
        "workers' own temporary folders": ON,
        "no memory dumps of workers": _attempt(_refuse_dumps),
        NOT_ROOT: not_root,
        "workers without capabilities": _attempt(lambda: _drop_capabilities(libc, barred)),
        "no new privileges for workers": _attempt(lambda: _checked(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))),
        "workers' files by Landlock": _attempt(lambda: _restrict_files(libc, folders, mps)),
        "workers' system calls by seccomp": _attempt(lambda: _filter_calls(libc, mps is not None)),
        **({} if mps is None else {"local services out of workers' reach": f"off: MPS is reached at {mps}"}),
    }


def _attempt(measure: Callable[[], object]) -> str:
    try:
        measure()
    except OSError as exc:
        return f"off: {exc.strerror}"
    return ON


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        why = "this kernel does not have it" if number in (errno.ENOSYS, errno.EOPNOTSUPP) else os.strerror(number)
        raise OSError(number, why)
    return result


def _refuse_dumps() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a host's data would lie in them


def _leave_root(libc: ctypes.CDLL, user: WorkerUser, folders: Iterable[Path], cache: Path) -> tuple[str, Path | None]:
    """Become the worker's user; tell whether that was done, and what he can use with a capability alone."""
    try:
        if user.uid == ROOT:
            raise PermissionError(errno.EPERM, "AVEC_WORKER_USER names root, or no other user beside a GPU")
        barred = out_of_reach(user, map(Path, _python_paths()), cache.parent)
        if barred is not None and not _permitted(libc) & _READ_SEARCH:
            raise PermissionError(errno.EACCES, f"{user.name} cannot use {barred}")
    except OSError as exc:
        hand_over(folders, cache, ROOT, ROOT)  # without capabilities not even root could write them
        return f"off: {exc.strerror}", None
    # What fails from here on ends the worker: none stays root's where others of the destination do not.
    hand_over(folders, cache, user.uid, user.gid)
    _bound_capabilities(libc, 0 if barred is None else _READ_SEARCH)
    become(user, keeps_capabilities=barred is not None)
    own_proc()
    return ON, barred


def _bound_capabilities(libc: ctypes.CDLL, kept: int) -> None:
    for number in range(_LAST_CAPABILITY + 1):
        if not kept >> number & 1:
            libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0)  # refused to all but root, who alone needs it


def _drop_capabilities(libc: ctypes.CDLL, barred: Path | None) -> None:
    """Drop them all; where the worker's user cannot get at what it needs, all but the one to read it."""
    kept = 0 if barred is None else _READ_SEARCH
    _bound_capabilities(libc, kept)
    _checked(libc.capset(_CAPABILITY_HEADER, struct.pack("=6I", kept, kept, kept, 0, 0, 0)))
    if kept:  # what the worker starts has it too
        _checked(libc.prctl(_PR_CAP_AMBIENT, _AMBIENT_RAISE, _READ_SEARCH.bit_length() - 1, 0, 0))
        raise PermissionError(errno.EACCES, f"CAP_DAC_READ_SEARCH stays, for the workers' user cannot use {barred}")


def _permitted(libc: ctypes.CDLL) -> int:
    """The first 32 capabilities that this process may have."""
    data = ctypes.create_string_buffer(24)
    _checked(libc.capget(_CAPABILITY_HEADER, data))
    permitted: int = struct.unpack_from("=I", data, 4)[0]
    return permitted


def _restrict_files(libc: ctypes.CDLL, writable: Iterable[Path], mps: Path | None) -> None:
    version = _checked(libc.syscall(_LANDLOCK_CREATE, None, 0, _LANDLOCK_VERSION_FLAG))
    rights = (1 << _FS_RIGHTS_BY_ABI.get(version, 16)) - 1
    words = [rights, *([_NET_RIGHTS] if version >= 4 else []), *([_SCOPES] if version >= 6 else [])]
    attributes = struct.pack(f"={len(words)}Q", *words)
    ruleset = _checked(libc.syscall(_LANDLOCK_CREATE, attributes, len(attributes), 0))
    try:
        reading = _EXECUTE | _READ_FILE | _READ_DIR
        for path in (*SYSTEM_FOLDERS, *SYSTEM_FILES, *_python_paths()):
            _allow(libc, ruleset, path, reading & rights)
        _allow(libc, ruleset, "/dev", _READ_DIR)  # CUDA looks there for what there is
        for device in (found for name in DEVICES for found in Path("/dev").glob(name)):
            _allow(libc, ruleset, str(device), (_READ_FILE | _WRITE_FILE | _READ_DIR | _IOCTL) & rights)
        # CUDA gives its threads names there, and does not start where it may not.
        _allow(libc, ruleset, "/proc/self", (_READ_FILE | _WRITE_FILE | _READ_DIR | _TRUNCATE) & rights)
        shared = _READ_FILE | _WRITE_FILE | _READ_DIR | _CREATE_FILE | _REMOVE_FILE | _TRUNCATE
        _allow(libc, ruleset, "/dev/shm", shared & rights)  # CUDA and semaphores
        if mps is not None:
            _allow(libc, ruleset, str(mps), (_READ_FILE | _WRITE_FILE | _READ_DIR) & rights)
        for folder in writable:
            _allow(libc, ruleset, str(folder), rights)
        _checked(libc.syscall(_LANDLOCK_RESTRICT, ruleset, 0))
    finally:
        os.close(ruleset)


def _python_paths() -> set[str]:
    """What this interpreter and its libraries are loaded from."""
    libraries = os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep)
    paths = {sys.prefix, sys.base_prefix, sys.exec_prefix, *sys.path, *libraries}
    paths |= {os.environ.get(name, "") for name in ("CUDA_HOME", "CUDA_PATH")}
    return {os.path.realpath(path) for path in paths if os.path.isabs(path) and os.path.realpath(path) != "/"}


def _allow(libc: ctypes.CDLL, ruleset: int, path: str, rights: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, PermissionError):  # not every system has every folder, nor shows it to every user
        return
    try:
        rights &= -1 if os.path.isdir(path) else _FILE_RIGHTS
        rule = struct.pack("=Qi", rights, descriptor)
        _checked(libc.syscall(_LANDLOCK_ADD, ruleset, _PATH_BENEATH, rule, 0))
    finally:
        os.close(descriptor)


def _filter_calls(libc: ctypes.CDLL, may_connect: bool) -> None:
    if platform.machine() not in _PROCESSORS:
        raise OSError(errno.ENOSYS, f"no table of system calls for {platform.machine()}")
    place, architecture = _PROCESSORS[platform.machine()]
    program = _program(place, architecture, may_connect)
    memory = ctypes.create_string_buffer(program)
    header = struct.pack("@HP", len(program) // 8, ctypes.addressof(memory))
    _checked(libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, header, 0, 0))


def _program(place: int, architecture: int, may_connect: bool) -> bytes:
    """A filter in classic BPF over struct seccomp_data: number at 0, architecture at 4, arguments from 16 on."""
    allow, refuse = _instruction(0x06, _SECCOMP_ALLOW), _instruction(0x06, _SECCOMP_ERRNO | errno.EPERM)
    steps = [_load(4), _equal(architecture, 1, 0), refuse, _load(0)]
    steps += [_instruction(0x35, 0x40000000, 0, 1), refuse]  # x86_64's second set of numbers (x32)
    for name, numbers in REFUSED_CALLS.items():
        if name != "connect" or not may_connect:
            steps += _where(numbers[place], refuse)
    # The flags of clone3 lie in memory, where a filter cannot look: libc takes clone where there is no clone3.
    steps += _where(_CLONE3[place], _instruction(0x06, _SECCOMP_ERRNO | errno.ENOSYS))
    steps += _where(_CLONE[place], _load(16), _instruction(0x45, _NAMESPACES, 0, 1), refuse, allow)
    # Local sockets alone, and of them none whose packets need no connection: an address says where each goes, to
    # whatever service listens, and it lies in memory, too. Pairs are how processes talk to their children.
    for call in (_SOCKET, _SOCKETPAIR):
        kind = (_load(24), _instruction(0x54, _SOCKET_TYPE))
        connected = (_equal(socket.SOCK_STREAM, 1, 0), _equal(socket.SOCK_SEQPACKET, 0, 1), allow, refuse)
        steps += _where(call[place], _load(16), _equal(socket.AF_UNIX, 1, 0), refuse, *kind, *connected)
    return b"".join([*steps, allow])


def _where(call: int, *steps: bytes) -> list[bytes]:
    """The steps for one system call, whose last one decides; the others jump over them."""
    return [_equal(call, 0, len(steps)), *steps]


def _instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)


def _load(offset: int) -> bytes:
    return _instruction(0x20, offset)


def _equal(value: int, if_true: int, if_false: int) -> bytes:
    return _instruction(0x15, value, if_true, if_false)
