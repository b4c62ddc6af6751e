"""From a prototxt and a caffemodel to a net on the accelerator."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from avec.destination.accelerators import Accelerator
from avec.destination.executors.caffe.aligned import align
from avec.destination.executors.caffe.differentiation import mark
from avec.destination.executors.caffe.layers import LAYER_TYPES
from avec.destination.executors.caffe.layers.elementwise import constant_filler
from avec.destination.executors.caffe.layers.fillers import fill
from avec.destination.executors.caffe.layers.layer import Layer, Learnable, ParameterSpec, Shape
from avec.destination.executors.caffe.layers.shaping import input_shapes
from avec.destination.executors.caffe.model import CaffeModel
from avec.destination.executors.caffe.network import Network, connect, read_net
from avec.destination.executors.caffe.plan import Plan, check_shape, is_out_of_memory
from avec.destination.executors.caffe.weights import copy_weights, in_place, read_weights
from avec.errors import AcceleratorOutOfMemory, InvalidArgument, InvalidModel
from avec.formats.caffe.message import Message, message_class
from avec.protocol.caffe import BlobDescription, LayerDescription, LoadNet, NetDescription, ParameterDescription

FILLER_SEED = 1701  # any fixed number: a net without weights is the same net each time it is loaded


def build(
    request: LoadNet,
    prototxt: bytes,
    weights: Path | None,
    accelerator: Accelerator,
    files: Mapping[str, bytes],
) -> tuple[CaffeModel, NetDescription]:
    """Build a net with its weights, as far as it can be built without the host.

    Raises:
        InvalidModel: the prototxt or the caffemodel is wrong, or they do not fit each other.
        UnsupportedOperation: the net needs what is not carried out here.
        AcceleratorOutOfMemory: there is no room for it.
    """
    net = read_net(prototxt, request)
    weights_source = request.weights_source or "the caffemodel"
    if weights is None:
        return build_net(net, request.source, accelerator, request.seed, files)
    saved = read_weights(weights, weights_source)
    aligned = accelerator.models is not None and align(saved, weights, accelerator.models)
    return build_net(net, request.source, accelerator, request.seed, files, saved, weights_source, aligned)


def build_net(
    net: Message,
    source: str,
    accelerator: Accelerator,
    seed: int,
    files: Mapping[str, bytes],
    saved: Message | None = None,
    weights_source: str = "",
    aligned: bool = False,
) -> tuple[CaffeModel, NetDescription]:
    """Build a net from its NetParameter, whose state is final; see `build`.

    Args:
        saved: the caffemodel.
        aligned: its arrays are the net's from now on.
    """
    try:
        network = connect(net, source)
    except InvalidArgument as exc:
        raise InvalidModel(f"{source}: {exc}") from exc
    for layer in network.layers:
        layer.files = files
    builder = Builder(network, source, accelerator, FILLER_SEED if seed < 0 else seed, saved, weights_source, aligned)
    model = CaffeModel(network.blobs, network.layers, builder.plan, accelerator, builder, network.outputs)
    return model, model.build()


class Builder:
    """Goes through a net once, giving each layer its parameters and its shapes; pauses at the host's layers."""

    def __init__(
        self,
        network: Network,
        source: str,
        accelerator: Accelerator,
        seed: int,
        saved: Message | None,
        weights: str,
        aligned: bool,
    ) -> None:
        self._network = network
        self._source = source
        self._device = accelerator.device
        self._generator = torch.Generator().manual_seed(seed)
        self._random = torch.Generator(self._device).manual_seed(seed)
        self._weights, self._weights_source, self._aligned = saved, weights, aligned
        self._saved: dict[str, Message] = {}  # layers of the caffemodel whose parameters are still to be given
        for layer in saved.layer if saved else ():
            if len(layer.blobs):
                self._saved.setdefault(layer.name, layer)
        self._named: dict[str, tuple[Layer, int]] = {}  # the owners of parameters that layers share by name
        self._owners: dict[tuple[int, int], tuple[int, int]] = {}
        self._next = 0
        self.plan = Plan(network.layers, [()] * len(network.blobs), self._device)

    @property
    def complete(self) -> bool:
        return self._next == len(self._network.layers)

    def set_up(self, tops: Sequence[Shape], parameters: Sequence[Shape], loss_weights: tuple[float, ...]) -> None:
        """Take what the awaited layer of the host's turned out to be.

        Raises:
            InvalidArgument: no layer is awaited, or it has another number of tops.
        """
        if self.complete:
            raise InvalidArgument(f"{self._source}: the net is complete and awaits no layer")
        layer = self._network.layers[self._next]
        layer.require(len(tops) == len(layer.tops), f"set up with {len(tops)} tops; it has {len(layer.tops)}")
        for place, shape in zip(layer.tops, tops, strict=True):
            self.plan.set_shape(place, shape)
        layer.loss_weights = loss_weights or layer.loss_weights
        self._give_parameters(layer, [ParameterSpec(shape, constant_filler(0.0)) for shape in parameters])
        self._next += 1

    def go_on(self) -> NetDescription:
        """Build up to the next layer of the host's, or to the end.

        Raises:
            InvalidModel: a layer is wrong.
            AcceleratorOutOfMemory: there is no room for its parameters.
        """
        try:
            while not self.complete and not self._network.layers[self._next].external:
                self._build_one(self._next)
                self._next += 1
            if self.complete:
                mark(self._network.layers, self._network.blobs, self._network.force_backward)
        except InvalidArgument as exc:
            raise InvalidModel(f"{self._source}: {exc}") from exc
        except (RuntimeError, MemoryError) as exc:
            if not is_out_of_memory(exc):
                raise
            raise AcceleratorOutOfMemory(f"{self._source}: no room for its parameters: {exc}") from exc
        if self.complete:
            self._copy_weights()
        return self._describe()

    def _build_one(self, index: int) -> None:
        layer = self._network.layers[index]
        layer.random, layer.filling = self._random, self._generator
        if layer.type == "Input":
            for place, shape in zip(layer.tops, input_shapes(layer), strict=True):
                self.plan.set_shape(place, shape)
        bottoms = [self.plan.shapes[place] for place in layer.bottoms]
        self._give_parameters(layer, LAYER_TYPES[layer.type].parameters(layer, bottoms))
        self.plan.propagate_one(index)

    def _copy_weights(self) -> None:
        for layer in self._network.layers:
            _copy_own_blobs(layer, self._source)
        if self._weights is not None:
            copy_weights(self._network.layers, self._weights, self._weights_source)
            self._weights = None
            self._saved.clear()

    def _give_parameters(self, layer: Layer, specs: list[ParameterSpec]) -> None:
        declared = layer.definition.param
        layer.require(
            len(declared) <= len(specs), f"{len(declared)} param entries for {len(specs)} learnable parameters"
        )
        saved = self._saved.pop(layer.name, None)  # for the first layer of that name, as in Caffe
        for index, spec in enumerate(specs):
            declaration = declared[index] if index < len(declared) else None
            learnable = self._learnable(layer, index, spec, declaration, saved)
            layer.learnables.append(learnable)
            layer.parameters.append(learnable.values.view(spec.shape))

    def _learnable(
        self, layer: Layer, index: int, spec: ParameterSpec, declared: Message | None, saved: Message | None
    ) -> Learnable:
        check_shape(f"{layer.kind}: a parameter", spec.shape)
        if declared is not None and declared.name in self._named:
            return self._share(layer, index, spec.shape, declared)
        if saved is not None:  # the caffemodel is about to overwrite it
            values = self._saved_or_empty(layer, saved, index, spec.shape)
        else:
            values = self._filled(layer, spec)
        if declared is not None and declared.name:
            self._named[declared.name] = (layer, index)
        if LAYER_TYPES[layer.type].fixed_parameters:
            layer.require(declared is None or declared.lr_mult == 0, "lr_mult of its statistics must be 0")
            return Learnable(values, rate=0.0)
        return Learnable(values) if declared is None else Learnable(values, None, declared.lr_mult, declared.decay_mult)

    def _saved_or_empty(self, layer: Layer, saved: Message, index: int, shape: Shape) -> Tensor:
        # Where something else is written first, it would be written into the caffemodel's values.
        written = len(layer.definition.blobs) or any(declared.name for declared in layer.definition.param)
        found = in_place(saved, index, shape) if self._aligned and not written else None
        return torch.empty(shape, device=self._device) if found is None else found

    def _filled(self, layer: Layer, spec: ParameterSpec) -> Tensor:
        try:
            return fill(spec.filler, spec.shape, self._generator).to(self._device)
        except InvalidArgument as exc:
            layer.refuse(str(exc))

    def _share(self, layer: Layer, index: int, shape: Shape, declared: Message) -> Learnable:
        """Use another layer's parameter of the same name. Source: Net::AppendParam."""
        owner, place = self._named[declared.name]
        learnable = owner.learnables[place]
        found = tuple(owner.parameters[place].shape)
        permissive = declared.share_mode == declared.PERMISSIVE
        layer.require(
            math.prod(found) == math.prod(shape) if permissive else found == shape,
            f"it shares parameter {declared.name!r} with layer {owner.name!r}, but needs shape {shape} "
            f"where that has {found}",
        )
        for field, present in (("lr_mult", learnable.rate), ("decay_mult", learnable.decay)):
            if declared.HasField(field):
                self._agree(layer, owner.definition.param[place], declared, field, present)
                setattr(learnable, "rate" if field == "lr_mult" else "decay", getattr(declared, field))
        layers = self._network.layers
        at = next(number for number, each in enumerate(layers) if each is layer)
        self._owners[at, index] = (next(n for n, each in enumerate(layers) if each is owner), place)
        return learnable

    def _agree(self, layer: Layer, owner: Message, declared: Message, field: str, present: float) -> None:
        value = getattr(declared, field)
        layer.require(
            not owner.HasField(field) or value == present,
            f"shared parameter {declared.name!r} has {field} {value} here and {present} before",
        )

    def _describe(self) -> NetDescription:
        network = self._network
        known = network.layers[: self._next + 1]
        layers = tuple(self._describe_layer(place, layer) for place, layer in enumerate(known))
        blobs = tuple(BlobDescription(name, shape) for name, shape in zip(network.blobs, self.plan.shapes, strict=True))
        awaiting = -1 if self.complete else self._next
        return NetDescription(network.name, layers, blobs, network.inputs, network.outputs, awaiting)

    def _describe_layer(self, place: int, layer: Layer) -> LayerDescription:
        kind = LAYER_TYPES[layer.type]
        parameters = tuple(
            ParameterDescription(tuple(parameter.shape), self._owners.get((place, index), (-1, -1)))
            for index, parameter in enumerate(layer.parameters)
        )
        return LayerDescription(
            layer.name,
            layer.type,
            layer.bottoms,
            layer.tops,
            parameters,
            layer.external,
            kind.shares_memory(layer),
            layer.loss_weights,
            layer.needs_backward,
            layer.propagates,
            kind.fixed_parameters and layer.training,
            _remembers(layer),
        )


def _remembers(layer: Layer) -> bool:
    """Whether a forward pass depends on those before it."""
    always = layer.type in ("DummyData", "RNN", "LSTM")
    return always or (layer.training and layer.type in ("Dropout", "Pooling"))


def _copy_own_blobs(layer: Layer, source: str) -> None:
    """A layer's definition may hold its parameters, as a caffemodel's does."""
    if len(layer.definition.blobs):
        own = message_class("NetParameter")()
        own.layer.add().CopyFrom(layer.definition)
        copy_weights([layer], own, source)
