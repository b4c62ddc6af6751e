"""Renders the bundled clip and pictures, and the truth about the people in them.

    python synthetic.py [--output FOLDER]
    python synthetic.py --pictures 64 --seed 1000 --output FOLDER     # others, to measure with, without their truth
    python synthetic.py --frames 204 --output CLIP.mp4

Everything is drawn from fixed seeds, so the same command gives the same pictures. The truth is
truth.json: for each picture, and each frame of the clip, the joints of the people in it.
"""

import argparse
import json
import multiprocessing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from stick_people import Array, Person, background, draw_person, random_body, random_pose, truth, walking_pose

MEDIA = Path(__file__).parent / "media"
CLIP_NAME = "people"
CLIP_SIZE = (656, 368)
CLIP_FRAMES = 60
CLIP_FPS = 15
CLIP_SEED = 11
FRAMES_PER_TURN = 20  # of the walk: two steps
TURN_LENGTH = 0.75  # of the body height, that a walk goes forward in a turn
FEWEST_JOINTS = 4  # in the picture, for a person to count
JPEG_QUALITY = 76
SIZES = ((640, 480), (480, 640), (640, 427), (427, 640), (500, 375), (375, 500), (640, 360), (612, 612))  # as COCO's
MOST_PEOPLE = 4


@dataclass(frozen=True, slots=True)
class Walker:
    """Someone who crosses the clip: where the walk is at frame 0, and where it leads."""

    height: float
    yaw: float
    start_x: float
    foot_y: float
    seed: int

    def at(self, frame: int) -> Person:
        turns = frame / FRAMES_PER_TURN
        forward = np.sin(np.radians(self.yaw)) * TURN_LENGTH * self.height * turns
        pose = walking_pose(self.yaw, turns)
        body = random_body(np.random.default_rng(self.seed))
        return Person(body, pose, self.height, self.start_x + float(forward), self.foot_y)


@dataclass(frozen=True, slots=True)
class Picture:
    """A still: its size, and the height and place of each person in it as parts of the size."""

    width: int
    height: int
    seed: int
    people: tuple[tuple[float, float, float], ...]  # (body height, feet's x, feet's y)


WALKERS = (
    Walker(height=270, yaw=40, start_x=100, foot_y=352, seed=2),
    Walker(height=240, yaw=-42, start_x=590, foot_y=322, seed=8),
    Walker(height=215, yaw=38, start_x=-120, foot_y=300, seed=3),
)
PICTURES = (
    Picture(640, 480, 31, ((0.80, 0.35, 0.93), (0.75, 0.70, 0.90))),
    Picture(800, 600, 22, ((0.82, 0.50, 0.95),)),
    Picture(480, 640, 23, ((0.62, 0.50, 0.85),)),
    Picture(1024, 576, 24, ((0.85, 0.18, 0.95), (0.78, 0.50, 0.92), (0.80, 0.82, 0.94))),
    Picture(500, 375, 25, ((0.78, 0.30, 0.92), (0.80, 0.72, 0.93))),
    Picture(720, 720, 26, ((0.72, 0.28, 0.90), (0.70, 0.70, 0.88))),
)


def clip_frames(count: int = CLIP_FRAMES) -> Iterator[tuple[Array, list[Person]]]:
    """Render the clip's frames, the people further from the viewer first; beyond CLIP_FRAMES it begins anew."""
    width, height = CLIP_SIZE
    scene = background(np.random.default_rng(CLIP_SEED), height, width, roughness=0.5)
    for frame in range(count):
        people = sorted((walker.at(frame % CLIP_FRAMES) for walker in WALKERS), key=lambda person: person.foot_y)
        yield _draw(scene.copy(), people), people


def render_picture(picture: Picture) -> tuple[Array, list[Person]]:
    rng = np.random.default_rng(picture.seed)
    scene = background(rng, picture.height, picture.width, roughness=0.6)
    people = []
    for body_height, foot_x, foot_y in picture.people:
        body, pose = random_body(rng), random_pose(rng, yaw=rng.uniform(-50, 50))
        place = (body_height * picture.height, foot_x * picture.width, foot_y * picture.height)
        people.append(Person(body, pose, *place))
    people.sort(key=lambda person: person.foot_y)
    return _draw(scene, people), people


