"""Sessions of one user with the same model at a destination without GPU: its weights are in memory once."""

from __future__ import annotations

import contextlib
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from avec.config import Settings
from avec.destination.users import Users
from avec.formats.caffe.message import message_class
from avec.host.models import provide
from avec.host.session import Session
from avec.protocol.caffe import WEIGHTS, BlobRef, Forward, LoadNet
from avec.tensor import Array
from destinations import Destination, host_settings, running
from launching import AVEC, environ

pytestmark = pytest.mark.usefixtures("tidy")

WIDTH = 1024
VALUES = np.random.default_rng(1).normal(0, 0.01, (WIDTH, WIDTH)).astype(np.float32)
X = np.random.default_rng(2).normal(0, 1, (4, WIDTH)).astype(np.float32)
NET = f"""
layer {{ name: "in" type: "Input" top: "in" input_param {{ shape {{ dim: 4 dim: {WIDTH} }} }} }}
layer {{ name: "out" bottom: "in" top: "out" type: "InnerProduct"
  inner_product_param {{ num_output: {WIDTH} bias_term: false }} }}
"""
PARAMETER = BlobRef(0, 1)


@dataclass
class Mapping:
    """What a process maps of one file, in bytes."""

    path: str
    own: int  # pages that it has written
    all: int


@pytest.fixture(scope="module")
def destination(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Destination]:
    with running(tmp_path_factory.mktemp("weights"), "--require-token", OMP_NUM_THREADS="1") as destination:
        yield destination
        assert destination.stop() == 0, destination.log_text()


@pytest.fixture
def settings(destination: Destination, tmp_path: Path) -> Settings:
    return user_settings(destination, tmp_path, "ann")


def user_settings(destination: Destination, folder: Path, name: str) -> Settings:
    token = Users(destination.cache_dir.parent / "secrets" / "users.json").add(name)
    return replace(host_settings(folder / name), token=token, resume_timeout_s=0.0)


def caffemodel() -> bytes:
    """One that begins its numbers at an odd byte, as many do."""
    net = message_class("NetParameter")(name="model")
    blob = net.layer.add(name="out", type="InnerProduct").blobs.add()
    blob.shape.dim.extend(VALUES.shape)
    blob.data.extend(VALUES)
    data: bytes = net.SerializeToString()
    assert data.index(VALUES.tobytes()) % 4
    return data


class Net:
    """The net at a destination, in a worker of its own."""

    def __init__(self, destination: Destination, settings: Settings) -> None:
        before = destination.workers()
        self.session = Session(destination.url, settings, "test")
        self.worker = destination.new_worker(before)
        self.handle = self.session.new_handle()
        digest = provide(self.session, caffemodel(), settings)
        text = np.frombuffer(NET.encode(), np.uint8)
        body = msgspec.msgpack.encode(LoadNet("net.prototxt", "net.caffemodel"))
        self.session.load(self.handle, "caffe", body, [text], files={WEIGHTS: digest}).wait()

    def __enter__(self) -> Net:
        return self

    def __exit__(self, *_: object) -> None:
        self.session.close()

    def forward(self, weights: Array | None = None) -> Array:
        """Compute, with other weights from now on if some are given."""
        writes = (BlobRef(0),) if weights is None else (BlobRef(0), PARAMETER)
        body = msgspec.msgpack.encode(Forward(writes=writes, wanted=(BlobRef(1),)))
        call = self.session.run(self.handle, "caffe.forward", body, [X] if weights is None else [X, weights])
        return np.array(call.wait().arrays[0])

    def mapping(self) -> Mapping:
        return mapping(self.worker, "derived")


def mapping(worker: int, folder: str) -> Mapping:
    """The one mapping that a worker has of a file in a folder of its model cache. Source: proc_pid_smaps(5)."""
    parts = re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", Path(f"/proc/{worker}/smaps").read_text(), flags=re.M)
    (found,) = [part for part in parts if f"/models/{folder}/" in part]
    sizes = {name: 1024 * int(kb) for name, kb in re.findall(r"^(\w+): +(\d+) kB", found, re.M)}
    return Mapping(found.split("\n", 1)[0].split()[-1], sizes["Anonymous"], sizes["Rss"])


