"""Native functions for the slots of torch's device guard, assembled by hand for x86-64 and AArch64.

torch asks its guard several times per autograd node, in threads that need not hold the interpreter's lock; a callback
into Python would cost more than the operator's own record. And a callback cannot return torch's Stream, a struct in
two registers. So these few functions are machine code: they keep the current device as CUDA does, one per thread (in
a pthread key), and there is one stream per device, its default, because a session is one order of operators.

Only for the ABI that torch's Linux wheels have: Itanium C++ on System V x86-64 or AAPCS64. Device is {int8 type, int8
index} in a register's low 16 bits; Stream is {Device, int64 id} in two registers.
"""

from __future__ import annotations

import ctypes
import dataclasses
import mmap
import platform
from collections.abc import Mapping
from dataclasses import dataclass

from avec.errors import UnsupportedOperation

CUDA = 1  # c10::DeviceType::CUDA
MACHINES = ("x86_64", "aarch64")

# One instruction a line, its bytes first. What is in braces is a field of Imports: the key has 4 bytes, the others 8.
_X86_64 = {
    # Device getDevice(this)
    "get_device": """
        48 83 ec 08         sub rsp, 8
        bf {key}            mov edi, key
        48 b8 {get}         mov rax, pthread_getspecific
        ff d0               call rax
        c1 e0 08            shl eax, 8
        83 c8 01            or eax, 1       ; CUDA
        48 83 c4 08         add rsp, 8
        c3                  ret
    """,
    # void setDevice(this, Device), without effect for the index -1
    "set_device": """
        0f bf f6            movsx esi, si
        c1 fe 08            sar esi, 8
        78 11               js done
        bf {key}            mov edi, key
        48 b8 {set}         mov rax, pthread_setspecific
        ff e0               jmp rax
        c3            done: ret
    """,
    # Device exchangeDevice(this, Device)
    "exchange_device": """
        53                  push rbx
        48 83 ec 10         sub rsp, 16
        0f bf de            movsx ebx, si
        c1 fb 08            sar ebx, 8
        bf {key}            mov edi, key
        48 b8 {get}         mov rax, pthread_getspecific
        ff d0               call rax
        48 89 44 24 08      mov [rsp+8], rax
        85 db               test ebx, ebx
        78 13               js done
        bf {key}            mov edi, key
        89 de               mov esi, ebx
        48 b8 {set}         mov rax, pthread_setspecific
        ff d0               call rax
        8b 44 24 08   done: mov eax, [rsp+8]
        c1 e0 08            shl eax, 8
        83 c8 01            or eax, 1       ; CUDA
        48 83 c4 10         add rsp, 16
        5b                  pop rbx
        c3                  ret
    """,
    # Stream getStream(this, Device, ...) and Stream exchangeStream(this, Stream): the default stream of the device,
    # or of the current one for the index -1
    "get_stream": """
        66 85 f6            test si, si
        78 06               js current
        0f b7 c6            movzx eax, si
        31 d2               xor edx, edx
        c3                  ret
        48 83 ec 08 current: sub rsp, 8
        bf {key}            mov edi, key
        48 b8 {get}         mov rax, pthread_getspecific
        ff d0               call rax
        c1 e0 08            shl eax, 8
        83 c8 01            or eax, 1       ; CUDA
        31 d2               xor edx, edx
        48 83 c4 08         add rsp, 8
        c3                  ret
    """,
    "nothing": """
        c3                  ret
    """,
    "zero": """
        31 c0               xor eax, eax
        c3                  ret
    """,
    "one": """
        b8 01 00 00 00      mov eax, 1
        c3                  ret
    """,
    # int64 getCurrentDevice(this)
    "get_index": """
        bf {key}            mov edi, key
        48 b8 {get}         mov rax, pthread_getspecific
        ff e0               jmp rax
    """,
    "zero_float": """
        0f 57 c0            xorps xmm0, xmm0
        c3                  ret
    """,
    # int64 word(this): what the memory at `version` holds
    # DataPtr allocate(this, n): by {allocate}(result, this, n) or, where that returns false, by the {native} one
    "allocate": """
        57                  push rdi
        56                  push rsi
        52                  push rdx
        48 b8 {allocate}    mov rax, allocate
        ff d0               call rax
        5a                  pop rdx
        5e                  pop rsi
        5f                  pop rdi
        84 c0               test al, al
        74 04               je native
        48 89 f8            mov rax, rdi
        c3                  ret
        48 b8 {native} native: mov rax, allocate of the CPU
        ff e0               jmp rax
    """,
    # void release(word): mark a block of memory as free
    "release": """
        c7 07 00 00 00 00   mov dword ptr [rdi], 0
        c3                  ret
    """,
}
_AARCH64 = {
    "get_device": """
        fd 7b bf a9         stp x29, x30, [sp, #-16]!
        20 01 00 18         ldr w0, key
        d0 00 00 58         ldr x16, get
        00 02 3f d6         blr x16
        00 5c 18 53         lsl w0, w0, #8
        00 00 00 32         orr w0, w0, #1  ; CUDA
        fd 7b c1 a8         ldp x29, x30, [sp], #16
        c0 03 5f d6         ret
        {get} {key}
    """,
    "set_device": """
        21 3c 00 13         sxth w1, w1
        21 7c 08 13         asr w1, w1, #8
        81 00 f8 37         tbnz w1, #31, done
        e0 00 00 18         ldr w0, key
        90 00 00 58         ldr x16, set
        00 02 1f d6         br x16
        c0 03 5f d6   done: ret
        00 00 00 00
        {set} {key}
    """,
    "exchange_device": """
        fd 7b be a9         stp x29, x30, [sp, #-32]!
        f3 53 01 a9         stp x19, x20, [sp, #16]
        33 3c 00 13         sxth w19, w1
        73 7e 08 13         asr w19, w19, #8
        40 02 00 18         ldr w0, key
        b0 01 00 58         ldr x16, get
        00 02 3f d6         blr x16
        f4 03 00 2a         mov w20, w0
        b3 00 f8 37         tbnz w19, #31, done
        e1 03 13 2a         mov w1, w19
        80 01 00 18         ldr w0, key
        30 01 00 58         ldr x16, set
        00 02 3f d6         blr x16
        80 5e 18 53   done: lsl w0, w20, #8
        00 00 00 32         orr w0, w0, #1  ; CUDA
        f3 53 41 a9         ldp x19, x20, [sp, #16]
        fd 7b c2 a8         ldp x29, x30, [sp], #32
        c0 03 5f d6         ret
        {get} {set} {key}
    """,
    "get_stream": """
        81 00 78 37         tbnz w1, #15, current
        20 3c 00 12         and w0, w1, #0xffff
        01 00 80 d2         mov x1, #0
        c0 03 5f d6         ret
        fd 7b bf a9 current: stp x29, x30, [sp, #-16]!
        60 01 00 18         ldr w0, key
        10 01 00 58         ldr x16, get
        00 02 3f d6         blr x16
        00 5c 18 53         lsl w0, w0, #8
        00 00 00 32         orr w0, w0, #1  ; CUDA
        01 00 80 d2         mov x1, #0
        fd 7b c1 a8         ldp x29, x30, [sp], #16
        c0 03 5f d6         ret
        00 00 00 00
        {get} {key}
    """,
    "nothing": """
        c0 03 5f d6         ret
    """,
    "zero": """
        00 00 80 52         mov w0, #0
        c0 03 5f d6         ret
    """,
    "one": """
        20 00 80 52         mov w0, #1
        c0 03 5f d6         ret
    """,
    "get_index": """
        c0 00 00 18         ldr w0, key
        70 00 00 58         ldr x16, get
        00 02 1f d6         br x16
        00 00 00 00
        {get} {key}
    """,
    "zero_float": """
        00 e4 00 2f         movi d0, #0
        c0 03 5f d6         ret
    """,
    # The result's address comes in x8
    "allocate": """
        fd 7b bd a9         stp x29, x30, [sp, #-48]!
        e8 03 01 a9         stp x8, x0, [sp, #16]
        e1 13 00 f9         str x1, [sp, #32]
        e2 03 01 aa         mov x2, x1
        e1 03 00 aa         mov x1, x0
        e0 03 08 aa         mov x0, x8
        50 01 00 58         ldr x16, allocate
        00 02 3f d6         blr x16
        e9 03 00 2a         mov w9, w0
        e8 03 41 a9         ldp x8, x0, [sp, #16]
        e1 13 40 f9         ldr x1, [sp, #32]
        fd 7b c3 a8         ldp x29, x30, [sp], #48
        49 00 00 36         tbz w9, #0, native
        c0 03 5f d6         ret
        90 00 00 58 native: ldr x16, allocate of the CPU
        00 02 1f d6         br x16
        {allocate} {native}
    """,
    "release": """
        1f 00 00 b9         str wzr, [x0]
        c0 03 5f d6         ret
    """,
}
_ALIGNMENT = 16


