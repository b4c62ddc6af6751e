"""A net's structure from its prototxt: which layers, which blobs, who reads what. No tensors yet.

Source: caffe/src/caffe/net.cpp, Net::Init, AppendTop and AppendBottom.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from avec.destination.executors.caffe.layers import LAYER_TYPES
from avec.destination.executors.caffe.layers.layer import Layer, Shape
from avec.errors import InvalidModel, UnsupportedOperation
from avec.formats.caffe.filter import filter_net
from avec.formats.caffe.message import Message, message_class
from avec.formats.caffe.splits import insert_splits
from avec.formats.caffe.upgrade import upgrade_net
from avec.protocol.caffe import LoadNet


@dataclass(slots=True)
class Network:
    """The layers in order, and the blobs' names in the order of their first mention as a top."""

    name: str
    force_backward: bool = False
    layers: list[Layer] = field(default_factory=list)
    blobs: list[str] = field(default_factory=list)
    inputs: tuple[int, ...] = ()  # tops of Input layers
    outputs: tuple[int, ...] = ()  # blobs that no layer reads, by name as Caffe's std::set orders them


def read_net(prototxt: bytes, request: LoadNet) -> Message:
    """Read a prototxt as it is to be in the request's state.

    Raises:
        InvalidModel: it cannot be read.
    """
    net = message_class("NetParameter").from_text(as_text(prototxt, request.source), request.source)
    upgrade_net(net, request.source)
    _set_state(net, request)
    return net


def as_text(prototxt: bytes, source: str) -> str:
    try:
        return prototxt.decode()
    except UnicodeDecodeError as exc:
        raise InvalidModel(f"{source}: byte {exc.start} is not UTF-8: this is not prototxt") from exc


def connect(net: Message, source: str) -> Network:
    """Connect the layers of a net that take part in its state; `net` is changed.

    Raises:
        InvalidModel, InvalidArgument: its layers do not fit together.
        UnsupportedOperation: it has layer types that are not carried out here.
    """
    filter_net(net, source)
    return _connect(insert_splits(net, source), source)


def _set_state(net: Message, request: LoadNet) -> None:
    """The caller's phase, level and stages; stages in the file stay. Source: Net::Net(param_file, …)."""
    net.state.phase = request.phase
    net.state.level = request.level
    net.state.stage.extend(request.stages)


def _connect(net: Message, source: str) -> Network:
    _refuse_unsupported(net, source)
    network = Network(net.name, net.force_backward)
    places: dict[str, int] = {}
    unread: set[str] = set()
    for definition in net.layer:
        _check_counts(definition, source)
        bottoms = tuple(_read(blob, definition, places, unread, source) for blob in definition.bottom)
        tops = tuple(
            _produce(blob, place, definition, places, network, source) for place, blob in enumerate(definition.top)
        )
        unread.update(definition.top)
        phase = definition.phase if definition.HasField("phase") else net.state.phase
        tops += _automatic_tops(definition, network)
        layer = Layer(definition.name, definition.type, definition, bottoms, tops, training=phase == 0)
        layer.loss_weights = _loss_weights(layer)
        network.layers.append(layer)
        if definition.type == "Input":
            network.inputs += tops
    network.outputs = tuple(places[blob] for blob in sorted(unread, key=str.encode))
    if not network.layers:
        raise InvalidModel(f"{source}: the net has no layers in this phase, level and stages")
    return network


def _automatic_tops(definition: Message, network: Network) -> Shape:
    """The blob of a loss that the definition does not name. Source: Layer::AutoTopBlobs, Net::Init."""
    if len(definition.top) or not LAYER_TYPES[definition.type].loss:
        return ()
    network.blobs.append("(automatic)")
    return (len(network.blobs) - 1,)


def _loss_weights(layer: Layer) -> tuple[float, ...]:
    """The weight of each top in the net's loss. Source: Layer::SetLossWeights, LossLayer::LayerSetUp."""
    given = tuple(layer.definition.loss_weight)
    if not given and LAYER_TYPES[layer.type].loss:
        given = (1.0,) + (0.0,) * (len(layer.tops) - 1)
    layer.require(
        len(given) in (0, len(layer.tops)), f"{len(given)} loss weights for {len(layer.tops)} tops: give one for each"
    )
    return given if any(given) else ()


def _refuse_unsupported(net: Message, source: str) -> None:
    unknown = sorted({layer.type for layer in net.layer} - LAYER_TYPES.keys())
    if unknown:
        culprits = ", ".join(
            f"{kind or '(no type)'} (layer {next(x.name for x in net.layer if x.type == kind)!r})" for kind in unknown
        )
        raise UnsupportedOperation(
            f"{source}: unsupported layer types: {culprits}; supported are {', '.join(LAYER_TYPES)}"
        )


def _check_counts(definition: Message, source: str) -> None:
    kind = LAYER_TYPES[definition.type]
    for what, count, (least, most) in (
        ("bottoms", len(definition.bottom), kind.bottoms),
        ("tops", len(definition.top), kind.tops),
    ):
        if not least <= count <= most:
            allowed = f"{least}" if least == most else f"{least} to {most}" if most < 10 else f"{least} or more"
            raise InvalidModel(
                f"{source}: layer {definition.name!r} ({definition.type}) has {count} {what}; {allowed} are needed"
            )
    if definition.type in ("Convolution", "Deconvolution") and len(definition.bottom) != len(definition.top):
        raise InvalidModel(
            f"{source}: layer {definition.name!r} ({definition.type}) needs as many tops as bottoms, "
            f"not {len(definition.top)} and {len(definition.bottom)}"
        )


def _read(blob: str, definition: Message, places: dict[str, int], unread: set[str], source: str) -> int:
    if blob not in unread:
        raise InvalidModel(f"{source}: layer {definition.name!r} reads blob {blob!r}, which no layer before produces")
    unread.discard(blob)
    return places[blob]


def _produce(blob: str, place: int, definition: Message, places: dict[str, int], network: Network, source: str) -> int:
    in_place = place < len(definition.bottom) and definition.bottom[place] == blob
    if blob in places and not in_place:
        raise InvalidModel(
            f"{source}: blob {blob!r} is produced twice, again by layer {definition.name!r}; give that top another name"
        )
    if blob not in places:
        places[blob] = len(network.blobs)
        network.blobs.append(blob)
    return places[blob]
