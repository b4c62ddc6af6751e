"""Compiles AVEC's kernels in C++ against the torch that is installed, and says where they are kept.

torch's wheel has the headers and libraries for that; a compiler has to be there. Nothing here imports torch, and no
program compiles by itself. Not here: what becomes of them in a program (`native`).
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sysconfig
import tempfile
from pathlib import Path

from avec.errors import UnsupportedOperation

MODULE = "avec_native"
SOURCES = Path(__file__).parent / "cpp"
MAIN_SOURCE = "kernels.cpp"
COMPILERS = ("c++", "g++", "clang++")
BUILD_TIMEOUT_S = 600.0  # a minute on a small machine
SHOWN_LINES = 12  # of what a compiler says
_FLAGS = ("-std=c++20", "-O2", "-fPIC", "-shared", "-fvisibility=hidden", "-DNDEBUG")
_LIBRARIES = ("torch_python", "torch_cpu", "c10")
_VERSION = re.compile(r"^__version__ *(?::.*)?= *['\"]([^'\"]+)['\"]", re.MULTILINE)


def library_path(cache_dir: Path, torch_version: str) -> Path:
    """Where the kernels for a version of torch and this Python are, or would be."""
    digest = hashlib.sha256()
    for each in sorted(SOURCES.iterdir()):
        digest.update(each.read_bytes())
    name = f"torch-{torch_version}-{sysconfig.get_config_var('SOABI')}-{digest.hexdigest()[:16]}.so"
    return cache_dir / "native" / name


def installed_torch() -> tuple[Path, str] | None:
    """The folder and the version of the torch that is installed; None where there is none."""
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(spec.submodule_search_locations[0])
    found = _VERSION.search((folder / "version.py").read_text("utf-8"))
    return (folder, found[1]) if found else None


def build(cache_dir: Path) -> tuple[Path, bool]:
    """Compile the kernels unless they are there; blocks for half a minute or more.

    Returns:
        Where they are, and whether they were compiled now.

    Raises:
        UnsupportedOperation: torch, its headers, Python's or a compiler is missing, or the compiler failed.
    """
    torch = installed_torch()
    if torch is None:
        raise UnsupportedOperation("nothing to build for: torch is not installed in this Python; pip install torch")
    folder, version = torch
    path = library_path(cache_dir, version)
    if path.exists():
        return path, False
    python_headers = Path(sysconfig.get_paths()["include"])
    if not (python_headers / "Python.h").exists():
        raise UnsupportedOperation(
            f"Python's headers are not in {python_headers}; install them (Debian, Ubuntu: apt install python3-dev)"
        )
    if not (folder / "include" / "torch" / "library.h").exists():
        raise UnsupportedOperation(f"torch {version} has no headers in {folder / 'include'}; install torch by pip")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as beside:
        made = Path(beside) / path.name
        _compile(_compiler(), folder, version, python_headers, made)
        os.replace(made, path)
    return path, True


def _compiler() -> str:
    wanted = os.environ.get("CXX")
    for each in (wanted,) if wanted else COMPILERS:
        if found := shutil.which(each):
            return found
    raise UnsupportedOperation(
        f"there is no C++ compiler ({wanted or ', '.join(COMPILERS)} not found); install one (Debian, Ubuntu: apt"
        " install g++), or name it in CXX. Programs run without, by AVEC's kernels in Python"
    )


def _compile(compiler: str, torch_folder: Path, torch_version: str, python_headers: Path, to: Path) -> None:
    command = [
        compiler, *_FLAGS, "-isystem", str(torch_folder / "include"), "-isystem", str(python_headers),
        str(SOURCES / MAIN_SOURCE), "-L", str(torch_folder / "lib"), *(f"-l{each}" for each in _LIBRARIES),
        "-o", str(to),
    ]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as exc:
        raise UnsupportedOperation(
            f"{compiler} has not compiled AVEC's kernels for torch {torch_version} in {BUILD_TIMEOUT_S:.0f} s"
        ) from exc
    if done.returncode:
        said = "\n".join(done.stderr.strip().splitlines()[:SHOWN_LINES])
        raise UnsupportedOperation(
            f"{compiler} could not compile AVEC's kernels for torch {torch_version} (status {done.returncode}); it"
            f" takes a compiler with C++20, such as g++ 11 or clang 14. It said:\n{said}"
        )
