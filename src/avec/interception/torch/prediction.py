"""What an operator's results will be, before anybody has computed them: asked of torch's meta kernels.

torch has meta kernels in C++ for its structured operators: the very code that a GPU's kernels begin with. On import it
hides them behind Python ones, made for symbolic shapes, which take fifty times as long; here they are brought to light
again, for predictions alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch._meta_registrations as registrations

from avec.errors import UnsupportedOperation

from .predictors import PREDICTORS
from .schemas import Operator

NUMBER = bool | int | float | complex
_META = torch._C.DispatchKey.Meta
_META_KEYS = torch._C.DispatchKeySet(_META)
_LIBRARY = "_meta_lib_dont_use_me_use_register_meta"  # torch's own Library of its Python meta kernels


class Predictor:
    """Predicts results by meta kernels."""

    def __init__(self) -> None:
        self._native = _native_kernels()

    def predict(
        self, operator: Operator, args: Sequence[object], kwargs: Mapping[str, object]
    ) -> tuple[object, list[tuple[torch.Tensor, torch.Tensor]]]:
        """Tell what comes out, as meta tensors, and what becomes of each tensor that is written to.

        Raises:
            NotImplementedError: shapes depend on elements, or torch does not know.
            Exception: what torch raises for a call like this: at once, not when the destination gets to it.
        """
        metas = [on_meta(each) for each in args]
        named = {name: on_meta(each) for name, each in kwargs.items()}
        own = PREDICTORS.get(operator.name)
        predicted = NotImplemented if own is None else own(*metas, **named)
        if predicted is NotImplemented:
            native = self._native.get(operator.qualified_name)
            if native is not None:
                predicted = native(_META_KEYS, *without_numbers(operator, metas), **named)
            else:
                predicted = operator.overload(*metas, **named)
        written = []
        for where in operator.written:
            pairs = zip(_several(_given(where, args, kwargs)), _several(_given(where, metas, named)), strict=True)
            for given, meta in pairs:
                if isinstance(given, torch.Tensor) and isinstance(meta, torch.Tensor) and given.is_cuda:
                    written.append((given, meta))
        return predicted, written


def _several(value: object) -> Sequence[object]:
    return value if isinstance(value, list | tuple) else (value,)


def without_numbers(operator: Operator, args: Sequence[object]) -> list[object]:
    """Arguments for a kernel that takes tensors where an operator takes numbers as well."""
    like = next((each for each in args if isinstance(each, torch.Tensor)), None)
    return [
        zero_dimensional(each, like) if place in operator.tensors and isinstance(each, NUMBER) else each
        for place, each in enumerate(args)
    ]


def zero_dimensional(value: float | complex, like: torch.Tensor | None) -> torch.Tensor:
    """A number as a tensor of the host's that takes part in promotion as the number would."""
    dtype = None if like is None else torch.result_type(torch.empty(0, dtype=like.dtype), value)
    return torch.scalar_tensor(value, dtype=dtype, device="cpu")


def _given(where: int | str, args: Sequence[object], kwargs: Mapping[str, object]) -> object:
    if isinstance(where, str):
        return kwargs.get(where)
    return args[where] if where < len(args) else None


def _native_kernels() -> dict[str, Callable[..., Any]]:
    """Find the C++ meta kernels: take torch's Python ones away, look, and put them back as they were.

    Raises:
        UnsupportedOperation: this torch keeps its meta kernels elsewhere.
    """
    try:
        library: torch.library.Library = getattr(registrations, _LIBRARY)
        operators = [_operator_of(key) for key in sorted(library._op_impls)]
        kernels = [operator.py_kernels[_META] for operator in operators]
    except (AttributeError, KeyError) as exc:
        raise UnsupportedOperation(
            f"torch {torch.__version__} keeps its meta kernels in a way that AVEC does not know ({exc!r}); AVEC was"
            " tested with torch 2.11 to 2.15"
        ) from exc
    library._destroy()  # type: ignore[no-untyped-call]
    native = {
        name: torch.library.get_kernel(name, "Meta").call_boxed
        for name in torch._C._dispatch_get_registrations_for_dispatch_key("Meta")
        if name.startswith("aten::")
    }
    restored = torch.library.Library("aten", "IMPL", "Meta")  # type: ignore[no-untyped-call]
    setattr(registrations, _LIBRARY, restored)
    for operator, kernel in zip(operators, kernels, strict=True):
        restored.impl(operator, kernel)  # type: ignore[no-untyped-call]
    return native


def _operator_of(key: str) -> Any:
    """The operator of a key of Library._op_impls, "aten/add.Tensor/Meta"."""
    namespace, name, _ = key.split("/")
    return Operator.named(name, namespace).overload


def on_meta(value: object) -> object:
    """An argument as the meta kernels take it: tensors without memory."""
    match value:
        case torch.Tensor():
            if value.device.type == "meta" or (value.device.type == "cpu" and value.dim() == 0):
                return value
            meta = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
            if value.is_conj():
                meta = meta.conj()
            return torch._neg_view(meta) if value.is_neg() else meta
        case list() | tuple() if type(value) in (list, tuple):
            return type(value)(on_meta(each) for each in value)
        case torch.device():
            return torch.device("meta")
        case torch.Generator():
            return None
    return value
