"""torch's C++ objects with virtual functions, seen from outside: which function is where, and copies with others in.

What the headers say is checked against the loaded library before it is believed: the class's name in its type
information, addresses within torch's libraries, the vtable's size, and, for each function whose header says that it
returns a constant or only throws, its machine code. Itanium C++ ABI, 64 bit. Not here: grafting a copy onto an object.
"""

from __future__ import annotations

import bisect
import ctypes
import os
import platform
from collections.abc import Mapping
from pathlib import Path

from .headers import ClassLayout, Mismatch

WORD = 8
_BEFORE = 2  # words before a vtable's first function: offset to top, type information
_LIBRARIES = ("libc10", "libtorch")  # what the names of torch's libraries begin with
_CODE_NBYTES = 20  # of a function that returns a constant, no more
_RUNTIME = ("libstdc++", "libc++")  # where the entry of a pure virtual function points


class _DlInfo(ctypes.Structure):
    _fields_ = [
        ("library", ctypes.c_char_p), ("base", ctypes.c_void_p), ("symbol", ctypes.c_char_p), ("start", ctypes.c_void_p)
    ]  # fmt: skip


class _ElfSymbol(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_uint32), ("info", ctypes.c_uint8), ("other", ctypes.c_uint8), ("section", ctypes.c_uint16),
        ("value", ctypes.c_uint64), ("nbytes", ctypes.c_uint64),
    ]  # fmt: skip


_RTLD_DL_SYMENT = 1  # dladdr1's flag: give the symbol's entry too. Source: dlfcn.h


class Libraries:
    """Which of the loaded libraries an address belongs to. A snapshot; dladdr would take 0.5 ms per address."""

    def __init__(self) -> None:
        """Read the process's mappings."""
        self._ends: list[int] = []
        self._mappings: list[tuple[int, bool, str]] = []
        for line in Path("/proc/self/maps").read_text(errors="surrogateescape").splitlines():
            addresses, permissions, _, _, _, path = [*line.split(maxsplit=5), ""][:6]
            start, end = (int(address, 16) for address in addresses.split("-"))
            self._ends.append(end)
            self._mappings.append((start, "x" in permissions, os.path.basename(path)))

    def __call__(self, address: int, code: bool) -> str:
        """Return a library's file name, or an empty text where there is none or code is not what is there."""
        place = bisect.bisect_right(self._ends, address)
        if place == len(self._ends):
            return ""
        start, is_code, name = self._mappings[place]
        return name if start <= address and is_code == code else ""


