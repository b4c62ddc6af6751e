"""The list of operators that a CUDA build has kernels for, against torchgen's own reading of the same file."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch

from avec.errors import UnsupportedOperation
from avec.interception.torch import operators


@pytest.fixture(scope="module")
def by_torchgen() -> dict[str, set[str]]:
    """Dispatch key → operators that torchgen generates a registration for."""
    pytest.importorskip("yaml", reason="torchgen's own parser needs PyYAML")
    gen = importlib.import_module("torchgen.gen")
    model = importlib.import_module("torchgen.model")
    packaged = Path(str(gen.__file__)).parent / "packaged" / "ATen" / "native"
    parsed = gen.parse_native_yaml(str(packaged / "native_functions.yaml"), str(packaged / "tags.yaml"))
    named = {str(function.func.name): function for function in parsed.native_functions}
    found: dict[str, set[str]] = {}
    for key, index in parsed.backend_indices.items():
        structured = model.is_structured_dispatch_key(key)
        found[str(key)] = {
            name
            for name, function in named.items()
            if index.has_kernel(function)
            or (
                structured
                and function.structured_delegate is not None
                and index.has_kernel(named[str(function.structured_delegate)])
            )
        }
    return found


@pytest.mark.parametrize("key", ["CPU", "CUDA", "SparseCUDA", "SparseCsrCUDA", "NestedTensorCUDA", "QuantizedCUDA"])
def test_the_operators_of_a_key_are_those_that_torchgen_finds(key: str, by_torchgen: dict[str, set[str]]) -> None:
    assert set(operators.registered_operators(key)) == by_torchgen[key]


def test_no_operator_is_named_twice() -> None:
    names = operators.cuda_operators()
    assert len(names) == len(set(names)) > 1000


def test_what_the_file_says_of_the_cpu_is_what_torch_has_registered_for_it() -> None:
    registered = {
        name.removeprefix("aten::")
        for name in torch._C._dispatch_get_registrations_for_dispatch_key("SparseCPU")
        if name.startswith("aten::")
    }
    assert set(operators.registered_operators("SparseCPU")) == registered


def test_every_cuda_operator_exists_in_this_torch() -> None:
    assert [name for name in operators.cuda_operators() if not torch._C._dispatch_has_kernel(f"aten::{name}")] == []


@pytest.mark.parametrize(
    ("name", "conjugate", "negative"),
    [("mm", True, False), ("copy_", True, True), ("view", True, True), ("add.Tensor", False, False)],
)
def test_lazy_bits_reach_the_kernels_that_know_them(name: str, conjugate: bool, negative: bool) -> None:
    assert (operators.conjugate_aware(name), operators.negative_aware(name)) == (conjugate, negative)


def test_a_torch_without_its_list_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operators, "YAML_PATH", Path("missing.yaml"))
    operators._registrations.cache_clear()
    with pytest.raises(UnsupportedOperation, match=rf"torch {torch.__version__.partition('+')[0]}.*missing\.yaml"):
        operators.cuda_operators()
    monkeypatch.undo()
    assert operators.cuda_operators()
