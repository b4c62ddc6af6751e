"""What every transport does: ordered bytes both ways, and nothing about their meaning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from avec.protocol.codec import Buffer


class Transport(Protocol):
    """One connection. One thread sends and one receives; `abort` may come from any thread and wakes both.

    All methods raise ConnectionError when the peer or the network is gone.
    """

    @property
    def peer(self) -> str:
        """The other end's address, for messages."""

    def fileno(self) -> int:
        """The descriptor, for selectors and for passing to another process."""

    def set_tick(self, seconds: float) -> None:
        """Make `receive_into` raise TimeoutError after so much silence; 0 means never."""

    def send(self, buffers: Sequence[Buffer]) -> None:
        """Send all buffers, blocking while the peer's window is full. They must not change meanwhile."""

    def send_at_once(self, data: bytes, sent: list[int]) -> None:
        """Send little data if that does not block, and append how many bytes went out to `sent`, else nothing.

        An interrupt of the application may be raised here, in its main thread; `sent` tells the truth even then.
        """

    def writable(self) -> bool:
        """Whether a small frame could be sent now without blocking."""

    def readable(self) -> bool:
        """Whether `receive_into` would return at once."""

    def receive_into(self, buffer: memoryview) -> int:
        """Receive 1…len(buffer) bytes; 0 means that the peer closed.

        Raises:
            TimeoutError: nothing came for a tick.
        """

    def is_cut(self) -> bool:
        """Whether it is known below this that nothing gets through: the peer's machine, however busy its programs are,
        would have acknowledged what was sent. False where that cannot be known."""

    def finish(self) -> None:
        """Say that nothing more will be sent; what was sent still arrives, and receiving goes on."""

    def abort(self) -> None:
        """End both directions at once; blocked calls return."""

    def close(self) -> None:
        """Release the descriptor. The connection lives on if another process holds it too."""


class Listener(Protocol):
    """Accepts connections of one scheme."""

    @property
    def url(self) -> str:
        """The URL that hosts use, with the port that was really bound."""

    def fileno(self) -> int:
        """The descriptor, for selectors."""

    def accept(self) -> Transport:
        """Accept one connection; blocks."""

    def close(self) -> None:
        """Stop listening."""
