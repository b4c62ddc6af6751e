"""Which system calls a worker may make: a seccomp filter, which threads and children inherit. Linux alone has it.

It refuses by number, and where a number alone does not say enough by arguments; what lies in memory it cannot see.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import socket
import struct

# Source: linux/prctl.h, linux/seccomp.h, linux/filter.h, linux/audit.h.
_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2
_SECCOMP_ALLOW, _SECCOMP_ERRNO = 0x7FFF0000, 0x00050000
_PROCESSORS = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # place in the tables, AUDIT_ARCH

# Refused, with their numbers on (x86_64, aarch64): other processes' memory, other namespaces, the kernel's
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
# These change how much of the machine a process may have, which their first argument names: the worker itself, by 0 or
# by its number. The kernel would judge by the user alone, and all workers have one.
ABOUT_PROCESSES = {
    "prlimit64": (302, 261), "sched_setaffinity": (203, 122), "sched_setscheduler": (144, 119),
    "sched_setparam": (142, 118), "sched_setattr": (314, 274), "migrate_pages": (256, 238), "move_pages": (279, 239),
}  # fmt: skip
# The same, after an argument that says what the number is of, and has to say: a process.
PRIORITIES = {"setpriority": ((141, 140), 0), "ioprio_set": ((251, 30), 1)}
# Signals, to nobody but the worker itself: where Landlock does not judge them. Its children it then cannot end either.
SIGNALS = {"kill": (62, 129), "tgkill": (234, 131), "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240)}
REFUSED_SIGNALS = {"tkill": (200, 130), "pidfd_send_signal": (424, 424)}
# By what has the kernel send one when something can be read: (call, commands), the command being the second argument.
SIGNAL_OWNERS = (((72, 25), (8, 15)), ((16, 29), (0x8901, 0x8902)))  # fcntl: F_SETOWN, _EX; ioctl: FIOSETOWN, SIOCSPGRP

_CLONE, _CLONE3 = (56, 220), (435, 435)
_NAMESPACES = 0x7E020000  # flags of clone; that of time alone is not among them, and needs unshare or clone3
_SOCKET, _SOCKETPAIR = (41, 198), (53, 199)
_SOCKET_TYPE = 0xF  # the rest are flags. Source: linux/net.h


def checked(result: int) -> int:
    """What a function of libc gave, or the OSError that it means when that is negative."""
    if result < 0:
        number = ctypes.get_errno()
        why = "this kernel does not have it" if number in (errno.ENOSYS, errno.EOPNOTSUPP) else os.strerror(number)
        raise OSError(number, why)
    return result


def filter_calls(libc: ctypes.CDLL, may_connect: bool, signals: bool) -> None:
    """Have the kernel refuse calls from now on.

    Args:
        may_connect: to other local services.
        signals: refuse those to other processes, too.

    Raises:
        OSError: this kernel or processor does not have that.
    """
    if platform.machine() not in _PROCESSORS:
        raise OSError(errno.ENOSYS, f"no table of system calls for {platform.machine()}")
    place, architecture = _PROCESSORS[platform.machine()]
    program = _program(place, architecture, os.getpid(), may_connect, signals)
    memory = ctypes.create_string_buffer(program)
    header = struct.pack("@HP", len(program) // 8, ctypes.addressof(memory))
    checked(libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, header, 0, 0))


def _program(place: int, architecture: int, pid: int, may_connect: bool, signals: bool) -> bytes:
    """A filter in classic BPF over struct seccomp_data: number at 0, architecture at 4, arguments from 16 on."""
    allow, refuse = _instruction(0x06, _SECCOMP_ALLOW), _instruction(0x06, _SECCOMP_ERRNO | errno.EPERM)
    itself, or_none = (_equal(pid, 1, 0), refuse, allow), _equal(0, 2, 0)
    steps = [_load(4), _equal(architecture, 1, 0), refuse, _load(0)]
    steps += [_instruction(0x35, 0x40000000, 0, 1), refuse]  # x86_64's second set of numbers (x32)
    refused = {**REFUSED_CALLS, **(REFUSED_SIGNALS if signals else {})}
    for name, numbers in refused.items():
        if name != "connect" or not may_connect:
            steps += _where(numbers[place], refuse)
    for numbers in ABOUT_PROCESSES.values():
        steps += _where(numbers[place], _argument(0), or_none, *itself)
    for numbers, process in PRIORITIES.values():
        steps += _where(numbers[place], _argument(0), _equal(process, 1, 0), refuse, _argument(1), or_none, *itself)
    if signals:
        for numbers in SIGNALS.values():
            steps += _where(numbers[place], _argument(0), *itself)
        for numbers, (one, other) in SIGNAL_OWNERS:
            steps += _where(numbers[place], _argument(1), _equal(one, 1, 0), _equal(other, 0, 1), refuse, allow)
    # The flags of clone3 lie in memory, where a filter cannot look: libc takes clone where there is no clone3.
    steps += _where(_CLONE3[place], _instruction(0x06, _SECCOMP_ERRNO | errno.ENOSYS))
    steps += _where(_CLONE[place], _argument(0), _instruction(0x45, _NAMESPACES, 0, 1), refuse, allow)
    # Local sockets alone, and of them none whose packets need no connection: an address says where each goes, to
    # whatever service listens, and it lies in memory, too. Pairs are how processes talk to their children.
    for numbers in (_SOCKET, _SOCKETPAIR):
        kind = (_argument(1), _instruction(0x54, _SOCKET_TYPE))
        connected = (_equal(socket.SOCK_STREAM, 1, 0), _equal(socket.SOCK_SEQPACKET, 0, 1), allow, refuse)
        steps += _where(numbers[place], _argument(0), _equal(socket.AF_UNIX, 1, 0), refuse, *kind, *connected)
    return b"".join([*steps, allow])


def _where(call: int, *steps: bytes) -> list[bytes]:
    """The steps for one system call, whose last one decides; the others jump over them."""
    return [_equal(call, 0, len(steps)), *steps]


def _instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)


def _load(offset: int) -> bytes:
    return _instruction(0x20, offset)


def _argument(place: int) -> bytes:
    """Load the lower half of an argument, which is all of a number that C calls int."""
    return _load(16 + 8 * place)


def _equal(value: int, if_true: int, if_false: int) -> bytes:
    return _instruction(0x15, value, if_true, if_false)
