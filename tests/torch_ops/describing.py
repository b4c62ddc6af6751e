"""What came out of a case, in so few words that two processes can be compared by them: digests of its bytes."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from cases import Case, Unmade
from torch.utils import _pytree as pytree

TEXT_LENGTH = 200
PLAIN = bool | int | float | complex | str | torch.dtype | torch.device | None

Description = dict[str, Any]


def describe(case: Case) -> Description:
    """Describe results and gradients on `cuda`, or what was raised, be it as late as they are read."""
    found: Description = {"variant": case.variant}
    try:
        computed = case.compute("cuda", True)
        for part, value in (("result", computed.results), ("gradient", computed.gradients)):
            for number, leaf in enumerate(pytree.tree_leaves(value)):
                found[f"{part} {number}"] = _described(leaf, case.defined or part == "gradient")
        torch.cuda.synchronize()
    except Exception as exc:
        kind = "unmade" if isinstance(exc, Unmade) else "raised"
        text = f"{type(exc).__name__}: {str(exc)[:TEXT_LENGTH]}"
        return {"variant": case.variant, kind: _family(exc), "text": text}
    return found


def usable() -> bool:
    """Whether the device still computes for this process; after a failed assertion on it, it does not."""
    try:
        torch.cuda.synchronize()
        torch.ones(1, device="cuda").cpu()
    except Exception:
        return False
    return True


def _family(exc: Exception) -> str:
    """The widest class but Exception that catches it: NotImplementedError is a RuntimeError."""
    classes = type(exc).__mro__
    return classes[classes.index(Exception) - 1].__name__


def _described(value: object, defined: bool) -> Description:
    if not isinstance(value, torch.Tensor):
        return {"kind": repr(value) if isinstance(value, PLAIN) else type(value).__name__}
    found: Description = {"kind": f"{value.dtype} {tuple(value.shape)} on {value.device}"}
    if value.layout != torch.strided or value.is_nested:
        parts = _parts(value.detach())
        return {"kind": f"{found['kind']} {value.layout}", **{name: _described(parts[name], defined) for name in parts}}
    found["strides"] = value.stride()
    if defined:
        fetched = value.detach().resolve_conj().resolve_neg().cpu().contiguous()
        found["digest"] = hashlib.sha256(fetched.flatten().view(torch.uint8).numpy().tobytes()).hexdigest()[:16]
        found["sum"] = _sum(fetched)
    return found


def _parts(value: torch.Tensor) -> dict[str, torch.Tensor]:
    """The dense tensors that a sparse or a nested one consists of."""
    match value.layout:
        case torch.sparse_coo:
            return {"indices": value._indices(), "values": value._values()}
        case torch.sparse_csr | torch.sparse_bsr:
            return {"rows": value.crow_indices(), "columns": value.col_indices(), "values": value.values()}
        case torch.sparse_csc | torch.sparse_bsc:
            return {"columns": value.ccol_indices(), "rows": value.row_indices(), "values": value.values()}
    return {str(number): each for number, each in enumerate(value.unbind())}


def _sum(fetched: torch.Tensor) -> str:
    """Tells a last bit from all of a value, to who reads the report."""
    wide = torch.complex128 if fetched.is_complex() else torch.float64
    return repr(fetched.to(wide).nan_to_num().abs().sum().item())
