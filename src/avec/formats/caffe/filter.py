"""Which layers of a net take part: `include` and `exclude` rules against a phase, a level and stages.

Source: caffe/src/caffe/net.cpp, Net::FilterNet and Net::StateMeetsRule.
"""

from __future__ import annotations

from avec.errors import InvalidModel
from avec.formats.caffe.message import Message


def filter_net(net: Message, source: str) -> None:
    """Remove, in place, the layers that `net.state` leaves out.

    Raises:
        InvalidModel: a layer has both include and exclude rules.
    """
    for index in reversed(range(len(net.layer))):
        if not _takes_part(net.state, net.layer[index], source):
            del net.layer[index]


def _takes_part(state: Message, layer: Message, source: str) -> bool:
    if len(layer.include) and len(layer.exclude):
        raise InvalidModel(f"{source}: layer {layer.name!r} has include and exclude rules; keep one kind")
    if len(layer.include):
        return any(meets_rule(state, rule) for rule in layer.include)
    return not any(meets_rule(state, rule) for rule in layer.exclude)


def meets_rule(state: Message, rule: Message) -> bool:
    """Whether a NetState meets every condition of a NetStateRule."""
    stages = set(state.stage)
    return (
        (not rule.HasField("phase") or rule.phase == state.phase)
        and (not rule.HasField("min_level") or state.level >= rule.min_level)
        and (not rule.HasField("max_level") or state.level <= rule.max_level)
        and stages.issuperset(rule.stage)
        and stages.isdisjoint(rule.not_stage)
    )
