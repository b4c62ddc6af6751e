"""Runs a pycaffe program natively: `import caffe` gives nets that AVEC's executor computes in this very process.

    python -m avec.bench.paper.native --numerics strict avec.bench.paper.program …

So a program is measured with and without AVEC on the same engine. Only what the OpenPose example and the measured
program need of pycaffe is here; what they need and is not fails with an AttributeError.
"""

from __future__ import annotations

import argparse
import os
import runpy
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from avec.destination.accelerators import Accelerator
from avec.destination.executors import Model
from avec.destination.executors.caffe import CaffeExecutor
from avec.protocol.caffe import (
    WEIGHTS,
    BlobRef,
    Forward,
    LoadNet,
    NetDescription,
    Reshape,
    Reshaped,
    ShareWith,
)
from avec.tensor import Array

CUDNN_WORKSPACE_MB = 1024  # as a destination allows by default
PROBE_SIZE = {"cuda": 8192, "cpu": 2048}  # of the square matrices whose product is timed
PROBE_REPEATS = 4


class Blob:
    """An input of a net: memory for its values, page-locked beside a GPU, as a destination receives into."""

    def __init__(self, accelerator: Accelerator, shape: tuple[int, ...]) -> None:
        self._accelerator = accelerator
        self._told = self.shape = shape
        self.data: Array = np.empty(0, np.float32)
        self.reshape(*shape)

    def reshape(self, *shape: int) -> None:
        """Change the shape."""
        nbytes = 4 * int(np.prod(shape))
        self.data = self._accelerator.host_buffer(nbytes).view(np.float32).reshape(shape)
        self.shape = shape

    def news(self, index: int) -> tuple[Reshaped, ...]:
        """The shape, where the net has not been told of it."""
        changed, self._told = self._told != self.shape, self.shape
        return (Reshaped(index, self.shape),) if changed else ()


class Net:
    """A net with one input, in phase TEST."""

    def __init__(self, accelerator: Accelerator, network: str, *more: object) -> None:
        weights = Path(str(more[0])) if len(more) > 1 else None
        text = np.frombuffer(Path(network).read_bytes(), np.uint8)
        body = msgspec.msgpack.encode(LoadNet(source=Path(network).name))
        files = {} if weights is None else {WEIGHTS: weights}
        self.model: Model
        self.model, answer = CaffeExecutor(accelerator).load(body, [text], files)
        net = msgspec.msgpack.decode(answer.arrays[0].tobytes(), type=NetDescription)
        self.layers = net.layers
        self._input, self._output = net.inputs[0], net.outputs[0]
        self.inputs, self.outputs = [net.blobs[self._input].name], [net.blobs[self._output].name]
        self.blobs = {self.inputs[0]: Blob(accelerator, net.blobs[self._input].shape)}

    def reshape(self) -> None:
        """Let the input's shape reach all layers."""
        request = Reshape(reshaped=self.blobs[self.inputs[0]].news(self._input))
        self.model.run(msgspec.msgpack.encode(request), [], {})

    def forward(self) -> Mapping[str, Array]:
        """Compute; the output is in memory that the next pass writes."""
        blob = self.blobs[self.inputs[0]]
        request = Forward(
            writes=(BlobRef(self._input),),
            reshaped=blob.news(self._input),
            end=len(self.layers) - 1,
            wanted=(BlobRef(self._output),),
        )
        return {self.outputs[0]: self.model.run(msgspec.msgpack.encode(request), [blob.data], {}).arrays[0]}

    def share_with(self, other: Net) -> None:
        """Use another net's parameters."""
        self.model.run(msgspec.msgpack.encode(ShareWith()), [], {}, [other.model])


def caffe(accelerator: Accelerator) -> ModuleType:
    """A module to be imported as `caffe`."""
    module: Any = ModuleType("caffe")
    module.TEST = 1
    module.synchronous = True  # a pass returns when it is done
    module.Net = lambda network, *more: Net(accelerator, network, *more)
    module.set_mode_gpu = module.set_mode_cpu = lambda: None
    module.described = lambda: described(accelerator)
    module.peak = lambda: peak(accelerator)
    module.operators = operators
    found: ModuleType = module
    return found


def described(accelerator: Accelerator) -> dict[str, object]:
    """The machine and its accelerator, with the rate at which it multiplies float32 matrices."""
    size, device = PROBE_SIZE[accelerator.device.type], accelerator.device
    matrix = torch.rand(size, size, device=device)
    fastest_s = min(_timed(lambda: matrix @ matrix, accelerator) for _ in range(PROBE_REPEATS))
    on_gpu = device.type == "cuda"
    return {
        "accelerator": accelerator.info.name,
        "kind": accelerator.info.kind,
        "memory_nbytes": accelerator.info.memory_nbytes,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "multiprocessors": torch.cuda.get_device_properties(device).multi_processor_count if on_gpu else None,
        "matmul_gflop_s": 2e-9 * size**3 / fastest_s,
        "torch": torch.__version__,
    }


def peak(accelerator: Accelerator) -> dict[str, object]:
    """The most memory that torch has used on the accelerator."""
    on_gpu = accelerator.device.type == "cuda"
    return {"peak_allocated_nbytes": torch.cuda.max_memory_allocated(accelerator.device) if on_gpu else None}


def _timed(body: Callable[[], object], accelerator: Accelerator) -> float:
    began_s = time.perf_counter()
    body()
    accelerator.synchronize()
    return time.perf_counter() - began_s


class Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operators that reach a kernel."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: dict[str, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func.overloadpacket).replace(".", "::")
        self.calls[name] = self.calls.get(name, 0) + 1
        return func(*args, **(kwargs or {}))


def operators(body: Callable[[], object]) -> dict[str, int]:
    """The operators of torch that something calls, and how often."""
    seen = Operators()
    with seen:
        body()
    return seen.calls


def main() -> None:
    """Run the module that the command line names."""
    parser = argparse.ArgumentParser(description="Runs a pycaffe program natively.")
    parser.add_argument("--numerics", choices=("strict", "fast"), default="strict")
    parser.add_argument("module")
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    accelerator = Accelerator(options.numerics, CUDNN_WORKSPACE_MB)
    accelerator.warm_up()
    sys.modules["caffe"] = caffe(accelerator)
    sys.argv = [options.module, *options.arguments]
    runpy.run_module(options.module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
