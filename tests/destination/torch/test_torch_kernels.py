"""Kernels of hosts at the torch executor: what is refused before any of their code is executed."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

import msgspec
import numpy as np
import pytest

from avec.errors import InvalidArgument, UnsupportedOperation
from avec.protocol.torch import LoadKernel
from avec.protocol.torch_triton import Function, Global, Kernel, MemberGlobal, ModuleGlobal
from destination.torch.stream import Integer, Stream, encode, open_model

SOURCE = "def kernel():\n    raise SystemExit('executed')\n"


@pytest.fixture
def allowing(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stream]:
    """A stream at a destination that runs kernels."""
    monkeypatch.setenv("AVEC_ALLOW_TRITON", "1")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    model, _ = open_model()
    yield Stream(model)
    model.close()


def kernel(name: str = "kernel", source: str = SOURCE, **names: Global) -> Kernel:
    return Kernel((Function(name, source, "jit", names),))


def load(stream: Stream, loaded: Kernel | bytes, number: int = 1) -> None:
    encoded = loaded if isinstance(loaded, bytes) else msgspec.msgpack.encode(loaded)
    stream.model.run(encode(LoadKernel(0, number)), [np.frombuffer(encoded, np.uint8)], {})


def launch(stream: Stream, *args: object) -> None:
    stream.call("avec::launch_kernel", *(args or (1, Integer(1), Integer(1), Integer(1), [], [])))
    stream.send()


def test_none_is_run_unless_the_destination_allows_it(stream: Stream) -> None:
    load(stream, kernel())
    with pytest.raises(UnsupportedOperation, match="'kernel': this destination runs no kernels of hosts"):
        launch(stream)


@pytest.mark.skipif(find_spec("triton") is not None, reason="Triton is installed here")
def test_without_triton_it_says_so(allowing: Stream) -> None:
    load(allowing, kernel())
    with pytest.raises(UnsupportedOperation, match="'kernel': the destination has no Triton"):
        launch(allowing)


def test_a_kernel_that_never_came(stream: Stream) -> None:
    with pytest.raises(InvalidArgument, match="there is no kernel 1"):
        launch(stream)


@pytest.mark.parametrize("encoded", [b"", b"\xc1", encode([[["kernel", "", "cuda", {}]]]), encode({"a": 1})])
def test_bytes_that_are_no_kernel(stream: Stream, encoded: bytes) -> None:
    with pytest.raises(InvalidArgument, match="cannot be understood"):
        load(stream, encoded)


def test_a_number_is_given_once(stream: Stream) -> None:
    load(stream, kernel())
    with pytest.raises(InvalidArgument, match="kernel 1 beside 1 others"):
        load(stream, kernel())


@pytest.mark.skipif(find_spec("triton") is None, reason="no Triton here")
@pytest.mark.parametrize(
    ("loaded", "message"),
    [
        (Kernel(()), "function 0 of a kernel that has 0"),
        (kernel(name="x y"), "cannot have the name 'x y'"),
        (kernel(name="other"), "no function other"),
        (kernel(os=ModuleGlobal("os")), "uses the module 'os'"),
        (kernel(run=MemberGlobal("subprocess", "run")), "uses the module 'subprocess'"),
    ],
)
def test_kernels_that_make_no_sense(allowing: Stream, loaded: Kernel, message: str) -> None:
    load(allowing, loaded)
    with pytest.raises(InvalidArgument, match=message):
        launch(allowing)
