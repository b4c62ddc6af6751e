"""Where torch's CPU operators give something else than its CUDA operators, which the host predicts: one flat table.

Only a destination without GPU looks here. A row is a function from an operator's results and what was predicted for
them to results that fit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from avec.destination.executors.torch.storages import Layout

Results = Sequence[Tensor | None]
Quirk = Callable[[Results, Sequence[Layout | None]], Results]


def _fill_statistics(results: Results, predicted: Sequence[Layout | None]) -> Results:
    """In evaluation the CPU saves no statistics of the batch; CUDA gives room for them, and nobody reads it."""
    return [
        torch.zeros(layout.shape, dtype=layout.dtype)
        if result is not None and layout is not None and result.numel() == 0 != layout.nbytes
        else result
        for result, layout in zip(results, predicted, strict=True)
    ]


QUIRKS: dict[str, Quirk] = {
    "aten::native_batch_norm": _fill_statistics,
    "aten::_native_batch_norm_legit": _fill_statistics,
    "aten::_native_batch_norm_legit.no_stats": _fill_statistics,
    "aten::_native_batch_norm_legit_no_training": _fill_statistics,
    "aten::_batch_norm_with_update": _fill_statistics,
    "aten::_batch_norm_no_update": _fill_statistics,
}
