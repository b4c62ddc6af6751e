"""The interception library: which libraries it stands under, and this process's one active session.

`avec run` reaches it through the bootstrap; `intercept` and `release` are the second door, for notebooks and
embedded interpreters. A front-end calls `session()`. Not here: what a library's calls mean (the front-ends).
"""

from __future__ import annotations

import sys

from avec.errors import ConfigurationError
from avec.interception.active import choose, leave, prepare, session
from avec.interception.patching import Finder, FrontEnd, is_served, patch, unpatch

__all__ = ["FRONT_ENDS", "intercept", "release", "session", "take_over"]

FRONT_ENDS = (
    FrontEnd(
        module="caffe",
        how="served",
        home="avec.interception.caffe",
        tested="BVLC Caffe 1.0 (pycaffe)",
        not_covered="LevelDB, several GPUs (NCCL), V0 nets of 2013",
    ),
    FrontEnd(
        module="cv2",
        how="patched",
        home="avec.interception.opencv_dnn",
        tested="OpenCV 4.10, 4.14 and 5.0",
        not_covered="cv2.cuda, layers in Python, models of OpenVINO, G-API; pictures stay on this host",
    ),
    FrontEnd(
        module="onnxruntime",
        how="patched",
        home="avec.interception.onnxruntime",
        tested="onnxruntime 1.20.1 and 1.32.0",
        not_covered="custom operator libraries, DLPack and addresses of values on cuda, onnxruntime.training",
    ),
    FrontEnd(
        module="torch",
        how="patched",
        home="avec.interception.torch",
        tested="PyTorch 2.13 (CPU build), 2.11 and 2.15 (CUDA builds on a host without a GPU)",
        not_covered="custom CUDA extensions, raw pointers, IPC handles, memory snapshots",
    ),
)

_finder = Finder(FRONT_ENDS)


def intercept(destination: str | None = None, *, local: bool = False) -> None:
    """Compute what the intercepted libraries are asked for at a destination, from their next import on.

    For a program that `avec run` cannot start. It reaches this process and its forks, not other programs that it
    starts. Calling it again is harmless.

    Args:
        destination: its URL; by default AVEC_DESTINATION or avec.toml says it when the first call is made.
        local: start a destination on this machine, which ends with this process. Blocks until it is ready.

    Raises:
        ConfigurationError: both were given, or the URL is wrong, or a library is imported already that can only
            be intercepted before.
        DestinationUnreachable: the local destination did not start.
    """
    early = [each.module for each in FRONT_ENDS if each.how == "served" and _is_foreign(each.module)]
    if early:
        raise ConfigurationError(
            f"cannot intercept {', '.join(early)}: it is imported already; call avec.intercept() before that"
        )
    choose(destination, local)
    _stand()
    for front_end in FRONT_ENDS:
        if front_end.how == "patched" and front_end.module in sys.modules:
            patch(front_end, sys.modules[front_end.module])


def release() -> None:
    """Undo `intercept`, or `avec run` for this process: end the session, give every library back as it was."""
    sys.meta_path[:] = [each for each in sys.meta_path if each is not _finder and not _is_bootstrap(each)]
    for front_end in FRONT_ENDS:
        module = sys.modules.get(front_end.module)
        if module is None:
            continue
        if front_end.how == "patched":
            unpatch(front_end, module)
        elif is_served(module):
            _drop(front_end.module)
    leave()


def take_over(bootstrap: object) -> Finder:
    """Stand in the bootstrap's place on sys.meta_path; it calls this when an intercepted library is imported."""
    for place, each in enumerate(sys.meta_path):
        if each is bootstrap:
            sys.meta_path[place] = _finder
    prepare()
    return _finder


def _stand() -> None:
    """Be on sys.meta_path once: in the bootstrap's place, or else first."""
    for each in tuple(sys.meta_path):
        if _is_bootstrap(each):
            take_over(each)
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)
    prepare()


def _is_bootstrap(finder: object) -> bool:
    return getattr(finder, "avec_bootstrap", False) is True


def _is_foreign(name: str) -> bool:
    module = sys.modules.get(name)
    return module is not None and not is_served(module)


def _drop(package: str) -> None:
    """Forget a served package and its modules, so that the next import finds what is installed."""
    for name in tuple(sys.modules):
        if name == package or name.startswith(package + "."):
            del sys.modules[name]