@dataclass(frozen=True, slots=True)
class Imports:
    """What the functions refer to outside of them: addresses, and a pthread key."""

    key: int  # holds a thread's current device
    get: int  # pthread_getspecific
    set: int  # pthread_setspecific
    allocate: int  # bool (DataPtr* result, Allocator* this, size_t n)
    native: int  # DataPtr allocate(Allocator* this, size_t n)


def assemble(machine: str, imports: Imports) -> tuple[bytes, dict[str, int]]:
    """Return the functions' bytes, which run wherever they are put, and where in them each begins."""
    fields = {
        each.name: int(getattr(imports, each.name)).to_bytes(4 if each.name == "key" else 8, "little").hex()
        for each in dataclasses.fields(imports)
    }
    code = bytearray()
    offsets: dict[str, int] = {}
    for name, text in (_X86_64 if machine == "x86_64" else _AARCH64).items():
        code += bytes(-len(code) % _ALIGNMENT)
        offsets[name] = len(code)
        for line in text.strip().splitlines():
            code += _bytes_of(line, fields)
    return bytes(code), offsets


def _bytes_of(line: str, fields: Mapping[str, str]) -> bytes:
    """What is at a line's begin: pairs of hexadecimal digits and fields, up to the instruction's text."""
    found = ""
    for word in line.split():
        if word.startswith("{"):
            found += fields[word.strip("{}")]
        elif len(word) == 2 and all(digit in "0123456789abcdef" for digit in word):
            found += word
        else:
            break
    return bytes.fromhex(found)


