"""Caffe's data layers, which run on the host: what they read, as batches for a net at a destination.

`open_source` gives a `Source` for a layer; `HDF5Output` writes. Not here: putting the batches into a net.
A new kind of source is one class with `shapes`, `read` and `close`, and a line in the table of `opening`.
"""

from .hdf5_output import HDF5Output
from .memory_data import MemorySource
from .opening import SOURCE_TYPES, open_source
from .source import Floats, Reader, Shape, Source

__all__ = [
    "SOURCE_TYPES",
    "Floats",
    "HDF5Output",
    "MemorySource",
    "Reader",
    "Shape",
    "Source",
    "open_source",
]
