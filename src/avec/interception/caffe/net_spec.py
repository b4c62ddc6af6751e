"""Nets written in Python: `layers` makes tops, NetSpec names them, to_proto gives the NetParameter.

    n = NetSpec()
    n.data = layers.Input(shape=dict(dim=[1, 3, 8, 8]))
    n.pool = layers.Pooling(n.data, kernel_size=2, pool=params.Pooling.MAX)
    n.to_proto()

Source: caffe/python/caffe/net_spec.py; keys, vals and update are those of the SSD branch of Caffe.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, MutableMapping
from typing import Any, TypeAlias

from avec.formats.caffe.schema import MESSAGES

from .proto import caffe_pb2

Message: TypeAlias = Any  # a message of caffe_pb2
Layers_: TypeAlias = "OrderedDict[Function, Message]"
Names: TypeAlias = "MutableMapping[Top | Function, str]"


def param_name_dict() -> dict[str, str]:
    """The layer types that have parameters of their own, with the names of these: "InnerProduct": "inner_product"."""
    fields = [field for field in MESSAGES["LayerParameter"].fields if field.name.endswith("_param")]
    return {field.message.removesuffix("Parameter"): field.name.removesuffix("_param") for field in fields}


def to_proto(*tops: Top) -> Message:
    """The NetParameter with all layers that are needed for these tops; blobs are named after their layers' types."""
    return _net(tops, {})


def assign_proto(proto: Message, name: str, val: Any) -> None:
    """Set a field of a message from plain values.

    Args:
        val: a dict for a message, a list for a repeated field (one value alone stands for a list of it).
    """
    if hasattr(getattr(proto, name), "extend") and not isinstance(val, list):
        val = [val]
    if isinstance(val, dict):
        for key, value in val.items():
            assign_proto(getattr(proto, name), key, value)
    elif not isinstance(val, list):
        setattr(proto, name, val)
    elif val and isinstance(val[0], dict):
        for item in val:
            added = getattr(proto, name).add()
            for key, value in item.items():
                assign_proto(added, key, value)
    else:
        getattr(proto, name).extend(val)


class Top:
    """One output of a layer: the `n`th of `fn`."""

    def __init__(self, fn: Function, n: int) -> None:
        self.fn = fn
        self.n = n

    def to_proto(self) -> Message:
        """The NetParameter with all layers that are needed for this top."""
        return to_proto(self)

    def _to_proto(self, layers: Layers_, names: Names, autonames: Counter[str]) -> None:
        self.fn._to_proto(layers, names, autonames)

    def _update(self, params: dict[str, Any]) -> None:
        self.fn._update(params)


class Function:
    """One layer: its type, the tops that it reads, its parameters, the tops that it makes."""

    def __init__(self, type_name: str, inputs: Iterable[Top], params: dict[str, Any]) -> None:
        """Take parameters as keywords; `ntop` (1 by default) and `in_place` are not the layer's own."""
        self.type_name = type_name
        self.inputs = tuple(inputs)
        for place, given in enumerate(self.inputs):
            if not isinstance(given, Top):
                raise TypeError(f"{type_name} input {place} is not a Top (type is {type(given)})")
        self.ntop: int = params.pop("ntop", 1)
        self.in_place: bool = params.pop("in_place", False)
        self.params = params
        self.tops = tuple(Top(self, n) for n in range(self.ntop))

    def _update(self, params: dict[str, Any]) -> None:
        self.params.update(params)

    def _get_name(self, names: Names, autonames: Counter[str]) -> str:
        if self not in names:
            names[self] = self._get_top_name(self.tops[0], names, autonames) if self.ntop else self._next(autonames)
        return names[self]

    def _get_top_name(self, top: Top, names: Names, autonames: Counter[str]) -> str:
        if top not in names:
            names[top] = top.fn._next(autonames)
        return names[top]

    def _next(self, autonames: Counter[str]) -> str:
        autonames[self.type_name] += 1
        return f"{self.type_name}{autonames[self.type_name]}"

    def _to_proto(self, layers: Layers_, names: Names, autonames: Counter[str]) -> None:
        """Add the layers that this one needs, then itself; without recursion, for nets are deep."""
        waiting = [self]
        while waiting:
            missing = [top.fn for top in waiting[-1].inputs if top.fn not in layers]
            if missing:
                waiting.append(missing[0])
                continue
            function = waiting.pop()
            if function not in layers:
                layers[function] = function._layer(layers, names, autonames)

    def _layer(self, layers: Layers_, names: Names, autonames: Counter[str]) -> Message:
        layer = caffe_pb2.LayerParameter()
        layer.type = self.type_name
        layer.bottom.extend([layers[top.fn].top[top.n] for top in self.inputs])
        layer.top.extend(
            layer.bottom if self.in_place else [self._get_top_name(top, names, autonames) for top in self.tops]
        )
        layer.name = self._get_name(names, autonames)
        for name, value in self.params.items():
            assign_proto(self._holder(layer, name), name, value)
        return layer

    def _holder(self, layer: Message, name: str) -> Message:
        """The message that a parameter belongs to: the one of the layer's type if it has the field, else the layer."""
        own = _param_names.get(self.type_name)
        if own is None or name.endswith("param"):
            return layer
        parameters = getattr(layer, f"{own}_param")
        return parameters if hasattr(parameters, name) else layer


