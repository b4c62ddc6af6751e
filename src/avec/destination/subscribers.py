"""Whose an address is. A subscriber has more of IPv6 than can be counted: what bounds him takes them as one."""

from __future__ import annotations

import ipaddress

SUBSCRIBER_BITS = 64  # of an IPv6 address; the others are his own choice


def subscriber_at(peer: str) -> str:
    """The address of a peer without its port, or of IPv6 the network that one subscriber has; else the peer's name."""
    try:
        found = ipaddress.ip_address(peer.rpartition(":")[0].partition("%")[0])
    except ValueError:
        return peer
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.ip_network((found, SUBSCRIBER_BITS), strict=False))
