"""pycaffe's parts that need no net, in the tests' own process; its messages as protobuf's classes and as AVEC's own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from types import ModuleType

import pytest

import avec
from avec import config
from avec.formats.caffe import protobuf_classes


@pytest.fixture(scope="module")
def caffe(destination: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """`import caffe` as a program under AVEC has it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AVEC_CACHE_DIR", str(tmp_path_factory.mktemp("host")))
        patch.setenv(config.FILE_VARIABLE, os.devnull)
        avec.intercept(destination)
        import caffe

        yield caffe
        avec.release()


@pytest.fixture(params=["protobuf", "own"])
def messages(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Whose classes caffe_pb2 has: those of a host with protobuf, and of one without."""
    if request.param == "own":
        monkeypatch.setattr(protobuf_classes, "names", lambda: None)
    return str(request.param)


@pytest.fixture
def pb2(caffe: ModuleType, messages: str) -> ModuleType:
    """caffe.proto.caffe_pb2 with either kind of classes."""
    module: ModuleType = caffe.proto.caffe_pb2
    return module
