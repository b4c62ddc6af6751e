"""The executor interface, and the table of model formats that this destination can carry out.

An executor turns files into a Model on an accelerator; a Model answers requests. Both see host buffers only as numpy
arrays and speak in the structs of `avec.protocol.<format>`. They know nothing of sockets, sessions or handles.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from avec.tensor import Array

# Model format → where its executor is. Imported by the zygote, once.
EXECUTORS = {
    "caffe": "avec.destination.executors.caffe:CaffeExecutor",
    "onnx": "avec.destination.executors.onnx:OnnxExecutor",
    "opencv": "avec.destination.executors.opencv_dnn:OpenCvExecutor",
    "torch": "avec.destination.executors.torch:TorchExecutor",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What a call gave: the format's own body, arrays in host memory, and how many operators were launched.

    The arrays stay valid until the next call on the same model; the caller sends them before that.
    """

    body: bytes = b""
    arrays: Sequence[Array] = field(default_factory=tuple)
    kernels: int = 0
    late: bool = False  # nobody waits for it: it may go together with a later one


class Model(Protocol):
    """What one handle names. Called by one thread at a time."""

    def run(
        self, body: bytes, arrays: Sequence[Array], files: Mapping[str, Path], others: Sequence[Model] = ()
    ) -> Answer:
        """Carry out one request; return when its results are in host memory.

        Args:
            body: the format's request, not yet decoded; to be validated here.
            arrays: the call's parts, read-only and valid during this call only.
            files: role → verified model file.
            others: models, perhaps of other formats, that the request is about as well.

        Raises:
            ExecutionError: the request is wrong or cannot be carried out; the model stays usable.
        """

    def close(self) -> None:
        """Free all that the model holds on the accelerator."""


class Executor(Protocol):
    """Carries out one model format on one accelerator."""

    def load(self, body: bytes, arrays: Sequence[Array], files: Mapping[str, Path]) -> tuple[Model, Answer]:
        """Make a model; arguments and errors as for Model.run."""
