"""zstd, from Python 3.14 on a part of it, before that by its backport; with bounds for what a peer has compressed."""

from __future__ import annotations

import sys

import numpy as np

from avec.tensor import Array

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

LEVEL = 1  # higher ones take twice as long and give no more than 5 % on tensors
WINDOW_LOG_LIMIT = 21  # what a decompressor takes beside its output; level 1 uses 19, which is 512 KiB

_COMPRESSION: dict[int, int] = {
    zstd.CompressionParameter.compression_level: LEVEL,
    zstd.CompressionParameter.checksum_flag: 1,  # a decompressor that errs says so
}
_DECOMPRESSION: dict[int, int] = {zstd.DecompressionParameter.window_log_max: WINDOW_LOG_LIMIT}


def compress(data: Array) -> bytes:
    """Compress the bytes of a contiguous array."""
    return zstd.compress(data.reshape(-1).view(np.uint8).data, options=_COMPRESSION)


def decompress(data: Array, nbytes: int) -> Array:
    """Give back exactly so many bytes.

    Raises:
        ValueError: `data` is no zstd frame, or one of another length; no more than `nbytes` was decompressed.
    """
    decompressor = zstd.ZstdDecompressor(options=_DECOMPRESSION)
    try:
        found = decompressor.decompress(data.data, max_length=nbytes)
        if len(found) == nbytes and not decompressor.eof:  # the checksum may be all that is left
            found += decompressor.decompress(b"", max_length=1)
    except zstd.ZstdError as exc:
        raise ValueError(f"zstd says: {exc}") from exc
    if len(found) != nbytes or not decompressor.eof or decompressor.unused_data:
        raise ValueError(f"a zstd frame that does not give exactly {nbytes} bytes")
    return np.frombuffer(found, np.uint8)
