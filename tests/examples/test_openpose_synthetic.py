"""The bundled media are what the renderer draws, and the measure of accuracy measures."""

import accuracy
import cv2
import numpy as np
import pytest
import stick_people
import synthetic
from frames import open_source, read_frames

MEDIA = synthetic.MEDIA


@pytest.mark.parametrize("number", range(1, len(synthetic.PICTURES) + 1))
def test_pictures_and_their_truth_can_be_rendered_again(number: int) -> None:
    image, people = synthetic.render_picture(synthetic.PICTURES[number - 1])
    bundled = cv2.imread(str(MEDIA / f"picture_{number}.jpg"))
    assert bundled.shape == image.shape
    assert np.abs(bundled / 255 - image.clip(0, 1)).mean() < 0.04  # what JPEG takes from noise
    truths = accuracy.load_truth()[f"picture_{number}"]
    assert len(truths) == len(people)
    for person, expected in zip(people, truths, strict=True):
        assert np.abs(stick_people.truth(person, image) - expected.joints).max() <= 0.06


def test_the_clip_has_a_truth_for_each_frame() -> None:
    frames = list(read_frames(open_source(MEDIA / f"{synthetic.CLIP_NAME}.mp4")))
    stems = [stem for stem in accuracy.load_truth() if stem.startswith(synthetic.CLIP_NAME)]
    assert len(frames) == len(stems) == synthetic.CLIP_FRAMES
    assert {frame.image.shape for frame in frames} == {(368, 656, 3)}


def test_joints_are_where_the_figure_is_drawn() -> None:
    """A figure in one colour of its own on black: every visible joint lies on it."""
    body = stick_people.random_body(np.random.default_rng(1))
    person = stick_people.Person(body, stick_people.walking_pose(30, 0.2), 250, 150, 280)
    image = np.zeros((300, 300, 3), np.float32)
    stick_people.draw_person(image, person)
    joints = stick_people.truth(person, image)
    x, y = joints[joints[:, 2] > 0, :2].round().astype(int).T
    assert (image[y, x].max(axis=1) > 0).all()
    assert image[:, :50].max() == 0


def test_a_joint_outside_of_the_picture_is_invisible() -> None:
    body = stick_people.random_body(np.random.default_rng(1))
    person = stick_people.Person(body, stick_people.Pose(), 250, -300, 280)
    joints = stick_people.truth(person, np.zeros((300, 300, 3), np.float32))
    assert not joints[:, 2].any()


def standing(x: float) -> accuracy.Truth:
    joints = np.stack([np.linspace(x, x + 40, 18), np.linspace(50, 250, 18), np.ones(18)], axis=1)
    return accuracy.Truth(joints.astype(np.float32), 220.0)


def test_the_truth_is_perfectly_similar_to_itself() -> None:
    assert accuracy.similarity(standing(10).joints, standing(10)) == pytest.approx(1)


def test_similarity_falls_with_the_distance() -> None:
    near, far = (accuracy.similarity(standing(10 + offset).joints, standing(10)) for offset in (4, 30))
    assert 0.5 < near < 1
    assert far < near / 2


def test_evaluation_counts_found_missed_and_false_people() -> None:
    found = np.stack([standing(10).joints, standing(400).joints])
    score = accuracy.evaluate([(found, [standing(10), standing(200)])])
    assert (score.people, score.found, score.false_people) == (2, 1, 1)
    assert (score.joints, score.correct_joints) == (36, 18)


def test_one_person_is_found_only_once() -> None:
    score = accuracy.evaluate([(np.stack([standing(10).joints] * 2), [standing(10)])])
    assert (score.found, score.false_people, score.average_precision) == (1, 1, 1.0)
