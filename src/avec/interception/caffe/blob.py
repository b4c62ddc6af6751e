"""What pycaffe calls a Blob: data and diff of one array, a blob of the net or a parameter of a layer.

Source: caffe/python/caffe/_caffe.cpp, the bindings of Blob<float>; caffe/include/caffe/blob.hpp.
"""

from __future__ import annotations

import math
from typing import Protocol

from avec.errors import InvalidArgument
from avec.protocol.caffe import BlobRef
from avec.tensor import RANK_LIMIT

from .memory import Floats, Memory, NetArray, Shape

LEGACY_AXES = 4  # num, channels, height, width
COUNT_LIMIT = 2**31 - 1  # values: Caffe counts them in an int


class Keeper(Protocol):
    """Whoever knows where the newest contents of arrays are: a RemoteNet, or the host alone."""

    def view(self, array: NetArray) -> Floats:
        """Hand out a view of an array's newest contents."""

    def shape(self, array: NetArray) -> Shape:
        """An array's shape."""

    def reshape_blob(self, array: NetArray, shape: Shape) -> None:
        """Change an array's shape."""

    def give(self, array: NetArray, contents: Floats) -> None:
        """Make an array hold contents of any shape."""


class HostKeeper:
    """Keeps arrays that no destination knows: those of layers that are being set up."""

    def view(self, array: NetArray) -> Floats:
        array.memory.touched = True
        return array.memory.view(array.shape)

    def shape(self, array: NetArray) -> Shape:
        return array.shape

    def reshape_blob(self, array: NetArray, shape: Shape) -> None:
        array.resize(shape)

    def give(self, array: NetArray, contents: Floats) -> None:
        array.resize(contents.shape)
        self.view(array)[...] = contents


ON_HOST = HostKeeper()


def host_blob(shape: Shape) -> Blob:
    """Make a blob of zeros that no net has yet."""
    diff_ref = BlobRef(0, diff=True)
    diff = NetArray(diff_ref, shape, Memory(diff_ref, shape, stale=False))
    return Blob(ON_HOST, NetArray(BlobRef(0), shape, Memory(BlobRef(0), shape, stale=False), diff=diff))


class Blob:
    """An array of a net. It stays usable when the Net is gone."""

    __slots__ = ("_array", "_diff_array", "_diff_keeper", "_keeper")

    def __init__(self, keeper: Keeper, array: NetArray) -> None:
        self.bind(keeper, array)

    def bind(self, keeper: Keeper, array: NetArray) -> None:
        """Stand for this array from now on."""
        assert array.diff is not None  # a blob's or a parameter's
        self._keeper = self._diff_keeper = keeper
        self._array, self._diff_array = array, array.diff

    def share_data(self, other: Blob) -> None:
        """Stand for another blob's data, and go on with the own diff. Source: Blob::ShareData."""
        self._keeper, self._array = other._keeper, other._array

    @property
    def array(self) -> NetArray:
        """What the rest of this package knows the blob by."""
        return self._array

    @property
    def diff_array(self) -> NetArray:
        """What the rest of this package knows the blob's diff by."""
        return self._diff_array

    @property
    def data(self) -> Floats:
        """A float32 view of the contents. Looking at it blocks while they come from the destination.

        Whatever is written into it counts for all later calls on the net; as in Caffe it cannot be assigned.
        """
        return self._keeper.view(self._array)

    @property
    def diff(self) -> Floats:
        """A float32 view of the gradient, in all else as `data`."""
        return self._diff_keeper.view(self._diff_array)

    def give(self, contents: Floats) -> None:
        """Hold contents of any shape, which are no longer the caller's."""
        self._keeper.give(self._array, contents)

    @property
    def shape(self) -> Shape:
        """The shape; blocks while one is being worked out at the destination."""
        return self._keeper.shape(self._array)

    @property
    def count(self) -> int:
        """The number of values."""
        return math.prod(self.shape)

    @property
    def num(self) -> int:
        """The first of at most four axes."""
        return self._legacy(0)

    @property
    def channels(self) -> int:
        """The second of at most four axes; 1 when there is none."""
        return self._legacy(1)

    @property
    def height(self) -> int:
        """The third of at most four axes; 1 when there is none."""
        return self._legacy(2)

    @property
    def width(self) -> int:
        """The fourth axis; 1 when there is none."""
        return self._legacy(3)

    def reshape(self, *args: int, **kwargs: object) -> None:
        """Change the shape of this blob alone; the rest of the net follows at Net.reshape() or forward().

        Raises:
            InvalidArgument: too many axes, a negative one, or too many values; Caffe aborts the process.
        """
        if kwargs:
            raise RuntimeError("Blob.reshape takes no kwargs")
        shape = tuple(_axis(each) for each in args)
        if len(shape) > RANK_LIMIT or any(each < 0 for each in shape) or math.prod(shape) > COUNT_LIMIT:
            raise InvalidArgument(
                f"a blob cannot get the shape {shape}: at most {RANK_LIMIT} axes, none negative, and {COUNT_LIMIT} "
                "values are allowed"
            )
        self._keeper.reshape_blob(self._array, shape)

    def _legacy(self, axis: int) -> int:
        shape = self.shape
        if len(shape) > LEGACY_AXES:
            raise InvalidArgument(
                f"a blob of shape {shape} has no num, channels, height and width: it has more than {LEGACY_AXES} axes; "
                "use its shape"
            )
        return shape[axis] if axis < len(shape) else 1


def _axis(value: object) -> int:
    """An axis as C++ takes it from Python: any integer, also numpy's, but no float and no text."""
    if hasattr(value, "__index__"):
        return int(value.__index__())
    raise TypeError(
        "No registered converter was able to produce a C++ rvalue of type int from this Python object of type "
        f"{type(value).__name__}"
    )
