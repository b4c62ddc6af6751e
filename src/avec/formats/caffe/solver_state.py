"""Where a solver stands: its iteration and its history, in Caffe's two formats of snapshots.

Source: caffe/src/caffe/solvers/sgd_solver.cpp, SnapshotSolverState… and RestoreSolverState….
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from avec.errors import InvalidData
from avec.formats import hdf5
from avec.formats.caffe import wire
from avec.formats.caffe.caffemodel import Floats, Piece, blob, shape_of
from avec.formats.caffe.message import Message, message_class
from avec.formats.caffe.schema import MESSAGES


@dataclass(frozen=True, slots=True)
class SolverState:
    """A snapshot beside the weights."""

    iteration: int
    current_step: int  # of the learning rate's policy "multistep"
    history: tuple[Floats, ...]  # as many for each learnable parameter as the solver's type keeps, parameter fastest
    learned_net: str | None = None  # the file with the weights


def check_history(state: SolverState, shapes: Sequence[tuple[int, ...]], source: str) -> None:
    """Raise InvalidData unless a state's history has these shapes."""
    if len(state.history) != len(shapes):
        raise InvalidData(
            f"{source}: the snapshot has {len(state.history)} history blobs and the solver {len(shapes)}: it is of "
            "another net or another type of solver; restore the snapshot that belongs to this solver"
        )
    for place, (values, shape) in enumerate(zip(state.history, shapes, strict=True)):
        if not _agree(values.shape, shape):
            raise InvalidData(
                f"{source}: history blob {place} has the shape {values.shape} and the solver's is {shape}: the "
                "snapshot is of another net; restore the one that belongs to this solver"
            )


def _agree(found: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Whether shapes are equal; those of files from before 2014 have four dimensions, the first ones 1."""
    return found == wanted or (len(found) == 4 and len(wanted) < 4 and found == (1,) * (4 - len(wanted)) + wanted)


def encode(state: SolverState) -> list[Piece]:
    """The contents of a .solverstate file, as pieces to be written one after another; arrays are not copied."""
    return wire.encode(
        MESSAGES["SolverState"],
        {
            "iter": state.iteration,
            **({} if state.learned_net is None else {"learned_net": state.learned_net}),
            "history": [blob(values) for values in state.history],
            "current_step": state.current_step,
        },
    )


def decode(data: wire.Buffer, source: str) -> SolverState:
    """Read a .solverstate file's contents; the history's arrays are views on them.

    Raises:
        InvalidModel: they are damaged.
        InvalidData: a history blob has not as many values as its shape says.
    """
    message = message_class("SolverState").from_wire(data, source)
    return SolverState(
        iteration=message.iter,
        current_step=message.current_step,
        history=tuple(_history(place, stored, source) for place, stored in enumerate(message.history)),
        learned_net=message.learned_net if message.HasField("learned_net") else None,
    )


def _history(place: int, stored: Message, source: str) -> Floats:
    double = np.asarray(stored.double_data.as_array(), np.float32)
    values = double if double.size else stored.data.as_array()
    shape = shape_of(stored)
    if any(size < 0 for size in shape) or values.size != int(np.prod(shape, dtype=object)):
        raise InvalidData(
            f"{source}: history blob {place} has {values.size} values and the shape {shape}; the file is damaged: "
            "restore another snapshot"
        )
    return values.reshape(shape)


def write_hdf5(file: hdf5.File, state: SolverState) -> None:
    """Write a .solverstate.h5 file.

    Raises:
        InvalidData: it cannot be written.
    """
    with hdf5.writing(file, os.fspath(file) if isinstance(file, (str, os.PathLike)) else "snapshot") as root:
        hdf5.put_integer(root, "iter", state.iteration)
        if state.learned_net is not None:
            hdf5.put_text(root, "learned_net", state.learned_net)
        hdf5.put_integer(root, "current_step", state.current_step)
        history = root.create_group("history")
        for place, values in enumerate(state.history):
            history.create_dataset(str(place), data=values, dtype="<f4")


def read_hdf5(file: hdf5.File, source: str) -> SolverState:
    """Read a .solverstate.h5 file.

    Raises:
        InvalidData: it is no HDF5 file, or not laid out as Caffe's solver states.
    """
    with hdf5.reading(file, source) as root:
        history = hdf5.subgroup(root, "history", source)
        return SolverState(
            iteration=hdf5.integer(root, "iter", source),
            current_step=hdf5.integer(root, "current_step", source),
            history=tuple(hdf5.floats(history, str(place), source) for place in range(len(history))),
            learned_net=hdf5.text(root, "learned_net", source) if "learned_net" in root else None,
        )
