"""Virtual functions as C++ headers declare them, and constants as compilers write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from avec.interception.torch import vtables
from avec.interception.torch.headers import Mismatch, Virtual, read_layout

INTERFACE = """
// struct C10_API Interface { virtual void commentedOut(); };
struct C10_API Interface {
  Interface() = default;
  /* virtual bool alsoCommentedOut() const; */
  virtual ~Interface() = default;
  virtual Device first(Device d, int priority = 0) const = 0;
  virtual bool second() const { return false; }
  virtual int fails(void** /*event*/) const {
    if (true) { note("a { brace in a text"); }
    TORCH_CHECK(false, "no");
  }
#ifdef USE_ROCM
  virtual bool onlyThere() const { return false; }
#endif
  int ordinary() const { return second(); }
  virtual long throws() const {
    TORCH_CHECK(false, "Cannot; ", HELP);
  }
};
struct Derived final : public Interface {
  Device first(Device d, int priority) const override { return d; }
  bool second() const override { return true; }
  virtual int added() const { return -1; }
};
"""


@pytest.fixture
def header(tmp_path: Path) -> Path:
    path = tmp_path / "Interface.h"
    path.write_text(INTERFACE)
    return path


def test_functions_are_in_the_order_of_the_vtable(header: Path) -> None:
    assert read_layout({"Interface": header}).functions == (
        Virtual("~complete"),
        Virtual("~deleting"),
        Virtual("first"),
        Virtual("second", returns=0),
        Virtual("fails"),
        Virtual("throws", throws=True),
    )


def test_a_derived_class_overrides_in_place_and_adds_at_the_end(header: Path) -> None:
    functions = read_layout({"Interface": header, "Derived": header}).functions
    assert (functions[3], functions[-1]) == (Virtual("second", returns=1), Virtual("added", returns=-1))


def test_a_class_that_is_not_declared_is_named(header: Path) -> None:
    with pytest.raises(Mismatch, match="Missing"):
        read_layout({"Missing": header})


def test_a_header_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(Mismatch, match=r"Gone\.h"):
        read_layout({"Gone": tmp_path / "Gone.h"})


@pytest.mark.parametrize(
    ("code", "constant"),
    [
        ("31c0c3", 0),
        ("f30f1efa31c0c3", 0),
        ("b801000000c3", 1),
        ("b8ffffffffc3", -1),
        ("c3", None),
        ("4883ec08488d0d", None),
    ],
)
def test_constants_of_x86_64(code: str, constant: int | None) -> None:
    assert vtables.constant_in(bytes.fromhex(code).ljust(20, b"\x90"), "x86_64") == constant


@pytest.mark.parametrize(
    ("code", "constant"),
    [
        ("00008052c0035fd6", 0),
        ("e0031f2ac0035fd6", 0),
        ("20008052c0035fd6", 1),
        ("00008012c0035fd6", -1),
        ("5f2403d520008052c0035fd6", 1),
        ("c0035fd6", None),
        ("fd7bbfa9fd030091", None),
    ],
)
def test_constants_of_aarch64(code: str, constant: int | None) -> None:
    assert vtables.constant_in(bytes.fromhex(code).ljust(20, b"\x00"), "aarch64") == constant
