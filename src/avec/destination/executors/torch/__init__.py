"""Carries out a PyTorch host's stream of operators on torch.

A Template becomes a Python function (`templates`), addresses become tensors (`storages`). What hosts may call is in
`operators`, what torch does not have in `own_operators`, where a CPU differs from CUDA in `quirks`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from avec.destination.accelerators import Accelerator
from avec.destination.executors import Answer
from avec.destination.executors.torch.devices import Devices
from avec.destination.executors.torch.model import TorchModel
from avec.errors import InvalidArgument
from avec.protocol.torch import Open
from avec.tensor import Array

_OPENS = msgspec.msgpack.Decoder(Open)


class TorchExecutor:
    """Opens streams on all accelerators of the destination. See avec.destination.executors.Executor."""

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator

    def load(self, body: bytes, arrays: Sequence[Array], files: Mapping[str, Path]) -> tuple[TorchModel, Answer]:
        """Open a session's stream.

        Raises:
            InvalidArgument: the request cannot be understood.
        """
        try:
            request = _OPENS.decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
            raise InvalidArgument(f"a request to open a stream of torch operators cannot be understood: {exc}") from exc
        devices = Devices(self._accelerator)
        model = TorchModel(self._accelerator, devices, request.version)
        return model, Answer(msgspec.msgpack.encode(devices.describe()))


__all__ = ["TorchExecutor"]
