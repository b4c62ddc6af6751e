"""Whom a destination lets in: what it needs for that, made at its first start, and the check of each host.

Loopback needs nothing. On any other address connections are encrypted and every host shows a token, or a certificate
of an authority that the administrator named. Not here: connections (`stranger`) and the users' file (`users`).
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from avec import private_files
from avec.communication import is_loopback
from avec.communication.tls import destination_context
from avec.config import Settings
from avec.destination.certificates import fingerprint_in, make_certificate
from avec.destination.users import User, Users
from avec.errors import AuthenticationFailed, ConfigurationError, DestinationError

FIRST_USER = "owner"  # whose token is made at the first start


@dataclass(frozen=True, slots=True)
class Access:
    """What a destination asks of hosts, the check of each, and what its administrator has to tell them."""

    context: ssl.SSLContext | None  # None: connections are not encrypted
    fingerprint: str
    users: Users | None  # None: nobody is asked who he is
    by_certificate: bool  # users are known by certificates in place of tokens
    token: str  # of the user who was made just now

    def invitation(self, url: str) -> str:
        """The line to paste on a host; empty where nothing has to be told."""
        if self.users is None and self.context is None:
            return ""
        words = ["avec login", _reachable(url)]
        if self.context is not None:
            words += ["--fingerprint", self.fingerprint]
        if self.users is not None and not self.by_certificate:
            words += ["--token", self.token or "TOKEN"]
        return " ".join(words)

    def admit(self, token: str, names: Sequence[str]) -> User | None:
        """Say who a host is; None where nobody is asked.

        Who has shown something wrong before does not matter: nobody guesses 256 random bits, however often he may try,
        and behind one address there may be many who need not.

        Args:
            names: in the host's certificate, if there is one.

        Raises:
            AuthenticationFailed: it is nobody's token or certificate.
            DestinationError: the users' file cannot be used.
        """
        if self.users is None:
            return None
        try:
            user = self._find(self.users, token, names)
        except ConfigurationError as exc:  # its text is the administrator's and no stranger's
            raise DestinationError("the destination cannot look up its users now; its log says why") from exc
        if user is None:
            raise AuthenticationFailed(
                "the destination does not know this host; ask its administrator for an `avec login` line "
                "(`avec user add NAME` prints one there) and paste it here"
            )
        return user

    def _find(self, users: Users, token: str, names: Sequence[str]) -> User | None:
        if not self.by_certificate:
            return users.with_token(token)
        return next((found for name in names if (found := users.with_name(name)) is not None), None)


def prepare(url: str, settings: Settings) -> Access:
    """Decide what a destination at this URL asks of hosts; make its certificate and first token if there are none.

    Raises:
        ConfigurationError: the address needs encryption that the URL does not ask for, or a file cannot be used.
    """
    encrypted, local = url.startswith("tls:"), is_loopback(url)
    if not encrypted and not local:
        _refuse_plain(url, settings)
    if settings.client_ca is not None and not encrypted:
        raise ConfigurationError(f"--client-ca needs an encrypted address: --listen tls{url.removeprefix('tcp')}")
    certificate = _certificate_path(settings)
    if encrypted:
        _provide_certificate(certificate, made=settings.certificate is None)
    needed = settings.require_token or settings.client_ca is not None or (encrypted and not local)
    users = _users(settings) if needed else None
    token = users.add(FIRST_USER) if users is not None and settings.client_ca is None and not users.all() else ""
    return Access(
        destination_context(certificate, settings.client_ca) if encrypted else None,
        fingerprint_in(certificate) if encrypted else "",
        users,
        settings.client_ca is not None,
        token,
    )


def described_users(settings: Settings) -> tuple[Users, str]:
    """The users of this machine's destination, and what a login line says before the token."""
    certificate = _certificate_path(settings)
    fingerprint = fingerprint_in(certificate) if certificate.exists() else "sha256:…"
    return _users(settings), f"{_reachable(settings.listen)} --fingerprint {fingerprint}"


def _users(settings: Settings) -> Users:
    return Users(settings.secrets_dir / "users.json")


def _certificate_path(settings: Settings) -> Path:
    return settings.certificate or settings.secrets_dir / "certificate.pem"


def _refuse_plain(url: str, settings: Settings) -> None:
    if not settings.insecure:
        raise ConfigurationError(
            f"{url} can be reached by others, who could read and change all that hosts send; serve encrypted with "
            f"--listen tls{url.removeprefix('tcp')}, or say --insecure if every machine that can reach it is trusted"
        )
    if settings.require_token:
        raise ConfigurationError(
            f"a token sent to {url} could be read on its way; --require-token goes with --listen tls://… there"
        )


def _provide_certificate(path: Path, made: bool) -> None:
    with private_files.changing(path):
        if private_files.read(path) is not None:
            return
        if not made:
            raise ConfigurationError(f"there is no file {path}, which --certificate names")
        private_files.write(path, make_certificate(f"avec destination on {socket.gethostname()[:40]}"))


def _reachable(url: str) -> str:
    """The URL as a host may write it: a machine's name in the place of all its addresses."""
    parts = urlsplit(url)
    if is_loopback(url) and parts.scheme == "tcp":
        return f"tls://{socket.gethostname()}:{parts.port}"
    if parts.hostname not in ("0.0.0.0", "::"):
        return url
    return f"{parts.scheme}://{socket.gethostname()}:{parts.port}"
