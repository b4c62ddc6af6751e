"""Where the workloads compute, and in which size."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch


@dataclass(slots=True)
class Place:
    """The accelerator that torch says there is, else the CPU; `small` is for a CPU and for tests."""

    small: bool
    device: torch.device = field(default_factory=lambda: torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    libraries: dict[str, str] = field(default_factory=dict)  # network → where it is from

    @property
    def name(self) -> str:
        """What a person calls the accelerator."""
        return torch.cuda.get_device_name() if self.device.type == "cuda" else "CPU"

    def synchronize(self) -> None:
        """Wait until the accelerator has done all that it was asked."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
