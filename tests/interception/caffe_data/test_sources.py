"""Sources beside what they read: reading ahead, ending, failing; arrays in memory; HDF5Output."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from avec.errors import InvalidArgument, InvalidData, UnsupportedOperation
from avec.formats.caffe.message import Message
from avec.interception.caffe.data import SOURCE_TYPES, Floats, HDF5Output, MemorySource, Shape, open_source
from avec.interception.caffe.data.prefetching import Prefetching
from goldens.data_goldens import WRITTEN

PIXELS = """layer { name: "source" type: "Data" top: "data" top: "label" data_param { source: "pixels.lmdb"
  backend: LMDB batch_size: 3 } }"""
MEMORY = """layer { name: "source" type: "MemoryData" top: "data" top: "label"
  memory_data_param { batch_size: 2 channels: 1 height: 2 width: 3 } }"""


class Counting:
    """A reader whose batches are numbers; it fails at one of them."""

    def __init__(self, fails_at: int = -1) -> None:
        self.count = 0
        self.fails_at = fails_at
        self.filled = threading.Semaphore(0)
        self.closed = threading.Event()

    def shapes(self) -> list[Shape]:
        return [(1,)]

    def read(self) -> list[Floats]:
        if self.count == self.fails_at:
            raise InvalidData(f"record {self.count}: it is damaged")
        self.count += 1
        self.filled.release()
        return [np.full(1, self.count, np.float32)]

    def close(self) -> None:
        self.closed.set()


def wait_for(reader: Counting, batches: int) -> None:
    for _ in range(batches):
        assert reader.filled.acquire(timeout=10)


def test_it_reads_ahead_no_further_than_its_depth() -> None:
    reader = Counting()
    with Prefetching(reader, "layer", 3) as source:
        wait_for(reader, 3)
        assert [float(source.next_batch()[0][0]) for _ in range(4)] == [1, 2, 3, 4]
        wait_for(reader, 4)
        assert reader.count == 7


def test_an_error_arrives_with_the_batch_that_it_belongs_to_and_stays() -> None:
    with Prefetching(Counting(fails_at=2), "layer", 4) as source:
        assert [float(source.next_batch()[0][0]) for _ in range(2)] == [1, 2]
        for _ in range(2):
            with pytest.raises(InvalidData, match="record 2: it is damaged"):
                source.next_batch()


@pytest.mark.parametrize("fails_at", [-1, 0])
def test_closing_ends_the_thread_and_closes_the_reader(fails_at: int) -> None:
    reader = Counting(fails_at)
    source = Prefetching(reader, "layer", 2)
    source.close()
    source.close()
    assert reader.closed.is_set()
    assert "avec data layer" not in {thread.name for thread in threading.enumerate()}
    with pytest.raises(InvalidArgument, match="layer: it is closed"):
        source.next_batch()


def test_a_source_that_is_dropped_ends_its_thread() -> None:
    reader = Counting()
    source = Prefetching(reader, "layer", 2)
    wait_for(reader, 2)
    del source
    gc.collect()
    assert reader.closed.is_set()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_process_is_told_to_open_its_own(files: Path, layer: Callable[[str], Message]) -> None:
    with open_source(layer(PIXELS), 1, 0) as source:
        child = os.fork()
        if child == 0:
            try:
                source.next_batch()
            except InvalidArgument as exc:
                os._exit(0 if "load the net again" in str(exc) else 1)
            os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert source.next_batch()[0].shape == (3, 3, 10, 12)


def test_two_sources_read_one_database_each_at_its_own_pace(files: Path, layer: Callable[[str], Message]) -> None:
    with open_source(layer(PIXELS), 0, 0) as train, open_source(layer(PIXELS), 1, 0) as test:
        ahead = [train.next_batch()[1].tolist() for _ in range(2)]
        assert [test.next_batch()[1].tolist() for _ in range(2)] == ahead
    with open_source(layer(PIXELS), 1, 0) as again:
        assert again.next_batch()[1].tolist() == ahead[0]


def test_what_the_caller_does_to_a_batch_reaches_no_other(files: Path, layer: Callable[[str], Message]) -> None:
    with open_source(layer(PIXELS), 1, 0) as source:
        for _ in range(12):
            for top in source.next_batch():
                assert not np.isnan(top).any()
                top[...] = np.nan


def test_only_data_layers_can_be_opened(layer: Callable[[str], Message]) -> None:
    assert sorted(SOURCE_TYPES) == ["Data", "HDF5Data", "ImageData", "MemoryData", "WindowData"]
    with pytest.raises(UnsupportedOperation, match=r"layer 'x' \(ReLU\): no data layer; those are Data, HDF5Data"):
        open_source(layer('layer { name: "x" type: "ReLU" }'), 1, 0)


@pytest.fixture
def memory(layer: Callable[[str], Message]) -> MemorySource:
    source = open_source(layer(MEMORY), 1, 0)
    assert isinstance(source, MemorySource)
    return source


def test_memory_is_cut_into_batches_around_and_around(memory: MemorySource) -> None:
    data = np.arange(24, dtype=np.float32).reshape(4, 1, 2, 3)
    labels = np.arange(4, dtype=np.float32).reshape(4, 1, 1, 1)
    assert memory.shapes() == [(2, 1, 2, 3), (2,)]
    memory.set_input_arrays(data, labels)
    for rows in (slice(0, 2), slice(2, 4), slice(0, 2)):
        np.testing.assert_equal(memory.next_batch(), [data[rows], labels[rows]])


def test_memory_is_read_when_a_batch_is_asked_for(memory: MemorySource) -> None:
    data = np.zeros((2, 1, 2, 3), np.float32)
    memory.set_input_arrays(data, np.zeros((2, 1, 1, 1), np.float32))
    before = memory.next_batch()[0]
    data[...] = 5
    assert (memory.next_batch()[0] == 5).all()
    assert not before.any()


def test_memory_that_is_not_there_is_an_error(memory: MemorySource) -> None:
    with pytest.raises(InvalidArgument, match=r"layer 'source' \(MemoryData\): it has no data yet; call the net's"):
        memory.next_batch()


GOOD = np.zeros((2, 1, 2, 3), np.float32)
LABELS = np.zeros((2, 1, 1, 1), np.float32)


@pytest.mark.parametrize(
    ("data", "labels", "text"),
    [
        ([1.0], LABELS, "data array must be a numpy array, not list"),
        (np.asfortranarray(np.zeros((2, 1, 2, 3), np.float32)), LABELS, "data array must be C contiguous"),
        (GOOD[0], LABELS, "data array must be 4-d"),
        (GOOD.astype(np.float64), LABELS, "data array must be float32"),
        (np.zeros((2, 3, 2, 3), np.float32), LABELS, "data array has wrong number of channels"),
        (np.zeros((2, 1, 3, 3), np.float32), LABELS, "data array has wrong height"),
        (np.zeros((2, 1, 2, 2), np.float32), LABELS, "data array has wrong width"),
        (GOOD, np.zeros((2, 2, 1, 1), np.float32), "labels array has wrong number of channels"),
        (GOOD, LABELS[:1], "data and labels must have the same first dimension"),
        (GOOD[:1], LABELS[:1], "first dimensions of input arrays must be a multiple of batch size"),
    ],
)
def test_memory_of_another_kind_is_refused_as_pycaffe_does(
    memory: MemorySource, data: object, labels: object, text: str
) -> None:
    with pytest.raises(RuntimeError) as caught:
        memory.set_input_arrays(data, labels)
    assert str(caught.value) == text


def test_hdf5_output_writes_what_real_caffe_writes(tmp_path: Path) -> None:
    data = np.arange(12, dtype=np.float32).reshape(3, 4) / 8
    with HDF5Output(str(tmp_path / "out.h5")) as output:
        output.write(data, np.array([4, 0, 7], np.float32))
    with h5py.File(tmp_path / "out.h5") as found, h5py.File(WRITTEN / "out.h5") as real:
        assert set(found) == set(real) == {"data", "label"}
        for name in real:
            assert (found[name].dtype, found[name].shape) == (real[name].dtype, real[name].shape)
            np.testing.assert_array_equal(found[name][()], real[name][()])


def test_hdf5_output_can_be_read_before_it_is_closed(tmp_path: Path) -> None:
    with HDF5Output(str(tmp_path / "out.h5")) as output:
        output.write(np.ones((2, 1), np.float32), np.ones(2, np.float32))
        copy = tmp_path / "copy.h5"
        copy.write_bytes((tmp_path / "out.h5").read_bytes())
        with h5py.File(copy) as found:
            assert found["data"].shape == (2, 1, 1, 1)


def test_a_program_may_end_without_closing_what_it_reads(files: Path) -> None:
    program = (
        "from avec.formats.caffe.message import message_class\n"
        "from avec.interception.caffe.data import open_source\n"
        f"layer = message_class('NetParameter').from_text({PIXELS!r}, 'x').layer[0]\n"
        "source = open_source(layer, 1, 0)\n"
        "print(source.next_batch()[1])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[-2.  1.  4.]\n", "")
