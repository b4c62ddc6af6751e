"""Extensions that were built for CUDA: their kernels are never called on the host, which has no GPU."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

import compiled
import torch_checks
from avec.interception.torch import building
from launching import AVEC, execute

PROGRAM = Path(__file__).parent / "programs" / "extension_for_cuda.py"
COMPILING_TIMEOUT_S = 200.0
SOURCE = """
#include <ATen/ops/mul.h>
#include <torch/library.h>
#include <cstdlib>

at::Tensor twice(const at::Tensor& x) { return at::mul(x, 2); }
at::Tensor on_cuda(const at::Tensor& x) { std::abort(); }

TORCH_LIBRARY(avec_for_cuda, m) { m.def("twice(Tensor x) -> Tensor"); }
TORCH_LIBRARY_IMPL(avec_for_cuda, CPU, m) { m.impl("twice", twice); }
TORCH_LIBRARY_IMPL(avec_for_cuda, CUDA, m) { m.impl("twice", on_cuda); }
"""

pytestmark = [torch_checks.compiling, pytest.mark.timeout(300)]  # compiling torch's headers takes most of it


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An extension with a kernel for CUDA that would end the process."""
    compiler, torch = compiled.compiler(), building.installed_torch()
    assert compiler is not None
    assert torch is not None
    folder = tmp_path_factory.mktemp("extension")
    (folder / "extension.cpp").write_text(SOURCE, "utf-8")
    flags = ("-std=c++20", "-O0", "-fPIC", "-shared", "-isystem", str(torch[0] / "include"))
    libraries = ("-L", str(torch[0] / "lib"), "-ltorch_cpu", "-lc10")
    command = (compiler, *flags, "extension.cpp", *libraries, "-o", "extension.so")
    subprocess.run(command, cwd=folder, timeout=COMPILING_TIMEOUT_S, check=True)
    return folder / "extension.so"


def test_kernels_for_cuda_are_replaced(destination: str, library: Path) -> None:
    status, output, errors = execute(*AVEC, "run", "--on", destination, str(PROGRAM), str(library))
    assert status == 0, errors
    value, refusal = output.splitlines()
    assert value == "2.0"
    assert "avec_for_cuda::twice" in refusal
    assert "run where they are called" in refusal
