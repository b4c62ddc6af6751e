"""What a host knows of destinations and shows them: fingerprints and tokens, kept by `avec login` in a private file."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec

from avec import private_files
from avec.communication.tls import Trust
from avec.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

    from avec.config import Settings


class Login(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is kept of one destination."""

    fingerprint: str = ""
    token: str = ""


@dataclass(frozen=True, slots=True)
class Credentials:
    """What one connection needs."""

    trust: Trust | None
    token: str


def credentials_for(url: str, settings: Settings) -> Credentials:
    """What is known of a destination: from the settings, else from its login.

    Raises:
        ConfigurationError: the file of logins cannot be used.
    """
    encrypted = url.startswith("tls:")
    if not encrypted and not is_on_this_machine(url):
        return Credentials(None, "")  # a token sent there could be read on its way
    login = Login()
    if not settings.token or (encrypted and not settings.fingerprint):
        login = _read(logins_path(settings)).get(url, login)
    fingerprint = settings.fingerprint or login.fingerprint
    trust = Trust(fingerprint, settings.host_certificate) if encrypted and fingerprint else None
    return Credentials(trust, settings.token or login.token)


def keep_login(url: str, login: Login, settings: Settings) -> Path:
    """Remember a destination, in the place of what was remembered of it; give the file.

    Raises:
        ConfigurationError: the file cannot be used.
    """
    path = logins_path(settings)
    with private_files.changing(path):
        logins = {**_read(path), url: login}
        private_files.write(path, msgspec.json.format(msgspec.json.encode(logins)) + b"\n")
    return path


def logins_path(settings: Settings) -> Path:
    """Where logins are kept."""
    return settings.secrets_dir / "logins.json"


def _read(path: Path) -> dict[str, Login]:
    content = private_files.read(path)
    if content is None:
        return {}
    try:
        return msgspec.json.decode(content, type=dict[str, Login])
    except msgspec.MsgspecError as exc:
        raise ConfigurationError(f"cannot read the logins in {path}: {exc}; `avec login` writes it") from exc


def is_on_this_machine(url: str) -> bool:
    """Whether a destination's URL says that it is on this machine."""
    name = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"
