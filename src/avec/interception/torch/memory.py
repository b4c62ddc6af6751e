"""The memory of the destination's accelerators, as torch.cuda.memory and torch.accelerator.memory tell of it.

Every figure is asked of the destination, after all that was issued: it is real, and a tensor that has died counts no
more. What only resets or frees does not wait. Not here: cudaMemGetInfo (`runtime`), and allocators of the program's own
(`unavailable`).
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import torch

from avec.interception.patching import Patches
from avec.protocol.torch import Memory, MemoryStatistics, Template

from .storages import DTYPES

if TYPE_CHECKING:
    from avec.host.calls import Call

    from .devices import Devices
    from .recording import Recording

# What torch.cuda.memory_stats always has; a destination adds what else its own torch counts.
_POOLED = (
    "allocation", "segment", "active", "inactive_split", "allocated_bytes", "reserved_bytes", "active_bytes",
    "inactive_split_bytes", "requested_bytes",
)  # fmt: skip
_UNPOOLED = ("oversize_allocations", "oversize_segments")
_COUNTS = (
    "num_alloc_retries", "num_ooms", "num_sync_all_streams", "num_device_alloc", "num_device_free", "max_split_size",
)  # fmt: skip
_FIGURES = ("current", "peak", "allocated", "freed")
_POOLS = ("all", "small_pool", "large_pool")


def _is_accumulated(name: str) -> bool:
    return name.rpartition(".")[2] in ("allocated", "freed") or name.startswith("num_")


class MemoryAccounts:
    """The accelerators' statistics. Thread-safe."""

    def __init__(self, recording: Recording, devices: Devices) -> None:
        self._recording = recording
        self._devices = devices
        self._resets: dict[int, Call] = {}  # answered by what had accumulated until then
        self.fractions: dict[int, float] = {}

    def ask(self, device: int) -> Memory:
        """Ask the destination for an accelerator's memory."""
        return self._answer(self._request(device))

    def _request(self, device: int, reset_peak: bool = False, empty_cache: bool = False) -> Call:
        self._devices.check(device)
        return self._recording.request(MemoryStatistics(0, device, reset_peak, empty_cache))

    def _answer(self, call: Call) -> Memory:
        memory = self._recording.decode(self._recording.wait(call))
        assert isinstance(memory, Memory)
        return memory

    def statistics(self, device: int) -> dict[str, int]:
        """An accelerator's statistics, named as torch.cuda.memory_stats names them."""
        names = [".".join(parts) for parts in itertools.product(_POOLED, _POOLS, _FIGURES)]
        names += [".".join(parts) for parts in itertools.product(_UNPOOLED, _FIGURES)]
        figures = dict.fromkeys((*names, *_COUNTS), 0) | self.ask(device).statistics
        if device not in self._resets:
            return figures
        before = self._answer(self._resets[device]).statistics
        return {
            name: figure - before.get(name, 0) if _is_accumulated(name) else figure for name, figure in figures.items()
        }

    def nested(self, device: int) -> dict[str, Any]:
        """The same as torch._C nests it: {"allocation": {"all": {"current": 1, …}, …}, …}."""
        nested: dict[str, Any] = {}
        for name, figure in self.statistics(device).items():
            *path, last = name.split(".")
            place = nested
            for part in path:
                place = place.setdefault(part, {})
            place[last] = figure
        return nested

    def reset_peak(self, device: int) -> None:
        """Look for the peaks anew; does not wait."""
        self._request(device, reset_peak=True)

    def reset_accumulated(self, device: int) -> None:
        """Count anew what is allocated and freed; does not wait."""
        self._resets[device] = self._request(device)

    def empty_cache(self) -> None:
        """Have the destination give memory back that it only keeps; does not wait."""
        for device in range(self._devices.count()):
            self._request(device, empty_cache=True)

    def free_and_total(self, device: int) -> tuple[int, int]:
        """An accelerator's memory in bytes, whoever uses it."""
        memory = self.ask(device)
        return memory.free, memory.total

    def set_fraction(self, fraction: float, device: int) -> None:
        """Bound what the session may use of an accelerator's memory."""
        self._devices.check(device)
        self.fractions[device] = fraction
        flag = Template("avec::flag", ("cuda.memory_fraction", f"{device}:{fraction}"), {}, 0, 0)
        self._recording.record(self._recording.template(flag), ())


