"""Caffe's text files (prototxt): protobuf's text format, read into and written from plain values.

An error names the file, the line and the column, the text that was met there, and what to do about it.
Source: https://protobuf.dev/reference/protobuf/textformat-spec
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NoReturn, cast

import numpy as np

from avec.errors import InvalidModel
from avec.formats.caffe.schema import (
    ARRAY_DTYPES,
    INTEGER_RANGES,
    MESSAGES,
    Field,
    Floats,
    MessageType,
    Plain,
    PlainValue,
    Scalar,
    coerce,
)


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str  # "number", "name", "string", "mark" or "end"
    text: str
    position: int


_TOKEN = re.compile(
    r"""(?P<space>(?:\s|\#[^\n]*)+)
      | (?P<number>[-+]?(?:0[xX][0-9a-fA-F]+|(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?[fF]?)(?![\w.]))
      | (?P<name>-?[A-Za-z_]\w*)
      | (?P<string>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
      | (?P<mark>[{}<>\[\]:,;])""",
    re.VERBOSE,
)
_ESCAPE = re.compile(r"\\(?:([0-7]{1,3})|[xX]([0-9a-fA-F]{1,2})|(.))", re.DOTALL)
_ESCAPES = {"a": 7, "b": 8, "f": 12, "n": 10, "r": 13, "t": 9, "v": 11, "\\": 92, "'": 39, '"': 34, "?": 63}
_START = _Token("start", "", 0)
_BOOLEANS = {"true": True, "t": True, "True": True, "1": True, "false": False, "f": False, "False": False, "0": False}
_INFINITE = {"inf", "-inf", "infinity", "-infinity", "nan", "-nan"}
_CLOSING = {"{": "}", "<": ">"}


def decode(message: MessageType, text: str, source: str) -> Plain:
    """Read one message.

    Args:
        message: what `text` is said to hold.
        text: the file's contents.
        source: the file's name, for messages.

    Raises:
        InvalidModel: "file:line:column: …" with the token, the reason and the remedy.
    """
    return _Reader(text, source).message(message, _START)


class _Reader:
    """One pass over one text, one token ahead."""

    def __init__(self, text: str, source: str) -> None:
        self._text = text
        self._source = source
        self._tokens = self._tokenise()
        self._token = next(self._tokens)

    def _tokenise(self) -> Iterator[_Token]:
        position = 0
        while position < len(self._text):
            match = _TOKEN.match(self._text, position)
            if match is None:
                self._refuse_text(position)
            if match.lastgroup != "space":
                yield _Token(cast(str, match.lastgroup), match.group(), position)
            position = match.end()
        yield _Token("end", "", position)

    def message(self, message: MessageType, opening: _Token) -> Plain:
        """Read fields up to the mark that closes `opening`, or to the end. No message of Caffe's contains itself."""
        plain: Plain = {}
        closing = _CLOSING.get(opening.text, "")
        while self._token.text != closing:
            if self._token.kind == "end":
                self._refuse(
                    self._token,
                    f"the text ends inside {message.name}, which began in line {self._line(opening.position)}",
                    f"close it with {closing!r}",
                )
            self._field(message, plain)
            while self._token.text in (",", ";") and self._token.kind == "mark":
                self._next()
        self._next()
        for name, value in plain.items():
            if message.by_name[name].holds_array:
                plain[name] = np.array(value, ARRAY_DTYPES[message.by_name[name].type])
        return plain

    def _field(self, message: MessageType, plain: Plain) -> None:
        token = self._next()
        if token.kind != "name":
            self._refuse(token, f"a field's name was expected in {message.name}")
        field = message.by_name.get(token.text)
        if field is None:
            near = difflib.get_close_matches(token.text, message.by_name, 1)
            remedy = f"did you mean {near[0]!r}?" if near else "remove it; Caffe 1.0 has no such field"
            self._refuse(token, f"{message.name} has no field {token.text!r}", remedy)
        if field.name in plain and not field.repeated:
            self._refuse(token, f"{message.name}.{field.name} is given twice", "keep one of them")
        colon = self._accept(":")
        if field.type != "message" and not colon:
            self._refuse(self._token, f"':' was expected after {field.name!r}")
        self._values(field, plain)

    def _values(self, field: Field, plain: Plain) -> None:
        if not field.repeated:
            plain[field.name] = self._value(field)
            return
        values = cast("list[PlainValue]", plain.setdefault(field.name, []))
        if not self._accept("["):
            values.append(self._value(field))
            return
        while not self._accept("]"):
            values.append(self._value(field))
            if self._token.text != "]" and not self._accept(","):
                self._refuse(self._token, f"',' or ']' was expected in the list of {field.name!r}")

    def _value(self, field: Field) -> PlainValue:
        if field.type == "message":
            opening = self._next()
            if opening.kind != "mark" or opening.text not in _CLOSING:
                self._refuse(opening, f"'{{' was expected: {field.name!r} is a {field.message}")
            return self.message(MESSAGES[field.message], opening)
        token = self._next()
        raw = self._scalar(field, token)
        try:
            return coerce(field, raw)
        except (TypeError, ValueError) as exc:
            self._refuse(token, f"{field.name!r} cannot be this: {exc}")

    def _scalar(self, field: Field, token: _Token) -> Scalar:
        """Give a token the Python type that its field asks for; `coerce` checks ranges and names."""
        if field.type in ("string", "bytes") and token.kind == "string":
            return self._string(field, token)
        if field.type == "bool" and token.text in _BOOLEANS and token.kind != "string":
            return _BOOLEANS[token.text]
        if field.type in ARRAY_DTYPES and (token.kind == "number" or token.text.lower() in _INFINITE):
            return _number(token)
        if field.enum is not None and token.kind == "name":
            return token.text
        if (field.type in INTEGER_RANGES or field.enum is not None) and token.kind == "number":
            return self._integer(field, token)
        expected = f"one of {', '.join(field.enum.values)}" if field.enum else f"a value of type {field.type}"
        self._refuse(token, f"{expected} was expected for {field.name!r}")

    def _integer(self, field: Field, token: _Token) -> int:
        digits = token.text.lstrip("-+")
        try:
            octal = len(digits) > 1 and digits.startswith("0") and digits.isdigit()
            return int(token.text, 8 if octal else 0)
        except ValueError:
            self._refuse(token, f"{field.name!r} is of type {field.type}: an integer was expected")

    def _string(self, field: Field, token: _Token) -> Scalar:
        raw = _unescape(token.text[1:-1])
        while self._token.kind == "string":  # adjacent strings are one, as in C
            raw += _unescape(self._next().text[1:-1])
        if field.type == "bytes":
            return raw
        try:
            return raw.decode()
        except UnicodeDecodeError:
            self._refuse(token, f"{field.name!r} is not UTF-8 text")

    def _next(self) -> _Token:
        token = self._token
        if token.kind != "end":
            self._token = next(self._tokens)
        return token

    def _accept(self, mark: str) -> bool:
        if self._token.kind == "mark" and self._token.text == mark:
            self._next()
            return True
        return False

    def _line(self, position: int) -> int:
        return self._text.count("\n", 0, position) + 1

    def _refuse_text(self, position: int) -> NoReturn:
        rest = self._text[position : position + 40].split("\n", 1)[0]
        if rest.startswith(('"', "'")):
            self._refuse(_Token("text", rest, position), "a string does not end on its line", "close its quote")
        self._refuse(_Token("text", rest, position), "this is not prototxt")

    def _refuse(self, token: _Token, reason: str, remedy: str = "correct the line") -> NoReturn:
        column = token.position - self._text.rfind("\n", 0, token.position)
        met = f"at {token.text[:60]!r}" if token.kind != "end" else "at the end"
        raise InvalidModel(f"{self._source}:{self._line(token.position)}:{column}: {met}: {reason}; {remedy}")


def _number(token: _Token) -> float:
    if token.kind == "name":
        return float(token.text)
    if token.text.lower().lstrip("-+").startswith("0x"):
        return float(int(token.text, 16))
    return float(token.text.rstrip("fF"))


def _unescape(text: str) -> bytes:
    """Resolve the escapes of a string; octal and hexadecimal ones are bytes, as in C."""
    out = bytearray()
    position = 0
    for match in _ESCAPE.finditer(text):
        out += text[position : match.start()].encode()
        octal, hexadecimal, letter = match.groups()
        if octal or hexadecimal:
            out.append(int(octal, 8) & 0xFF if octal else int(hexadecimal, 16))
        else:
            out += bytes([_ESCAPES[letter]]) if letter in _ESCAPES else letter.encode()
        position = match.end()
    return bytes(out + text[position:].encode())


def encode(message: MessageType, plain: Plain) -> str:
    """Write one message as prototxt, fields in the order of their numbers, two spaces a level."""
    return "".join(line + "\n" for line in _lines(message, plain, ""))


def _lines(message: MessageType, plain: Plain, indent: str) -> Iterator[str]:
    for field in message.fields:
        if field.name not in plain:
            continue
        value = plain[field.name]
        for item in cast("list[PlainValue] | Floats", value if field.repeated else [value]):
            if field.type == "message":
                yield f"{indent}{field.name} {{"
                yield from _lines(MESSAGES[field.message], cast(Plain, item), indent + "  ")
                yield f"{indent}}}"
            else:
                yield f"{indent}{field.name}: {_scalar_text(field, cast(Scalar, item))}"


def _scalar_text(field: Field, value: Scalar) -> str:
    if field.enum is not None:
        return field.enum.names.get(int(value), str(value))
    if field.type == "bool":
        return "true" if value else "false"
    if field.type == "float":
        return _shortest(float(value))
    if field.type == "string":
        return _quote(cast(str, value).encode())
    if field.type == "bytes":
        return _quote(cast(bytes, value))
    return str(value)


def _shortest(value: float) -> str:
    """Write a float32 with the fewest digits that read back as it."""
    for digits in range(6, 9):
        text = f"{value:.{digits}g}"
        if np.float32(text) == np.float32(value):
            return str(float(text))
    return str(float(f"{value:.9g}"))


def _quote(raw: bytes) -> str:
    named = {10: "\\n", 13: "\\r", 9: "\\t", 34: '\\"', 39: "\\'", 92: "\\\\"}
    return '"' + "".join(named.get(b) or (chr(b) if 32 <= b < 127 else f"\\{b:03o}") for b in raw) + '"'
