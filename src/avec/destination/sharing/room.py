"""Whether there is room for one more session on an accelerator, and how much of its memory that may have. Arithmetic.

What a session has declared is promised to it: it is taken from what is free as long as the session is there, and the
session is held to it. One that has declared nothing is promised nothing and takes what is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from avec.errors import DestinationFull

CONTEXT_NBYTES = 512 << 20  # of a GPU's memory, which a worker's own context takes beside what it allocates


@dataclass(frozen=True, slots=True)
class Tenant:
    """A session that is there."""

    user: str
    promised_nbytes: int
    used_nbytes: int

    @property
    def taken_nbytes(self) -> int:
        """What others cannot have."""
        return max(self.promised_nbytes, self.used_nbytes)


@dataclass(frozen=True, slots=True)
class Limits:
    """What the settings and the user's quota allow; None: all there is."""

    session_nbytes: int | None = None
    user_nbytes: int | None = None


def admit(
    needed_nbytes: int, user: str, tenants: Sequence[Tenant], total_nbytes: int, context_nbytes: int, limits: Limits
) -> int | None:
    """Say how much memory one more session may have.

    Args:
        needed_nbytes: what it declares; 0: nothing.
        total_nbytes: of the accelerator.
        context_nbytes: what each session takes beside that.

    Returns:
        The limit, or None where nothing limits it.

    Raises:
        DestinationFull: it does not have room; the text says what is free, and what to do.
    """
    free = total_nbytes - context_nbytes * (len(tenants) + 1) - sum(each.taken_nbytes for each in tenants)
    of_user = [each for each in tenants if each.user == user]
    bounds = {"are free": free}
    if limits.user_nbytes is not None:
        own = sum(each.taken_nbytes for each in of_user)
        bounds[f"are left of the {size(limits.user_nbytes)} of {user or 'a user'}"] = limits.user_nbytes - own
    if limits.session_nbytes is not None:
        bounds["are allowed a session (session_memory)"] = limits.session_nbytes
    why, least = min(bounds.items(), key=lambda each: each[1])
    if max(needed_nbytes, 1) > least:
        needs = f"{size(needed_nbytes)} are needed" if needed_nbytes else "a session needs some memory"
        raise DestinationFull(
            f"{needs}, and {size(max(0, least))} {why}; {len(tenants)} sessions hold "
            f"{size(sum(each.taken_nbytes for each in tenants))} of the accelerator's {size(total_nbytes)}; "
            "declare less (avec run --memory), or try again when others have ended, or elsewhere"
        )
    if needed_nbytes:
        return needed_nbytes
    promised = any(each.promised_nbytes for each in tenants)
    return least if promised or len(bounds) > 1 else None


def replay_nbytes(percent: int, total_nbytes: int, sessions: int, limit_nbytes: int | None) -> int:
    """What one session may keep for graphs of operators that repeat, so that all keep no more than a percentage."""
    part = total_nbytes // max(1, sessions)
    return min(part, limit_nbytes or part) * percent // 100


def size(nbytes: int) -> str:
    """Bytes as a person reads them."""
    for unit, name in ((10**12, "TB"), (10**9, "GB"), (10**6, "MB")):
        if nbytes >= unit:
            return f"{nbytes / unit:.4g} {name}"
    return f"{nbytes} bytes"
