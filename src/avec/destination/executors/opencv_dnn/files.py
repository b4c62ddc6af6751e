"""A host's model files under the names that the host gave them, because OpenCV judges files by their endings."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Self

import numpy as np

from avec.errors import InvalidArgument
from avec.protocol.opencv_dnn import File
from avec.tensor import Array


class ModelFiles:
    """Links to the files of one request in a folder of their own. A context manager that removes the folder."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        """Prepare to link `files`: role → the model in the cache."""
        self._files = files
        self._folder = tempfile.TemporaryDirectory(prefix="avec-opencv-")
        self._paths: dict[str, str] = {}  # here → on the host

    def argument(self, file: File) -> str | Array:
        """What OpenCV is given for a file: a path with the host's name for it, or the contents.

        Raises:
            InvalidArgument: the request did not bring it, or its name is none.
        """
        if not file.path:
            return np.fromfile(self._source(file.role), np.uint8)
        folder = Path(self._folder.name) / str(len(self._paths))
        folder.mkdir()
        path = self._link(folder, PurePosixPath(file.path.replace("\\", "/")).name, file.role)
        for name, role in file.beside.items():
            self._link(folder, name, role)
        self._paths[str(path)] = file.path
        return str(path)

    def as_on_host(self, text: str) -> str:
        """A message with the host's paths in place of those here."""
        for here, there in self._paths.items():
            text = text.replace(here, there)
        return text

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._folder.cleanup()

    def _link(self, folder: Path, name: str, role: str) -> Path:
        parts = PurePosixPath(name).parts
        if not parts or "\0" in name or any(part in ("..", "/") for part in parts):
            raise InvalidArgument(f"{name!r} is no name for a model file")
        path = folder.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            path.symlink_to(self._source(role))
        except OSError as exc:
            raise InvalidArgument(f"{name!r} is no name for a model file here: {exc.strerror}") from exc
        return path

    def _source(self, role: str) -> Path:
        source = self._files.get(role)
        if source is None:
            raise InvalidArgument(f"a request names the file {role!r}, which did not come with it")
        return source
