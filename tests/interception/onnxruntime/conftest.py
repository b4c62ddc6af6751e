"""onnxruntime under AVEC in the tests' own process, and what its calls put on the link."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType

import pytest

from avec import config
from avec.interception import active
from avec.profiling import ExecutionCycle
from destinations import running

onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
pytest.importorskip("onnx", reason="onnx, which makes the models, is not installed")

from avec.interception import onnxruntime as front_end  # noqa: E402  # needs the library

CUDA = ["CUDAExecutionProvider"]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a module's tests with each of its ENGINES at the destination; most have the default alone."""
    if "engine" in metafunc.fixturenames:
        metafunc.parametrize("engine", getattr(metafunc.module, "ENGINES", ("auto",)), scope="module")


@pytest.fixture(scope="module")
def destination_of_engine(engine: str, destination: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a destination whose setting onnx_engine is `engine`."""
    if engine == "auto":
        yield destination
        return
    with running(tmp_path_factory.mktemp("destination"), AVEC_ONNX_ENGINE=engine) as started:
        yield started.url


@pytest.fixture(scope="module")
def ort(destination_of_engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """`import onnxruntime` as a program under AVEC has it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AVEC_CACHE_DIR", str(tmp_path_factory.mktemp("host")))
        patch.setenv(config.FILE_VARIABLE, os.devnull)
        active.choose(destination_of_engine, local=False)
        front_end.patch(onnxruntime)
        yield onnxruntime
        front_end.unpatch(onnxruntime)
        active.leave()


@pytest.fixture
def sent(ort: ModuleType) -> Callable[[], Sequence[ExecutionCycle]]:
    """The calls that have ended since it was last asked; those under way are waited for."""
    recorder = active.session().recorder
    active.session().wait_all()
    seen = len(recorder.cycles)

    def since() -> Sequence[ExecutionCycle]:
        nonlocal seen
        active.session().wait_all()
        cycles = recorder.cycles[seen:]
        seen += len(cycles)
        return cycles

    return since
