"""The zygote as the server has it: started, told what to fork, and started again when it has died.

Not here: what the zygote does (`zygote`), and what its end means for the sessions (`server`).
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Self

from avec import config
from avec.config import Settings
from avec.destination import life
from avec.errors import DestinationError

END_S = 5.0  # for it to end once its socket is closed; one that is stopped never would


class ZygoteProcess:
    """Owns the process and the socket that it is commanded over. A context manager."""

    def __init__(self, settings: Settings) -> None:
        environ = config.environment(replace(settings, token=None), os.environ)  # nobody there has to show one
        environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy's threads would not survive the fork; torch has its own
        # Between two calls OpenMP's threads would spin on the cores that carry the results away; with several sessions
        # on one machine they spin against each other, and a call can take five times as long.
        environ.setdefault("OMP_WAIT_POLICY", "passive")
        environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(settings.cache_dir / "inductor"))
        self._environ = environ
        self.start()

    def start(self) -> None:
        """Start the process; it says when it is ready. What it is told before waits for that."""
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.life, its_life = life.pair()
        with theirs, its_life:
            descriptors = theirs.fileno(), its_life.fileno()
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "avec.destination.zygote", *map(str, descriptors)],
                pass_fds=descriptors,
                env=self._environ,
                stdin=subprocess.DEVNULL,
            )

    def tell(self, order: bytes, descriptors: Sequence[int] = ()) -> None:
        """Give it an order. Never blocks.

        Raises:
            DestinationError: it does not take orders now, because it has just died or cannot keep up.
        """
        try:
            socket.send_fds(self.socket, [order], list(descriptors), socket.MSG_DONTWAIT)
        except OSError as exc:
            raise DestinationError(
                f"the destination cannot start a worker now ({exc.strerror}); try again in a few seconds"
            ) from exc

    def kill(self) -> None:
        """End one that is stopped; its socket tells when it is gone."""
        self._process.kill()

    def end(self) -> None:
        """End it, and the workers with it; blocks until it is gone, END_S at most."""
        self.socket.close()
        self.life.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(END_S)
            return
        self._process.kill()  # the kernel kills the workers then
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.end()
