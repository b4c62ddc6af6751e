"""What Net.forward and Net.backward return: a dict whose values are looked up when the application looks at them."""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, KeysView, Mapping, ValuesView
from typing import Any, SupportsIndex

from .blob import Blob
from .memory import Floats


class Outputs(dict[str, Floats]):
    """Blob name → view of its data or diff, as a dict in all respects. Looking at a value may block.

    pycaffe returns views, which show whatever the net computes next; so it does not matter when they are made, until
    a blob changes its shape. Looking at a single value keeps no view here, so that the next forward need not fetch
    what nobody looks at.
    """

    __slots__ = ("__weakref__", "_blobs", "_diff")

    def __init__(self, blobs: Mapping[str, Blob], diff: bool = False) -> None:
        super().__init__(dict.fromkeys(blobs))  # type: ignore[arg-type]  # the keys and their order; values are to come
        self._blobs = dict(blobs)
        self._diff = diff

    def fix(self) -> None:
        """Look up all values that were not yet, for good; blocks until they are here."""
        while self._blobs:
            name, blob = next(iter(self._blobs.items()))
            view = self._look(blob)
            del self._blobs[name]
            super().__setitem__(name, view)

    def _look(self, blob: Blob) -> Floats:
        return blob.diff if self._diff else blob.data

    def __getitem__(self, name: str) -> Floats:
        blob = self._blobs.get(name)
        return super().__getitem__(name) if blob is None else self._look(blob)

    def __setitem__(self, name: str, value: Floats) -> None:
        self._blobs.pop(name, None)
        super().__setitem__(name, value)

    def __delitem__(self, name: str) -> None:
        super().__delitem__(name)
        self._blobs.pop(name, None)

    def get(self, name: str, default: Any = None) -> Any:
        return self[name] if name in self else default

    # CPython copies a dict's values behind its back (dict(x), {**x}, f(**x)) unless __iter__ is its own.
    def __iter__(self) -> Iterator[str]:
        return super().__iter__()

    def keys(self) -> KeysView[str]:  # type: ignore[override]  # a narrower name for the same type
        return super().keys()

    def values(self) -> ValuesView[Floats]:  # type: ignore[override]
        self.fix()
        return super().values()

    def items(self) -> ItemsView[str, Floats]:  # type: ignore[override]
        self.fix()
        return super().items()

    def pop(self, *args: Any) -> Any:
        self.fix()
        return super().pop(*args)

    def popitem(self) -> tuple[str, Floats]:
        self.fix()
        return super().popitem()

    def setdefault(self, *args: Any) -> Any:
        self.fix()
        return super().setdefault(*args)

    def update(self, *args: Any, **kwargs: Any) -> None:
        self.fix()
        super().update(*args, **kwargs)

    def clear(self) -> None:
        self._blobs.clear()
        super().clear()

    def copy(self) -> dict[str, Floats]:
        self.fix()
        return dict(super().items())

    def __or__(self, other: Any) -> Any:
        return self.copy() | other

    def __ror__(self, other: Any) -> Any:
        return other | self.copy()

    def __ior__(self, other: Any) -> Any:
        self.update(other)
        return self

    def __eq__(self, other: object) -> bool:
        self.fix()
        return super().__eq__(other)

    def __ne__(self, other: object) -> bool:
        self.fix()
        return super().__ne__(other)

    def __repr__(self) -> str:
        return repr(self.copy())

    def __reduce_ex__(self, protocol: SupportsIndex) -> tuple[Any, ...]:
        return dict, (self.copy(),)
