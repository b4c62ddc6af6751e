"""What of a destination's disk belongs to one user, so that no other can reach it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from avec.config import Settings
from avec.destination.confinement import confine, mps_folder
from avec.destination.worker_user import ROOT, hand_over, worker_user
from avec.modelcache import ModelCache


def folder_of(settings: Settings, user: str) -> Path:
    """The folder that holds what one user's workers keep; where nobody is asked, all share one."""
    return settings.cache_dir / "users" / user if user else settings.cache_dir


def confine_to(settings: Settings, user: str) -> dict[str, str]:
    """Shut this process, a worker, into what is its user's; tell which measures took effect.

    What compilers leave for the next time is code, so each user has that for himself.
    """
    folder = folder_of(settings, user)
    compiled = {"TORCHINDUCTOR_CACHE_DIR": "inductor", "TRITON_CACHE_DIR": "triton", "CUDA_CACHE_PATH": "cuda"}
    for variable, name in compiled.items():
        if user or os.geteuid() == ROOT or variable not in os.environ:  # root's own compilers shall not use it
            os.environ[variable] = str(folder / name)
    writable = [folder / "models", *(Path(os.environ[variable]) for variable in compiled)]
    if not settings.confine:
        if os.geteuid() == ROOT:
            hand_over(filter(Path.is_dir, writable), settings.cache_dir, ROOT, ROOT)  # what it adds is root's
        return {"confinement of workers": "off: AVEC_CONFINE=0"}
    workers = worker_user(settings.worker_user)
    measures = confine(writable, temporary_folder(settings, os.getpid()), settings.cache_dir, mps_folder(), workers)
    return {**measures, "secrets out of workers' reach": _hidden(settings.secrets_dir)}


def _hidden(folder: Path) -> str:
    """Whether this process cannot look into a folder, by trying to."""
    try:
        os.listdir(folder)
    except (PermissionError, FileNotFoundError):
        return "on"
    return f"off: workers can read {folder}; choose another with AVEC_SECRETS_DIR"


def temporary_folder(settings: Settings, pid: int) -> Path:
    """Where a worker's temporary files are."""
    return settings.cache_dir / "tmp" / f"worker-{pid}"


def remove_temporary_folders(settings: Settings) -> None:
    """Remove what workers left that ended with their zygote."""
    for folder in (settings.cache_dir / "tmp").glob("worker-*"):
        if not Path("/proc", folder.name.partition("-")[2]).exists():
            shutil.rmtree(folder, ignore_errors=True)


def model_cache(settings: Settings, user: str, limit_nbytes: int | None = None) -> ModelCache:
    """The model cache of one user: in a folder of its own, so that a digest never opens another user's model.

    Raises:
        ConfigurationError, CacheUnavailable: the folder cannot be used.
    """
    workers = worker_user(settings.worker_user)  # whose the folder is, where this process is still root's
    owner = None if workers is None else workers.uid
    return ModelCache(folder_of(settings, user) / "models", limit_nbytes or settings.cache_limit_nbytes, owner)
