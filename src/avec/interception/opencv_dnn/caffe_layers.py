"""The layers of a Caffe net as OpenCV numbers and names them: inputs are no layers, nor are Caffe's automatic splits.

Layer 0 stands for all inputs. Source: CaffeImporter::populateNet in opencv/modules/dnn/src/caffe/caffe_importer.cpp.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from avec.protocol.caffe import LayerDescription, NetDescription

INPUT_NAME = "_input"
INPUT_TYPE = "__NetInputLayer__"
_NO_LAYERS = frozenset({"Input", "Split"})


class NotFound(Exception):
    """No layer or input has this name or number.

    `code` is what OpenCV's error has; `asked` is a method of a net with arguments that would raise that error.
    """

    def __init__(self, text: str, code: int, asked: tuple[str, tuple[object, ...]]) -> None:
        super().__init__(text)
        self.code = code
        self.asked = asked


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer: its number in OpenCV, its place in the destination's net, what that says of it."""

    number: int
    place: int
    described: LayerDescription


class Layers:
    """All layers of one net."""

    def __init__(self, description: NetDescription) -> None:
        places = [place for place, layer in enumerate(description.layers) if layer.type not in _NO_LAYERS]
        self.all = [Layer(number, place, description.layers[place]) for number, place in enumerate(places, 1)]
        self.inputs = {description.blobs[index].name: index for index in description.inputs}
        self._numbers = {layer.described.name: layer.number for layer in self.all}
        self._description = description

    def find(self, layer: object) -> Layer:
        """A layer by its number or its name.

        Raises:
            NotFound: there is none.
        """
        if isinstance(layer, str):
            number = self._numbers.get(layer)
            if number is None:
                raise NotFound(f'Requested layer "{layer}" not found', cv2.Error.StsError, ("getParam", (layer,)))
            return self.all[number - 1]
        if isinstance(layer, int) and 0 < layer <= len(self.all):
            return self.all[layer - 1]
        text = f"Layer with requested id={layer} not found"
        raise NotFound(text, cv2.Error.StsObjectNotFound, ("getParam", (layer,)))

    def number(self, name: str) -> int:
        """A layer's number; −1 where there is none. Source: Net::getLayerId."""
        return 0 if name == INPUT_NAME else self._numbers.get(name, -1)

    def input(self, name: str) -> int:
        """The blob that an input is; an empty name is the first one's.

        Raises:
            NotFound: there is none.
        """
        if not name and self.inputs:
            return next(iter(self.inputs.values()))
        if name not in self.inputs:
            text = f'Requested blob "{name}" not found'
            raise NotFound(text, cv2.Error.StsObjectNotFound, ("setInput", (np.zeros(1, np.float32), name)))
        return self.inputs[name]

    def unconnected(self) -> list[Layer]:
        """The layers of whose tops nothing consumes any. Source: Net::getUnconnectedOutLayers."""
        return [layer for layer in self.all if not any(self._is_consumed(layer, top) for top in layer.described.tops)]

    def changes_between(self, layer: Layer, last: int) -> bool:
        """Whether a layer after this one, up to the place `last`, writes into memory of others."""
        between = self._description.layers[layer.place + 1 : last + 1]
        return any(each.shares_memory or set(each.tops) & set(each.bottoms) for each in between)

    def _is_consumed(self, layer: Layer, top: int) -> bool:
        return any(top in later.bottoms for later in self._description.layers[layer.place + 1 :])


def types_of(layers: Sequence[Layer]) -> list[str]:
    """The types of layers, each once, in the order of the alphabet. Source: Net::getLayerTypes."""
    return sorted({layer.described.type for layer in layers} | {INPUT_TYPE})
