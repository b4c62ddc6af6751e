"""What a worker gives up before it does anything for a host, so that whoever takes it over has gained little.

Each measure is applied on its own and says what became of it: an old kernel lacks some, and `avec doctor --security`
shows which. Linux alone has them. Applied by a process's only thread; threads and children that follow inherit them.
Not here: which system calls it may make (`call_filter`), what a call may ask for (executors), and which models a user
has (`tenants`).
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import struct
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from avec.destination.call_filter import checked, filter_calls
from avec.destination.worker_user import ROOT, WorkerUser, become, hand_over, out_of_reach, own_proc

ON = "on"
NOT_ROOT = "workers not under root"

# Source: linux/prctl.h, linux/landlock.h, linux/capability.h.
_PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 24, 38
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446  # the same on every processor
_LANDLOCK_VERSION_FLAG, _PATH_BENEATH = 1, 1
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR, _TRUNCATE, _IOCTL = 1, 2, 4, 8, 1 << 14, 1 << 15
_CREATE_FILE, _REMOVE_FILE = 1 << 8, 1 << 5
_FILE_RIGHTS = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL  # the others are a folder's
_FS_RIGHTS_BY_ABI = {1: 13, 2: 14, 3: 15, 4: 15}  # bits; from 5 on 16
_NET_RIGHTS = 3  # bind and connect of TCP
_SCOPES, _SCOPES_SINCE = 3, 6  # abstract Unix sockets and signals of processes outside
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
        "no new privileges for workers": _attempt(lambda: checked(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))),
        "workers' files by Landlock": _attempt(lambda: _restrict_files(libc, folders, mps)),
        "workers' system calls by seccomp": _attempt(
            lambda: filter_calls(libc, may_connect=mps is not None, signals=_landlock_version(libc) < _SCOPES_SINCE)
        ),
        **({} if mps is None else {"local services out of workers' reach": f"off: MPS is reached at {mps}"}),
    }


def _attempt(measure: Callable[[], object]) -> str:
    try:
        measure()
    except OSError as exc:
        return f"off: {exc.strerror}"
    return ON


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
    checked(libc.capset(_CAPABILITY_HEADER, struct.pack("=6I", kept, kept, kept, 0, 0, 0)))
    if kept:  # what the worker starts has it too
        checked(libc.prctl(_PR_CAP_AMBIENT, _AMBIENT_RAISE, _READ_SEARCH.bit_length() - 1, 0, 0))
        raise PermissionError(errno.EACCES, f"CAP_DAC_READ_SEARCH stays, for the workers' user cannot use {barred}")


def _permitted(libc: ctypes.CDLL) -> int:
    """The first 32 capabilities that this process may have."""
    data = ctypes.create_string_buffer(24)
    checked(libc.capget(_CAPABILITY_HEADER, data))
    permitted: int = struct.unpack_from("=I", data, 4)[0]
    return permitted


def _restrict_files(libc: ctypes.CDLL, writable: Iterable[Path], mps: Path | None) -> None:
    version = checked(_landlock_version(libc))
    rights = (1 << _FS_RIGHTS_BY_ABI.get(version, 16)) - 1
    words = [rights, *([_NET_RIGHTS] if version >= 4 else []), *([_SCOPES] if version >= _SCOPES_SINCE else [])]
    attributes = struct.pack(f"={len(words)}Q", *words)
    ruleset = checked(libc.syscall(_LANDLOCK_CREATE, attributes, len(attributes), 0))
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
        checked(libc.syscall(_LANDLOCK_RESTRICT, ruleset, 0))
    finally:
        os.close(ruleset)


def _landlock_version(libc: ctypes.CDLL) -> int:
    version: int = libc.syscall(_LANDLOCK_CREATE, None, 0, _LANDLOCK_VERSION_FLAG)
    return version


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
        checked(libc.syscall(_LANDLOCK_ADD, ruleset, _PATH_BENEATH, rule, 0))
    finally:
        os.close(descriptor)
