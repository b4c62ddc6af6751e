"""What the program leaves behind: pictures and clips with skeletons, and keypoints in OpenPose's JSON."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import cv2
import numpy as np
from drawing import draw_skeletons
from frames import Frame, Source
from grouping import Array
from models import Model
from numpy.typing import NDArray

JSON_VERSION = 1.3
KEYPOINT_FIELDS = tuple(
    f"{body}_keypoints_{dimensions}"
    for dimensions in ("2d", "3d")
    for body in ("pose", "face", "hand_left", "hand_right")
)
JPEG_QUALITY = 92
CLIP_RATE = 25.0  # frames per second, where a clip does not tell its own


class OutputError(Exception):
    """A result that cannot be written; the text names it and says why."""


def keypoint_document(keypoints: Array, keypoint_field: str) -> dict[str, object]:
    """Put keypoints (found x parts x (x, y, score)) into the structure of OpenPose's JSON files."""
    return {
        "version": JSON_VERSION,
        "people": [
            {"person_id": [-1]}
            | {name: [] for name in KEYPOINT_FIELDS}
            | {keypoint_field: [round(float(number), 3) for number in person.ravel()]}
            for person in keypoints
        ],
    }


@dataclass(slots=True)
class Results:
    """Writes one program run's results into a folder, and counts them."""

    folder: Path
    model: Model
    render: bool
    write_json: bool
    pictures: list[Path] = field(default_factory=list)
    clips: list[Path] = field(default_factory=list)
    keypoint_files: int = 0
    _names: set[str] = field(default_factory=set)

    def prepare_folder(self) -> None:
        """Create the folder, and find out now rather than after the first frame whether it takes files.

        Raises:
            OutputError: it does not.
        """
        probe = self.folder / ".openpose-write-test"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise OutputError(f"{self.folder}: cannot write results there: {error.strerror}") from error

    def open(self, source: Source) -> "SourceResults":
        """Open the results of one source, under a name that no other source of this run has."""
        name, copy = source.path.stem, 1
        while name in self._names:
            copy += 1
            name = f"{source.path.stem}_{copy}"
        self._names.add(name)
        return SourceResults(self, source, name)


class SourceResults:
    """Owns the clip being written for one source, where that is a clip."""

    def __init__(self, results: Results, source: Source, name: str) -> None:
        self._results = results
        self._source = source
        self._name = name
        self._clip: cv2.VideoWriter | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._clip is not None:
            self._clip.release()

    def write(self, frame: Frame, keypoints: Array) -> None:
        """Write one frame's results.

        Raises:
            OutputError: a file cannot be written.
        """
        results = self._results
        if results.write_json:
            stem = f"{self._name}_{frame.index:012d}" if self._source.is_clip else self._name
            document = keypoint_document(keypoints, results.model.keypoint_field)
            _write(results.folder / f"{stem}_keypoints.json", json.dumps(document).encode())
            results.keypoint_files += 1
        if results.render:
            image = draw_skeletons(frame.image, keypoints, results.model.skeleton)
            if self._source.is_clip:
                self._write_clip_frame(image)
            else:
                self._write_picture(image)

    def _write_picture(self, image: NDArray[np.uint8]) -> None:
        path = self._results.folder / f"{self._name}_rendered.jpg"
        _, jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        _write(path, jpeg.tobytes())
        self._results.pictures.append(path)

    def _write_clip_frame(self, image: NDArray[np.uint8]) -> None:
        if self._clip is None:
            path = self._results.folder / f"{self._name}_rendered.mp4"
            height, width = image.shape[:2]
            rate = self._source.frames_per_second or CLIP_RATE
            self._clip = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), rate, (width, height))
            if not self._clip.isOpened():
                raise OutputError(f"{path}: OpenCV cannot open this clip for writing")
            self._results.clips.append(path)
        self._clip.write(image)


def _write(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}") from error
