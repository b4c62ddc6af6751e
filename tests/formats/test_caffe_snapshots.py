"""Weights and solver states: what real Caffe wrote is read, and what is written is what real Caffe writes."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from avec.errors import InvalidArgument, InvalidData, InvalidModel
from avec.formats.caffe import caffemodel, hdf5_weights, solver_state
from avec.formats.caffe.caffemodel import Floats
from avec.formats.caffe.filter import filter_net
from avec.formats.caffe.message import Message, message_class
from avec.formats.caffe.solver_state import SolverState
from avec.formats.caffe.upgrade import upgrade_net
from goldens.data_goldens import WRITTEN

OWNERS = {("right", 0): ("left", 0), ("right", 1): ("left", 1)}  # of the net in written/net.prototxt
SOLVERS = ("sgd", "adam")


@cache
def saved(kind: str) -> dict[str, list[Floats]]:
    """The weights ("data") or diffs ("diff") that pycaffe showed when the net was saved."""
    with np.load(WRITTEN / "weights.npz") as stored:
        found: dict[str, list[Floats]] = {str(name): [] for name in stored["names"]}
        for name in stored.files:
            if name.startswith(f"{kind}/"):
                found[name.split("/")[1]].append(stored[name])
    return found


def built_net() -> Message:
    net = message_class("NetParameter").from_text((WRITTEN / "net.prototxt").read_text(), "net.prototxt")
    upgrade_net(net, "net.prototxt")
    net.state.phase = 0
    filter_net(net, "net.prototxt")
    return caffemodel.as_built(net, "net.prototxt")


def layout(file: object) -> dict[str, object]:
    """All that an HDF5 file holds: groups, and datasets with type, shape and bytes."""
    found: dict[str, object] = {}

    def note(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            kind = item.id.get_type()
            text = kind.get_strpad() if kind.get_class() == h5py.h5t.STRING else None
            found[name] = (item.dtype.str, item.shape, item.chunks, text, np.asarray(item[()]).tobytes())
        else:
            found[name] = None

    with h5py.File(file) as root:
        root.visititems(note)
    return found


def test_a_caffemodel_is_written_byte_for_byte_as_real_caffe_does() -> None:
    pieces = caffemodel.encode_net(built_net(), saved("data"))
    assert b"".join(pieces) == (WRITTEN / "saved.caffemodel").read_bytes()


def test_a_snapshot_with_diffs_is_written_byte_for_byte_as_real_caffe_does() -> None:
    pieces = caffemodel.encode_net(built_net(), saved("data"), saved("diff"))
    assert b"".join(pieces) == (WRITTEN / "adam_iter_3.caffemodel").read_bytes()


def test_weights_alone_are_a_caffemodel_too() -> None:
    data = b"".join(caffemodel.encode_weights(saved("data")))
    net = message_class("NetParameter").from_wire(data, "weights")
    found = {
        layer.name: [blob.data.as_array().reshape(caffemodel.shape_of(blob)) for blob in layer.blobs]
        for layer in net.layer
    }
    assert found.keys() == saved("data").keys()
    for name, arrays in saved("data").items():
        np.testing.assert_equal(found[name], arrays)


@pytest.mark.parametrize("with_diffs", [False, True])
def test_hdf5_weights_have_real_caffes_layout(with_diffs: bool, tmp_path: Path) -> None:
    file = tmp_path / "weights.h5"
    hdf5_weights.write(file, saved("data"), OWNERS, saved("diff") if with_diffs else None)
    real = "adam_iter_3.caffemodel.h5" if with_diffs else "saved.caffemodel.h5"
    assert layout(file) == layout(WRITTEN / real)


@pytest.mark.parametrize("name", ["saved.caffemodel.h5", "adam_iter_3.caffemodel.h5"])
def test_real_caffes_hdf5_weights_are_read_and_shared_ones_filled_in(name: str) -> None:
    stored = hdf5_weights.read(WRITTEN / name, name)
    assert stored["right"] == {}
    whole = hdf5_weights.complete(stored, OWNERS, name)
    assert whole.keys() == saved("data").keys()
    for layer, arrays in saved("data").items():
        np.testing.assert_equal(whole[layer], arrays)


def test_weights_go_through_an_open_file_as_well() -> None:
    file = io.BytesIO()
    hdf5_weights.write(file, {"ip": [np.ones((2, 3), np.float32)]})
    np.testing.assert_equal(hdf5_weights.read(file, "memory"), {"ip": {0: np.ones((2, 3), np.float32)}})


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_solver_state_of_real_caffe_is_read_and_written_back_byte_for_byte(solver: str) -> None:
    data = (WRITTEN / f"{solver}_iter_3.solverstate").read_bytes()
    state = solver_state.decode(data, solver)
    assert (state.iteration, state.learned_net) == (3, f"{solver}_iter_3.caffemodel")
    assert b"".join(solver_state.encode(state)) == data


@pytest.mark.parametrize("solver", SOLVERS)
def test_both_formats_hold_the_same_solver_state(solver: str) -> None:
    binary = solver_state.decode((WRITTEN / f"{solver}_iter_3.solverstate").read_bytes(), solver)
    hdf5 = solver_state.read_hdf5(WRITTEN / f"{solver}_iter_3.solverstate.h5", solver)
    assert (hdf5.iteration, hdf5.current_step) == (binary.iteration, binary.current_step)
    assert hdf5.learned_net == f"{solver}_iter_3.caffemodel.h5"
    np.testing.assert_equal(hdf5.history, binary.history)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_solver_state_in_hdf5_has_real_caffes_layout(solver: str, tmp_path: Path) -> None:
    real = WRITTEN / f"{solver}_iter_3.solverstate.h5"
    solver_state.write_hdf5(tmp_path / "state.h5", solver_state.read_hdf5(real, solver))
    assert layout(tmp_path / "state.h5") == layout(real)


def test_a_solver_state_without_weights_names_none() -> None:
    state = SolverState(7, 1, (np.zeros((2, 2), np.float32),))
    file = io.BytesIO()
    solver_state.write_hdf5(file, state)
    for found in (solver_state.decode(b"".join(solver_state.encode(state)), "x"), solver_state.read_hdf5(file, "x")):
        assert (found.iteration, found.current_step, found.learned_net) == (7, 1, None)


def test_a_history_in_shapes_from_before_2014_fits() -> None:
    message = message_class("SolverState")(iter=1)
    message.history.add(num=1, channels=1, height=1, width=2, data=[3.0, 4.0])
    state = solver_state.decode(message.SerializeToString(), "old")
    solver_state.check_history(state, [(2,)], "old")


def _history(**fields: object) -> bytes:
    message = message_class("SolverState")(iter=1)
    message.history.add(**fields)
    return bytes(message.SerializeToString())


def _hdf5(**datasets: object) -> io.BytesIO:
    file = io.BytesIO()
    with h5py.File(file, "w") as root:
        for name, value in datasets.items():
            if value is None:
                root.create_group(name)
            else:
                root[name] = value
    return file


ONE = np.ones(1, np.float32)
HISTORY: dict[str, object] = {"iter": [3], "current_step": [0], "history": None}


@pytest.mark.parametrize(
    ("read", "error", "text"),
    [
        (lambda: solver_state.decode(_history(data=[1.0, 2.0]), "s"), InvalidData, "s: history blob 0 has 2 values"),
        (lambda: solver_state.decode(b"\x08", "s.solverstate"), InvalidModel, "s.solverstate: byte 1 of 1: the"),
        (lambda: solver_state.read_hdf5(_hdf5(iter=[3]), "s"), InvalidData, "s: there is no group /history; / holds"),
        (lambda: solver_state.read_hdf5(_hdf5(history=None), "s"), InvalidData, "s: there is no dataset /iter; / ho"),
        (
            lambda: solver_state.read_hdf5(_hdf5(**{**HISTORY, "iter": [1.5]}), "s"),
            InvalidData,
            "s: dataset iter is no single integer, but 1 of float64",
        ),
        (
            lambda: solver_state.read_hdf5(_hdf5(**HISTORY, learned_net=3), "s"),
            InvalidData,
            "s: dataset learned_net is no text",
        ),
        (
            lambda: solver_state.read_hdf5(_hdf5(**HISTORY, **{"history/1": ONE}), "s"),
            InvalidData,
            "s: there is no dataset /history/0; /history holds 1",
        ),
        (lambda: solver_state.read_hdf5(io.BytesIO(b"caffe"), "s.h5"), InvalidData, "s.h5: the HDF5 file cannot"),
        (lambda: hdf5_weights.read("none.h5", "none.h5"), InvalidData, "none.h5: there is no such file (working dir"),
        (lambda: hdf5_weights.read(_hdf5(diff=None), "w"), InvalidData, "w: there is no group /data; / holds diff"),
        (lambda: hdf5_weights.read(_hdf5(**{"data/ip": ONE}), "w"), InvalidData, "w: there is no group /data/ip"),
        (lambda: hdf5_weights.read(_hdf5(**{"data/ip/w": ONE}), "w"), InvalidData, "w: /data/ip/w is no weight"),
        (lambda: hdf5_weights.read(_hdf5(**{"data/ip/0": "x"}), "w"), InvalidData, "w: dataset /data/ip/0 holds text"),
        (
            lambda: hdf5_weights.complete({"ip": {1: ONE}}, {}, "w"),
            InvalidData,
            "w: layer 'ip' lacks its weight 0: the file is incomplete",
        ),
        (
            lambda: solver_state.check_history(SolverState(1, 0, (ONE,)), [(1,), (1,)], "s"),
            InvalidData,
            "s: the snapshot has 1 history blobs and the solver 2",
        ),
        (
            lambda: solver_state.check_history(SolverState(1, 0, (ONE,)), [(2,)], "s"),
            InvalidData,
            "s: history blob 0 has the shape (1,) and the solver's is (2,)",
        ),
        (lambda: hdf5_weights.write(io.BytesIO(), {"a/b": []}), InvalidArgument, "snapshot: layer 'a/b' cannot be"),
        (
            lambda: hdf5_weights.write("missing/w.h5", {}),
            InvalidData,
            "missing/w.h5: the HDF5 file cannot be written",
        ),
        (
            lambda: caffemodel.encode_net(built_net(), {"conv": [ONE]}),
            InvalidArgument,
            "weights of layer 'conv' cannot be saved: the net has 0 layers of that name",
        ),
        (
            lambda: caffemodel.encode_net(built_net(), {"left": [ONE]}, {"left": []}),
            InvalidArgument,
            "layer 'left': its diffs have other shapes",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_read_or_written_is_refused_in_one_line(read: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        read()
    assert str(caught.value).startswith(text)
    assert "\n" not in str(caught.value)


def test_weights_beyond_the_formats_limit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caffemodel, "NBYTES_LIMIT", 100)
    with pytest.raises(InvalidArgument, match="do not fit into a caffemodel, whose limit is 100; save them as HDF5"):
        caffemodel.encode_net(built_net(), saved("data"))


def test_a_truncated_hdf5_file_is_refused_wherever_it_ends() -> None:
    data = (WRITTEN / "saved.caffemodel.h5").read_bytes()
    for end in range(0, len(data), 97):
        with pytest.raises(InvalidData, match="cannot be read"):
            hdf5_weights.read(io.BytesIO(data[:end]), "weights")
