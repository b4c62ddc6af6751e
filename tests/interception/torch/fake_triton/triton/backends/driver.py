"""What a driver is."""

from __future__ import annotations


class DriverBase:
    pass
