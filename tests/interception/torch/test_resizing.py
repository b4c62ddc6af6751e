"""Storages exchange their memory: tried on the host's own, which torch lays out in the same way."""

from __future__ import annotations

import pytest
import torch

from avec.errors import UnsupportedOperation
from avec.interception.torch import resizing


def test_what_sees_a_storage_sees_its_new_memory() -> None:
    first, second = torch.arange(4), torch.full((6,), 7)
    view, addresses = first[1:3], [each.data_ptr() for each in (first, second)]
    resizing.exchange(first.untyped_storage(), second.untyped_storage())
    assert (first.tolist(), view.tolist()) == ([7, 7, 7, 7], [7, 7])
    assert [each.untyped_storage().nbytes() for each in (first, second)] == [48, 32]
    assert [each.data_ptr() for each in (second, first)] == addresses


def test_one_without_memory_gets_some() -> None:
    empty, full = torch.UntypedStorage(0), torch.UntypedStorage([1, 2, 3])
    resizing.exchange(empty, full)
    assert (empty.tolist(), full.tolist()) == ([1, 2, 3], [])
    resizing.exchange(torch.UntypedStorage(0), full)
    assert full.tolist() == []


@pytest.mark.parametrize(("before", "after", "kept"), [(4, 6, [0, 1, 2, 3]), (6, 2, [0, 1]), (0, 3, []), (3, 0, [])])
def test_what_fits_is_kept(before: int, after: int, kept: list[int]) -> None:
    storage = torch.UntypedStorage(list(range(before)))
    resizing.resize(storage, after, lambda nbytes, device: torch.zeros(nbytes, dtype=torch.uint8))
    assert storage.nbytes() == after
    assert storage.tolist()[: len(kept)] == kept


def test_another_layout_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resizing, "_PLACES", range(5, 6))
    storage = torch.UntypedStorage([1, 2])
    with pytest.raises(UnsupportedOperation, match="lays storages out"):
        resizing.exchange(storage, torch.UntypedStorage(1))
    assert storage.tolist() == [1, 2]
