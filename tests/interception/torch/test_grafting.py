"""torch's CUDA guard and hooks with AVEC's functions in them: what torch then sees, and that it can be undone."""

from __future__ import annotations

import ctypes
import platform
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from avec.errors import DestinationUnreachable, InvalidArgument, UnsupportedOperation
from avec.interception.torch import grafting, headers, vtables
from avec.interception.torch.grafting import Graft, graft
from launching import PLAIN, execute

PROGRAMS = Path(__file__).parent / "programs"
PACKAGE = Path(torch.__file__).parent


def _places() -> tuple[int, int]:
    """What torch's objects point to: the registered CUDA guard, and the vtable of the hooks."""
    libc10 = ctypes.CDLL(str(PACKAGE / "lib" / "libc10.so"))
    libtorch = ctypes.CDLL(str(PACKAGE / "lib" / "libtorch_cpu.so"))
    guard = vtables.symbol_address(libc10, grafting._GUARD_REGISTRY) + grafting._CUDA * vtables.WORD
    return vtables.read_word(guard), vtables.read_word(grafting._hooks_of(libtorch))


def _ask_hooks(name: str, result: type[ctypes.c_long] | type[ctypes.c_bool] | type[ctypes.c_int]) -> int:
    """Call one of the hooks' functions as C++ code does."""
    _, _, layout = grafting._layouts(PACKAGE / "include")
    hooks = grafting._hooks_of(ctypes.CDLL(str(PACKAGE / "lib" / "libtorch_cpu.so")))
    function = vtables.Vtable.of(hooks, vtables.Libraries()).function(layout.slot(name))
    return int(ctypes.CFUNCTYPE(result, ctypes.c_void_p)(function)(hooks))


@pytest.fixture
def grafted() -> Iterator[Graft]:
    """Two devices, with cuDNN 9.10.2."""
    result = graft(lambda: 2, lambda: 91002)
    yield result
    result.restore()


def test_the_accelerator_is_cuda_while_it_is_grafted() -> None:
    def accelerator() -> str:
        return str(torch._C._accelerator_getAccelerator())

    without = "None" if torch.version.cuda is None else "cuda"
    before = accelerator()
    result = graft(lambda: 1, lambda: 0)
    within = accelerator()
    result.restore()
    assert (before, within, accelerator()) == (without, "cuda", without)


def test_restore_gives_back_the_very_pointers() -> None:
    before, shown = _places(), torch._C._show_config
    for _ in range(2):
        result = graft(lambda: 1, lambda: 0)
        assert all(new != old for new, old in zip(_places(), before, strict=True))
        result.restore()
        assert (_places(), torch._C._show_config) == (before, shown)


def test_the_current_device_belongs_to_its_thread(grafted: Graft) -> None:
    seen: list[int] = []

    def elsewhere() -> None:
        seen.append(grafted.current_device)
        grafted.current_device = 2

    grafted.current_device = 1
    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    seen.append(grafted.current_device)
    grafted.current_device = 0
    assert [*seen, grafted.current_device] == [0, 1, 0]


def test_a_device_that_torch_cannot_count_to_is_refused(grafted: Graft) -> None:
    with pytest.raises(InvalidArgument, match=rf"cuda:{grafted.device_limit}"):
        grafted.current_device = grafted.device_limit


def test_pinned_memory_says_so_and_ordinary_memory_does_not(grafted: Graft) -> None:
    ordinary = torch.arange(1000)
    pinned = ordinary.pin_memory()
    assert pinned.equal(ordinary)
    answers = {
        "ordinary": ordinary.is_pinned(),
        "pinned": pinned.is_pinned(),
        "view": pinned[10:].is_pinned(),
        "pinned again": pinned.pin_memory() is pinned,
        "factory": torch.zeros(3, pin_memory=True).is_pinned(),
        "storage": pinned.untyped_storage().is_pinned(),
        "copy": pinned.clone().is_pinned(),
        "empty": torch.empty(0, pin_memory=True).is_pinned(),
    }
    expected = dict.fromkeys(("pinned", "view", "pinned again", "factory", "storage"), True)
    assert answers == {**dict.fromkeys(answers, False), **expected}


def test_memory_that_is_used_again_after_pinned_memory_is_not_pinned(grafted: Graft) -> None:
    pinned = torch.empty(1 << 16, dtype=torch.uint8).pin_memory()
    address = pinned.data_ptr()
    del pinned
    others = [torch.empty(1 << 16, dtype=torch.uint8) for _ in range(8)]
    assert not any(each.is_pinned() for each in others), f"one of them may be at {address:#x}"


def test_too_much_pinned_memory_fails_as_other_memory_does(grafted: Graft) -> None:
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        torch.empty(1 << 60, pin_memory=True)


