"""How a caffe.Net comes to be: pycaffe's two ways to call its constructor, and the files that they name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from avec import config
from avec.host.models import provide
from avec.interception.active import session
from avec.protocol.caffe import WEIGHTS, LoadNet

from .building import Built, complete, load_net
from .definitions import named_files, net_definition
from .handle import Handle
from .randomness import draw_seed
from .weights import hdf5_as_caffemodel

if TYPE_CHECKING:
    from avec.host.session import Session

FileName: TypeAlias = str | os.PathLike[str]

TRAIN = 0
TEST = 1


@dataclass(frozen=True, slots=True)
class _Given:
    network: str
    weights: str | None
    request: LoadNet


def construct(*args: Any, **kwargs: Any) -> Built:
    """Build the net that the constructor's arguments describe; see Net."""
    given = _old_form(*args, **kwargs) if _is_old_form(args) else _new_form(*args, **kwargs)
    request = given.request
    prototxt = Path(given.network).read_bytes()
    destination = session()
    files = {}
    if given.weights is not None and not is_hdf5(given.weights):
        files[WEIGHTS] = provide_weights(destination, given.weights)
    handle = Handle(destination, f"the net of {request.source}")
    named = named_files(prototxt, request.source)
    contents = [prototxt, *(Path(existing(name)).read_bytes() for name in named)]
    description = load_net(handle, msgspec.structs.replace(request, files=named), contents, files)
    definition = net_definition(prototxt, request.source, request.phase, request.level, request.stages)
    built = complete(handle, description, definition, TRAIN if request.phase == "TRAIN" else TEST)
    if given.weights is not None and (built.host_parameters or not files):
        copy_weights(built, given.weights)
    return built


def copy_weights(built: Built, name: str) -> None:
    """Copy parameters from a file into the layers of the same names; waits."""
    if is_hdf5(name):
        load_hdf5(built, name)
    else:
        built.remote.copy_from(provide_weights(session(), name), name)


def load_hdf5(built: Built, name: str) -> None:
    """Copy parameters from an HDF5 file, whatever its name; waits."""
    contents = hdf5_as_caffemodel(built, name)
    built.remote.copy_from(provide(session(), contents, config.load()), name)


def is_hdf5(name: str) -> bool:
    """Whether a file of weights is HDF5. Source: Net::CopyTrainedLayersFrom."""
    return name.endswith(".h5")


def existing(filename: FileName) -> str:
    """A file's name, if it can be opened. Source: CheckFile in caffe/python/caffe/_caffe.cpp."""
    name = os.fspath(filename)
    try:
        with open(name, "rb"):
            return name
    except OSError as exc:
        raise RuntimeError(f"Could not open file {name}") from exc


def provide_weights(destination: Session, weights: str) -> str:
    """Bring a caffemodel to the destination, unless it is there; gives its digest."""
    return provide(destination, Path(weights), config.load())


def _is_old_form(args: Sequence[object]) -> bool:
    return len(args) > 1 and isinstance(args[1], (str, os.PathLike))


def _old_form(network_file: FileName, weights_file: FileName, phase: int) -> _Given:
    return _new_form(network_file, phase, weights=weights_file)


def _new_form(
    network_file: FileName,
    phase: int,
    level: int = 0,
    stages: Sequence[str] | None = None,
    weights: FileName | None = None,
) -> _Given:
    if phase not in (TRAIN, TEST):
        raise TypeError(f"the phase of a Net is caffe.TRAIN or caffe.TEST, not {phase!r}")
    network = existing(network_file)
    weights_name = None if weights is None else existing(weights)
    request = LoadNet(
        source=network,
        weights_source=weights_name or "",
        phase="TRAIN" if phase == TRAIN else "TEST",
        level=level,
        stages=tuple(stages or ()),
        seed=draw_seed(),
    )
    return _Given(network, weights_name, request)
