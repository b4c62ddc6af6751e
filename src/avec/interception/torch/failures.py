"""What a program is told of an operator that failed at the destination: torch's exception, and where it was called."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

import torch

from avec.errors import AcceleratorOutOfMemory, AvecError, ExecutionError
from avec.host.calls import where_called
from avec.protocol.torch import PLACE

if TYPE_CHECKING:
    from avec.host.calls import Call

BATCHES = 300  # whose places are remembered: more than can be under way

_OUT_OF_MEMORY = "CUDA out of memory"


class Places:
    """Where in the application the operators of batches were called, as far as that was noted."""

    def __init__(self) -> None:
        self.marks: list[tuple[int, str]] = []  # of the batch that is not sent yet: place in the stream, and the site
        self._began = ""  # the site where the batch before was sent
        self._sent: OrderedDict[int, tuple[list[tuple[int, str]], str]] = OrderedDict()  # by call

    def mark(self, place: int) -> None:
        """Note where the operator is called that comes next."""
        self.marks.append((place, where_called()))

    def move(self, count: int) -> None:
        """Take note that so many numbers were put before all that is recorded."""
        self.marks = [(place + count, site) for place, site in self.marks]

    def send(self, call: Call) -> None:
        """Take note that the batch was sent."""
        self._sent[call.number] = (self.marks, self._began)
        self.marks, self._began = [], call.site
        if len(self._sent) > BATCHES:
            self._sent.popitem(last=False)

    def tell(self, exc: AvecError) -> None:
        """Add to a failure where the operator was called, as exactly as is known."""
        marks, began = self._sent.pop(exc.call_number or 0, (None, ""))
        if marks is None:
            return
        found = PLACE.search(str(exc))
        if found is not None and (site := dict(marks).get(int(found[1]))):
            exc.add_note(f"The operator was called at {site}.")
        else:
            exc.add_note(f"The operator was called after {began or 'the start'}, where the batch before was sent.")


def as_torch(exc: AvecError) -> Exception:
    """The exception that a program catches where it would run on a GPU of its own: a RuntimeError, if it failed."""
    error: Exception
    if isinstance(exc, AcceleratorOutOfMemory):
        text = str(exc)
        # Programs that try again with less know it by these words.
        error = torch.OutOfMemoryError(text if _OUT_OF_MEMORY in text else f"{_OUT_OF_MEMORY}. {text}")
    elif isinstance(exc, ExecutionError) and not isinstance(exc, RuntimeError):
        error = RuntimeError(str(exc))
    else:
        error = type(exc)(*exc.args)
    for note in getattr(exc, "__notes__", ()):
        error.add_note(note)
    return error
