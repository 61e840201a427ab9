"""IP networks: the addresses of proxies that the operator trusts."""

from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network, ip_network

Network = IPv4Network | IPv6Network


def read_networks(texts: Sequence[str]) -> tuple[Network, ...]:
    """Return the networks that ``texts`` name, such as ``127.0.0.1`` or ``10.0.0.0/8``.

    The bits of a network's text after its prefix are ignored: ``10.1.2.3/8`` is ``10.0.0.0/8``.

    Raises:
        ValueError: a text is neither an address nor a network.
    """
    return tuple(ip_network(text, strict=False) for text in texts)
