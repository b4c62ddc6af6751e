"""The progress bar of a command: on stderr, below the lines that are logged, and only where that is a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


class Bar:
    """One progress bar."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task

    def advance(self) -> None:
        """One iteration more is done."""
        self._progress.advance(self._task)

    def show(self, iteration: int, note: str) -> None:
        """So many iterations are done."""
        self._progress.update(self._task, completed=iteration, note=note)


@contextmanager
def progress_bar(what: str, iterations: int, done: int = 0) -> Iterator[Bar]:
    """Show a bar as long as the block runs."""
    console = Console(stderr=True)
    columns = (
        TextColumn(what),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        yield Bar(progress, progress.add_task(what, total=iterations, completed=done, note=""))
