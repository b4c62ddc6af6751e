"""AVEC's kernels in C++ for tests: compiled once and kept in the project's .cache, as a user's `avec build` does."""

from __future__ import annotations

import shutil
from pathlib import Path

from avec.interception.torch import building

CACHE = Path(__file__).parents[1] / ".cache" / "avec"


def compiler() -> str | None:
    """A C++ compiler of this machine."""
    return next((each for each in building.COMPILERS if shutil.which(each)), None)


def variables() -> dict[str, str]:
    """Compile them unless they are there; the variables by which a host uses them and nothing else."""
    building.build(CACHE)
    return {"AVEC_TORCH_NATIVE": "required", "AVEC_CACHE_DIR": str(CACHE)}
