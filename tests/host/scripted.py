"""A destination that says what a test tells it to, for what no honest one does."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

from avec.communication import listen
from avec.communication.transport import Transport
from avec.protocol import messages
from avec.protocol.codec import Frame, allocate_array, encode
from avec.protocol.connection import Connection

ACCELERATOR = messages.AcceleratorInfo("cpu", "none", 1)
WELCOME = messages.Welcome(messages.VERSION, "1", "scripted", ACCELERATOR, ("caffe",), 8, 1 << 20)


class Peer:
    """One host's connection at a scripted destination."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._connection = Connection("destination", allocate_array)

    def receive(self) -> Frame:
        """The next frame from the host."""
        while True:
            nbytes = self._transport.receive_into(self._connection.buffer())
            if not nbytes:
                raise ConnectionError("the host has left")
            if (frame := self._connection.advance(nbytes)) is not None:
                return frame

    def receive_call(self) -> Frame:
        """The next call from the host."""
        while not isinstance((frame := self.receive()).message, messages.Run):
            pass
        return frame

    def welcome(self, welcome: messages.Welcome = WELCOME) -> None:
        """Take the hello and answer it well."""
        self.receive()
        self._transport.send(self._connection.send(welcome))

    def say(self, message: messages.Message, number: int = 0) -> None:
        """Send a message, allowed or not."""
        self._transport.send(encode(message, number))

    def say_bytes(self, data: bytes) -> None:
        """Send what may be no message."""
        self._transport.send([data])


@contextlib.contextmanager
def scripted(script: Callable[[Peer], None]) -> Iterator[str]:
    """Serve one host by a script that runs on a thread; gives the URL. The connection stays until its goodbye."""
    with contextlib.closing(listen("tcp://127.0.0.1:0")) as listener:

        def serve() -> None:
            with contextlib.closing(listener.accept()) as transport:
                peer = Peer(transport)
                with contextlib.suppress(ConnectionError):
                    script(peer)
                    while not isinstance(peer.receive().message, messages.Goodbye):
                        pass

        thread = threading.Thread(target=serve, name="scripted")
        thread.start()
        yield listener.url
        thread.join()
