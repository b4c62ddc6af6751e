"""The torch executor in a real destination: behind the wire, with its own CPU counted several times."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from avec.errors import RemoteError
from avec.host.session import Session
from avec.protocol.torch import FORMAT, Batch, Open, Opened, Read, Template, TensorArg
from destination.torch.stream import address, encode, meta_of
from destinations import host_settings, running


def test_a_stream_is_carried_out_behind_the_wire(tmp_path: Path) -> None:
    x = torch.randn(300, 300)
    meta = meta_of(x)
    templates = [
        Template("avec::receive", (), {}, 0, 0, (meta,)),
        Template("aten::relu", (TensorArg(0, meta),), {}, 1, 0, (meta,)),
        Template("aten::mm", (TensorArg(0, meta_of(x[:2])), TensorArg(0, meta_of(x[:2]))), {}, 1, 0, (meta,)),
    ]
    parts = [
        np.array([16, address(1), 17, address(1), address(2)], np.uint64),
        np.empty(0, np.float64),
        np.frombuffer(encode(templates), np.uint8),
        x.view(torch.uint8).numpy(),
    ]
    failing = [np.array([18, address(1), address(3)], np.uint64), np.empty(0, np.float64), np.empty(0, np.uint8)]
    with running(tmp_path / "destination", AVEC_CPU_ACCELERATORS="3") as destination:
        session = Session(destination.url, host_settings(tmp_path / "host"), "test")
        try:
            handle = session.new_handle()
            reply = session.load(handle, FORMAT, encode(Open(str(torch.__version__)))).wait()
            opened = msgspec.msgpack.decode(reply.body, type=Opened)
            (array,) = session.run(handle, "torch.run", encode(Batch(0, Read(address(2), meta))), parts).wait().arrays
            with pytest.raises(RemoteError, match="cannot be multiplied.*aten::mm, entry 0"):
                session.run(handle, "torch.run", encode(Batch(0)), failing).wait()
        finally:
            session.close()
    assert len(opened.devices) == 3
    assert torch.from_numpy(array.copy()).view(torch.float32).view(300, 300).equal(x.relu())
