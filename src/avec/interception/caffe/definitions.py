"""What the host itself has to know of a net's prototxt: the settings of layers that it runs, and what Caffe saves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from avec.errors import InvalidModel
from avec.formats.caffe.caffemodel import as_built
from avec.formats.caffe.filter import filter_net
from avec.formats.caffe.message import Message, message_class
from avec.formats.caffe.upgrade import upgrade_net


@dataclass(frozen=True, slots=True)
class Definition:
    """A NetParameter as Caffe has it once the net is built; it is read when it is needed first."""

    source: str  # for messages
    read: Callable[[], Message]


def net_definition(prototxt: bytes, source: str, phase: str, level: int, stages: Sequence[str]) -> Definition:
    """A net in the caller's state. Source: Net::Net(param_file, …)."""

    @cache
    def read() -> Message:
        net = parse(prototxt, source)
        net.state.phase = phase
        net.state.level = level
        net.state.stage.extend(stages)
        return finish(net, source)

    return Definition(source, read)


def parse(prototxt: bytes, source: str) -> Message:
    """Read a NetParameter in today's form.

    Raises:
        InvalidModel: it cannot be read.
    """
    try:
        text = prototxt.decode()
    except UnicodeDecodeError as exc:
        raise InvalidModel(f"{source}: byte {exc.start} is not UTF-8: this is not prototxt") from exc
    net = message_class("NetParameter").from_text(text, source)
    upgrade_net(net, source)
    return net


def named_files(prototxt: bytes, source: str) -> tuple[str, ...]:
    """The files that the destination has to have beside a net: matrices of InfogainLoss.

    Raises:
        InvalidModel: the prototxt cannot be read.
    """
    if b"infogain_loss_param" not in prototxt:
        return ()
    losses = [
        layer for layer in parse(prototxt, source).layer if layer.type == "InfogainLoss" and len(layer.bottom) < 3
    ]
    return tuple(
        dict.fromkeys(layer.infogain_loss_param.source for layer in losses if layer.infogain_loss_param.source)
    )


def finish(net: Message, source: str) -> Message:
    """Choose the layers of the net's state, and insert what Caffe does."""
    filter_net(net, source)
    return as_built(net, source)
