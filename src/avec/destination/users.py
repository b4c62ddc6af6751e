"""Who may use a destination: names, the hashes of their tokens, their quotas, in one private file.

A token is 256 random bits, so its SHA-256 tells nobody anything. Read anew whenever the file changes: a revoked token
is refused from the next connection on.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import time
from pathlib import Path
from typing import Literal

import msgspec

from avec import private_files
from avec.errors import ConfigurationError

TOKEN_NBYTES = 32
TOKEN_LIMIT = 128  # characters: what is longer is none, and not hashed
NAME_RULE = "1 to 32 of a-z 0-9 . _ - and begins with a letter or a digit"
Priority = Literal["low", "normal", "high"]
PRIORITIES: dict[Priority, int] = {"low": -1, "normal": 0, "high": 1}  # a session with a higher one goes first
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,31}")


class User(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One user; None is what the settings say for all."""

    name: str
    token_sha256: str  # hex
    created_s: int  # since 1970
    max_sessions: int | None = None
    cache_limit_nbytes: int | None = None
    weight: float = 1.0  # his part of the accelerator, beside others'
    priority: Priority = "normal"
    memory_nbytes: int | None = None  # of the accelerator, that all his sessions may have
    max_models: int | None = None  # in one session
    max_connections: int | None = None  # sessions and uploads


class Users:
    """The users' file of a destination. Any process may change it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known: tuple[User, ...] = ()
        self._seen: tuple[int, int, int] | None = None  # inode, time and size of what `_known` was read from

    def all(self) -> tuple[User, ...]:
        """Every user, in the order in which they were added.

        Raises:
            ConfigurationError: the file cannot be used.
        """
        try:
            found = os.lstat(self.path)
        except FileNotFoundError:
            self._known, self._seen = (), None
            return ()
        seen = (found.st_ino, found.st_mtime_ns, found.st_size)
        if seen != self._seen:
            self._known, self._seen = self._read(), seen
        return self._known

    def with_token(self, token: str) -> User | None:
        """Whose token this is. Takes as long for a wrong one as for a right one."""
        digest = hashlib.sha256(token.encode("utf-8", "replace")[:TOKEN_LIMIT]).hexdigest()
        found = None
        for user in self.all():
            if hmac.compare_digest(digest, user.token_sha256):
                found = user
        return found if len(token) <= TOKEN_LIMIT else None

    def with_name(self, name: str) -> User | None:
        """The user of that name."""
        return next((user for user in self.all() if user.name == name), None)

    def add(
        self,
        name: str,
        max_sessions: int | None = None,
        cache_limit_nbytes: int | None = None,
        *,
        weight: float = 1.0,
        priority: Priority = "normal",
        memory_nbytes: int | None = None,
        max_models: int | None = None,
        max_connections: int | None = None,
    ) -> str:
        """Add a user, or give one that is there a new token and new quotas; see User.

        Returns:
            The token, which is written nowhere.

        Raises:
            ConfigurationError: the name is none, or the file cannot be written.
        """
        if not _NAME.fullmatch(name):
            raise ConfigurationError(f"{name!r} is no user's name; one has {NAME_RULE}")
        token = secrets.token_urlsafe(TOKEN_NBYTES)
        digest = hashlib.sha256(token.encode()).hexdigest()
        with private_files.changing(self.path):
            others = [user for user in self._read() if user.name != name]
            user = User(
                name,
                digest,
                int(time.time()),
                max_sessions,
                cache_limit_nbytes,
                weight,
                priority,
                memory_nbytes,
                max_models,
                max_connections,
            )
            self._write([*others, user])
        return token

    def revoke(self, name: str) -> None:
        """Let a user in no longer.

        Raises:
            ConfigurationError: there is no such user, or the file cannot be written.
        """
        with private_files.changing(self.path):
            users = self._read()
            left = [user for user in users if user.name != name]
            if len(left) == len(users):
                known = ", ".join(user.name for user in users) or "nobody"
                raise ConfigurationError(f"there is no user {name!r} in {self.path}; there is {known}")
            self._write(left)

    def _read(self) -> tuple[User, ...]:
        content = private_files.read(self.path)
        if content is None:
            return ()
        try:
            return msgspec.json.decode(content, type=tuple[User, ...])
        except msgspec.MsgspecError as exc:
            raise ConfigurationError(f"cannot read the users in {self.path}: {exc}; `avec user` writes it") from exc

    def _write(self, users: list[User]) -> None:
        private_files.write(self.path, msgspec.json.format(msgspec.json.encode(users)) + b"\n")
