"""HDF5 files as Caffe reads and writes them: arrays of floats, and two kinds of scalars, under their names.

The package `h5py` does the work and is imported when a file is opened. What it raises becomes InvalidData here.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Iterator
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import numpy.typing as npt

from avec.errors import AvecError, InvalidData, UnsupportedOperation

Floats: TypeAlias = npt.NDArray[np.float32]
File: TypeAlias = str | os.PathLike[str] | BinaryIO
Group: TypeAlias = Any  # of h5py, which has no types

AXES = 32  # the most that an array of HDF5 has, and one of Caffe

_KINDS = {
    "S": "text", "O": "text of varying length, or references", "U": "text", "V": "compound values or opaque bytes",
    "c": "complex numbers", "b": "an enumeration",
}  # fmt: skip


def library(source: str) -> Any:
    """The package h5py.

    Raises:
        UnsupportedOperation: it is not installed.
    """
    try:
        return importlib.import_module("h5py")
    except ImportError as exc:
        raise UnsupportedOperation(f"{source}: HDF5 files need the package h5py; pip install h5py") from exc


@contextlib.contextmanager
def reading(file: File, source: str) -> Iterator[Group]:
    """Open a file to read; gives its root group.

    Args:
        file: a name, or a file that is open in binary mode.
        source: its name, for messages.

    Raises:
        InvalidData: it cannot be opened, or what is read from it inside the `with` is damaged.
    """
    h5py = library(source)
    if isinstance(file, (str, os.PathLike)) and not os.path.isfile(file):
        raise InvalidData(f"{source}: there is no such file (working directory {os.getcwd()}); check the name")
    with _converting(source), h5py.File(file, "r") as root:
        yield root


@contextlib.contextmanager
def writing(file: File, source: str) -> Iterator[Group]:
    """Make a file, or empty it, and give its root group.

    Raises:
        InvalidData: it cannot be written.
    """
    h5py = library(source)
    try:
        root = h5py.File(file, "w")
    except OSError as exc:
        raise InvalidData(f"{source}: the HDF5 file cannot be written: {exc}; check the folder") from exc
    with root:
        yield root


@contextlib.contextmanager
def _converting(source: str) -> Iterator[None]:
    try:
        yield
    except AvecError:
        raise
    except MemoryError as exc:
        raise InvalidData(f"{source}: an array of this file does not fit into memory: {exc}") from exc
    except (OSError, KeyError, RuntimeError, ValueError, TypeError) as exc:
        raise InvalidData(
            f"{source}: the HDF5 file cannot be read: {exc}; it is truncated, damaged or of another format: "
            "copy it again and compare its size"
        ) from exc


def floats(group: Group, name: str, source: str) -> Floats:
    """Read a dataset of floats or integers of any size as float32.

    Raises:
        InvalidData: there is no such dataset, or it holds something else.
    """
    dataset = group.get(name)
    place = f"{group.name.rstrip('/')}/{name}"
    if dataset is None or not hasattr(dataset, "dtype"):
        there = ", ".join(sorted(group)) or "nothing"
        raise InvalidData(f"{source}: there is no dataset {place}; {group.name} holds {there}")
    if dataset.shape is None or dataset.dtype.kind not in "fiu":
        kind = "no values" if dataset.shape is None else _KINDS.get(dataset.dtype.kind, str(dataset.dtype))
        raise InvalidData(f"{source}: dataset {place} holds {kind}; Caffe reads floats and integers")
    with np.errstate(over="ignore"):  # a double beyond float's range becomes infinite, as in Caffe
        return np.asarray(dataset[()]).astype(np.float32)


def subgroup(group: Group, name: str, source: str) -> Group:
    """A group within a group.

    Raises:
        InvalidData: there is none of that name.
    """
    found = group.get(name)
    if found is None or hasattr(found, "dtype"):
        there = ", ".join(sorted(group)) or "nothing"
        raise InvalidData(f"{source}: there is no group {group.name.rstrip('/')}/{name}; {group.name} holds {there}")
    return found


def integer(group: Group, name: str, source: str) -> int:
    """Read a dataset of one integer."""
    values = floats(group, name, source) if name not in group else np.asarray(group[name][()]).reshape(-1)
    if values.size != 1 or values.dtype.kind not in "iu":
        raise InvalidData(f"{source}: dataset {name} is no single integer, but {values.size} of {values.dtype}")
    return int(values[0])


def put_integer(group: Group, name: str, value: int) -> None:
    """Write an integer as Caffe does: an array of one 32-bit value."""
    group.create_dataset(name, data=np.array([value], np.int32))


def text(group: Group, name: str, source: str) -> str:
    """Read a dataset that is one string."""
    value = group[name][()]
    if isinstance(value, str):
        return value
    if not isinstance(value, bytes):
        raise InvalidData(f"{source}: dataset {name} is no text, but {type(value).__name__}")
    return os.fsdecode(value)


def put_text(group: Group, name: str, value: str) -> None:
    """Write a string as Caffe does: of fixed size, and ended by a zero byte."""
    h5py = library(name)
    raw = os.fsencode(value) + b"\0"
    kind = h5py.h5t.C_S1.copy()  # ended by a zero byte
    kind.set_size(len(raw))
    dataset = h5py.h5d.create(group.id, os.fsencode(name), kind, h5py.h5s.create(h5py.h5s.SCALAR))
    dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, np.array(raw, f"S{len(raw)}"))
