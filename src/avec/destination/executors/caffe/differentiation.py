"""Which layers and blobs of a net take part in its backward pass. Source: caffe/src/caffe/net.cpp, Net::Init."""

from __future__ import annotations

from collections.abc import Sequence

from avec.destination.executors.caffe.layers import LAYER_TYPES
from avec.destination.executors.caffe.layers.layer import Layer


def mark(layers: Sequence[Layer], blobs: Sequence[str], force: bool) -> None:
    """Set needs_backward, propagates and learns of every layer; all parameters are known.

    Raises:
        InvalidArgument: `propagate_down` is not given once for each bottom.
    """
    _mark_forwards(layers)
    _mark_backwards(layers, blobs)
    if force:
        _force(layers)


def _mark_forwards(layers: Sequence[Layer]) -> None:
    """What learns, and all that is computed from what learns."""
    reached: set[int] = set()
    for layer in layers:
        down = tuple(layer.definition.propagate_down)
        layer.require(
            len(down) in (0, len(layer.bottoms)),
            f"propagate_down is given {len(down)} times for {len(layer.bottoms)} bottoms: give it once for each",
        )
        declared = layer.definition.param
        layer.propagates = down or tuple(place in reached for place in layer.bottoms)
        layer.learns = tuple(
            index >= len(declared) or declared[index].lr_mult != 0 for index in range(len(layer.parameters))
        )
        layer.needs_backward = any(layer.learns) or any(place in reached for place in layer.bottoms)
        if layer.needs_backward:
            reached.update(layer.tops)


def _mark_backwards(layers: Sequence[Layer], blobs: Sequence[str]) -> None:
    """Leave out what contributes to no loss, and what nothing is propagated to; by the blobs' names, as in Caffe."""
    under_loss: set[str] = set()
    skipped: set[str] = set()
    for layer in reversed(layers):
        contributes, skips = False, True
        for place, top in enumerate(layer.tops):
            lossy = bool(layer.loss_weights) and layer.loss_weights[place] != 0
            contributes = contributes or lossy or blobs[top] in under_loss
            skips = skips and blobs[top] in skipped
            if contributes and not skips:
                break
        if layer.needs_backward and skips:
            layer.needs_backward = False
            layer.propagates = (False,) * len(layer.bottoms)
        layer.needs_backward = layer.needs_backward and contributes
        if contributes:
            under_loss.update(blobs[place] for place in layer.bottoms)
        else:
            layer.propagates = (False,) * len(layer.bottoms)
        skipped.update(blobs[place] for place, down in zip(layer.bottoms, layer.propagates, strict=True) if not down)


def _force(layers: Sequence[Layer]) -> None:
    for layer in layers:
        forced = LAYER_TYPES[layer.type].forced
        layer.needs_backward = True
        layer.propagates = tuple(
            down or forced is None or place in forced for place, down in enumerate(layer.propagates)
        )
        layer.learns = (True,) * len(layer.parameters)
