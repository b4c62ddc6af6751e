"""The unmodified program finds the bundled people when its network computes at a destination."""

import os
import subprocess
import sys
from pathlib import Path

import accuracy
import openpose
import pytest

pytest.importorskip("torch", reason="a destination needs torch")

PROGRAM = Path(openpose.__file__)
MEDIA = PROGRAM.parent / "media"
CLIP_FRAMES = 12  # of 60, so that the test takes seconds
PICTURES = sorted(MEDIA.glob("picture_*.jpg"))


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run the program under `avec run --local`, pictures first; give its folder of results."""
    folder = tmp_path_factory.mktemp("people")
    limit = len(PICTURES) + CLIP_FRAMES
    arguments = [*PICTURES, MEDIA / "people.mp4", "--limit", str(limit), "--write-json", "--output", folder]
    finished = subprocess.run(
        [sys.executable, "-m", "avec", "run", "--local", "--", sys.executable, PROGRAM, *arguments],
        env=os.environ | {"XDG_CACHE_HOME": str(folder / "cache")},
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert finished.returncode == 0, finished.stderr
    assert f"people found in {limit} frames" in finished.stdout
    return folder


def test_at_least_nine_in_ten_people_are_found(output: Path) -> None:
    compared = list(accuracy.pairs(output, accuracy.load_truth()))
    assert len(compared) == len(PICTURES) + CLIP_FRAMES
    score = accuracy.evaluate(compared, threshold=0.5)
    assert score.found >= 0.9 * score.people
    assert score.false_people <= 0.1 * score.people


def test_every_picture_and_the_clip_are_drawn(output: Path) -> None:
    names = {path.name for path in output.glob("*_rendered.*")}
    assert names == {f"{path.stem}_rendered.jpg" for path in PICTURES} | {"people_rendered.mp4"}
