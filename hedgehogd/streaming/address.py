"""Where a subscriber is, behind proxies or not. Pure.

A proxy appends the address of whoever connected to it to ``X-Forwarded-For``; what stands
further left is only what that one said of itself. So the list is read from its right end,
as far as those who wrote it are trusted.
"""

from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Network = IPv4Network | IPv6Network

_TEXT_MAX = 45  # an IPv6 address with an IPv4 one in it is the longest


def read_networks(texts: Sequence[str]) -> tuple[Network, ...]:
    """Return what ``texts``, such as ``127.0.0.1`` or ``10.0.0.0/8``, stand for.

    Raises:
        ValueError: one is no address and no network.
    """
    return tuple(ip_network(text, strict=False) for text in texts)


def client_address(peer: str, forwarded_for: bytes, trusted: Sequence[Network]) -> str:
    """Return the nearest address that is none of a trusted proxy.

    Args:
        peer: whoever is connected to us; empty for a unix socket, which only our own may open.
        forwarded_for: ``X-Forwarded-For``, several joined by commas; empty for none.
        trusted: proxies whose word is taken.
    """
    address = peer
    entries = forwarded_for.decode("latin-1").split(",") if forwarded_for else []
    while entries and (not address or _is_one_of(address, trusted)):
        entry = entries.pop().strip()
        if not _is_address(entry):
            break
        address = entry
    return address


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return len(text) <= _TEXT_MAX


def _is_one_of(address: str, networks: Sequence[Network]) -> bool:
    found = ip_address(address)
    if isinstance(found, IPv6Address):
        found = found.ipv4_mapped or found  # how IPv4 peers look on a socket for both
    return any(found in network for network in networks)
