"""Nets as graphs."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from launching import AVEC, NOWHERE, execute

NET = """name: "n"
layer { name: "in" type: "Data" top: "x" top: "y" data_param { batch_size: 8 } include { phase: TRAIN } }
layer { name: "conv" type: "Convolution" bottom: "x" top: "c" param { lr_mult: 2 } convolution_param {
  num_output: 6 kernel_size: 5 pad: 2 } }
layer { name: "relu" type: "ReLU" bottom: "c" top: "c" }
layer { name: "pool" type: "Pooling" bottom: "c" top: "p" pooling_param { pool: AVE kernel_size: 3 stride: 2 } }
layer { name: "fc" type: "InnerProduct" bottom: "p" top: "f" inner_product_param { num_output: 9 }
  exclude { phase: TEST } }
"""


@pytest.fixture
def draw(caffe: ModuleType) -> Any:
    import caffe.draw

    return caffe.draw


@pytest.fixture
def net(pb2: ModuleType, messages: str) -> Any:
    if messages == "own":
        return pb2.NetParameter.from_text(NET, "net")
    from google.protobuf import text_format

    return text_format.Parse(NET, pb2.NetParameter())


def texts(graph: Any) -> list[str]:
    return [node.get_name() for node in graph.get_nodes()]


def test_nodes_are_layers_and_blobs(draw: Any, net: Any) -> None:
    assert texts(draw.get_pydot_graph(net, "LR")) == [
        r'"in\n(Data)"',
        "x",
        "y",
        r'"conv\n(Convolution)\nkernel size: 5\nstride: 1\npad: 2"',
        "c",
        r'"relu\n(ReLU)"',
        r'"pool\n(Pooling AVE)\nkernel size: 3\nstride: 2\npad: 0"',
        "p",
        r'"fc\n(InnerProduct)"',
        "f",
    ]


def test_words_stand_side_by_side_from_top_to_bottom(draw: Any, net: Any) -> None:
    assert draw.get_layer_label(net.layer[2], "TB") == '"relu (ReLU)"'


def test_edges_go_along_the_data(draw: Any, net: Any) -> None:
    edges = [
        (each.get_source(), each.get_destination(), each.get_label())
        for each in draw.get_pydot_graph(net, "TB").get_edges()
    ]
    assert edges[:4] == [
        ('"in (Data)"', "x", "Batch 8"),
        ('"in (Data)"', "y", "Batch 8"),
        ("x", '"conv (Convolution) kernel size: 5 stride: 1 pad: 2"', '""'),
        ('"conv (Convolution) kernel size: 5 stride: 1 pad: 2"', "c", "6"),
    ]
    unlabelled = draw.get_pydot_graph(net, "TB", label_edges=False)
    assert {each.get_label() for each in unlabelled.get_edges()} == {'""'}


def test_styles(draw: Any, net: Any) -> None:
    nodes = {node.get_name(): node for node in draw.get_pydot_graph(net, "TB").get_nodes()}
    assert nodes['"relu (ReLU)"'].get_fillcolor().strip('"') == "#90EE90"  # in place
    assert nodes['"fc (InnerProduct)"'].get_fillcolor().strip('"') == draw.choose_color_by_layertype("InnerProduct")
    assert nodes["c"].get_shape() == "octagon"
    assert nodes["f"].get_shape() is None  # an output


@pytest.mark.parametrize(("phase", "layers"), [(0, 5), (1, 3), (None, 5)])
def test_layers_of_one_phase(draw: Any, net: Any, phase: int | None, layers: int) -> None:
    assert len([name for name in texts(draw.get_pydot_graph(net, "LR", phase=phase)) if "(" in name]) == layers


def test_both_kinds_of_rules_in_a_layer_are_refused(draw: Any, net: Any) -> None:
    net.layer[0].exclude.add(phase=1)
    with pytest.raises(ValueError, match="in has both include and exclude"):
        draw.get_pydot_graph(net, "LR", phase=0)


def test_learning_rate_multipliers(draw: Any, net: Any) -> None:
    assert draw.get_layer_label(net.layer[1], "TB", display_lrm=True).endswith('pad: 2 lr mult: 2.0, 1.0"')
    assert draw.get_layer_lr_mult(net.layer[4]) == (1.0, 1.0)
    with pytest.raises(ValueError, match="ReLU layers do not have a learning rate multiplier"):
        draw.get_layer_lr_mult(net.layer[2])
    for _ in range(2):
        net.layer[1].param.add()
    with pytest.raises(ValueError, match="Could not parse"):
        draw.get_layer_lr_mult(net.layer[1])


def test_raw_text_into_a_file(draw: Any, net: Any, tmp_path: Path) -> None:
    draw.draw_net_to_file(net, str(tmp_path / "net.raw"), rankdir="BT")
    assert (tmp_path / "net.raw").read_text().startswith("digraph n {\nrankdir=BT;\n")


def test_a_picture_is_what_graphviz_makes_of_the_graph(
    draw: Any, net: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[str] = []

    def create(graph: Any, format: str) -> bytes:
        asked.append(format)
        return b"picture"

    monkeypatch.setattr(draw.pydot.Dot, "create", create)
    draw.draw_net_to_file(net, tmp_path / "net.svg")
    assert ((tmp_path / "net.svg").read_bytes(), asked) == (b"picture", ["svg"])
    assert draw.draw_net(net, "LR") == b"picture"
    assert asked == ["svg", "png"]


def test_without_pydot_the_import_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(
        "import sys\nsys.modules['pydot'] = sys.modules['pydotplus'] = None\n"
        "try:\n    import caffe.draw\nexcept ImportError as exc:\n    print(exc)\n"
    )
    status, out, err = execute(*AVEC, "run", *NOWHERE, str(tmp_path / "app.py"))
    assert (status, err) == (0, "")
    assert "pip install pydot, and install graphviz" in out
