"""Processes that are asked about one operator after the other, and share all of them (`checking`)."""

from __future__ import annotations

import json
import os
import queue
import re
import select
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from launching import environ

START_TIMEOUT_S = 120.0
OPERATOR_TIMEOUT_S = 400.0  # some have thousands of samples
LOG_END = 1000  # bytes
ATTEMPTS = 2  # before a crash counts: it may have been left by the operator before

Answer = dict[str, Any]
Found = TypeVar("Found")


class Crashed(Exception):
    """The process did not survive an operator, or took too long for it."""


class Host:
    """One process."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = command
        self._process: subprocess.Popen[str] | None = None
        self._log = tempfile.TemporaryFile()
        self.operators: list[str] = []

    def start(self) -> None:
        """Start it, and learn which operators there are."""
        reading, writing = os.pipe()
        self._process = subprocess.Popen(
            [*self._command, "--answers", str(writing)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self._log,
            pass_fds=[writing],
            env=environ(),
            text=True,
        )
        os.close(writing)
        self._answers = os.fdopen(reading)
        answer = self._answer(START_TIMEOUT_S)
        if answer is None:
            raise RuntimeError(f"{' '.join(self._command)} did not start; it said:\n{self._said()}")
        self.operators = json.loads(answer)

    def ask(self, operator: str, done: int = 0) -> Answer:
        """Have one operator checked; a process that does not survive it is replaced at the next call.

        Args:
            done: how many of its checks are done already.

        Raises:
            Crashed: it survived none of some attempts.
        """
        for _ in range(ATTEMPTS):
            if self._process is None:
                self.start()
            assert self._process is not None and self._process.stdin is not None
            began = time.monotonic()
            self._process.stdin.write(f"{done} {operator}\n")
            self._process.stdin.flush()
            text = self._answer(OPERATOR_TIMEOUT_S)
            if text is not None:
                answer: Answer = json.loads(text)
                return answer
            late = time.monotonic() - began > OPERATOR_TIMEOUT_S
            status = self.stop()
            if late:
                raise Crashed(f"took more than {OPERATOR_TIMEOUT_S:.0f} s")
        raise Crashed(f"its process ended: {status}, {self._said()}")

    def stop(self) -> int | None:
        """End the process; its status if it had ended by itself."""
        if self._process is None:
            return None
        assert self._process.stdin is not None
        process, self._process = self._process, None
        try:
            status = process.wait(0.5)
        except subprocess.TimeoutExpired:
            status = None
            process.kill()
            process.wait()
        try:
            process.stdin.close()
        except BrokenPipeError:
            pass
        self._answers.close()
        return status

    def _said(self) -> str:
        """The end of what the processes have written to stderr."""
        self._log.seek(max(0, self._log.seek(0, os.SEEK_END) - LOG_END))
        return self._log.read().decode(errors="replace")

    def _answer(self, timeout_s: float) -> str | None:
        if not select.select([self._answers], [], [], timeout_s)[0]:
            return None
        return self._answers.readline() or None


def shared(
    command: Sequence[str], hosts: int, only: str, ask: Callable[[Host, str], Found]
) -> Iterator[tuple[str, Found]]:
    """Ask about all operators whose whole names match, in several processes; give what was found as it comes.

    Raises:
        RuntimeError: a process did not start.
    """
    sharing = [Host(command) for _ in range(hosts)]
    with ThreadPoolExecutor(hosts) as pool:
        list(pool.map(Host.start, sharing))
    waiting: queue.SimpleQueue[str] = queue.SimpleQueue()
    for name in sharing[0].operators:
        if re.fullmatch(only, name):
            waiting.put(name)
    done: queue.SimpleQueue[tuple[str, Found] | BaseException | None] = queue.SimpleQueue()

    def work(host: Host) -> None:
        try:
            while True:
                try:
                    operator = waiting.get_nowait()
                except queue.Empty:
                    return
                done.put((operator, ask(host, operator)))
        except BaseException as exc:
            done.put(exc)
        finally:
            host.stop()
            done.put(None)

    threads = [threading.Thread(target=work, args=(host,), daemon=True) for host in sharing]
    for thread in threads:
        thread.start()
    left = len(threads)
    while left:
        found = done.get()
        if isinstance(found, BaseException):
            raise found
        if found is None:
            left -= 1
        else:
            yield found
