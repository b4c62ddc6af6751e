"""The environment variables that carry interception, or its absence, and its settings into another process."""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping
from pathlib import Path

from avec import config

BOOTSTRAP = Path(__file__).resolve().parent / "_bootstrap"


def intercepted(settings: config.Settings, environ: Mapping[str, str]) -> dict[str, str]:
    """Copy an environment for what this process will become by exec: the application, under interception."""
    variables = config.environment(settings, environ)
    variables["PYTHONPATH"] = os.pathsep.join([str(BOOTSTRAP), *_others(environ)])
    variables[config.LAUNCH_VARIABLE] = str(os.getpid())
    return variables


def plain(settings: config.Settings, environ: Mapping[str, str]) -> dict[str, str]:
    """Copy an environment for a process that is not to be intercepted, though this one may be."""
    variables = config.environment(settings, environ)
    stand_aside(variables)
    return variables


def stand_aside(environ: MutableMapping[str, str]) -> None:
    """Keep interception from the processes that will be started in this environment."""
    others = _others(environ)
    environ.pop("PYTHONPATH", None)
    if others:
        environ["PYTHONPATH"] = os.pathsep.join(others)


def _others(environ: Mapping[str, str]) -> list[str]:
    text = environ.get("PYTHONPATH", "")  # an empty one is as good as none; an empty entry is the current folder
    return [each for each in text.split(os.pathsep) if each != str(BOOTSTRAP)] if text else []