def random_picture(seed: int) -> Picture:
    """A picture of a size that COCO's have, with some people side by side."""
    rng = np.random.default_rng(seed)
    width, height = SIZES[rng.integers(len(SIZES))]
    count = int(rng.integers(1, MOST_PEOPLE + 1))
    places = [(number + 0.5 + rng.uniform(-0.15, 0.15)) / count for number in range(count)]
    people = tuple((rng.uniform(0.55, 0.85), place, rng.uniform(0.88, 0.95)) for place in places)
    return Picture(width, height, seed, people)


def render_random_pictures(folder: Path, count: int, first_seed: int) -> None:
    """Write pictures of so many seeds into a folder.

    Raises:
        OSError: a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with multiprocessing.Pool() as pool:
        for number, jpeg in enumerate(pool.imap(_random_jpeg, range(first_seed, first_seed + count), chunksize=4)):
            (folder / f"picture_{number:03d}.jpg").write_bytes(jpeg)


def _random_jpeg(seed: int) -> bytes:
    return _jpeg(render_picture(random_picture(seed))[0])


def _jpeg(image: Array) -> bytes:
    return cv2.imencode(".jpg", _to_bytes(image), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()


def render_clip(path: Path, count: int) -> Iterator[tuple[Array, list[Person]]]:
    """Write a clip, and give its frames as they were drawn.

    Raises:
        OSError: it cannot be written.
    """
    clip = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), CLIP_FPS, CLIP_SIZE)
    if not clip.isOpened():
        raise OSError(f"cannot write {path}: OpenCV opens no mp4 writer for it")
    for image, people in clip_frames(count):
        clip.write(_to_bytes(image))
        yield image, people
    clip.release()


def _draw(scene: Array, people: list[Person]) -> Array:
    for person in people:
        draw_person(scene, person)
    return scene


def _to_bytes(image: Array) -> np.ndarray:
    return (image.clip(0, 1) * 255).round().astype(np.uint8)


def _truth_record(image: Array, people: list[Person]) -> list[dict[str, object]]:
    records = []
    for person in people:
        joints = truth(person, image)
        if joints[:, 2].sum() >= FEWEST_JOINTS:
            # Tenths of a pixel: x, y, visible for each joint in turn.
            numbers = [round(float(number), 1) for number in joints.ravel()]
            records.append({"height": round(person.height, 1), "joints": numbers})
    return records


def render_media(folder: Path) -> None:
    """Write the clip, the pictures and truth.json into a folder.

    Raises:
        OSError: a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    records: dict[str, object] = {}
    for index, (image, people) in enumerate(render_clip(folder / f"{CLIP_NAME}.mp4", CLIP_FRAMES)):
        records[f"{CLIP_NAME}_{index:012d}"] = _truth_record(image, people)
    for number, picture in enumerate(PICTURES, start=1):
        image, people = render_picture(picture)
        name = f"picture_{number}"
        records[name] = _truth_record(image, people)
        (folder / f"{name}.jpg").write_bytes(_jpeg(image))
    lines = (f"{json.dumps(stem)}: {json.dumps(record)}" for stem, record in records.items())
    (folder / "truth.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


def main() -> None:
    parser = argparse.ArgumentParser(description="Render the bundled clip and pictures, or others.")
    parser.add_argument("--output", type=Path, default=MEDIA, help="folder, or clip, to write (default: media)")
    parser.add_argument("--pictures", type=int, metavar="N", help="render so many other pictures")
    parser.add_argument("--seed", type=int, default=1000, help="of the first of them (default: 1000)")
    parser.add_argument("--frames", type=int, metavar="N", help="render a clip of so many frames")
    options = parser.parse_args()
    if options.pictures:
        render_random_pictures(options.output, options.pictures, options.seed)
    elif options.frames:
        for _ in render_clip(options.output, options.frames):
            pass
    else:
        render_media(options.output)


if __name__ == "__main__":
    main()
