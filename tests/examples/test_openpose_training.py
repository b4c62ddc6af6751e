"""The pose network's training: what is rendered, what is taught, what is exported."""

import json
from collections.abc import Iterator
from pathlib import Path

import grouping
import numpy as np
import pytest
import torch
from accuracy import evaluate, load_truth
from skeletons import COCO
from training import card, evaluation, export, figures, labels, network, painting, render_sets, scenes, train
from training.figures import Dice, Range

from avec.destination.accelerators import Accelerator
from avec.destination.executors.caffe import CaffeExecutor
from destination.caffe_net import Net

SMALL = (128, 160)
FEW = "--minutes 5 --batch 2 --size 64x64 --channels 16 --device cpu"
THREE = Range(people=(3, 3), height=(60.0, 100.0))


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Nets as small as these only wait for each other's threads, minutes long where the processors are taken."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def dice(seed: int) -> Dice:
    return Dice(torch.Generator().manual_seed(seed))


@pytest.fixture
def unpainted(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of what does not depend on the picture, which takes long."""
    monkeypatch.setattr(painting, "paint", lambda image, *others: image)


def test_a_seed_gives_the_same_scenes_again_and_another_does_not() -> None:
    first, again, other = (scenes.render(dice(seed), 2, SMALL, THREE) for seed in (3, 3, 4))
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.joints, again.joints)
    assert (first.images != other.images).float().mean() > 0.9


def test_scenes_have_as_many_people_as_asked_and_of_the_height_asked() -> None:
    people = figures.sample_people(dice(0), 400, SMALL, Range(people=(1, 6), height=(90.0, 320.0)))
    counts = people.present.sum(1)
    assert set(counts.tolist()) == {1, 2, 3, 4, 5, 6}
    heights = people.height[people.present]
    assert 90 <= heights.min() < 95 and 300 < heights.max() <= 320


def test_the_bones_have_their_lengths() -> None:
    people = figures.sample_people(dice(1), 50, SMALL, Range())
    joints = figures.joints_in_space(people)
    for side in ("right", "left"):
        for start, end, name in (
            ("shoulder", "elbow", "upper_arm"),
            ("hip", "knee", "thigh"),
            ("knee", "ankle", "shin"),
        ):
            bone = (joints[f"{side}_{start}"] - joints[f"{side}_{end}"]).norm(dim=-1)
            torch.testing.assert_close(bone, people.lengths[name])


def test_painting_in_windows_is_painting_everywhere() -> None:
    people = figures.sample_people(dice(2), 2, SMALL, THREE)
    capsules = figures.body_capsules(people, figures.in_pixels(people))
    behind, folds = painting.background(dice(3), 2, SMALL), painting.texture(dice(4), 2, SMALL)
    fields = tuple(getattr(capsules, name) for name in capsules.__slots__)
    x, y = torch.arange(SMALL[1]).float(), torch.arange(SMALL[0]).float()[:, None]
    everywhere = painting.paint_everywhere(behind, folds, x, y, fields)
    torch.testing.assert_close(painting.paint(behind, folds, capsules), everywhere)


def test_a_capsule_is_painted_where_its_coordinates_say() -> None:
    """Pixel (0, 0) has its centre at 0, 0: a disc around (20, 12) has its centre of mass there."""
    one = torch.ones(1, 1)
    middle = torch.tensor([[[20.0, 12.0]]])
    disc = figures.Capsules(middle, middle, 5 * one, 5 * one, torch.ones(1, 1, 3), one)
    image = painting.paint(torch.zeros(1, 3, 32, 48), torch.ones(1, 1, 32, 48), disc)[0, 0]
    assert image.sum(0) @ torch.arange(48.0) / image.sum() == pytest.approx(20, abs=1e-3)
    assert image.sum(1) @ torch.arange(32.0) / image.sum() == pytest.approx(12, abs=1e-3)


def test_a_joint_behind_someone_nearer_is_not_visible(unpainted: None) -> None:
    rendered = scenes.render(dice(5), 60, SMALL, Range(people=(2, 2), height=(100.0, 140.0)))
    covered = rendered.guessable & ~rendered.visible
    assert covered[:, 0].any()  # the further one
    alone = scenes.render(dice(5), 60, SMALL, Range(people=(1, 1), height=(100.0, 140.0)))
    in_front_share = (alone.guessable & ~alone.visible).float().mean()
    assert in_front_share < covered[:, 0].float().mean()  # nothing but bars hides one who is alone


def test_perfect_maps_give_the_people_back(unpainted: None) -> None:
    measured = evaluation.measure_perfect(8, torch.device("cpu"))
    assert measured["people"] > 15
    assert measured["ap50"] >= 0.95 and measured["ap75"] >= 0.95
    assert abs(measured["bias_x_px"]) < 0.1 and abs(measured["bias_y_px"]) < 0.1


def test_the_maps_lie_where_the_skeleton_says() -> None:
    joints = torch.zeros(1, 1, 18, 2)
    present = torch.zeros(1, 1, 18, dtype=torch.bool)
    limb = 3  # right elbow to right wrist
    start, end = COCO.limbs[limb]
    joints[0, 0, start], joints[0, 0, end] = torch.tensor([20.0, 60.0]), torch.tensor([84.0, 60.0])
    present[0, 0, [start, end]] = True
    maps = labels.draw_maps(joints, present, 128, 128)[0]
    assert maps.shape == (labels.MAPS, 16, 16)
    fields = maps[labels.HEATMAPS :]
    along = COCO.fields[limb]
    assert fields[along].max() == 1 and fields[along, 7, 6] == 1
    fields[along] = 0
    assert fields.abs().max() == 0
    assert maps[start].argmax() == 7 * 16 + 2 and maps[end].argmax() == 7 * 16 + 10


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train for a few steps, with bfloat16 and with an evaluation."""
    folder = tmp_path_factory.mktemp("trained")
    arguments = f"{FEW} --steps 2 --evaluate --frames 1"
    assert train.main([*arguments.split(), "--output", str(folder)]) == 0
    return folder


def test_training_writes_what_it_was_and_measures(trained: Path) -> None:
    record = json.loads((trained / "training.json").read_text())
    assert record["steps"] == 2 and record["images"] == 4
    assert record["measured"][-1]["frames"] == record["reachable"]["frames"] == 1
    assert (trained / "pose_people.caffemodel").stat().st_size <= 15_000_000


def test_the_card_states_what_the_run_recorded(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert card.main([str(trained / "training.json")]) == 0
    text = capsys.readouterr().out
    record = json.loads((trained / "training.json").read_text())
    assert f"{record['images']:,}" in text and record["versions"]["torch"] in text
    assert f"{record['measured'][-1]['ap50']:.3f}" in text


def test_training_goes_on_from_what_it_left(trained: Path, tmp_path: Path) -> None:
    begun = trained / "pose_people.npz"
    arguments = f"{FEW} --steps 1 --float32"
    assert train.main([*arguments.split(), "--output", str(tmp_path), "--continue-from", str(begun)]) == 0
    with np.load(begun) as before, np.load(tmp_path / "pose_people.npz") as after:
        name = "convolutions.conv4_1.weight"
        assert 0 < np.abs(before[name] - after[name]).max() < 0.01


def test_a_network_learns_one_batch_by_heart() -> None:
    """No part of it is dead from the start: the error falls to less than a tenth."""
    torch.manual_seed(0)
    some = scenes.render(dice(8), 2, (64, 64), Range(people=(1, 1), height=(50.0, 60.0)))
    images, maps = network.as_input(some.images), labels.maps_of(some)
    net = network.PoseNetwork(network.structure(32))
    optimiser = torch.optim.AdamW(net.parameters(), 2e-3)
    losses = []
    for _ in range(50):
        optimiser.zero_grad()
        loss = (net(images)[1] - maps).square().sum()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * maps[:, : labels.HEATMAPS - 1].square().sum()


def test_the_caffe_net_computes_what_the_torch_net_does(tmp_path: Path) -> None:
    """Batch normalisations as they are after training, not the identity that they begin as."""
    torch.manual_seed(0)
    net = network.PoseNetwork(network.structure(32)).eval()
    for norm in net.norms.values():
        torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
        torch.nn.init.normal_(norm.bias, std=0.1)
        torch.nn.init.normal_(norm.running_mean, std=0.1)
        torch.nn.init.uniform_(norm.running_var, 0.5, 2)
    export.save(net, tmp_path)
    image = network.as_input(scenes.render(dice(6), 1, (64, 96), THREE).images)
    with torch.no_grad():
        expected = net(image)[1].numpy()
    prototxt = (tmp_path / "pose_people.prototxt").read_text().replace("input_dim: 368", "input_dim: 64")
    executor = CaffeExecutor(Accelerator("strict", cudnn_workspace_mb=256))
    caffe = Net(executor, prototxt.replace("input_dim: 656", "input_dim: 96"), tmp_path / "pose_people.caffemodel")
    (answer,) = caffe.forward({caffe.data("image"): image.numpy()}, [caffe.data("net_output")])
    assert np.abs(answer - expected).max() <= 1e-4 * np.abs(expected).max()


def test_the_clip_walks(tmp_path: Path) -> None:
    render_sets.write_clip(tmp_path, frames=3)
    truth = load_truth(tmp_path / "truth.json")
    assert len(truth) == 3
    first, last = truth["walkers_000000000000"], truth["walkers_000000000002"]
    moved = np.abs(first[0].joints[:, :2] - last[0].joints[:, :2]).max()
    assert 1 < moved < 60


def test_a_set_of_pictures_has_its_truth(tmp_path: Path) -> None:
    render_sets.write_pictures(tmp_path, 2)
    truth = load_truth(tmp_path / "truth.json")
    assert sorted(truth) == sorted(path.stem for path in tmp_path.glob("*.jpg")) == ["0000", "0001"]
    people = [person for persons in truth.values() for person in persons]
    as_found = [(np.stack([person.joints for person in persons]), persons) for persons in truth.values() if persons]
    assert evaluate(as_found).found == len(people)


def test_grouping_takes_the_networks_order_of_maps() -> None:
    """The heatmaps come first in net_output, as grouping.py reads them."""
    net = network.structure()[-1]
    assert net.top == "net_output" and net.bottoms == ("Mconv7_stage2_L2", "Mconv7_stage2_L1")
    assert labels.HEATMAPS == len(COCO.parts) + 1 and grouping.STRIDE == labels.STRIDE
