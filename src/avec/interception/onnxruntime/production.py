"""Values that a request makes at the destination, known before its answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from avec.errors import ProtocolError
from avec.protocol.onnx import Device, Info, Infos

from .space import Pending, Space
from .values import RemoteValue, RemoteVector


class Results:
    """What one request makes. See values.Production."""

    def __init__(self, settle: Callable[[], None] | None = None) -> None:
        """Expect values.

        Args:
            settle: waits for what the request rests on, and raises what that raised.
        """
        self._settle = settle
        self._numbers: list[int] = []
        self._pending: Pending | None = None
        self._infos: dict[int, Info | None] | None = None
        self._error: Exception | None = None

    def expect(self, space: Space, devices: Sequence[Device]) -> RemoteVector:
        """Number the values that there will be."""
        made = RemoteVector(RemoteValue(space, device, production=self) for device in devices)
        self._numbers = [each.number for each in made]
        return made

    @property
    def numbers(self) -> tuple[int, ...]:
        """The numbers of the values."""
        return tuple(self._numbers)

    def sent(self, pending: Pending) -> None:
        """Take note of the request, which is answered by Infos."""
        self._pending = pending

    def info(self, value: int) -> Info | None:
        """Wait, and say what one of the values is; raises what the engine raised, at each of them."""
        if self._error is not None:
            raise self._error
        if self._infos is None:
            try:
                self._infos = self._answered()
            except Exception as exc:
                self._error = exc
                raise
        return self._infos[value]

    def _answered(self) -> dict[int, Info | None]:
        if self._settle is not None:
            self._settle()
        if self._pending is None:
            raise ProtocolError("the request that makes this value was never sent")
        answered, _ = self._pending.answer()
        if not isinstance(answered, Infos) or len(answered.infos) != len(self._numbers):
            raise ProtocolError(f"the destination answered {type(answered).__name__} to a request that makes values")
        return dict(zip(self._numbers, answered.infos, strict=True))
