"""The virtual functions of torch's C++ classes, read from the headers in torch's own wheel.

A small reader for the few shapes of declaration that these headers have. What it finds is believed only after `vtables`
has compared it with the loaded library.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from avec.errors import UnsupportedOperation

DESTRUCTORS = ("~complete", "~deleting")  # the two entries that a virtual destructor takes in the Itanium C++ ABI


class Mismatch(UnsupportedOperation):
    """The loaded torch is not what its headers say, or its headers are not what is known of them."""


@dataclass(frozen=True, slots=True)
class Virtual:
    """A virtual function as a header declares it."""

    name: str
    returns: int | None = None  # the constant that its body returns and does nothing else
    throws: bool = False  # its body only throws


@dataclass(frozen=True, slots=True)
class ClassLayout:
    """The virtual functions of a class, in the order of its vtable."""

    functions: tuple[Virtual, ...]

    def slot(self, name: str) -> int:
        """Return a function's place. Raises Mismatch if there is none of that name, or several."""
        found = [slot for slot, function in enumerate(self.functions) if function.name == name]
        if len(found) != 1:
            raise Mismatch(f"the class has {len(found)} virtual functions {name}, not one")
        return found[0]

    def without_bodies(self) -> ClassLayout:
        """Return the layout for a class that derives from this one, overrides some functions and adds none."""
        return ClassLayout(tuple(Virtual(function.name) for function in self.functions))


_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_STRING = re.compile(r'"(?:\\.|[^"\\\n])*"')
_ROCM = re.compile(r"^[ \t]*#[ \t]*ifdef[ \t]+USE_ROCM\b.*?^[ \t]*#[ \t]*endif\b", re.DOTALL | re.MULTILINE)
_DIRECTIVE = re.compile(r"^[ \t]*#[^\n]*$", re.MULTILINE)
_NAME = re.compile(r"(~?\w+)\s*\(")
_RETURN = re.compile(r"\s*return\s+(false|true|-?\d+)\s*;\s*")
_THROW = re.compile(r"\s*TORCH_CHECK\(\s*false\b")
_WORDS = {"false": 0, "true": 1}


def read_layout(headers: Mapping[str, Path]) -> ClassLayout:
    """Read the virtual functions of a class.

    Args:
        headers: the header of the class, after those of its bases: {class: path}, each deriving from the one before.

    Raises:
        Mismatch: a header is missing or does not declare its class.
    """
    functions: list[Virtual] = []
    for name, path in headers.items():
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError as exc:
            raise Mismatch(f"the header {path.name} is missing: {exc.strerror}") from exc
        for function, is_new in _declared(text, name):
            place = next((slot for slot, each in enumerate(functions) if each.name == function.name), None)
            if place is not None:
                functions[place] = function
            elif is_new:
                functions.append(function)
    return ClassLayout(tuple(functions))


def _declared(text: str, name: str) -> list[tuple[Virtual, bool]]:
    """The member functions of a class that are virtual, and whether each says so itself or only overrides."""
    text = _DIRECTIVE.sub("", _ROCM.sub("", _STRING.sub('""', _COMMENT.sub("", text))))
    start = re.search(rf"(?:struct|class)\s+(?:\w+\s+)?{name}\b[^;{{]*\{{", text)
    if start is None:
        raise Mismatch(f"its header does not declare {name}")
    found: list[tuple[Virtual, bool]] = []
    for head, body in _members(text[start.end() :]):
        is_new = re.search(r"\bvirtual\b", head) is not None
        named = _NAME.search(head)
        if named is None or not (is_new or re.search(r"\boverride\b", head)):
            continue
        names = DESTRUCTORS if named[1].startswith("~") else (named[1],)
        constant = _RETURN.fullmatch(body)
        returns = None if constant is None else _WORDS.get(constant[1]) if constant[1] in _WORDS else int(constant[1])
        found += [(Virtual(each, returns, _THROW.match(body) is not None), is_new) for each in names]
    return found


def _members(text: str) -> list[tuple[str, str]]:
    """Split what follows a class's opening brace into declarations, each with its function body or an empty one."""
    members: list[tuple[str, str]] = []
    depth, begin, body_begin = 0, 0, 0
    for mark in re.finditer(r"[{};]", text):
        place = mark.start()
        if mark[0] == "{":
            depth += 1
            if depth == 1:
                body_begin = place
        elif mark[0] == "}":
            depth -= 1
            if depth < 0:
                break
            if depth == 0:
                members.append((text[begin:body_begin], text[body_begin + 1 : place]))
                begin = place + 1
        elif depth == 0:
            members.append((text[begin:place], ""))
            begin = place + 1
    return members