def test_workers_have_the_weights_in_memory_once(destination: Destination, settings: Settings) -> None:
    with Net(destination, settings) as one, Net(destination, settings) as other:
        np.testing.assert_array_equal(one.forward(), other.forward())
        first, second = one.mapping(), other.mapping()
        assert first == second
        assert (first.own, first.all) == (0, VALUES.nbytes)


def test_what_one_writes_stays_its_own(destination: Destination, settings: Settings) -> None:
    with Net(destination, settings) as one, Net(destination, settings) as other:
        before = one.forward()
        np.testing.assert_array_equal(other.forward(2 * VALUES), 2 * before)
        np.testing.assert_array_equal(one.forward(), before)
        assert (one.mapping().own, other.mapping().own) == (0, VALUES.nbytes)
        with Net(destination, settings) as third:
            np.testing.assert_array_equal(third.forward(), before)


def test_another_user_maps_a_file_of_his_own(destination: Destination, settings: Settings, tmp_path: Path) -> None:
    with Net(destination, settings) as one, Net(destination, user_settings(destination, tmp_path, "bob")) as other:
        np.testing.assert_array_equal(one.forward(), other.forward())
        folders = [destination.cache_dir / "users" / name / "models" / "derived" for name in ("ann", "bob")]
        assert [Path(net.mapping().path).parent for net in (one, other)] == folders


def test_what_was_changed_on_the_disk_is_not_computed_with(destination: Destination, settings: Settings) -> None:
    with Net(destination, settings) as net:
        before, path = net.forward(), Path(net.mapping().path)
    path.write_bytes(bytes(VALUES.nbytes))
    with Net(destination, settings) as net:
        np.testing.assert_array_equal(net.forward(), before)
    with Net(destination, settings) as net:
        np.testing.assert_array_equal(net.forward(), before)
        assert net.mapping().own == 0


def test_a_session_with_little_memory_loads_what_it_could(destination: Destination, settings: Settings) -> None:
    with Net(destination, replace(settings, memory=VALUES.nbytes)) as net:
        assert net.forward().shape == X.shape
        assert net.mapping().own == 0


PROGRAM = f"""
import torch
torch.manual_seed(0)
torch.set_num_threads(1)
model = torch.nn.Linear({WIDTH}, {WIDTH}, bias=False)
x = torch.randn(4, {WIDTH})
with torch.no_grad():
    here = model(x)
    model.cuda()
    for factor in (1, 2):
        model.weight.mul_(factor) if factor > 1 else None
        print(torch.equal(model(x.cuda()).cpu(), factor * here), flush=True)
        input()
"""


@contextlib.contextmanager
def program(destination: Destination, settings: Settings) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A PyTorch program that has computed once, and its worker; given a line it changes its weights, or ends."""
    before = destination.workers()
    variables = environ(AVEC_TOKEN=settings.token or "", AVEC_CACHE_DIR=str(settings.cache_dir))
    command = [*AVEC, "run", "--on", destination.url, "-c", PROGRAM]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=variables) as process:
        try:
            assert result_of(process) == "True\n"
            yield process, destination.new_worker(before)
            process.communicate("\n\n", timeout=60)
            assert process.returncode == 0
        finally:
            process.kill()


def result_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def go_on(process: subprocess.Popen[str]) -> str:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return result_of(process)


def test_pytorch_programs_have_their_weights_in_memory_once(destination: Destination, settings: Settings) -> None:
    nbytes = 4 * WIDTH * WIDTH
    with program(destination, settings) as (one, worker), program(destination, settings) as (other, another):
        first, second = mapping(worker, "models"), mapping(another, "models")
        assert first == second
        assert (first.own, first.all) == (0, nbytes)
        assert go_on(one) == "True\n"
        assert (mapping(worker, "models").own, mapping(another, "models").own) == (nbytes, 0)
        assert go_on(other) == "True\n"
