"""caffe.draw: a NetParameter as a graph of its layers and blobs; needs pydot or pydotplus, and graphviz.

Source: caffe/python/caffe/draw.py.
"""

from __future__ import annotations

import importlib
import os
from typing import Any, TypeAlias

from .proto import caffe_pb2

Message: TypeAlias = Any  # a message of caffe_pb2
Style: TypeAlias = dict[str, str]


def _pydot() -> Any:
    for name in ("pydotplus", "pydot"):
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise ImportError(
        "caffe.draw needs pydot or pydotplus, and neither is installed: pip install pydot, and install graphviz"
    )


pydot = _pydot()  # at once, as in pycaffe: programs try `import caffe.draw` to see whether they can draw

LAYER_STYLE_DEFAULT: Style = {"shape": "record", "fillcolor": "#6495ED", "style": "filled"}
NEURON_LAYER_STYLE: Style = {"shape": "record", "fillcolor": "#90EE90", "style": "filled"}
BLOB_STYLE: Style = {"shape": "octagon", "fillcolor": "#E0E0E0", "style": "filled"}

_COLOURS = {"Convolution": "#FF5050", "Deconvolution": "#FF5050", "Pooling": "#FF9900", "InnerProduct": "#CC33FF"}
_LEARNING = ("Convolution", "Deconvolution", "InnerProduct")
_NO_LABEL = '""'


def get_pooling_types_dict() -> dict[int, str]:
    """The names of PoolingParameter's methods by number."""
    return {number: name for name, number in caffe_pb2.PoolingParameter.PoolMethod.items()}


def get_edge_label(layer: Message) -> str:
    """What the edge to a layer's tops says: the batch's size, or the number of outputs."""
    if layer.type == "Data":
        return f"Batch {layer.data_param.batch_size}"
    if layer.type in ("Convolution", "Deconvolution"):
        return str(layer.convolution_param.num_output)
    return str(layer.inner_product_param.num_output) if layer.type == "InnerProduct" else _NO_LABEL


def get_layer_lr_mult(layer: Message) -> tuple[float, float]:
    """The learning rate multipliers of a Convolution's, Deconvolution's or InnerProduct's weights and biases."""
    if layer.type not in _LEARNING:
        raise ValueError(f"{layer.type} layers do not have a learning rate multiplier")
    if len(layer.param) > 2:
        raise ValueError("Could not parse the learning rate multiplier")
    weights, biases = [*(param.lr_mult for param in layer.param), 1.0, 1.0][:2]
    return weights, biases


def get_layer_label(layer: Message, rankdir: str, display_lrm: bool = False) -> str:
    """What a layer's node says: its name and type, its kernel, stride and padding.

    Args:
        rankdir: the graph's direction, "LR", "RL", "TB" or "BT".
        display_lrm: also show learning rate multipliers.
    """
    separator = " " if rankdir in ("TB", "BT") else r"\n"  # side by side where there is room
    kind = layer.type
    if kind == "Pooling":
        kind += f" {get_pooling_types_dict()[layer.pooling_param.pool]}"
    lines = [layer.name, f"({kind})", *_window(layer)]
    if display_lrm and layer.type in _LEARNING:
        weights, biases = get_layer_lr_mult(layer)
        if weights or biases:
            lines.append(f"lr mult: {weights:.1f}, {biases:.1f}")
    return f'"{separator.join(lines)}"'  # quoted, for graphviz takes colons for ports


def _window(layer: Message) -> list[str]:
    if layer.type == "Pooling":
        values = [layer.pooling_param.kernel_size, layer.pooling_param.stride, layer.pooling_param.pad]
    elif layer.type in ("Convolution", "Deconvolution"):
        param = layer.convolution_param
        given = ((param.kernel_size, 1), (param.stride, 1), (param.pad, 0))
        values = [field[0] if len(field) else default for field, default in given]
    else:
        return []
    return [f"{name}: {value}" for name, value in zip(("kernel size", "stride", "pad"), values, strict=True)]


def choose_color_by_layertype(layertype: str) -> str:
    """The colour of a layer's node."""
    return _COLOURS.get(layertype, LAYER_STYLE_DEFAULT["fillcolor"])


def get_pydot_graph(
    caffe_net: Message, rankdir: str, label_edges: bool = True, phase: int | None = None, display_lrm: bool = False
) -> Any:
    """A net as a pydot graph.

    Args:
        caffe_net: a NetParameter.
        rankdir: the graph's direction, "LR", "RL", "TB" or "BT".
        label_edges: label the edges to tops.
        phase: show only the layers of this phase, caffe.TRAIN or caffe.TEST.
        display_lrm: also show learning rate multipliers.

    Raises:
        ValueError: a layer has both include and exclude rules.
    """
    nodes: dict[str, Any] = {}
    edges: list[tuple[str, str, str]] = []
    for layer in caffe_net.layer:
        if phase is not None and not _is_in(layer, phase):
            continue
        name = f"{layer.name}_{layer.type}"
        nodes[name] = pydot.Node(get_layer_label(layer, rankdir, display_lrm=display_lrm), **_style(layer))
        for bottom in layer.bottom:
            nodes[f"{bottom}_blob"] = pydot.Node(bottom, **BLOB_STYLE)
            edges.append((f"{bottom}_blob", name, _NO_LABEL))
        for top in layer.top:  # without a style until a layer reads it, so that a net's outputs stand out
            nodes[f"{top}_blob"] = pydot.Node(top)
            edges.append((name, f"{top}_blob", get_edge_label(layer) if label_edges else _NO_LABEL))
    graph = pydot.Dot(caffe_net.name or "Net", graph_type="digraph", rankdir=rankdir)
    for node in nodes.values():
        graph.add_node(node)
    for source, target, label in edges:
        graph.add_edge(pydot.Edge(nodes[source], nodes[target], label=label))
    return graph


def _is_in(layer: Message, phase: int) -> bool:
    if len(layer.include) and len(layer.exclude):
        raise ValueError(f"layer {layer.name} has both include and exclude specified.")
    if len(layer.include):
        return any(rule.phase == phase for rule in layer.include)
    return not any(rule.phase == phase for rule in layer.exclude)


def _style(layer: Message) -> Style:
    if len(layer.bottom) == len(layer.top) == 1 and layer.bottom[0] == layer.top[0]:
        return NEURON_LAYER_STYLE
    return {**LAYER_STYLE_DEFAULT, "fillcolor": choose_color_by_layertype(layer.type)}


def draw_net(
    caffe_net: Message, rankdir: str, ext: str = "png", phase: int | None = None, display_lrm: bool = False
) -> bytes:
    """Draw a net with graphviz.

    Args:
        ext: the picture's format as graphviz names it, or "raw" for the graph's text.
        caffe_net, rankdir, phase, display_lrm: see get_pydot_graph.

    Returns:
        The picture's bytes.
    """
    graph = get_pydot_graph(caffe_net, rankdir, phase=phase, display_lrm=display_lrm)
    if ext == "raw":
        return bytes(graph.to_string(), "utf-8")
    picture: bytes = graph.create(format=ext)
    return picture


def draw_net_to_file(
    caffe_net: Message,
    filename: str | os.PathLike[str],
    rankdir: str = "LR",
    phase: int | None = None,
    display_lrm: bool = False,
) -> None:
    """Draw a net into a file, in the format that the file's suffix names; see draw_net."""
    ext = os.fspath(filename).rpartition(".")[2]
    picture = draw_net(caffe_net, rankdir, ext, phase, display_lrm)
    with open(filename, "wb") as file:
        file.write(picture)
