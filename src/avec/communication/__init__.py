"""The communication module of the paper: bytes in motion, and the scheme table of the URLs that name destinations."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from avec.communication import tcp, tls
from avec.communication.transport import Transport
from avec.errors import ConfigurationError


def connect(url: str, timeout_s: float, trust: tls.Trust | None = None) -> Transport:
    """Connect to a destination.

    Args:
        url: `tcp://host:port` or `tls://host:port`.
        timeout_s: seconds until the attempt is given up.
        trust: how a `tls` destination is known to be the right one; required for those.

    Raises:
        ConfigurationError: the URL cannot be used.
        DestinationUnreachable: nobody answered there.
        DestinationUntrusted: somebody else than the destination that is meant answered there, or may have.
    """
    scheme, host, port = _address(url)
    return tls.connect(host, port, timeout_s, trust) if scheme == "tls" else tcp.connect(host, port, timeout_s)


def listen(url: str) -> tcp.TcpListener:
    """Listen for hosts; port 0 takes any free port. Connections of the scheme `tls` are accepted before they are
    encrypted: who serves them puts `tls.TlsTransport` on top.

    Raises:
        ConfigurationError: the URL cannot be used or the address is taken.
    """
    scheme, host, port = _address(url)
    return tcp.listen(host, port, scheme)


def is_loopback(url: str) -> bool:
    """Whether only this machine can reach a URL to listen at; of names that is believed of localhost alone."""
    host = _address(url)[1]
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _address(url: str) -> tuple[str, str, int]:
    example = "write it as tcp://host:port or tls://host:port, for example tcp://127.0.0.1:7700"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as exc:
        raise ConfigurationError(f"the destination URL {url!r} cannot be read ({exc}); {example}") from exc
    if parts.scheme not in ("tcp", "tls"):
        raise ConfigurationError(f"the destination URL {url!r} has an unknown scheme {parts.scheme!r}; {example}")
    if host is None or port is None or parts.path or parts.query or parts.fragment:
        raise ConfigurationError(f"the destination URL {url!r} needs a host and a port and nothing else; {example}")
    return parts.scheme, host, port
