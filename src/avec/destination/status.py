"""What a destination says of itself: counted as things happen, and put together when somebody asks.

A user sees the sums over everybody and his own sessions; the owner, and everybody where nobody is asked, sees all.
Not here: how it is shown (`host.status_page`) and Prometheus's form (`metrics`).
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, field

from avec import __version__
from avec.config import Settings
from avec.destination.admission import FIRST_USER
from avec.destination.guests import Guest
from avec.destination.orders import Ready
from avec.destination.sharing.board import Numbers
from avec.destination.tenants import model_cache
from avec.destination.users import User
from avec.protocol.messages import Places, SessionInfo, Status, Totals

SHOWN_LIMIT = 1 << 53
LISTED_LIMIT = 64  # sessions in one status: a row has 860 bytes at most, and all of it must fit one message


@dataclass(slots=True)
class Tally:
    """What has happened since the destination was started."""

    began_s: float = field(default_factory=time.monotonic)
    sessions: int = 0
    uploads: int = 0
    resumed: int = 0
    calls: int = 0  # of sessions that have ended
    failed: int = 0
    used_ns: int = 0
    refused: Counter[str] = field(default_factory=Counter)  # by an error's code
    vacated: int = 0
    zygote_restarts: int = 0

    def note_end(self, guest: Guest) -> None:
        """Take over what an ended session's worker has shown."""
        shown = _shown(guest)
        self.calls += shown.calls
        self.failed += shown.failed
        self.used_ns += shown.used_ns

    def totals(self, guests: Iterable[Guest]) -> Totals:
        """The sums, those of the sessions under way included."""
        shown = [_shown(guest) for guest in guests]
        return Totals(
            self.sessions,
            self.uploads,
            self.resumed,
            self.calls + sum(each.calls for each in shown),
            self.failed + sum(each.failed for each in shown),
            dict(self.refused),
            self.vacated,
            self.zygote_restarts,
            round((self.used_ns + sum(each.used_ns for each in shown)) / 1e9, 3),
        )


def _shown(guest: Guest) -> Numbers:
    """What a worker shows; one that was taken over may show anything, so sums are kept to what a message can say."""
    if guest.board is None:
        return Numbers()
    return Numbers(*(min(each, SHOWN_LIMIT) for each in astuple(guest.board.numbers())))


def put_together(
    tally: Tally,
    guests: dict[str, Guest],
    places: Places,
    ready: Ready,
    security: dict[str, str],
    settings: Settings,
    viewer: User | None,
    draining: bool,
    owners: Sequence[User],
) -> Status:
    """What somebody who asks is told.

    Args:
        guests: by session.
        viewer: who asks; None where nobody is asked who he is, and for the machine's own metrics.
        owners: the users whose model caches count; none where all share one.

    Raises:
        CacheUnavailable: the model cache cannot be looked at.
    """
    now_s = time.monotonic()
    sessions = {name: guest for name, guest in guests.items() if guest.line.purpose == "session"}
    seen = [name for name, guest in sessions.items() if _may_see(viewer, guest)]
    caches = [(user.name, user.cache_limit_nbytes) for user in owners] or [("", None)]
    usages = [model_cache(settings, *each).usage() for each in caches]
    return Status(
        accelerators=(ready.accelerator,),
        formats=ready.formats,
        software=f"avec {__version__}",
        sessions=len(sessions),
        models=sum(usage.models for usage in usages),
        models_nbytes=sum(usage.models_nbytes for usage in usages),
        security=security,
        waiting=sum(guest.waiting for guest in sessions.values()),
        uptime_s=round(now_s - tally.began_s, 1),
        draining=draining,
        places=places,
        models_limit_nbytes=sum(usage.limit_nbytes for usage in usages),
        disk_free_nbytes=_free_nbytes(settings),
        memory_nbytes=sum(_shown(guest).memory_nbytes for guest in sessions.values()),
        totals=tally.totals(guests.values()),
        listed=tuple(_row(each, sessions[each], now_s) for each in seen[:LISTED_LIMIT]),
        unlisted=max(0, len(seen) - LISTED_LIMIT),
    )


def _may_see(viewer: User | None, guest: Guest) -> bool:
    return viewer is None or viewer.name in (FIRST_USER, guest.line.user)


def _row(name: str, guest: Guest, now_s: float) -> SessionInfo:
    shown = _shown(guest)
    return SessionInfo(
        name,
        guest.line.user,
        guest.line.program,
        guest.line.address,
        "waiting" if guest.waiting else "active",
        round(now_s - guest.began_s, 1),
        shown.memory_nbytes,
        min(guest.promised_nbytes, SHOWN_LIMIT),
        shown.models,
        shown.calls,
        shown.failed,
        shown.queue,
        round(shown.used_ns / 1e9, 3),
    )


def _free_nbytes(settings: Settings) -> int:
    found = os.statvfs(settings.cache_dir)
    return found.f_bavail * found.f_frsize


def free_text(places: Places, waiting_s: Sequence[float]) -> str:
    """What is free, for a host that is refused a place.

    Args:
        waiting_s: for each session that waits for its host, how long it still may.
    """
    text = (
        f"free are {places.sessions_limit - places.sessions} of {places.sessions_limit} places for sessions and "
        f"{places.uploads_limit - places.uploads} of {places.uploads_limit} for uploads"
    )
    if not waiting_s:
        return text
    return f"{text}; {len(waiting_s)} of the sessions wait for their hosts, the first for {min(waiting_s):.0f} s more"
