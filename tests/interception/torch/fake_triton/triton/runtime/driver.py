"""The driver in use."""

from __future__ import annotations


class DriverConfig:
    def __init__(self) -> None:
        self._active: object = None

    @property
    def active(self) -> object:
        return self._active


driver = DriverConfig()
