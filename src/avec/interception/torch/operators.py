"""Which operators a CUDA build of this torch has kernels for, read from the list that ships in torch's wheel.

torchgen generates torch's registrations from native_functions.yaml and packages that file, in CPU builds too. Kernels
for exactly these operators make torch decompose the others as it would on a GPU. The file is read line by line: the
host needs no YAML parser for the few shapes of line that it has. Not here: the kernels.
"""

from __future__ import annotations

import functools
import importlib.util
import re
from pathlib import Path

import torch

from avec.errors import UnsupportedOperation

YAML_PATH = Path("packaged", "ATen", "native", "native_functions.yaml")  # in the package torchgen

_ENTRY = re.compile(r"^- func: ([\w.]+)\(", re.MULTILINE)
_DELEGATE = re.compile(r"^  structured_delegate: ([\w.]+)", re.MULTILINE)
_UFUNC = re.compile(r"^  ufunc_inner_loop:", re.MULTILINE)
_DISPATCH = re.compile(r"^  dispatch:.*\n((?:(?:    .*| *#.*|)\n)*)", re.MULTILINE)
_DISPATCH_KEYS = re.compile(r"^    (\w[\w, ]*):", re.MULTILINE)


def cuda_operators() -> tuple[str, ...]:
    """Return the operators with a kernel on the key CUDA, as "add.Tensor", in the file's order."""
    return registered_operators("CUDA")


def sparse_cuda_operators() -> tuple[str, ...]:
    """Return the operators with a kernel on the key SparseCUDA."""
    return registered_operators("SparseCUDA")


def sparse_csr_cuda_operators() -> tuple[str, ...]:
    """Return the operators with a kernel on the key SparseCsrCUDA."""
    return registered_operators("SparseCsrCUDA")


def nested_cuda_operators() -> tuple[str, ...]:
    """Return the operators with a kernel on the key NestedTensorCUDA."""
    return registered_operators("NestedTensorCUDA")


def registered_operators(key: str) -> tuple[str, ...]:
    """Return the aten operators for which torch's own sources have a kernel on a dispatch key, in the file's order."""
    return _registrations().get(key, ())


def registered_together(first: str, second: str) -> tuple[str, ...]:
    """Return the operators whose kernels on two dispatch keys are one function, in the file's order."""
    names = []
    for name, listed in _functions():
        if first in listed and second in listed and {first, second} <= {key.strip() for key in listed.split(",")}:
            names.append(name)
    return tuple(names)


@functools.cache
def _functions() -> tuple[tuple[str, str], ...]:
    """Each operator and the dispatch keys of a function of it."""
    text = _text()
    starts = [*_ENTRY.finditer(text)]
    dispatches = (
        (entry[1], _DISPATCH.search(text[entry.end() : following.start() if following else len(text)]))
        for entry, following in zip(starts, [*starts[1:], None], strict=True)
    )
    return tuple((name, line[1]) for name, found in dispatches if found for line in _DISPATCH_KEYS.finditer(found[1]))


def conjugate_aware(name: str) -> bool:
    """Whether an operator's kernels get tensors that are conjugated lazily; others get them resolved."""
    return _falls_through(name, "Conjugate")


def negative_aware(name: str) -> bool:
    """Whether an operator's kernels get tensors that are negated lazily; others get them resolved."""
    return _falls_through(name, "Negative")


def _falls_through(name: str, key: str) -> bool:
    qualified = f"aten::{name}"
    return torch._C._dispatch_has_kernel_for_dispatch_key(
        qualified, key
    ) and torch._C._dispatch_kernel_for_dispatch_key_is_fallthrough(qualified, key)


@functools.cache
def _registrations() -> dict[str, tuple[str, ...]]:
    return parse(_text())


def _text() -> str:
    try:
        return _yaml_path().read_text(encoding="utf-8")
    except OSError as exc:
        raise UnsupportedOperation(f"torch {torch.__version__}: its list of operators cannot be read: {exc}") from exc


def parse(text: str) -> dict[str, tuple[str, ...]]:
    """Return which operators have a kernel on which dispatch key.

    A structured operator is written once, for its `out` variant; the variants that delegate to it get kernels on the
    same dense keys. Source: torchgen.gen.parse_native_yaml, torchgen.dest.RegisterDispatchKey.

    Args:
        text: of native_functions.yaml.
    """
    keys: dict[str, set[str]] = {}
    delegates: dict[str, str] = {}
    starts = [*_ENTRY.finditer(text)]
    for entry, following in zip(starts, [*starts[1:], None], strict=True):
        body = text[entry.end() : following.start() if following else len(text)]
        name = entry[1]
        keys[name] = _keys_of(body)
        if delegate := _DELEGATE.search(body):
            delegates[name] = delegate[1]
    for name, delegate_name in delegates.items():
        keys[name] |= keys[delegate_name] & STRUCTURED_KEYS
    found: dict[str, list[str]] = {}
    for name, its_keys in keys.items():
        for key in its_keys:
            found.setdefault(key, []).append(name)
    return {key: tuple(names) for key, names in found.items()}


# Keys whose kernels of a structured operator are generated for all of its variants. Source: torchgen.model.
STRUCTURED_KEYS = frozenset({"CPU", "CUDA", "MPS", "XPU", "MTIA"})


def _keys_of(body: str) -> set[str]:
    keys = {"CPU", "CUDA"} if _UFUNC.search(body) else set()
    if dispatch := _DISPATCH.search(body):
        for line in _DISPATCH_KEYS.finditer(dispatch[1]):
            keys.update(key.strip() for key in line[1].split(","))
    return keys


def _yaml_path() -> Path:
    spec = importlib.util.find_spec("torchgen")
    if spec is None or not spec.submodule_search_locations:
        raise UnsupportedOperation(
            f"torch {torch.__version__}: the package torchgen, which names its operators, is not installed beside it;"
            " install torch from its own wheel"
        )
    return Path(spec.submodule_search_locations[0]) / YAML_PATH
