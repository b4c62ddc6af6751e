"""The templates of one stream by their numbers, and which of them the destination has not got yet."""

from __future__ import annotations

import msgspec

from avec.protocol.torch import FIRST_TEMPLATE, Template

LIMIT = 1 << 15  # 90 MB on the host; then both ends forget them, for shapes that always change

_DECODER = msgspec.msgpack.Decoder(Template)


class KnownTemplates:
    """Not thread-safe: for who holds Recording's lock.

    A number is never given twice, also after `forget`: another thread may be about to record an old one.
    """

    def __init__(self) -> None:
        self.new: list[msgspec.Raw] = []  # to go to the destination with the next batch
        self._numbers: dict[bytes, int] = {}
        self._encoded: dict[int, bytes] = {}  # the same, by their numbers
        self._next = FIRST_TEMPLATE

    @property
    def full(self) -> bool:
        """Whether there are too many."""
        return len(self._numbers) >= LIMIT

    @property
    def first_new(self) -> int:
        """The number of the first new one."""
        return self._next - len(self.new)

    def number(self, encoded: bytes) -> int | None:
        """The number of a template, if it has one."""
        return self._numbers.get(encoded)

    def add(self, encoded: bytes) -> int:
        """Number a new one."""
        number, new = self._next, msgspec.Raw(encoded)
        try:
            self.new.append(new)
        finally:  # an interrupt in between would have the destination count otherwise
            self._numbers[encoded] = number
            self._encoded[number] = encoded
            self._next = number + 1
        return number

    def forget(self) -> None:
        """Forget all, with those that are new: nothing was recorded with them."""
        self._numbers.clear()
        self._encoded.clear()
        self.new.clear()

    def template(self, number: int) -> Template:
        """The one of a number."""
        return _DECODER.decode(self._encoded[number])

    def templates(self) -> dict[int, Template]:
        """All of them."""
        return {number: self.template(number) for number in self._encoded}

    def encoded(self) -> list[tuple[int, msgspec.Raw]]:
        """All of them as they were sent, with their numbers."""
        return [(number, msgspec.Raw(encoded)) for number, encoded in self._encoded.items()]
