"""Whether there is room for one more connection: places, what its user may have, and the accelerator's memory.

Not here: ending a session that waits, to make room (`server`), and what memory is promised to whom (`sharing.room`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from avec.config import Settings
from avec.destination.guests import Guest
from avec.destination.sharing import room
from avec.destination.status import free_text
from avec.destination.users import User
from avec.errors import DestinationFull
from avec.protocol.messages import AcceleratorInfo, Hello, Places

Purpose = Literal["session", "upload"]


@dataclass(frozen=True, slots=True)
class Vacancies:
    """The limits of one destination."""

    url: str
    settings: Settings

    def check(
        self, hello: Hello, user: User | None, places: Places, staying: Sequence[Guest], accelerator: AcceleratorInfo
    ) -> int | None:
        """How much memory one more session may have; None where nothing limits it.

        Args:
            staying: all that take a place.

        Raises:
            DestinationFull: there is no room; the text says for what, and what is free.
        """
        purpose: Purpose = "upload" if hello.purpose == "upload" else "session"
        count, limit = (places.sessions, places.sessions_limit)
        if purpose == "upload":
            count, limit = (places.uploads, places.uploads_limit)
        if count >= limit:
            now_s = time.monotonic()
            waiting_s = [guest.waits_s(now_s) for guest in staying if guest.waiting]
            raise DestinationFull(
                f"{self.url} is full: it serves {count} {purpose}s, which is its limit "
                f"(--max-sessions {self.settings.max_sessions}); try again later or elsewhere; "
                f"{free_text(places, waiting_s)}"
            )
        if user is not None:
            self._check_quota(purpose, user, staying)
        return self._admit_memory(hello.memory_nbytes, user, staying, accelerator) if purpose == "session" else None

    def _check_quota(self, purpose: Purpose, user: User, staying: Sequence[Guest]) -> None:
        purposes = [guest.line.purpose for guest in staying if guest.line.user == user.name]
        sessions = user.max_sessions or self.settings.user_max_sessions
        connections = user.max_connections or self.settings.user_max_connections
        for what, count, limit in (
            ("sessions", purposes.count("session") if purpose == "session" else -1, sessions),
            ("connections", len(purposes), connections),
        ):
            if count >= limit:
                raise DestinationFull(
                    f"{user.name} has {count} {what} at {self.url}, and {limit} are allowed; end one, or ask "
                    f"the administrator for more (avec user add --max-{what})"
                )

    def _admit_memory(
        self, needed_nbytes: int, user: User | None, staying: Sequence[Guest], accelerator: AcceleratorInfo
    ) -> int | None:
        settings = self.settings
        tenants = [
            room.Tenant(guest.line.user, guest.promised_nbytes, guest.holds_nbytes(accelerator.memory_nbytes))
            for guest in staying
            if guest.board is not None
        ]
        of_user = (user.memory_nbytes or settings.user_memory) if user else None
        return room.admit(
            max(0, needed_nbytes),
            user.name if user else "",
            tenants,
            accelerator.memory_nbytes,
            room.CONTEXT_NBYTES if accelerator.kind == "cuda" else 0,
            room.Limits(settings.session_memory, of_user),
        )
