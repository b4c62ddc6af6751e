"""Puts AVEC under an imported torch, step by step, and takes it away again."""

from __future__ import annotations

import atexit
import functools
import os
import warnings
from collections.abc import Iterable, Iterator

import torch

from avec import config
from avec.host.calls import pass_over
from avec.interception.patching import Patches

from . import collectives, compiling, cuda, native, printing, random, refusals, saving, structured, untyped
from .attention import Attention
from .extensions import Extensions
from .grafting import Graft, graft
from .kernels import Kernels
from .native import NativeKernels
from .operators import cuda_operators
from .outermost import Outermost
from .recording import Recording
from .recurrent import Recurrent
from .schemas import WHOLE
from .special import SPECIAL
from .storages import Arena
from .stream import Lists

# Operators that have no kernel of their own on a GPU, but reach one below where Python can stand.
BENEATH = (
    "convolution", "copy_", "_efficientzerotensor", "conj_physical_", "mode.values", "svd.U",
)  # fmt: skip


def _operators() -> Iterable[str]:
    """The operators that have a kernel of AVEC's on the key CUDA."""
    return dict.fromkeys((*cuda_operators(), *BENEATH, *WHOLE))


def _learnable() -> Iterator[str]:
    """Those of them whose usual calls kernels in C++ can learn."""
    other = {*SPECIAL, *structured.FROM_DENSE}.difference(native.LEARNED)
    return (name for name in _operators() if name not in other)


class Activation:
    """All that AVEC has changed in this process's torch."""

    def __init__(self) -> None:
        module = native.load(config.load())
        arena = Arena(module)
        self.recording = Recording(arena, Lists() if module is None else module.Stream())
        self.kernels = Kernels(self.recording, arena)
        self._patches = Patches()
        self._graft: Graft = graft(
            lambda: len(self.recording.described.devices),
            lambda: self.recording.described.cudnn,
            None if module is None else module.answer_about_cudnn,
        )
        self._libraries = [self._register(), *collectives.register()]
        self._extensions = Extensions(self.kernels, self._patches)
        self._native = None if module is None else NativeKernels(module, self.kernels, _learnable())
        cuda.patch(self._patches, self.recording, self._graft)
        compiling.patch(self._patches, self.recording)
        self._outermost = Outermost(self.recording)
        if config.load().graph:
            self._outermost.patch(self._patches)
        random.patch(self._patches, self.recording, self.kernels.generators)
        untyped.patch(self._patches, self.kernels)
        saving.patch(self._patches, self.kernels)
        printing.patch(self._patches)
        refusals.patch(self._patches)
        pass_over(os.path.dirname(torch.__file__) + os.sep)
        os.register_at_fork(after_in_child=self.recording.after_fork)
        atexit.register(self.recording.finish)

    def _register(self) -> torch.library.Library:
        library = torch.library.Library("aten", "IMPL")  # type: ignore[no-untyped-call]
        assert library.m is not None  # for mypy
        to_sparse = structured.dense_kernels()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "(?s).*overrid")  # a build with CUDA has kernels for these already
            for name in _operators():
                special = SPECIAL.get(name)
                kernel = self.kernels.kernel(name) if special is None else functools.partial(special, self.kernels)
                library.m.impl(name, "CUDA", to_sparse.get(name, kernel), False)
            for key in structured.KEYS:
                for name, function in structured.kernels(key).items():
                    library.m.impl(name, key, function, False)
            attention = Attention(self.kernels)
            library.m.impl("_fused_sdp_choice", "CUDA", attention.choice, False)
            for name, function in {**attention.composites(), **Recurrent(self.kernels).composites()}.items():
                for key in ("AutogradCUDA", "CUDA"):
                    library.m.impl(name, key, function, False)
        return library

    def undo(self) -> None:
        """Give torch back as it was. Tensors that live at the destination can no longer be used."""
        atexit.unregister(self.recording.finish)
        compiling.leave()
        self._outermost.leave()
        self._patches.restore()
        cuda.forget()
        if self._native is not None:
            self._native.leave()
        self._extensions.leave()
        for library in self._libraries:
            library._destroy()  # type: ignore[no-untyped-call]
        self._graft.restore()
