"""From a prototxt and a caffemodel to a net on the accelerator."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from avec.destination.accelerators import Accelerator
from avec.destination.executors.caffe.fillers import fill
from avec.destination.executors.caffe.layers import LAYER_TYPES
from avec.destination.executors.caffe.layers.layer import Layer, ParameterSpec, Shape
from avec.destination.executors.caffe.layers.shaping import input_shapes
from avec.destination.executors.caffe.model import CaffeModel
from avec.destination.executors.caffe.network import Network, read_network
from avec.destination.executors.caffe.plan import Plan, check_shape, is_out_of_memory
from avec.destination.executors.caffe.weights import copy_weights, read_weights
from avec.errors import AcceleratorOutOfMemory, InvalidArgument, InvalidModel
from avec.formats.caffe.message import Message, message_class
from avec.protocol.caffe import BlobDescription, LayerDescription, LoadNet, NetDescription, ParameterDescription

FILLER_SEED = 1701  # any fixed number: a net without weights is the same net each time it is loaded


def build(
    request: LoadNet, prototxt: bytes, weights: Path | None, accelerator: Accelerator
) -> tuple[CaffeModel, NetDescription]:
    """Build a net and copy its weights.

    Raises:
        InvalidModel: the prototxt or the caffemodel is wrong, or they do not fit each other.
        UnsupportedOperation: the net needs what is not carried out here.
        AcceleratorOutOfMemory: there is no room for it.
    """
    network = read_network(prototxt, request)
    weights_source = request.weights_source or "the caffemodel"
    saved = read_weights(weights, weights_source) if weights else message_class("NetParameter")()
    try:
        seed = FILLER_SEED if request.seed < 0 else request.seed
        plan = _Builder(network, saved, accelerator.device, seed).build()
    except InvalidArgument as exc:
        raise InvalidModel(f"{request.source}: {exc}") from exc
    except (RuntimeError, MemoryError) as exc:
        if not is_out_of_memory(exc):
            raise
        raise AcceleratorOutOfMemory(f"{request.source}: no room for its parameters: {exc}") from exc
    for layer in network.layers:
        _copy_own_blobs(layer, request.source)
    copy_weights(network.layers, saved, weights_source)
    return CaffeModel(network.blobs, network.layers, plan, accelerator), _describe(network, plan.shapes)


class _Builder:
    """Goes through a net once, giving each layer its parameters and its shapes."""

    def __init__(self, network: Network, saved: Message, device: torch.device, seed: int) -> None:
        self._network = network
        self._device = device
        self._generator = torch.Generator().manual_seed(seed)
        self._saved = {layer.name for layer in saved.layer if len(layer.blobs)}
        self._named: dict[str, tuple[Layer, Tensor]] = {}  # parameters that layers share by name

    def build(self) -> Plan:
        layers = self._network.layers
        plan = Plan(layers, [()] * len(self._network.blobs), self._device)
        for index, layer in enumerate(layers):
            if layer.type == "Input":
                self._give_inputs(layer, plan)
            bottoms = [plan.shapes[place] for place in layer.bottoms]
            layer.parameters = self._parameters(layer, LAYER_TYPES[layer.type].parameters(layer, bottoms))
            plan.propagate_one(index)
        return plan

    def _give_inputs(self, layer: Layer, plan: Plan) -> None:
        for place, shape in zip(layer.tops, input_shapes(layer), strict=True):
            plan.set_shape(place, shape)

    def _parameters(self, layer: Layer, specs: list[ParameterSpec]) -> list[Tensor]:
        declared = layer.definition.param
        layer.require(
            len(declared) <= len(specs), f"{len(declared)} param entries for {len(specs)} learnable parameters"
        )
        return [
            self._parameter(layer, spec, declared[index] if index < len(declared) else None)
            for index, spec in enumerate(specs)
        ]

    def _parameter(self, layer: Layer, spec: ParameterSpec, declared: Message | None) -> Tensor:
        check_shape(f"layer {layer.name!r} ({layer.type}): a parameter", spec.shape)
        if declared is not None and declared.name in self._named:
            return self._share(layer, spec.shape, declared)
        if layer.name in self._saved:  # the caffemodel is about to overwrite it
            tensor = torch.empty(spec.shape, device=self._device)
        else:
            tensor = self._filled(layer, spec)
        if declared is not None and declared.name:
            self._named[declared.name] = (layer, tensor)
        return tensor

    def _filled(self, layer: Layer, spec: ParameterSpec) -> Tensor:
        try:
            return fill(spec.filler, spec.shape, self._generator).to(self._device)
        except InvalidArgument as exc:
            layer.refuse(str(exc))

    def _share(self, layer: Layer, shape: Shape, declared: Message) -> Tensor:
        """Use another layer's parameter of the same name. Source: Net::AppendParam."""
        owner, tensor = self._named[declared.name]
        permissive = declared.share_mode == declared.PERMISSIVE
        fits = tensor.numel() == torch.Size(shape).numel() if permissive else tuple(tensor.shape) == shape
        layer.require(
            fits,
            f"it shares parameter {declared.name!r} with layer {owner.name!r}, but needs shape {shape} "
            f"where that has {tuple(tensor.shape)}",
        )
        return tensor.view(shape)


def _copy_own_blobs(layer: Layer, source: str) -> None:
    """A layer's definition may hold its parameters, as a caffemodel's does."""
    if len(layer.definition.blobs):
        own = message_class("NetParameter")()
        own.layer.add().CopyFrom(layer.definition)
        copy_weights([layer], own, source)


def _describe(network: Network, shapes: list[Shape]) -> NetDescription:
    layers = tuple(
        LayerDescription(
            layer.name,
            layer.type,
            layer.bottoms,
            layer.tops,
            tuple(ParameterDescription(tuple(parameter.shape)) for parameter in layer.parameters),
        )
        for layer in network.layers
    )
    blobs = tuple(BlobDescription(name, shape) for name, shape in zip(network.blobs, shapes, strict=True))
    return NetDescription(network.name, layers, blobs, network.inputs, network.outputs)
