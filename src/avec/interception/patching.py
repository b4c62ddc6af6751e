"""How an import is intercepted, and how an attribute of a library is replaced and put back; knows no library.

A *served* module is AVEC's own under the library's name; a *patched* one is the library's, changed by a
front-end as soon as it has been imported.
"""

from __future__ import annotations

import functools
import importlib
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.abc import Loader
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import find_spec, spec_from_file_location
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Literal, cast

from avec.errors import ConfigurationError

_ABSENT = object()


@dataclass(frozen=True, slots=True)
class FrontEnd:
    """One row of the table of front-ends.

    The home of a patched one has `patch(module)` and `unpatch(module)`: exact inverses, and patching twice is
    patching once. The home of a served one is the package that the application gets.
    """

    module: str  # the name that the application imports
    how: Literal["served", "patched"]
    home: str  # AVEC's module
    tested: str  # versions of the library that it was tested with
    not_covered: str  # what of the library does not work under AVEC, for `avec doctor`


@dataclass(frozen=True, slots=True)
class _Replaced:
    owner: object
    name: str
    original: object  # what the owner's own dictionary held, or _ABSENT where the attribute was inherited
    replacement: object

    def restore(self) -> bool:
        """Put the original back; leave it and return False if somebody has replaced the replacement."""
        if _own(self.owner, self.name) is not self.replacement:
            return False
        if self.original is _ABSENT:
            delattr(self.owner, self.name)
        else:
            setattr(self.owner, self.name, self.original)
        return True


class Patches:
    """Owns the attributes that one front-end has replaced. Not thread-safe."""

    def __init__(self) -> None:
        self._replaced: list[_Replaced] = []

    def replace(self, owner: object, name: str, make: Callable[..., object]) -> None:
        """Replace an attribute of a module, class or instance by `make(attribute)`; once only, however often asked.

        What the owner itself holds is passed as it is stored, so a staticmethod or a property arrives as such. Where
        there is no such attribute at all, None is passed.
        """
        if any(each.owner is owner and each.name == name for each in self._replaced):
            return
        original = _own(owner, name)
        replacement = make(getattr(owner, name, None) if original is _ABSENT else original)
        setattr(owner, name, replacement)
        self._replaced.append(_Replaced(owner, name, original, replacement))

    def stand_in(self, owner: object, functions: Mapping[str, Callable[..., object]]) -> None:
        """Replace functions by copies of others that look like them: with their names, texts and signatures."""
        for name, function in functions.items():
            self.replace(owner, name, functools.partial(_disguised, function))

    def remove(self, owner: object, name: str) -> None:
        """Take an attribute of the owner's own away, so that its class or its `__getattr__` answers instead."""
        original = _own(owner, name)
        if original is not _ABSENT:
            delattr(owner, name)
            self._replaced.append(_Replaced(owner, name, original, _ABSENT))

    def restore(self) -> None:
        """Put every attribute back, the last first.

        Raises:
            ConfigurationError: others have replaced some of them since; those alone are left as they are.
        """
        left = [f"{each.owner!r}.{each.name}" for each in reversed(self._replaced) if not each.restore()]
        self._replaced.clear()
        if left:
            raise ConfigurationError(
                f"cannot put back {', '.join(left)}: replaced by somebody else since; undo that first"
            )


def _disguised(function: Callable[..., object], original: object) -> Callable[..., object]:
    assert isinstance(function, FunctionType)  # for mypy
    copy = FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, function.__closure__
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    return functools.update_wrapper(copy, original) if callable(original) else copy


def _own(owner: object, name: str) -> object:
    return vars(owner).get(name, _ABSENT)


class Finder:
    """Finds the modules of the front-ends, for sys.meta_path. Source: importlib.abc.MetaPathFinder."""

    def __init__(self, front_ends: Iterable[FrontEnd]) -> None:
        self._front_ends = {each.module: each for each in front_ends}
        self._asking = threading.local()  # names that this thread is asking the other finders for

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find a front-end's module; None for all others."""
        front_end = self._front_ends.get(name)
        if front_end is None:
            return None
        if front_end.how == "served":
            return _served_spec(front_end)
        return self._patched_spec(front_end, path, target)

    def _patched_spec(
        self, front_end: FrontEnd, path: Sequence[str] | None, target: ModuleType | None
    ) -> ModuleSpec | None:
        asking: set[str] = self._asking.__dict__.setdefault("names", set())
        if front_end.module in asking:  # another finder asks all finders in its turn, us included
            return None
        asking.add(front_end.module)
        try:
            spec = _ask_others(self, front_end.module, path, target)
        finally:
            asking.discard(front_end.module)
        if spec is not None and spec.loader is not None:
            spec.loader = _PatchingLoader(spec.loader, front_end)
        return spec


def _ask_others(finder: Finder, name: str, path: Sequence[str] | None, target: ModuleType | None) -> ModuleSpec | None:
    for other in tuple(sys.meta_path):
        if other is not cast(object, finder) and (spec := other.find_spec(name, path, target)) is not None:
            return spec
    return None


class _PatchingLoader(Loader):
    """Lets the library's own loader work, then the front-end; leaves no trace of itself on the module."""

    def __init__(self, loader: Loader, front_end: FrontEnd) -> None:
        self._loader = loader
        self._front_end = front_end

    def __getattr__(self, name: str) -> object:  # get_source, get_data, is_package, …
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        patch(self._front_end, module)


class _ServingLoader(SourceFileLoader):
    """Executes a served package; an application that tries and catches ImportError must not fall back to another."""

    def exec_module(self, module: ModuleType) -> None:
        try:
            super().exec_module(module)
        except ImportError as exc:
            raise ConfigurationError(
                f"cannot provide {self.name!r} in {sys.executable}: {exc}; install what is missing there"
            ) from exc


def _served_spec(front_end: FrontEnd) -> ModuleSpec:
    home = find_spec(front_end.home)
    if home is None or home.origin is None:
        raise ConfigurationError(f"AVEC's own {front_end.home} is missing in {sys.executable}; reinstall avec")
    folder = Path(home.origin).parent
    loader = _ServingLoader(front_end.module, home.origin)
    spec = spec_from_file_location(
        front_end.module, home.origin, loader=loader, submodule_search_locations=[str(folder)]
    )
    if spec is None:
        raise ConfigurationError(f"cannot load AVEC's own {home.origin}; reinstall avec")
    return spec


def patch(front_end: FrontEnd, module: ModuleType) -> None:
    """Let a front-end change a library that is imported."""
    importlib.import_module(front_end.home).patch(module)


def unpatch(front_end: FrontEnd, module: ModuleType) -> None:
    """Let a front-end undo all that it changed."""
    importlib.import_module(front_end.home).unpatch(module)


def is_served(module: ModuleType) -> bool:
    """Whether a module is AVEC's own under a library's name."""
    return isinstance(module.__loader__, _ServingLoader)
