"""What of a destination's disk belongs to one user, so that no other can reach it."""

from __future__ import annotations

from pathlib import Path

from avec.config import Settings
from avec.modelcache import ModelCache


def folder_of(settings: Settings, user: str) -> Path:
    """The folder that holds what one user's workers keep; where nobody is asked, all share one."""
    return settings.cache_dir / "users" / user if user else settings.cache_dir


def model_cache(settings: Settings, user: str, limit_nbytes: int | None = None) -> ModelCache:
    """The model cache of one user: in a folder of its own, so that a digest never opens another user's model.

    Raises:
        ConfigurationError, CacheUnavailable: the folder cannot be used.
    """
    return ModelCache(folder_of(settings, user) / "models", limit_nbytes or settings.cache_limit_nbytes)