def test_pinned_memory_outlives_the_graft() -> None:
    result = graft(lambda: 1, lambda: 0)
    pinned = torch.arange(3).pin_memory()
    result.restore()
    assert (pinned.tolist(), pinned.is_pinned()) == ([0, 1, 2], False)


def test_the_hooks_pass_on_what_the_destination_has(grafted: Graft) -> None:
    answers = {
        name: _ask_hooks(name, result)
        for name, result in {
            "hasCUDA": ctypes.c_bool,
            "hasROCM": ctypes.c_bool,
            "compiledWithCuDNN": ctypes.c_bool,
            "versionCuDNN": ctypes.c_long,
            "getNumGPUs": ctypes.c_int,
        }.items()
    }
    assert answers == {"hasCUDA": 1, "hasROCM": 0, "compiledWithCuDNN": 1, "versionCuDNN": 91002, "getNumGPUs": 2}


def test_a_destination_that_cannot_be_asked_is_one_device_without_cudnn() -> None:
    def unreachable() -> int:
        raise DestinationUnreachable("nobody there")

    result = graft(unreachable, unreachable)
    try:
        assert (_ask_hooks("getNumGPUs", ctypes.c_int), _ask_hooks("compiledWithCuDNN", ctypes.c_bool)) == (1, 0)
    finally:
        result.restore()


def test_nothing_is_asked_of_the_destination_to_graft() -> None:
    asked: list[str] = []
    graft(lambda: asked.append("count") or 1, lambda: asked.append("cuDNN") or 0).restore()
    assert asked == []


def test_torch_does_not_replace_the_guard_again(grafted: Graft) -> None:
    before = _places()
    torch._C._ensureCUDADeviceGuardSet()  # as entering a FakeTensorMode does
    assert _places() == before


def test_torch_shows_its_configuration_as_before(grafted: Graft) -> None:
    assert "PyTorch built with" in torch.__config__.show()


def test_autograd_runs_on_every_device_with_that_device_current() -> None:
    status, out, err = execute(*PLAIN, str(PROGRAMS / "two_devices.py"))
    assert (status, out) == (0, "cuda:0 cuda:1 [0, 1]\n"), err


@pytest.mark.parametrize(("place", "value"), [("sys.platform", "darwin"), ("machine", "riscv64")])
def test_an_unknown_platform_is_refused_and_torch_is_untouched(
    place: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = _places()
    if place == "machine":
        monkeypatch.setattr(platform, "machine", lambda: value)
    else:
        monkeypatch.setattr(sys, "platform", value)
    with pytest.raises(UnsupportedOperation, match=f"torch {torch.__version__[:4]}.*{value}.*not known"):
        graft(lambda: 1, lambda: 0)
    assert _places() == before


def _with_swapped(layout: headers.ClassLayout, first: str, second: str) -> headers.ClassLayout:
    functions = list(layout.functions)
    one, other = layout.slot(first), layout.slot(second)
    functions[one], functions[other] = functions[other], functions[one]
    return headers.ClassLayout(tuple(functions))


@pytest.mark.parametrize(
    ("which", "first", "second", "text"),
    [
        (0, "setDevice", "deviceCount", "NoOpDeviceGuardImpl.*deviceCount"),
        (1, "queryEvent", "synchronizeEvent", "FakeGuardImpl.*synchronizeEvent"),
        (2, "hasCUDA", "nvrtc", "CUDAHooksInterface.*nvrtc"),
        (2, "isPinnedPtr", "getPinnedMemoryAllocator", "CUDAHooksInterface.*getPinnedMemoryAllocator"),
    ],
)
def test_headers_that_do_not_fit_the_library_are_noticed(
    which: int, first: str, second: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = _places()
    layouts = list(grafting._layouts(PACKAGE / "include"))
    layouts[which] = _with_swapped(layouts[which], first, second)
    monkeypatch.setattr(grafting, "_layouts", lambda _: layouts)
    with pytest.raises(UnsupportedOperation, match=f"torch {torch.__version__[:4]}.*{text}"):
        graft(lambda: 1, lambda: 0)
    assert _places() == before


def test_a_header_with_a_function_too_many_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    layouts = list(grafting._layouts(PACKAGE / "include"))
    layouts[2] = headers.ClassLayout((*layouts[2].functions, headers.Virtual("oneMore")))
    monkeypatch.setattr(grafting, "_layouts", lambda _: layouts)
    with pytest.raises(UnsupportedOperation, match="has 48 functions, not 49"):
        graft(lambda: 1, lambda: 0)


def test_a_guard_of_another_class_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    before = _places()
    monkeypatch.setattr(grafting, "_CUDA_GUARD_CLASS", "N3c104impl9OtherImplE")
    with pytest.raises(UnsupportedOperation, match="FakeGuardImpl.*not N3c104impl9OtherImplE"):
        graft(lambda: 1, lambda: 0)
    assert _places() == before
