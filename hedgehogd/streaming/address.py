"""The address of a subscriber, with or without proxies in between. Pure.

A proxy appends the address of its peer to ``X-Forwarded-For``, or an element with this address
to ``Forwarded`` (RFC 7239); everything further left is the claim of that peer. So both lists
are read from their right end, as far as the proxies that wrote them are trusted.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)

Network = IPv4Network | IPv6Network

_TEXT_MAX = 45  # an IPv6 address with an IPv4 one in it is the longest
# Proxies in a row. More than three are rare, and each costs some µs.
_HOPS_MAX = 16
# An element of Forwarded: for, by, host and proto, with room.
_ELEMENT_CHARS_MAX = 512

_PORT = r"(?::(?:\d{1,5}|_[\w.-]+))?"  # RFC 7239 §6: a number, or obfuscated
_NODE = re.compile(rf"\[([^\]]*)\]{_PORT}|([^:]*){_PORT}|(.*)", re.ASCII)
_CHARS = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_NODE_CHARS = r"[!#$%&'*+.^_`|~0-9A-Za-z:\[\]-]+"  # many proxies leave out the quotes
_QUOTED = r'"(?:[^"\\]|\\.)*"'
_PAIR = rf"{_CHARS}=(?:{_NODE_CHARS}|{_QUOTED})"
_ELEMENT = re.compile(rf"[ \t]*{_PAIR}(?:[ \t]*;[ \t]*{_PAIR})*[ \t]*")
_ANY_PAIR = re.compile(rf"({_CHARS})=({_NODE_CHARS}|{_QUOTED})")


def read_networks(texts: Sequence[str]) -> tuple[Network, ...]:
    """Return what ``texts``, such as ``127.0.0.1`` or ``10.0.0.0/8``, stand for.

    Raises:
        ValueError: one is no address and no network.
    """
    return tuple(ip_network(text, strict=False) for text in texts)


def client_address(peer: str, headers: Mapping[bytes, bytes], trusted: Sequence[Network]) -> str:
    """Return the nearest address that does not belong to a trusted proxy.

    Args:
        peer: the address of the connection; empty for a unix socket, which only our own user
            may open.
        headers: of the request, by lower-case name, repeated ones joined by commas.
            ``x-forwarded-for`` is read; without it, ``forwarded``.
        trusted: proxies whose headers are believed.
    """
    address = peer
    if not is_trusted(address, trusted):
        return address
    for node in _nodes(headers):
        found = _address_of(node)
        if not found:
            break
        address = found
        if not is_trusted(address, trusted):
            break
    return address


def is_trusted(address: str, trusted: Sequence[Network]) -> bool:
    """Report whether ``address`` is a unix socket's or belongs to a trusted proxy."""
    if not address:
        return True
    found = _read(address)
    return any(found in network for network in trusted)


def share_of(address: str) -> str:
    """Return what counts as one address for limits: an IPv4 address, or the /64 of an IPv6 one.

    A household or a rented machine has a whole /64 and may take each connection from another
    address of it.
    """
    if ":" not in address:
        return address
    found = _read(address)
    if isinstance(found, IPv4Address):
        return str(found)
    return str(IPv6Network((int(found) >> 64 << 64, 64)))


def _read(text: str) -> IPv4Address | IPv6Address:
    """Return an address; IPv4 peers on a socket for both families have their IPv4 address.

    Raises:
        ValueError: it is none.
    """
    found = ip_address(text)
    return found.ipv4_mapped or found if isinstance(found, IPv6Address) else found


def _nodes(headers: Mapping[bytes, bytes]) -> Iterator[str]:
    """Yield the addresses that proxies wrote, the nearest first, in whatever form."""
    if listed := headers.get(b"x-forwarded-for", b"").decode("latin-1"):
        for entry in reversed(listed.rsplit(",", _HOPS_MAX)[-_HOPS_MAX:]):
            yield entry.strip()
        return
    rest = headers.get(b"forwarded", b"").decode("latin-1")
    for _ in range(_HOPS_MAX):
        if not rest:
            return
        rest, element = _last_element(rest)
        yield _for_of(element)


def _last_element(text: str) -> tuple[str, str]:
    """Return what precedes the last element of ``Forwarded``, and this element; empty for none.

    The shortest tail after a comma that is an element: a quote which the client opened and did
    not close cannot swallow the element that a proxy appended, and a comma inside of quotes
    leaves half a quoted string, which is no element.
    """
    comma = len(text)
    while comma >= 0:
        comma = text.rfind(",", 0, comma)
        tail = text[comma + 1 :]
        if len(tail) > _ELEMENT_CHARS_MAX:
            break
        if _ELEMENT.fullmatch(tail):
            return text[: max(comma, 0)], tail
    return "", ""


def _for_of(element: str) -> str:
    """Return the node that an element of ``Forwarded`` names; empty for none."""
    for name, value in _ANY_PAIR.findall(element):
        if name.lower() == "for":
            return re.sub(r"\\(.)", r"\1", value[1:-1]) if value.startswith('"') else value
    return ""


def _address_of(node: str) -> str:
    """Return the address in ``node``, which may have a port; empty for none.

    Forms: ``203.0.113.9``, ``203.0.113.9:443``, ``2001:db8::7``, ``[2001:db8::7]`` and
    ``[2001:db8::7]:443``. ``unknown`` and obfuscated names such as ``_hidden`` are none.
    """
    if len(node) > _TEXT_MAX + len("[]:65535"):
        return ""
    match = _NODE.fullmatch(node)
    text = next((part for part in match.groups() if part is not None), "") if match else ""
    if len(text) > _TEXT_MAX or "%" in text:  # a zone has a meaning on its own machine only
        return ""
    try:
        return str(_read(text))
    except ValueError:
        return ""
