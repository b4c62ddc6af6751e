"""The destination's accelerators as torch.cuda's devices: how many, which, what they are, which is current.

torch's own Python goes on answering the application; what it asks torch._C for is answered here. Nothing connects
before an answer needs the destination, and `is_available` never does: that there is one was the point of starting.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import torch

from avec.errors import AvecError
from avec.interception.patching import Patches
from avec.protocol.torch import Device, IntArg, Opened, Synchronize, Template

if TYPE_CHECKING:
    from avec.host.calls import Call

    from .grafting import Graft
    from .recording import Recording

_SLEEP = Template("avec::sleep", (IntArg(0), IntArg(1)), {}, 2, 0)


class Devices:
    """The accelerators by torch's numbers for them. Thread-safe."""

    def __init__(self, recording: Recording, graft: Graft) -> None:
        self._recording = recording
        self._graft = graft
        self._visible = len(torch.cuda._parse_visible_devices())
        self._asked: dict[int, Call] = {}  # the last call that waits for a device

    @property
    def opened(self) -> Opened:
        """What the destination is; opens the session if need be."""
        return self._recording.described

    @property
    def visible(self) -> int:
        """How many the program may see at most: CUDA_VISIBLE_DEVICES may be set, to none for instance."""
        if not torch.cuda._initialized:  # torch looks at the variable no later than then
            self._visible = len(torch.cuda._parse_visible_devices())
        return self._visible

    def count(self) -> int:
        """How many there are for the program. CUDA_VISIBLE_DEVICES says only how many of the first ones."""
        return min(len(self.opened.devices), self.visible) if self.visible else 0

    def check(self, index: int) -> None:
        """Raise what torch raises unless there is such a device."""
        if not 0 <= index < self.count():
            raise torch.AcceleratorError(
                f"CUDA error: invalid device ordinal\nThere is no cuda:{index}: the destination has {self.count()}"
            )

    @property
    def current(self) -> int:
        """This thread's current device."""
        return self._graft.current_device

    @current.setter
    def current(self, index: int) -> None:
        if index != self._graft.current_device:
            self.check(index)
            self._graft.current_device = index

    def exchange(self, index: int) -> int:
        """Make a device current and say which was before; nothing happens for a negative number."""
        if index < 0:
            return -1
        before = self.current
        self.current = index
        return before

    def synchronize(self, index: int) -> None:
        """Wait until a device has done all that was asked of it."""
        self._recording.refuse_in_capture("waiting")
        call = self._asked[index] = self._recording.request(Synchronize(0, index))
        self._recording.wait(call)

    def is_idle(self, index: int) -> bool:
        """Whether a device is known to have done all that was issued; asks nobody."""
        asked = self._asked.get(index)
        if asked is None or not asked.done or not self._recording.is_newest(asked):
            return False
        self._recording.wait(asked)
        return True

    def query(self, index: int) -> bool:
        """Whether a device has done all that was issued; does not block."""
        if self.is_idle(index):
            return True
        self._recording.flush()
        asked = self._asked.get(index)
        if asked is None or not self._recording.is_newest(asked):
            self._asked[index] = self._recording.request(Synchronize(0, index))
        return self.is_idle(index)

    def properties(self, index: int) -> CudaDeviceProperties:
        """What a device is."""
        self.check(index)
        return CudaDeviceProperties(self.opened.devices[index], index)


# What torch.cuda.get_device_properties says of every GPU beside what the protocol names, and of an accelerator that is
# none. Source: torch/csrc/cuda/Module.cpp, registerCudaDeviceProperties.
_UNKNOWN: dict[str, int] = {
    "L2_cache_size": 0, "clock_rate": 0, "is_integrated": 0, "is_multi_gpu_board": 0, "max_threads_per_block": 1,
    "max_threads_per_multi_processor": 1, "memory_bus_width": 0, "memory_clock_rate": 0, "pci_bus_id": 0,
    "pci_device_id": 0, "pci_domain_id": 0, "regs_per_multiprocessor": 0, "shared_memory_per_block": 0,
    "shared_memory_per_block_optin": 0, "shared_memory_per_multiprocessor": 0, "warp_size": 1,
}  # fmt: skip


class _Uuid:
    """A device's UUID, as torch._C._CUuuid shows it."""

    def __init__(self, text: str) -> None:
        self._uuid = uuid.UUID(text)

    @property
    def bytes(self) -> list[int]:
        """Its sixteen bytes."""
        return list(self._uuid.bytes)

    def __str__(self) -> str:
        return str(self._uuid)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Uuid) and self._uuid == other._uuid

    def __hash__(self) -> int:
        return hash(self._uuid)


class CudaDeviceProperties:
    """Stands in for torch._C._CudaDeviceProperties."""

    name: str
    major: int
    minor: int
    total_memory: int
    multi_processor_count: int
    uuid: _Uuid

    def __init__(self, device: Device, index: int) -> None:
        values: dict[str, object] = {**_UNKNOWN, "gcnArchName": device.name, **device.properties}
        text = str(values.get("uuid", ""))
        try:
            values["uuid"] = _Uuid(text)
        except ValueError:  # an accelerator that has none
            values["uuid"] = _Uuid(str(uuid.UUID(int=index)))
        for name in ("name", "major", "minor", "total_memory", "multi_processor_count"):
            values[name] = getattr(device, name)
        self.__dict__.update(values)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"property {name!r} of '_CudaDeviceProperties' object has no setter")

    def __repr__(self) -> str:
        shown = self.__dict__
        return (
            f"_CudaDeviceProperties(name='{self.name}', major={self.major}, minor={self.minor}, "
            f"total_memory={self.total_memory >> 20}MB, multi_processor_count={self.multi_processor_count}, "
            f"uuid={self.uuid}, pci_bus_id={shown['pci_bus_id']}, pci_device_id={shown['pci_device_id']}, "
            f"pci_domain_id={shown['pci_domain_id']}, L2_cache_size={shown['L2_cache_size'] >> 20}MB)"
        )


