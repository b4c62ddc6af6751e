"""AVEC's kernels in C++: compiled as `avec build` does, they do what those in Python do, and record the same."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import compiled
import torch_checks
from avec.interception.torch import building
from destinations import running
from launching import APPS, AVEC, NOWHERE, Outcome, at_once, environ, execute

PROGRAMS = Path(__file__).parent / "programs"
MODULES = ("tensors", "modules", "storages", "randomness", "loading", "forwarded", "operators", "faults")
ON_TWO = ("graphs", "several")  # with a destination that shows two accelerators
APP = "torch_generate.py"
TIMEOUT_S = 220.0

pytestmark = [
    pytest.mark.timeout(300),  # the first test compiles, and waits for a whole program
    pytest.mark.skipif(compiled.compiler() is None, reason="there is no C++ compiler on this machine"),
]


@pytest.fixture(scope="module")
def variables() -> dict[str, str]:
    """The variables by which a host uses the kernels in C++, and no others."""
    return compiled.variables()


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A destination that shows its CPU as two accelerators."""
    with running(tmp_path_factory.mktemp("two"), AVEC_CPU_ACCELERATORS="2") as destination:
        yield destination.url


@pytest.fixture(scope="module")
def outcomes(destination: str, two: str, variables: dict[str, str]) -> dict[str, str]:
    """The error of each check, or nothing."""
    on_two, others = at_once(
        lambda: torch_checks.outcomes(two, ON_TWO, TIMEOUT_S, variables=variables),
        lambda: torch_checks.outcomes(destination, MODULES, TIMEOUT_S, variables=variables),
    )
    return on_two | others


def with_and_without(variables: dict[str, str], *command: str) -> list[Outcome]:
    """Run a command line with the kernels in C++, and with those in Python."""
    return at_once(
        lambda: execute(*command, variables=environ(**variables)),
        lambda: execute(*command, variables=environ(AVEC_TORCH_NATIVE="off")),
    )


@torch_checks.compiling
@pytest.mark.parametrize("name", torch_checks.names((*MODULES, *ON_TWO)))
def test_feature(name: str, outcomes: dict[str, str]) -> None:
    assert not outcomes[name], outcomes[name]


def test_both_record_the_same(two: str, variables: dict[str, str]) -> None:
    native, python = with_and_without(variables, *AVEC, "run", "--on", two, str(PROGRAMS / "recorded.py"))
    assert native[0] == 0, native[2]
    assert native[1].splitlines() == python[1].splitlines()
    assert native[1].count("\n") > 40


def test_operators_that_are_known_do_without_the_interpreter(destination: str, variables: dict[str, str]) -> None:
    native, python = with_and_without(variables, *AVEC, "run", "--on", destination, str(PROGRAMS / "frames.py"))
    assert native[:2] == (0, "0\n"), native[2]
    assert int(python[1]) > 20


def test_a_program_prints_what_it_prints_without_them(destination: str, variables: dict[str, str]) -> None:
    native, python = with_and_without(variables, *AVEC, "run", "--on", destination, str(APPS / APP))
    assert native[0] == 0, native[2]
    assert native == python


def test_torch_is_given_back_as_it_was(destination: str, variables: dict[str, str]) -> None:
    native, python = with_and_without(variables, *AVEC[:1], str(PROGRAMS / "releasing.py"), destination)
    assert native == python
    assert native[0] == 0, native[2]


def test_they_are_required_where_they_are_not_built(tmp_path: Path) -> None:
    variables = environ(AVEC_TORCH_NATIVE="required", AVEC_CACHE_DIR=str(tmp_path))
    status, _, stderr = execute(*AVEC, "run", *NOWHERE, "-c", "import torch", variables=variables)
    assert status != 0
    assert "are not built for torch" in stderr
    assert "run `avec build`" in stderr


def test_a_program_compiles_nothing(tmp_path: Path) -> None:
    variables = environ(AVEC_CACHE_DIR=str(tmp_path))
    assert execute(*AVEC, "run", *NOWHERE, "-c", "import torch", variables=variables)[0] == 0
    assert not (tmp_path / "native").exists()


def test_without_a_compiler_the_command_says_what_to_install(tmp_path: Path) -> None:
    variables = environ(AVEC_CACHE_DIR=str(tmp_path), PATH=str(tmp_path), CXX="")
    status, stdout, stderr = execute(*AVEC, "build", variables=variables)
    assert (status, stdout) == (1, "")
    assert "there is no C++ compiler" in stderr
    assert "apt install g++" in stderr


def test_a_compiler_that_fails_is_quoted(tmp_path: Path) -> None:
    compiler = tmp_path / "broken"
    compiler.write_text("#!/bin/sh\necho 'kernels.cpp: no such standard' >&2\nexit 3\n")
    compiler.chmod(0o755)
    variables = environ(AVEC_CACHE_DIR=str(tmp_path / "cache"), CXX=str(compiler))
    status, _, stderr = execute(*AVEC, "build", variables=variables)
    assert status == 1
    assert "status 3" in stderr
    assert "no such standard" in stderr
    assert not list((tmp_path / "cache").rglob("*.so"))


def test_the_command_says_where_they_are(variables: dict[str, str]) -> None:
    status, stdout, _ = execute(*AVEC, "build", variables=environ(**variables))
    assert status == 0
    assert stdout.startswith(f"avec: {variables['AVEC_CACHE_DIR']}{os.sep}native{os.sep}torch-")
    assert stdout.endswith("is there already\n")


def test_what_cannot_be_loaded_is_an_error(tmp_path: Path, variables: dict[str, str]) -> None:
    (built,) = (Path(variables["AVEC_CACHE_DIR"]) / "native").glob(_name())
    broken = tmp_path / "native" / built.name
    broken.parent.mkdir()
    broken.write_bytes(b"no library")
    status, _, stderr = execute(
        *AVEC, "run", *NOWHERE, "-c", "import torch", variables=environ(AVEC_CACHE_DIR=str(tmp_path))
    )
    assert status != 0
    assert "cannot be loaded" in stderr
    assert "AVEC_TORCH_NATIVE=off" in stderr


def _name() -> str:
    installed = building.installed_torch()
    assert installed is not None
    return building.library_path(Path(), installed[1]).name
