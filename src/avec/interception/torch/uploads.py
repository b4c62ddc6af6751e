"""Bytes of the host's tensors on their way to the destination: as they are, or by digest where they will come again.

Weights are named by what they hold, so that a second start of a program with the same checkpoint sends none of them.
So is any large tensor that was sent from the same memory before. Data that is new each time is sent as it is.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections import OrderedDict
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING

import numpy as np
import torch
from msgspec import structs

from avec import config
from avec.host.models import Provider
from avec.protocol.torch import HOST, IntArg, Template, TensorArg, TensorMeta

from .templates import meta_of

if TYPE_CHECKING:
    from avec.tensor import Array

    from .recording import Recording

OFFER_NBYTES = 256 << 10  # smaller tensors are sent sooner than asked for
PART_NBYTES = 1 << 30  # a larger upload goes in parts, each within the protocol's bound
REMEMBERED = 256  # places in memory that large tensors were sent from
SAMPLES = 1024  # words that a place is recognised by


def host_bytes(tensor: torch.Tensor) -> Array:
    """The memory of a contiguous tensor of the host's as uint8, uncopied."""
    # Not reshape: one element is contiguous whatever its strides are, and keeps them.
    return tensor.detach().as_strided((tensor.numel(),), (1,)).view(torch.uint8).numpy()


class Uploads:
    """Sends tensors of the host's into tensors on the accelerator."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._provider: Provider | None = None
        self._providing = threading.Lock()  # held while the provider, which is for one thread at a time, is used
        self._loading = threading.local()
        self._sent: OrderedDict[tuple[int, int], int] = OrderedDict()  # memory → what it looked like then

    def upload(self, target: torch.Tensor, source: torch.Tensor, non_blocking: bool) -> None:
        """Copy `source`, on the host, into `target`, of the same or of a larger shape.

        Args:
            non_blocking: the application promises not to change the source before it synchronises.
        """
        if not target.numel():
            return
        source.expand(target.shape)  # raises where the sizes do not fit
        contiguous = source.detach().resolve_conj().resolve_neg().contiguous()
        borrowed = not non_blocking and contiguous.data_ptr() == source.data_ptr()
        data = host_bytes(contiguous)
        if data.nbytes >= OFFER_NBYTES and (self._is_weight(target, source) or self._comes_again(data)):
            self._by_digest(target, contiguous, data)
        elif data.nbytes > PART_NBYTES and contiguous.dim():
            for part, rows in zip(target.expand(target.shape).unbind(0), contiguous.expand(target.shape), strict=True):
                self.upload(part, rows, non_blocking)
        else:
            template = self._template("avec::upload", target, meta_of(contiguous), 1)
            self._recording.upload(template, (target.data_ptr(),), data, borrowed)

    @contextlib.contextmanager
    def loading(self) -> Iterator[None]:
        """Take all that this thread uploads meanwhile for weights: it comes from a file that programs load again."""
        before, self._loading.now = self._loading.__dict__.get("now", False), True
        try:
            yield
        finally:
            self._loading.now = before

    def to_host_memory(self, source: torch.Tensor) -> torch.Tensor:
        """Send a tensor to the destination's own host memory, for an operator that wants it there; of any size.

        Returns:
            A tensor that says where it is and how long it lives; only its address and its layout are of use.
        """
        contiguous = source.detach().resolve_conj().resolve_neg().contiguous()
        layout = self._recording.arena.layout_of(contiguous)
        place = layout.new()
        meta = structs.replace(meta_of(contiguous), device=HOST)
        template = self._recording.template(Template("avec::receive", (), {}, 0, 0, (meta,)))
        self._recording.upload(template, (place.data_ptr(),), host_bytes(contiguous), borrowed=True)
        return place

    def close(self) -> None:
        """End the connection for uploads, if there is one and no thread uses it: what was to be loaded is loaded."""
        if self._provider is not None and self._providing.acquire(blocking=False):
            try:
                self._provider.close()
            finally:
                self._providing.release()

    def _by_digest(self, target: torch.Tensor, source: torch.Tensor, data: Array) -> None:
        with self._providing:
            if self._provider is None:
                self._provider = Provider(self._recording.session, config.load())
            digest = self._provider.provide(data.data, "weights")
        template = self._template("avec::upload_file", target, meta_of(source), 2)
        self._recording.upload_file(template, target.data_ptr(), digest)

    def _template(self, operator: str, target: torch.Tensor, source: TensorMeta, numbers: int) -> int:
        argument = TensorArg(0, meta_of(target), target.is_conj(), target.is_neg())
        arguments = (argument,) if numbers == 1 else (argument, IntArg(1))
        return self._recording.template(Template(operator, arguments, {}, numbers, 0, (source,)))

    def _is_weight(self, target: torch.Tensor, source: torch.Tensor) -> bool:
        if self._loading.__dict__.get("now", False):
            return True
        return any(isinstance(each, torch.nn.Parameter) for each in (target, source)) or _is_from_safetensors(source)

    def _comes_again(self, data: Array) -> bool:
        """Whether a large tensor was sent from this memory before and looks as it did."""
        place = data.ctypes.data, data.nbytes
        words = data[: data.nbytes & ~7].view(np.uint64)
        look = hash(words[:: max(1, words.size // SAMPLES)].tobytes())
        same = self._sent.pop(place, None) == look
        self._sent[place] = look
        if len(self._sent) > REMEMBERED:
            self._sent.popitem(last=False)
        return same


def _is_from_safetensors(tensor: torch.Tensor) -> bool:
    """Whether safetensors is loading a tensor, or gave it: its memory is then a file's."""
    library = sys.modules.get("safetensors.torch")
    if library is None:
        return False
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_filename == library.__file__:
            return True
        frame = frame.f_back
    return not tensor.untyped_storage().resizable() and _is_mapped(tensor.data_ptr())  # torch's own can be resized


def _is_mapped(address: int) -> bool:
    """Whether a file is mapped into memory at an address; False where nobody can tell."""
    with contextlib.suppress(FileNotFoundError), open("/proc/self/maps", "rb") as mappings:  # Linux has it
        for line in mappings:
            first, last = (int(each, 16) for each in line[: line.index(b" ")].split(b"-"))
            if first <= address < last:
                path = line.partition(b"/")[2]
                return bool(path) and not path.startswith((b"dev/", b"memfd:"))
    return False
