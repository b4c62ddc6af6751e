"""The generated topologies have the size, the cost and the shape of OpenPose's own."""

import hashlib

import pytest
import topologies

# Measured on the original files: GFLOP of the convolutions at this height and width, megabytes of weights.
FIGURES = {
    "coco": (368, 656, 484.6, 209.2),
    "body_25": (368, 656, 287.3, 104.7),
    "mpi": (184, 320, 116.7, 205.9),
    "mpi_4_stages": (184, 320, 85.0, 137.0),
    "hand": (368, 368, 206.4, 147.3),
    "face": (368, 368, 213.1, 153.7),
}
OUTPUT_MAPS = {"coco": 57, "body_25": 78, "mpi": 44, "mpi_4_stages": 44, "hand": 22, "face": 71}
LAYER_COUNTS = {"coco": 181, "body_25": 261, "mpi": 181, "mpi_4_stages": 127, "hand": 106, "face": 106}
# SHA-256 of "name type bottoms top outputs kernel" lines, computed from the original files: their layer names
# are what the original weights load by.
STRUCTURE = {
    "coco": "ec010bbdbe13c981a0cfb6a10b7dc0dd5b740e89629eb0fbdb16bdf31a710bf6",
    "body_25": "a1b4f17ec13914280dc591968299562282b237ed1f0251d22301c3ca78845a1b",
    "mpi": "3a63045fff7f17824c7c3f112e616a497c729da2a780aa80f64d341eeffa3240",
    "mpi_4_stages": "23e607ed0768bedcd2f74f2fc06cc880ffcebbed917d627795344b96d0840c21",
    "hand": "e62d4d9ede51215f99ab5f29ddf1d7373ab6c5091aec946f1c7175d892b8e012",
    "face": "0a76ae480b5e8df027e262471fddc90c34a4f8a8c6326b41e8cc6fee17a714a9",
}


def test_every_topology_has_known_figures() -> None:
    assert set(topologies.NAMES) == set(FIGURES)


@pytest.mark.parametrize("name", FIGURES)
def test_cost_and_weights_equal_the_originals(name: str) -> None:
    height, width, gflop, megabytes = FIGURES[name]
    assert round(topologies.flop(name, height, width) / 1e9, 1) == gflop
    assert round(topologies.weight_nbytes(name) / 1e6, 1) == megabytes


@pytest.mark.parametrize("name", FIGURES)
def test_the_last_layer_writes_net_output(name: str) -> None:
    last = topologies.layers(name)[-1]
    assert (last.top, last.outputs, last.scale) == ("net_output", OUTPUT_MAPS[name], topologies.STRIDE)


@pytest.mark.parametrize("name", FIGURES)
def test_layer_names_and_wiring_equal_the_originals(name: str) -> None:
    layers = topologies.layers(name)
    lines = [
        f"{layer.name} {layer.type} {','.join(layer.bottoms)} {layer.top}"
        + (f" {layer.outputs} {layer.kernel}" if layer.type == "Convolution" else "")
        for layer in layers
    ]
    assert len(lines) == LAYER_COUNTS[name]
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == STRUCTURE[name]


def test_prototxt_states_the_input_size() -> None:
    text = topologies.prototxt("coco", 368, 656)
    assert text.count("input_dim: 368") == 1
    assert text.count("input_dim: 656") == 1
    assert text.count("layer {") == LAYER_COUNTS["coco"]


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="no topology is called 'body_24': choose one of coco, body_25"):
        topologies.prototxt("body_24", 368, 656)
