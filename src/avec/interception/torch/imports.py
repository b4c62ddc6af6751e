"""Modules that are patched when the program imports them: importing them takes long, and few programs do."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping

from avec.interception.patching import Finder, FrontEnd, patch, unpatch


class Awaited:
    """Modules by name, each with the module of AVEC's that has `patch` and `unpatch` for it."""

    def __init__(self, homes: Mapping[str, str]) -> None:
        self._rows = [FrontEnd(name, "patched", home, tested="", not_covered="") for name, home in homes.items()]
        self._finder = Finder(self._rows)

    def attend(self) -> None:
        """Patch those that are imported, and the others as soon as they are."""
        sys.meta_path.insert(0, self._finder)
        for row in self._rows:
            if row.module in sys.modules:
                patch(row, sys.modules[row.module])

    def leave(self) -> None:
        """Undo that."""
        sys.meta_path[:] = [each for each in sys.meta_path if each is not self._finder]
        for row in self._rows:
            if row.module in sys.modules and row.home in sys.modules:
                unpatch(row, importlib.import_module(row.module))