def _net(tops: Iterable[Top | Function], names: Names) -> Message:
    layers: Layers_ = OrderedDict()
    autonames: Counter[str] = Counter()
    for top in tops:
        top._to_proto(layers, names, autonames)
    net = caffe_pb2.NetParameter()
    net.layer.extend(layers.values())
    return net


class UnknownTop(AttributeError, KeyError):
    """A NetSpec has no top of this name. pycaffe raises KeyError; hasattr needs AttributeError."""

    __str__ = AttributeError.__str__  # KeyError's would put the text in quotes


class NetSpec:
    """Tops by name: `n.conv1 = layers.Convolution(…)` names the blob and the layer."""

    tops: OrderedDict[str, Top]

    def __init__(self) -> None:
        super().__setattr__("tops", OrderedDict())

    def __setattr__(self, name: str, value: Top) -> None:
        self.tops[name] = value

    def __getattr__(self, name: str) -> Any:
        if name == "tops":  # not there yet, when an instance is copied
            raise AttributeError(name)
        if name in self.tops:
            return self.tops[name]
        if name in _METHODS_OF_SSD:  # looked for last, so that tops may have these names
            return _METHODS_OF_SSD[name].__get__(self)
        raise UnknownTop(f"the NetSpec has no top {name!r}")

    def __setitem__(self, key: str, value: Top) -> None:
        setattr(self, key, value)

    def __getitem__(self, item: str) -> Any:
        return self.__getattr__(item)

    def to_proto(self) -> Message:
        """The NetParameter with all layers that are needed for the tops; what has no name is named after its type."""
        return _net(self.tops.values(), {top: name for name, top in self.tops.items()})


def _keys(spec: NetSpec) -> list[str]:
    return list(spec.tops)


def _vals(spec: NetSpec) -> list[Top]:
    return list(spec.tops.values())


def _update(spec: NetSpec, name: str, params: dict[str, Any]) -> None:
    """Change parameters of the layer that makes a top."""
    spec.tops[name]._update(params)


_METHODS_OF_SSD: dict[str, Any] = {"keys": _keys, "vals": _vals, "update": _update}


class Layers:
    """`layers.Convolution(bottom, …)` makes a layer of that type and gives its tops: one, a tuple, or the Function."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):
            raise AttributeError(name)

        def layer_fn(*args: Top, **kwargs: Any) -> Function | Top | tuple[Top, ...]:
            function = Function(name, args, kwargs)
            if function.ntop == 0:
                return function
            return function.tops[0] if function.ntop == 1 else function.tops

        return layer_fn


class Parameters:
    """`params.Pooling.MAX` is the value of an enum of PoolingParameter."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Param(name)


class _Param:
    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        return getattr(getattr(caffe_pb2, f"{self._name}Parameter"), name)


_param_names = param_name_dict()
layers = Layers()
params = Parameters()
