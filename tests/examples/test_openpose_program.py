"""The program's edges: its errors in one line, its results, its go at damaged input."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import openpose
import pytest
import results
import skeletons
from drawing import draw_skeletons
from frames import InputError, list_sources, open_source, read_frames
from models import MODELS
from rich.console import Console

from openpose_known import KnownEstimator, write_clip

PROGRAM = Path(openpose.__file__)
MEDIA = PROGRAM.parent / "media"


def run_program(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, PROGRAM, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def run_known(inputs: list[Path], output: Path, *arguments: str) -> tuple[openpose.Tally, results.Results, str]:
    """Run the loop on a known estimator; give the tally, the results and what went to the terminal."""
    options = openpose.parse_arguments([*arguments, "--output", str(output)])
    written = results.Results(output, MODELS["pose_people"], not options.no_render, options.write_json)
    written.prepare_folder()
    messages = Console(stderr=True, file=open(output / "messages", "w+"), width=200)
    with messages.file:
        tally = openpose.run(KnownEstimator(), list_sources(inputs), written, options, messages)
    return tally, written, (output / "messages").read_text()


def box_needs_a_hand(text: str) -> str:
    return f"argument --box: {text} finds people in the whole picture; use hand or face"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "body_24"], "argument --model: invalid choice: 'body_24' (choose from"),
        (["--net-resolution", "650x368"], "'650x368' is not WIDTHxHEIGHT in multiples of 8"),
        (["--net-resolution", "0x0"], "'0x0' is an empty picture"),
        (["--scales", "5"], "argument --scales: 5 is not in 1..4"),
        (["--limit", "0"], "argument --limit: 0 is not a positive number"),
        (["--model", "hand", "--box", "1,2,3"], "'1,2,3' is not X,Y,WIDTH,HEIGHT"),
        (["--box", "1,2,3,4"], box_needs_a_hand("pose_people")),
    ],
)
def test_a_usage_error_is_one_line_and_status_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        openpose.parse_arguments(arguments)
    printed = capsys.readouterr().err
    assert stopped.value.code == 2
    assert printed.startswith("openpose: ") and message in printed
    assert printed.count("\n") == 1


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    finished = run_program(tmp_path / "nobody.jpg", "--output", tmp_path)
    assert finished.returncode == 1
    assert finished.stderr == f"openpose: {tmp_path}/nobody.jpg: no such file or folder\n"
    assert finished.stdout == ""


def test_an_output_that_is_no_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    finished = run_program("--output", tmp_path / "file" / "out")
    assert finished.returncode == 1
    assert finished.stderr == (f"openpose: {tmp_path}/file/out: cannot write results there: Not a directory\n")


def test_missing_weights_are_one_line(tmp_path: Path) -> None:
    finished = run_program("--weights", tmp_path / "no.caffemodel", "--output", tmp_path)
    assert finished.returncode == 1
    assert finished.stderr == f"openpose: {tmp_path}/no.caffemodel: no such file of weights\n"


def test_a_folder_stands_for_what_it_holds_in_order(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.jpg", "notes.txt"):
        (tmp_path / name).touch()
    assert [source.path.name for source in list_sources([tmp_path])] == ["a.jpg", "b.PNG"]


def test_a_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no picture or clip in this folder"):
        list_sources([tmp_path])


def test_a_clip_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"not a clip")
    with pytest.raises(InputError, match="clip.mp4: cannot be opened as a clip"):
        open_source(tmp_path / "clip.mp4")


@pytest.mark.parametrize("content", [b"", b"not a picture"])
def test_an_undecodable_picture_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(InputError, match="a.jpg: cannot be decoded as a picture"):
        list(read_frames(open_source(tmp_path / "a.jpg")))


def test_a_truncated_clip_gives_its_frames_and_then_the_error(tmp_path: Path) -> None:
    write_clip(tmp_path / "whole.avi", 20)
    content = (tmp_path / "whole.avi").read_bytes()
    (tmp_path / "cut.avi").write_bytes(content[: len(content) // 2])
    frames = read_frames(open_source(tmp_path / "cut.avi"))
    decoded = [next(frames).index for _ in range(8)]
    assert decoded == list(range(8))
    with pytest.raises(InputError, match=r"only \d+ of its 20 frames could be decoded"):
        list(frames)


def test_a_broken_source_is_reported_and_the_next_one_goes_on(tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"not a picture")
    tally, written, messages = run_known([broken, MEDIA / "picture_5.jpg"], tmp_path)
    assert (tally.frames, tally.people, tally.problems) == (1, 1, 1)
    assert "broken.jpg: cannot be decoded as a picture" in messages
    assert [path.name for path in written.pictures] == ["picture_5_rendered.jpg"]


def test_limit_stops_within_a_clip_and_closes_it(tmp_path: Path) -> None:
    tally, written, _ = run_known([MEDIA / "people.mp4"], tmp_path, "--limit", "3")
    assert tally.frames == 3
    assert sum(1 for _ in read_frames(open_source(written.clips[0]))) == 3


def test_keypoints_are_in_openpose_s_format(tmp_path: Path) -> None:
    run_known([MEDIA / "picture_5.jpg"], tmp_path, "--write-json", "--no-render")
    document = json.loads((tmp_path / "picture_5_keypoints.json").read_text())
    assert document["version"] == 1.3
    (person,) = document["people"]
    assert list(person) == [
        "person_id",
        "pose_keypoints_2d",
        "face_keypoints_2d",
        "hand_left_keypoints_2d",
        "hand_right_keypoints_2d",
        "pose_keypoints_3d",
        "face_keypoints_3d",
        "hand_left_keypoints_3d",
        "hand_right_keypoints_3d",
    ]
    assert person["person_id"] == [-1]
    assert person["pose_keypoints_2d"][:6] == [20.0, 30.0, 0.5, 25.0, 34.0, 0.5]
    assert person["pose_keypoints_2d"][24:] == [0.0] * 30
    assert person["face_keypoints_2d"] == []
    assert not list(tmp_path.glob("*_rendered*"))


def test_a_clip_has_a_keypoint_file_per_frame(tmp_path: Path) -> None:
    run_known([MEDIA / "people.mp4"], tmp_path, "--write-json", "--limit", "2")
    names = sorted(path.name for path in tmp_path.glob("*.json"))
    assert names == ["people_000000000000_keypoints.json", "people_000000000001_keypoints.json"]


def test_sources_of_one_name_do_not_overwrite_each_other(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "picture_5.jpg").write_bytes((MEDIA / "picture_5.jpg").read_bytes())
    _, written, _ = run_known([MEDIA / "picture_5.jpg", other], tmp_path)
    assert [path.name for path in written.pictures] == ["picture_5_rendered.jpg", "picture_5_2_rendered.jpg"]


def test_a_skeleton_is_drawn_where_it_is_and_nowhere_else() -> None:
    image = np.zeros((100, 100, 3), np.uint8)
    person = np.zeros((1, 18, 3), np.float32)
    person[0, 2], person[0, 3] = (30, 50, 1), (70, 50, 1)  # right shoulder to right elbow
    drawn = draw_skeletons(image, person, skeletons.COCO)
    rows, columns = np.nonzero(drawn.any(axis=2))
    assert drawn[50, 50].any()
    assert 46 <= rows.min() and rows.max() <= 54
    assert 26 <= columns.min() and columns.max() <= 74
    assert not image.any()
