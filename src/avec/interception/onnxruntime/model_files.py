"""Gets a model and its side files to the destination, each by its digest."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath

from avec import config
from avec.formats.onnx import NotProtobuf, external_data, is_seeded
from avec.host.models import provide
from avec.protocol.onnx import STAGED_FILES_LIMIT, Stage

from .space import Space

FOLDER_ENTRY = "session.model_external_initializers_file_folder_path"


@dataclass(frozen=True, slots=True)
class ProvidedModel:
    """A model that the destination has."""

    digest: str
    folder: int  # of its side files there; 0: it has none
    side_folder: str  # where they are on this host
    remembers: bool  # a run depends on those before it


def provide_model(space: Space, model: str | bytes, side_folder: str) -> ProvidedModel:
    """Make sure that the destination has a model and its side files; blocks while they are uploaded.

    Args:
        model: its path, or its bytes.
        side_folder: where its side files are; empty: beside the model.

    Raises:
        OSError: the model cannot be read.
    """
    folder = side_folder or (os.path.dirname(model) or "." if isinstance(model, str) else "")
    settings = config.load()
    digest = provide(space.session, Path(model) if isinstance(model, str) else model, settings)
    locations, remembers = _read(model)
    found = list(_side_files(locations, folder)) if folder else []
    folder = os.path.realpath(folder) if folder else ""  # as messages of the engine's have it
    if not found:
        return ProvidedModel(digest, 0, folder, remembers)
    number = space.new_folder()
    files = iter(found)
    while batch := list(islice(files, STAGED_FILES_LIMIT)):
        digests = {name: provide(space.session, path, settings) for name, path in batch}
        space.run("stage", Stage(folder=number), files=digests).answer()
    return ProvidedModel(digest, number, folder, remembers)


def _read(model: str | bytes) -> tuple[Sequence[str], bool]:
    """The names of the side files, and whether the model draws random numbers from a seed; none and no of a file that
    is no ONNX model, as the engine will say."""
    try:
        if isinstance(model, bytes):
            return external_data(model), is_seeded(model)
        with open(model, "rb") as file:
            view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        return external_data(view), is_seeded(view)
    except (NotProtobuf, ValueError):  # an empty file cannot be mapped
        return (), False


def _side_files(locations: Sequence[str], folder: str) -> Iterator[tuple[str, Path]]:
    """Those that are there and within the folder; of the others the engine says that it lacks them."""
    for location in locations:
        name = PurePosixPath(location)
        path = Path(folder, location)
        within = not name.is_absolute() and ".." not in name.parts and "\0" not in location
        if within and _is_text(location) and path.is_file() and os.access(path, os.R_OK):
            yield location, path


def _is_text(name: str) -> bool:
    """Whether a name is UTF-8, as ONNX asks for; others cannot be told to a destination."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
