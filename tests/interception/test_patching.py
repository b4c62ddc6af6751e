"""Replacing attributes and intercepting imports are exactly undone."""

from __future__ import annotations

import importlib
import inspect
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from avec.errors import ConfigurationError
from avec.interception.patching import Finder, FrontEnd, Patches, is_served


class Parent:
    def inherited(self) -> str:
        return "inherited"


class Library(Parent):
    def method(self) -> str:
        return "method"

    @staticmethod
    def static() -> str:
        return "static"

    @property
    def value(self) -> str:
        return "value"


def louder(function: Callable[..., str]) -> Callable[..., str]:
    return lambda *args: function(*args).upper()


def test_a_method_is_replaced_and_put_back() -> None:
    before = vars(Library)["method"]
    patches = Patches()
    patches.replace(Library, "method", louder)
    assert Library().method() == "METHOD"
    patches.restore()
    assert vars(Library)["method"] is before


def test_an_inherited_method_is_replaced_on_the_owner_alone_and_put_back() -> None:
    patches = Patches()
    patches.replace(Library, "inherited", louder)
    assert (Library().inherited(), Parent().inherited()) == ("INHERITED", "inherited")
    patches.restore()
    assert "inherited" not in vars(Library)


def test_descriptors_arrive_and_return_as_such() -> None:
    static, value = vars(Library)["static"], vars(Library)["value"]
    patches = Patches()
    patches.replace(Library, "static", lambda original: staticmethod(louder(original.__func__)))
    patches.replace(Library, "value", lambda original: property(louder(original.fget)))
    assert (Library.static(), Library().value) == ("STATIC", "VALUE")
    patches.restore()
    assert (vars(Library)["static"], vars(Library)["value"]) == (static, value)


def test_replacing_twice_is_replacing_once() -> None:
    calls: list[object] = []
    patches = Patches()
    for _ in range(2):
        patches.replace(Library, "method", lambda original: calls.append(original) or louder(original))
    assert len(calls) == 1
    patches.restore()


def test_restoring_twice_is_restoring_once_and_replacing_works_again() -> None:
    patches = Patches()
    patches.replace(Library, "method", louder)
    patches.restore()
    patches.restore()
    patches.replace(Library, "method", louder)
    assert Library().method() == "METHOD"
    patches.restore()


def test_a_stand_in_looks_like_what_it_stands_in_for() -> None:
    patches = Patches()

    def loud(self: Library) -> str:
        return "METHOD"

    before = Library.method
    patches.stand_in(Library, {"method": loud})
    assert Library().method() == "METHOD"
    assert (Library.method.__name__, Library.method.__qualname__) == ("method", "Library.method")
    assert inspect.signature(Library.method) == inspect.signature(before)
    assert loud.__name__ == "loud"
    patches.restore()
    assert Library.method is before


def test_a_removed_attribute_is_put_back() -> None:
    before = vars(Library)["static"]
    patches = Patches()
    patches.remove(Library, "static")
    assert not hasattr(Library, "static")
    patches.restore()
    assert vars(Library)["static"] is before


def test_what_somebody_else_has_replaced_since_is_named_and_left() -> None:
    module = types.ModuleType("library")
    module.one = module.two = "original"  # type: ignore[attr-defined]
    patches = Patches()
    patches.replace(module, "one", str.upper)
    patches.replace(module, "two", str.upper)
    module.one = "somebody else's"  # type: ignore[attr-defined]
    with pytest.raises(ConfigurationError, match="one: replaced by somebody else"):
        patches.restore()
    assert (module.one, module.two) == ("somebody else's", "original")  # type: ignore[attr-defined]


@pytest.fixture
def finder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Finder]:
    """A finder for a patched library and a served one, each with a front-end, all written for the test."""
    (tmp_path / "patched_library.py").write_text("def answer(): return 'local'\n")
    (tmp_path / "patching_front_end.py").write_text(
        "from avec.interception.patching import Patches\n"
        "patches = Patches()\n"
        "def patch(module): patches.replace(module, 'answer', lambda answer: lambda: 'remote')\n"
        "def unpatch(module): patches.restore()\n"
    )
    home = tmp_path / "serving_front_end"
    home.mkdir()
    (home / "__init__.py").write_text("from . import part\nNAME = __name__\n")
    (home / "part.py").write_text("NAME = __name__\n")
    hollow = tmp_path / "hollow_front_end"
    hollow.mkdir()
    (hollow / "__init__.py").write_text("import no_such_module_anywhere\n")
    monkeypatch.syspath_prepend(tmp_path)
    modules = set(sys.modules)
    found = Finder(
        [
            FrontEnd("patched_library", "patched", "patching_front_end", "", ""),
            FrontEnd("absent_library", "patched", "patching_front_end", "", ""),
            FrontEnd("served_library", "served", "serving_front_end", "", ""),
            FrontEnd("hollow_library", "served", "hollow_front_end", "", ""),
        ]
    )
    sys.meta_path.insert(0, found)
    yield found
    sys.meta_path.remove(found)
    for name in set(sys.modules) - modules:
        del sys.modules[name]


@pytest.mark.usefixtures("finder")
def test_a_library_is_patched_when_it_is_imported() -> None:
    library = importlib.import_module("patched_library")
    assert library.answer() == "remote"


@pytest.mark.usefixtures("finder")
def test_a_patched_library_does_not_show_how_it_was_loaded() -> None:
    library = importlib.import_module("patched_library")
    assert type(library.__loader__).__name__ == "SourceFileLoader"
    assert library.__spec__ is not None
    assert library.__spec__.loader is library.__loader__


def test_a_library_is_found_when_another_finder_asks_all_finders(finder: Finder) -> None:
    class Asking:
        def find_spec(self, name: str, path: object = None, target: object = None) -> object:
            return finder.find_spec(name) if name == "patched_library" else None

    asking = Asking()
    sys.meta_path.insert(1, asking)  # type: ignore[arg-type]
    try:
        assert importlib.import_module("patched_library").answer() == "remote"
    finally:
        sys.meta_path.remove(asking)  # type: ignore[arg-type]


@pytest.mark.usefixtures("finder")
def test_a_patched_library_that_is_not_installed_is_not_found() -> None:
    with pytest.raises(ModuleNotFoundError, match="absent_library"):
        importlib.import_module("absent_library")


@pytest.mark.usefixtures("finder")
def test_a_served_package_has_the_librarys_name_throughout() -> None:
    library = importlib.import_module("served_library")
    assert (library.NAME, library.part.NAME) == ("served_library", "served_library.part")
    assert is_served(library)


@pytest.mark.usefixtures("finder")
def test_a_served_package_that_lacks_something_does_not_look_like_a_missing_library() -> None:
    with pytest.raises(ConfigurationError, match="cannot provide 'hollow_library' in .*no_such_module_anywhere"):
        importlib.import_module("hollow_library")