CudaDeviceProperties.__name__ = CudaDeviceProperties.__qualname__ = "_CudaDeviceProperties"
CudaDeviceProperties.__module__ = "torch._C"


def patch(patches: Patches, recording: Recording, graft: Graft, devices: Devices) -> None:
    """Answer what torch asks about devices."""

    def init() -> None:
        if not devices.count():
            raise RuntimeError("No CUDA GPUs are available")

    def set_device(index: int) -> None:
        torch.cuda._lazy_init()  # type: ignore[no-untyped-call]
        devices.current = index

    def exchange_device(index: int) -> int:
        if index >= 0:
            torch.cuda._lazy_init()  # type: ignore[no-untyped-call]
        return devices.exchange(index)

    def sleep(cycles: int) -> None:
        recording.record(recording.template(_SLEEP), (cycles, devices.current))

    def current_device() -> int:
        if not torch.cuda._initialized or recording.inherited:
            torch.cuda._lazy_init()  # type: ignore[no-untyped-call]
        return graft.current_device

    def set_sync_debug_mode(mode: int) -> None:
        recording.waits_are_told, recording.waits_are_errors = mode == 1, mode == 2

    recording.arena.check_device = devices.check
    patches.stand_in(torch._C, {
        "_cuda_init": init,
        "_cuda_getDeviceCount": lambda: devices.count(),
        "_cuda_getDevice": lambda: graft.current_device,
        "_accelerator_getDeviceIndex": lambda: devices.current,  # optimizers ask on the CPU, too
        "_cuda_setDevice": set_device,
        "_cuda_exchangeDevice": exchange_device,
        "_cuda_maybeExchangeDevice": exchange_device,
        "_cuda_isInBadFork": lambda: recording.inherited,
        "_cuda_canDeviceAccessPeer": lambda device, peer: device != peer,
        "_cuda_hasPrimaryContext": lambda index: recording.opened,
        "_cuda_synchronize": lambda: devices.synchronize(devices.current),
        "_cuda_sleep": sleep,
        "_cuda_set_sync_debug_mode": set_sync_debug_mode,
        "_cuda_get_sync_debug_mode": lambda: 2 * recording.waits_are_errors + recording.waits_are_told,
        "_cuda_getArchFlags": lambda: " ".join(devices.opened.architectures) or None,
        "_cuda_getCompiledVersion": lambda: _compiled_version(devices.opened.cuda),
        "_nccl_version": lambda: _nccl_version(devices.opened.nccl),
        "_nccl_version_suffix": lambda: b"",
    })  # fmt: skip
    # torch.cuda's own names for some of them, and what would otherwise look for GPUs of this machine.
    patches.stand_in(torch.cuda, {
        "is_available": lambda: devices.visible > 0,
        "device_count": lambda: devices.count(),
        "current_device": current_device,
        "_exchange_device": exchange_device,
        "_maybe_exchange_device": exchange_device,
        "_is_in_bad_fork": lambda: recording.inherited,
        "_get_device_properties": lambda index: devices.properties(index),
    })  # fmt: skip
    patches.replace(torch.cuda, "_CudaDeviceProperties", lambda original: CudaDeviceProperties)
    patches.replace(torch._C, "_CudaDeviceProperties", lambda original: CudaDeviceProperties)
    patches.replace(torch._C, "_has_cuda", lambda original: True)
    # Whether this build of torch has kernels for the GPUs does not matter: the destination's has been asked for that.
    checks = (torch.cuda._check_capability, torch.cuda._check_cubins)
    patches.replace(torch.cuda, "_queued_calls", lambda original: [each for each in original if each[0] not in checks])
    _patch_version(patches, devices)


def _patch_version(patches: Patches, devices: Devices) -> None:
    """Let torch.version.cuda say what the destination computes with; None where that is no GPU.

    It is asked for late, because libraries look at it while they are imported. They look only whether it is None, to
    find out if CUDA extensions can be built: where no destination answers, what this build of torch says has to do.
    """
    built_with = torch.version.cuda

    def version_of(name: str) -> str | None:
        if name != "cuda":
            raise AttributeError(f"module 'torch.version' has no attribute {name!r}")
        try:
            return devices.opened.cuda or None
        except (AvecError, RuntimeError):
            return built_with

    patches.remove(torch.version, "cuda")
    patches.replace(torch.version, "__getattr__", lambda original: version_of)


def _compiled_version(text: str) -> int:
    """A version "12.8" as CUDA counts: 12080."""
    major, _, minor = text.partition(".")
    return int(major) * 1000 + int(minor or 0) * 10 if major else 0


def _nccl_version(version: tuple[int, ...]) -> int:
    """The destination's NCCL as torch._C says it."""
    if not version:
        raise RuntimeError("NCCL is not available: the destination has none")
    major, minor, patch, *_ = (*version, 0, 0)
    return major << 32 | minor << 16 | patch
