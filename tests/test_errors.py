"""Errors cross the wire as what they are."""

from __future__ import annotations

import traceback

import msgspec
import pytest

from avec import errors
from avec.errors import AvecError, ErrorRecord, InvalidArgument, RemoteError, pack, unpack
from avec.protocol import messages
from avec.protocol.codec import META_LIMIT, encode

CLASSES = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, AvecError)]


def _raised(exc: BaseException) -> BaseException:
    try:
        raise exc
    except type(exc) as caught:
        return caught


def _crossed(exc: BaseException) -> AvecError:
    record = msgspec.msgpack.decode(msgspec.msgpack.encode(pack(exc)), type=ErrorRecord)
    return unpack(record)


@pytest.mark.parametrize("cls", CLASSES)
def test_every_class_arrives_as_itself_with_its_text(cls: type[AvecError]) -> None:
    arrived = _crossed(_raised(cls("conv1: 3 of 4")))
    assert (type(arrived), str(arrived)) == (cls, "conv1: 3 of 4")


def test_every_class_has_a_code_of_its_own() -> None:
    assert len({cls.code for cls in CLASSES}) == len(CLASSES)


@pytest.mark.parametrize(
    ("cls", "builtin"),
    [
        (errors.ConfigurationError, ValueError),
        (errors.DestinationUnreachable, ConnectionError),
        (errors.DestinationUntrusted, ConnectionError),
        (errors.AuthenticationFailed, PermissionError),
        (errors.SessionLost, ConnectionError),
        (errors.DestinationDraining, ConnectionError),
        (errors.CacheUnavailable, OSError),
        (errors.InvalidModel, ValueError),
        (errors.InvalidData, ValueError),
        (errors.InvalidArgument, ValueError),
        (errors.UnsupportedOperation, NotImplementedError),
        (errors.AcceleratorOutOfMemory, MemoryError),
        (errors.RemoteError, RuntimeError),
    ],
)
def test_an_except_clause_for_the_builtin_catches_it(cls: type[AvecError], builtin: type[Exception]) -> None:
    assert isinstance(_crossed(cls("x")), builtin)


def test_the_place_where_it_was_raised_comes_along_as_a_note() -> None:
    arrived = _crossed(_raised(InvalidArgument("x")))
    (note,) = arrived.__notes__
    assert note.startswith("Traceback at the destination:\nTraceback (most recent call last):\n")
    assert "in _raised" in note


def test_the_note_is_part_of_the_printed_traceback() -> None:
    printed = "".join(traceback.format_exception(_raised(_crossed(_raised(InvalidArgument("x"))))))
    assert "Traceback at the destination:" in printed


def test_a_foreign_exception_becomes_a_remote_error_that_names_its_type() -> None:
    arrived = _crossed(_raised(KeyError("conv1")))
    assert (type(arrived), str(arrived)) == (RemoteError, "KeyError: 'conv1'")


def test_an_unknown_code_becomes_a_remote_error_that_keeps_the_code() -> None:
    arrived = unpack(ErrorRecord("quota", "too much"))
    assert (type(arrived), str(arrived)) == (RemoteError, "quota: too much")


def test_a_class_without_a_code_of_its_own_crosses_as_its_base() -> None:
    class Local(InvalidArgument):
        pass

    assert type(_crossed(Local("x"))) is InvalidArgument
    del Local


@pytest.mark.parametrize("character", ["x", "é", "字", "😀", "\udc80"])
def test_the_longest_text_and_traceback_fit_their_frame(character: str) -> None:
    exc = _raised(RuntimeError(character * 100_000))
    (frame,) = encode(messages.Failed(pack(exc)), 1)
    assert len(frame) < META_LIMIT


def test_a_traceback_that_is_too_long_keeps_its_end() -> None:
    assert pack(_raised(RuntimeError("é" * 50_000 + "the end"))).traceback.endswith("éthe end\n")


def test_a_name_that_utf8_cannot_hold_is_escaped() -> None:
    assert str(_crossed(InvalidArgument("file \udcff"))) == r"file \udcff"
