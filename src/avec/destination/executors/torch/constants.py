"""The constants that templates and graphs hold, as torch takes them: dtypes, devices, layouts, memory formats."""

from __future__ import annotations

import torch

from avec.destination.executors.torch.devices import Devices
from avec.destination.executors.torch.storages import named_dtype
from avec.errors import InvalidArgument
from avec.protocol.torch import ComplexArg, DeviceArg, DTypeArg, LayoutArg, MemoryFormatArg


def constant_of(arg: object, devices: Devices) -> object:
    """Give what an argument stands for; a plain value stands for itself.

    Raises:
        InvalidArgument: there is none such in this torch, or no such accelerator here.
    """
    match arg:
        case DTypeArg(name=name):
            return named_dtype(name)
        case DeviceArg(index=index):
            return devices.device(index)
        case LayoutArg(name=name):
            return _named(name, torch.layout)
        case MemoryFormatArg(name=name):
            return _named(name, torch.memory_format)
        case ComplexArg(real=real, imag=imag):
            return complex(real, imag)
        case _:
            return arg


def _named(name: str, kind: type) -> object:
    value = getattr(torch, name, None)
    if not isinstance(value, kind):
        raise InvalidArgument(f"there is no {kind.__name__} {name!r} in the destination's torch {torch.__version__}")
    return value
