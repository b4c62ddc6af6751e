"""The communication module of the paper: bytes in motion, and the scheme table of the URLs that name destinations."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from avec.communication import tcp
from avec.communication.transport import Listener, Transport
from avec.errors import ConfigurationError


def connect(url: str, timeout_s: float) -> Transport:
    """Connect to a destination.

    Args:
        url: `tcp://host:port`.
        timeout_s: seconds until the attempt is given up.

    Raises:
        ConfigurationError: the URL cannot be used.
        DestinationUnreachable: nobody answered there.
    """
    return tcp.connect(*_address(url), timeout_s)


def listen(url: str) -> Listener:
    """Listen for hosts; port 0 takes any free port.

    Raises:
        ConfigurationError: the URL cannot be used or the address is taken.
    """
    return tcp.listen(*_address(url))


def is_loopback(url: str) -> bool:
    """Whether only this machine can reach a bound URL."""
    return ipaddress.ip_address(_address(url)[0]).is_loopback


def _address(url: str) -> tuple[str, int]:
    example = "write it as tcp://host:port, for example tcp://127.0.0.1:7700"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as exc:
        raise ConfigurationError(f"the destination URL {url!r} cannot be read ({exc}); {example}") from exc
    if parts.scheme != "tcp":
        raise ConfigurationError(f"the destination URL {url!r} has an unknown scheme {parts.scheme!r}; {example}")
    if host is None or port is None or parts.path or parts.query or parts.fragment:
        raise ConfigurationError(f"the destination URL {url!r} needs a host and a port and nothing else; {example}")
    return host, port