class MemPool:
    """Stands in for torch.cuda.MemPool: a hint about where memory is taken from, which the destination passes over."""

    def __init__(self, allocator: object = None, use_on_oom: bool = False, no_split: bool = False) -> None:
        """Make a pool; an allocator of one's own cannot be made in the first place."""
        self._id = new_pool_id()

    @property
    def id(self) -> tuple[int, int]:
        """Its name."""
        return self._id

    @property
    def allocator(self) -> None:
        """The program's own allocator: never one."""
        return None

    def use_count(self) -> int:
        """How many use it: itself."""
        return 1

    def snapshot(self, include_traces: bool = True) -> Any:
        """Return what torch.cuda.memory_snapshot does: it is refused."""
        return torch.cuda.memory_snapshot(self.id)  # type: ignore[no-untyped-call]


MemPool.__module__ = "torch.cuda.memory"
_pool_ids = itertools.count(1)


def new_pool_id() -> tuple[int, int]:
    """Name a pool, of memory or of graphs."""
    return 0, next(_pool_ids)


def patch(patches: Patches, recording: Recording, devices: Devices) -> None:
    """Answer what torch asks about memory."""
    accounts = MemoryAccounts(recording, devices)
    nothing_held: dict[str, Any] = {}

    def device_memory_used(device: Any = None) -> int:
        free, total = torch.cuda.mem_get_info(device)
        return total - free

    patches.stand_in(torch._C, {
        "_cuda_memoryStats": lambda device: accounts.nested(device),
        "_cuda_resetPeakMemoryStats": lambda device: accounts.reset_peak(device),
        "_cuda_resetAccumulatedMemoryStats": lambda device: accounts.reset_accumulated(device),
        "_cuda_emptyCache": lambda: accounts.empty_cache(),
        "_cuda_setMemoryFraction": lambda fraction, device: accounts.set_fraction(fraction, device),
        "_cuda_getMemoryFraction": lambda device: accounts.fractions.get(device, 1.0),
        "_cuda_hostMemoryStats": lambda: nothing_held,
        "_cuda_resetAccumulatedHostMemoryStats": lambda: None,
        "_cuda_resetPeakHostMemoryStats": lambda: None,
        "_cuda_getAllocatorBackend": lambda: "native",
        "_cuda_cudaCachingAllocator_is_enabled": lambda: True,
        "_cuda_cudaCachingAllocator_enable": lambda value: None,
        "_cuda_isHistoryEnabled": lambda: False,
        "_cuda_clearCublasWorkspaces": lambda: None,
        "_cuda_setMemoryMetadata": lambda metadata: None,
        "_cuda_getMemoryMetadata": lambda: "",
        "_cuda_annotateMemory": lambda address, metadata: None,
        "_cuda_memoryMetadataSupported": lambda: False,
        "_cuda_ipc_collect": lambda: None,
        "_host_emptyCache": lambda: None,
        "_accelerator_isAllocatorInitialized": lambda: recording.opened,
        "_accelerator_emptyCache": lambda: accounts.empty_cache(),
        "_accelerator_emptyHostCache": lambda: None,
        "_accelerator_getDeviceStats": lambda device: accounts.nested(device),
        "_accelerator_resetAccumulatedStats": lambda device: accounts.reset_accumulated(device),
        "_accelerator_resetPeakStats": lambda device: accounts.reset_peak(device),
        "_accelerator_getMemoryInfo": lambda device: accounts.free_and_total(device),
        "_accelerator_getDeviceCapability": lambda device: {"supported_dtypes": set(DTYPES)},
        "_accelerator_synchronizeDevice": lambda device: devices.synchronize(device),
    })  # fmt: skip
    patches.stand_in(torch.cuda, {"device_memory_used": device_memory_used})
    for module in (torch.cuda, torch.cuda.memory):
        patches.replace(module, "MemPool", lambda original: MemPool)
    for name in ("_cuda_beginAllocateCurrentThreadToPool", "_cuda_beginAllocateToPool", "_cuda_endAllocateToPool"):
        patches.stand_in(torch.cuda.memory, {name: lambda device, pool: None})
    patches.stand_in(torch.cuda.memory, {"_cuda_releasePool": lambda device, pool: None})
