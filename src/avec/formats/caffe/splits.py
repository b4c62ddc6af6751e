"""Split layers: a blob that several layers read gets one copy for each, under names that pycaffe shows.

Source: caffe/src/caffe/util/insert_splits.cpp.
"""

from __future__ import annotations

from collections import Counter
from typing import TypeAlias

from avec.errors import InvalidModel
from avec.formats.caffe.message import Message, message_class

Top: TypeAlias = tuple[int, int]  # a layer's place, and the top's place in it


def insert_splits(net: Message, source: str) -> Message:
    """Return the net with a Split layer after every top that more than one bottom, or a bottom and a loss, uses.

    Raises:
        InvalidModel: a bottom that no layer before produces.
    """
    sources, uses, losses = _uses(net, source)
    result = message_class("NetParameter")()
    result.CopyFrom(net)
    result.ClearField("layer")
    given: Counter[Top] = Counter()  # how many copies of a top have found their reader
    for index, old in enumerate(net.layer):
        layer = result.layer.add()
        layer.CopyFrom(old)
        for place, blob in enumerate(old.bottom):
            top = sources[index, place]
            if uses[top] > 1:
                layer.bottom[place] = _blob_name(net, top, blob, given[top])
                given[top] += 1
        for place, blob in enumerate(old.top):
            top = (index, place)
            if uses[top] < 2:
                continue
            loss = losses.get(top, 0.0)
            _add_split(result, net, top, blob, uses[top], loss)
            if loss:
                layer.ClearField("loss_weight")
                given[top] += 1
    return result


def _uses(net: Message, source: str) -> tuple[dict[tuple[int, int], Top], Counter[Top], dict[Top, float]]:
    """Say for each bottom which top it reads, for each top how often it is used, and its explicit loss weight."""
    producer: dict[str, Top] = {}
    sources: dict[tuple[int, int], Top] = {}
    uses: Counter[Top] = Counter()
    losses: dict[Top, float] = {}
    for index, layer in enumerate(net.layer):
        for place, blob in enumerate(layer.bottom):
            if blob not in producer:
                raise InvalidModel(
                    f"{source}: layer {layer.name!r} reads blob {blob!r} (bottom {place}), "
                    "which no layer before it produces; correct the name, or the order of the layers"
                )
            sources[index, place] = producer[blob]
            uses[producer[blob]] += 1
        for place, blob in enumerate(layer.top):
            producer[blob] = (index, place)
        for blob, weight in zip(layer.top, layer.loss_weight, strict=False):
            losses[producer[blob]] = weight
            uses[producer[blob]] += weight != 0
    return sources, uses, losses


def _split_name(net: Message, top: Top, blob: str) -> str:
    return f"{blob}_{net.layer[top[0]].name}_{top[1]}_split"


def _blob_name(net: Message, top: Top, blob: str, copy: int) -> str:
    return f"{_split_name(net, top, blob)}_{copy}"


def _add_split(result: Message, net: Message, top: Top, blob: str, copies: int, loss: float) -> None:
    split = result.layer.add(name=_split_name(net, top, blob), type="Split", bottom=[blob])
    for copy in range(copies):
        split.top.append(_blob_name(net, top, blob, copy))
        if loss:
            split.loss_weight.append(loss if copy == 0 else 0.0)