def load(imports: Imports) -> dict[str, int]:
    """Make the functions executable in this process and return their addresses.

    They stay for good: torch's threads may be in them at any time.

    Raises:
        UnsupportedOperation: the system forbids new code.
    """
    code, offsets = assemble(platform.machine(), imports)
    start = _map_executable(code)
    return {name: start + offset for name, offset in offsets.items()}


def _map_executable(code: bytes) -> int:
    """Put code into fresh pages, first writable, then executable: never both."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [
        ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long
    ]  # fmt: skip
    libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    start: int = libc.mmap(None, len(code), mmap.PROT_READ | mmap.PROT_WRITE, private, -1, 0)
    if start == ctypes.c_void_p(-1).value:
        raise UnsupportedOperation(f"no memory for the functions of torch's device guard: errno {ctypes.get_errno()}")
    ctypes.memmove(start, code, len(code))
    if libc.mprotect(start, len(code), mmap.PROT_READ | mmap.PROT_EXEC):
        errno = ctypes.get_errno()
        libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
        libc.munmap(start, len(code))
        raise UnsupportedOperation(
            f"this system forbids programs to make code executable (errno {errno}; SELinux, seccomp or systemd's"
            " MemoryDenyWriteExecute do), and torch's device guard needs that; allow it for this program"
        )
    return start