class Vtable:
    """The vtable that an object, or a symbol of a library, points to."""

    def __init__(self, start: int, libraries: Libraries) -> None:
        """Look at a vtable by the address of its first function, as objects have it."""
        self.start = start
        self._libraries = libraries

    @classmethod
    def of(cls, this: int, libraries: Libraries) -> Vtable:
        """Return an object's vtable."""
        return cls(read_word(this), libraries)

    @classmethod
    def named(cls, library: ctypes.CDLL, symbol: str, libraries: Libraries) -> Vtable:
        """Return the vtable that a library exports; raises Mismatch if it does not."""
        return cls(symbol_address(library, symbol) + _BEFORE * WORD, libraries)

    def function(self, slot: int) -> int:
        """Return the address of a function."""
        return read_word(self.start + slot * WORD)

    def check(self, layout: ClassLayout, class_names: tuple[str, ...]) -> None:
        """Compare the vtable with what headers say.

        Args:
            layout: its functions by the headers.
            class_names: the mangled names, one of which its class has to have.

        Raises:
            Mismatch: something is different; the text says what.
        """
        self._check_class(class_names)
        size = self._exported_nbytes()
        expected = (len(layout.functions) + _BEFORE) * WORD
        if size is not None and size < expected:
            raise Mismatch(f"{class_names[0]} has {size // WORD - _BEFORE} functions, not {len(layout.functions)}")
        for slot, function in enumerate(layout.functions):
            address = self.function(slot)
            if not self._libraries(address, code=True).startswith(_LIBRARIES + _RUNTIME):
                raise Mismatch(f"{class_names[0]}::{function.name}, function {slot}, is not one of torch's libraries")
            constant = constant_in(ctypes.string_at(address, _CODE_NBYTES), platform.machine())
            if function.returns is not None and constant != function.returns:
                raise Mismatch(
                    f"{class_names[0]}::{function.name}, function {slot}, does not return {function.returns}"
                )
            if function.throws and constant is not None:
                raise Mismatch(f"{class_names[0]}::{function.name}, function {slot}, returns {constant}")

    def replaced(self, count: int, functions: Mapping[int, int]) -> ctypes.Array[ctypes.c_void_p]:
        """Return a copy of the vtable with some functions replaced; `first_function` of it is for objects."""
        count = max(count, (self._exported_nbytes() or 0) // WORD - _BEFORE)
        copy = (ctypes.c_void_p * (_BEFORE + count))()
        ctypes.memmove(copy, self.start - _BEFORE * WORD, ctypes.sizeof(copy))
        for slot, address in functions.items():
            copy[_BEFORE + slot] = address
        return copy

    def _check_class(self, class_names: tuple[str, ...]) -> None:
        expected = " or ".join(class_names)
        if not self._libraries(self.start, code=False).startswith(_LIBRARIES):
            raise Mismatch(f"the vtable of {expected} is not in one of torch's libraries")
        information = read_word(self.start - WORD)
        if not self._libraries(information, code=False).startswith(_LIBRARIES):
            raise Mismatch(f"the library has no type information for {expected}")
        text = ctypes.string_at(read_word(information + WORD)).decode("ascii", "replace").lstrip("*")
        if text not in class_names:
            raise Mismatch(f"an object is of class {text}, not {expected}")

    def _exported_nbytes(self) -> int | None:
        """The vtable's size, where its library exports it and the C library can tell."""
        libc = ctypes.CDLL(None)
        if not hasattr(libc, "dladdr1"):  # musl
            return None
        info, symbol = _DlInfo(), ctypes.c_void_p()
        begin = self.start - _BEFORE * WORD
        libc.dladdr1(ctypes.c_void_p(begin), ctypes.byref(info), ctypes.byref(symbol), _RTLD_DL_SYMENT)
        if not symbol.value or info.start != begin:
            return None
        return int(_ElfSymbol.from_address(symbol.value).nbytes)


def first_function(copy: ctypes.Array[ctypes.c_void_p]) -> int:
    """Return the address in a vtable's copy that objects point to."""
    return ctypes.addressof(copy) + _BEFORE * WORD


def symbol_address(library: ctypes.CDLL, symbol: str) -> int:
    """Return the address of a library's data or function; raises Mismatch if it exports none of that name."""
    try:
        return ctypes.addressof(ctypes.c_char.in_dll(library, symbol))
    except ValueError as exc:
        raise Mismatch(f"{os.path.basename(str(library._name))} does not export {symbol}") from exc


def read_word(address: int) -> int:
    """Return the pointer at an address, 0 for null."""
    return ctypes.c_void_p.from_address(address).value or 0


def write_word(address: int, value: int) -> None:
    """Store a pointer, in one piece: threads that use it see the old or the new one."""
    ctypes.c_void_p.from_address(address).value = value


def constant_in(code: bytes, machine: str) -> int | None:
    """Return the constant that a function returns if it does nothing else, from its first 20 bytes."""
    if machine == "aarch64":
        return _constant_aarch64(code)
    return _constant_x86_64(code.removeprefix(b"\xf3\x0f\x1e\xfa"))  # endbr64


def _constant_x86_64(code: bytes) -> int | None:
    if code[:3] == b"\x31\xc0\xc3":  # xor eax, eax; ret
        return 0
    if code[0] == 0xB8 and code[5] == 0xC3:  # mov eax, constant; ret
        return int.from_bytes(code[1:5], "little", signed=True)
    return None


def _constant_aarch64(code: bytes) -> int | None:
    words = [int.from_bytes(code[place : place + 4], "little") for place in range(0, _CODE_NBYTES, 4)]
    if words[0] == 0xD503245F:  # bti c
        del words[0]
    if words[1] != 0xD65F03C0:  # ret
        return None
    if words[0] == 0x2A1F03E0:  # mov w0, wzr
        return 0
    if words[0] & 0xFFE0001F == 0x52800000:  # mov w0, constant
        return words[0] >> 5 & 0xFFFF
    if words[0] & 0xFFE0001F == 0x12800000:  # mov w0, ~constant
        return ~(words[0] >> 5 & 0xFFFF)
    return None
