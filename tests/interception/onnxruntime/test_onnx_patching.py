"""The front-end changes the library's attributes and puts every one of them back."""

from __future__ import annotations

from types import ModuleType

import pytest

onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

from onnxruntime.capi import _pybind_state as native  # noqa: E402
from onnxruntime.capi import onnxruntime_inference_collection as collection  # noqa: E402

from avec.interception import onnxruntime as front_end  # noqa: E402


def attributes() -> dict[tuple[str, str], int]:
    """The identity of everything in the library's modules and classes."""
    owners: list[ModuleType | type] = [onnxruntime, native, collection]
    owners += [each for each in vars(native).values() if isinstance(each, type)]
    owners += [each for each in vars(collection).values() if isinstance(each, type)]
    return {
        (f"{owner.__module__ if isinstance(owner, type) else ''}.{owner.__name__}", name): id(value)
        for owner in owners
        for name, value in vars(owner).items()
        if not name.startswith("__")
    }


def test_unpatching_restores_the_identity_of_every_attribute() -> None:
    before = attributes()
    front_end.patch(onnxruntime)
    changed = attributes()
    front_end.unpatch(onnxruntime)
    assert changed != before
    assert attributes() == before


def test_patching_twice_is_patching_once() -> None:
    before = attributes()
    front_end.patch(onnxruntime)
    once = attributes()
    front_end.patch(onnxruntime)
    assert attributes() == once
    front_end.unpatch(onnxruntime)
    assert attributes() == before


def test_unpatching_what_is_not_patched_is_harmless() -> None:
    before = attributes()
    front_end.unpatch(onnxruntime)
    assert attributes() == before


def test_the_native_session_is_the_library_s_own_again_and_computes_here() -> None:
    front_end.patch(onnxruntime)
    front_end.unpatch(onnxruntime)
    onnx_models = pytest.importorskip("onnx_models", reason="onnx is not installed")
    session = onnxruntime.InferenceSession(
        onnx_models.doubling().SerializeToString(), providers=["CPUExecutionProvider"]
    )
    assert isinstance(session._sess, native.InferenceSession)
    assert session.run(None, {"x": [[1.0, 2.0, 3.0]]})[0].tolist() == [[2.0, 4.0, 6.0]]
