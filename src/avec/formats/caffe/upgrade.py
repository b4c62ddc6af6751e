"""What old Caffe files become before a net or solver is built: V1 layers, input, transformation, batch-norm fields.

V0 nets (2013) are refused: Caffe's own tools upgrade them. Source: caffe/src/caffe/util/upgrade_proto.cpp.
"""

from __future__ import annotations

from avec.errors import InvalidModel, UnsupportedOperation
from avec.formats.caffe.message import Message, message_class

_SOLVER_TYPES = ("SGD", "Nesterov", "AdaGrad", "RMSProp", "AdaDelta", "Adam")  # by SolverParameter.SolverType
_TRANSFORM_FIELDS = ("scale", "mean_file", "crop_size", "mirror")
_TRANSFORMED = {"DATA": "data_param", "IMAGE_DATA": "image_data_param", "WINDOW_DATA": "window_data_param"}

# V1 type names that are not simply their words in CamelCase.
_TYPE_NAMES = {
    "NONE": "",
    "ABSVAL": "AbsVal",
    "ARGMAX": "ArgMax",
    "BNLL": "BNLL",
    "HDF5_DATA": "HDF5Data",
    "HDF5_OUTPUT": "HDF5Output",
    "LRN": "LRN",
    "MVN": "MVN",
    "RELU": "ReLU",
    "SOFTMAX_LOSS": "SoftmaxWithLoss",
    "TANH": "TanH",
}

# Fields of a V1 layer that go to another place; all others have the same name and type in a V2 layer.
_MOVED = {"type", "param", "blob_share_mode", "blobs_lr", "weight_decay", "layer"}


def upgrade_net(net: Message, source: str) -> None:
    """Bring a NetParameter to today's form, in place.

    Raises:
        UnsupportedOperation: it is a V0 net.
        InvalidModel: it mixes `layer` and `layers`, or its input fields disagree.
    """
    if any(layer.HasField("layer") for layer in net.layers):
        raise UnsupportedOperation(
            f"{source}: this is a V0 net of 2013; convert it with Caffe's upgrade_net_proto_text "
            "or upgrade_net_proto_binary"
        )
    for layer in net.layers:
        _upgrade_transformation(layer)
    if len(net.layers):
        _upgrade_layers(net, source)
    if len(net.input):
        _upgrade_input(net, source)
    for layer in net.layer:
        _upgrade_batch_norm(layer)


def upgrade_solver(settings: Message, source: str) -> None:
    """Bring a SolverParameter to today's form, in place. Source: UpgradeSolverType.

    Raises:
        InvalidModel: it has both `type` and the older `solver_type`.
    """
    if not settings.HasField("solver_type"):
        return
    if settings.HasField("type"):
        raise InvalidModel(f"{source}: type and the older solver_type are both given; keep type")
    settings.type = _SOLVER_TYPES[settings.solver_type]
    settings.ClearField("solver_type")


def _type_name(layer: Message) -> str:
    field = layer.TYPE.by_name["type"]
    assert field.enum is not None
    return field.enum.names[layer.type]


def _upgrade_transformation(layer: Message) -> None:
    """Move scale, mean_file, crop_size and mirror of old data layers to transform_param."""
    holder = _TRANSFORMED.get(_type_name(layer))
    if holder is None or not layer.HasField(holder):
        return
    old = getattr(layer, holder)
    for name in _TRANSFORM_FIELDS:
        if old.HasField(name):
            setattr(layer.transform_param, name, getattr(old, name))
            old.ClearField(name)


def _upgrade_layers(net: Message, source: str) -> None:
    if len(net.layer):
        raise InvalidModel(
            f"{source}: the net has both 'layer' and 'layers'; write all of them as "
            "layer { type: \"…\" } and remove 'layers'"
        )
    for old in net.layers:
        _upgrade_layer(old, net.layer.add())
    net.ClearField("layers")


def _upgrade_layer(old: Message, new: Message) -> None:
    for field, value in old.set_fields():
        if field.name in _MOVED:
            continue
        if field.repeated:
            getattr(new, field.name).extend(value)
        elif field.type == "message":
            getattr(new, field.name).CopyFrom(value)
        else:
            setattr(new, field.name, value)
    if old.HasField("type"):
        name = _type_name(old)
        new.type = _TYPE_NAMES.get(name, "".join(word.capitalize() for word in name.split("_")))
    for old_name, new_name in (
        ("param", "name"),
        ("blob_share_mode", "share_mode"),
        ("blobs_lr", "lr_mult"),
        ("weight_decay", "decay_mult"),
    ):
        for index, value in enumerate(getattr(old, old_name)):
            while len(new.param) <= index:
                new.param.add()
            setattr(new.param[index], new_name, value)


def _upgrade_input(net: Message, source: str) -> None:
    """Turn `input` with `input_shape` or `input_dim` into an Input layer at the front.

    A caffemodel may hold `input` alone: then there is nothing to build and the fields are dropped.
    """
    dims = list(net.input_dim)
    shapes = [list(shape.dim) for shape in net.input_shape]
    shapes = shapes or [dims[at : at + 4] for at in range(0, len(dims) - 3, 4)]
    if shapes or dims:
        if len(shapes) < len(net.input):
            raise InvalidModel(
                f"{source}: {len(net.input)} inputs but shapes for {len(shapes)}: give each input "
                "one input_shape, or four input_dim"
            )
        _insert_input_layer(net, shapes)
    for name in ("input", "input_shape", "input_dim"):
        net.ClearField(name)


def _insert_input_layer(net: Message, shapes: list[list[int]]) -> None:
    layer = message_class("LayerParameter")(name="input", type="Input", top=net.input)
    for shape in shapes[: len(net.input)]:
        layer.input_param.shape.add(dim=shape)
    net.layer.insert(0, layer)


def _upgrade_batch_norm(layer: Message) -> None:
    """Old BatchNorm layers declare three params to fix the statistics; today the layer does that itself."""
    if layer.type == "BatchNorm" and len(layer.param) == 3:
        for param in layer.param:
            param.lr_mult = 0.0
            param.decay_mult = 0.0
