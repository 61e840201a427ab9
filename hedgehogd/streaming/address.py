"""The address of a subscriber, found through any trusted proxies; no I/O.

A proxy appends the address of its peer to ``X-Forwarded-For``, or an element with this address
to ``Forwarded`` (RFC 7239). All entries further left were written by that peer. Both lists are
therefore read from the right, for as long as the proxy that appended an entry is trusted.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

from hedgehogd.domain.networks import Network

_TEXT_MAX = 45  # the longest form is an IPv6 address that contains an IPv4 address
# Consecutive proxies. More than three are rare, and each costs some µs.
_HOPS_MAX = 16
# An element of Forwarded with for, by, host and proto is shorter.
_ELEMENT_CHARS_MAX = 512

_PORT = r"(?::(?:\d{1,5}|_[\w.-]+))?"  # RFC 7239 §6: a number, or obfuscated
_NODE = re.compile(rf"\[([^\]]*)\]{_PORT}|([^:]*){_PORT}|(.*)", re.ASCII)
_CHARS = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_NODE_CHARS = r"[!#$%&'*+.^_`|~0-9A-Za-z:\[\]-]+"  # many proxies omit the quotes
_QUOTED = r'"(?:[^"\\]|\\.)*"'
_PAIR = rf"{_CHARS}=(?:{_NODE_CHARS}|{_QUOTED})"
_ELEMENT = re.compile(rf"[ \t]*{_PAIR}(?:[ \t]*;[ \t]*{_PAIR})*[ \t]*")
_ANY_PAIR = re.compile(rf"({_CHARS})=({_NODE_CHARS}|{_QUOTED})")


def client_address(peer: str, headers: Mapping[bytes, bytes], trusted: Sequence[Network]) -> str:
    """Return the nearest address that does not belong to a trusted proxy.

    If there is none, because all are trusted or a proxy's entry has no address, it is the last one
    found; so it may be ``peer``, and empty.

    Args:
        peer: the peer address of the connection; empty for a unix socket, which only the
            daemon's own user may open.
        headers: the request's headers by lower-case name, repeated headers joined by commas.
            ``x-forwarded-for`` is read; without it, ``forwarded``.
        trusted: networks of the trusted proxies.
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
    """Return whether ``address`` is that of a unix socket, which is empty, or of a trusted proxy.

    Raises:
        ValueError: ``address`` is neither empty nor an IP address.
    """
    if not address:
        return True
    found = _read(address)
    return any(found in network for network in trusted)


def share_of(address: str) -> str:
    """Return the share of ``address``: the unit to which limits per address apply.

    It is the IPv4 address itself, or the /64 network of an IPv6 address, because a household or a
    rented machine owns a whole /64 and may open each connection from another address of it. For a
    unix socket both are empty.

    Raises:
        ValueError: ``address`` has a colon and is not an IPv6 address.
    """
    if ":" not in address:
        return address
    found = _read(address)
    if isinstance(found, IPv4Address):
        return str(found)
    return str(IPv6Network((int(found) >> 64 << 64, 64)))


def _read(text: str) -> IPv4Address | IPv6Address:
    """Parse an address; an IPv4-mapped IPv6 address becomes the IPv4 address.

    A socket for both families reports IPv4 peers in the mapped form.

    Raises:
        ValueError: ``text`` is not an address.
    """
    found = ip_address(text)
    return found.ipv4_mapped or found if isinstance(found, IPv6Address) else found


def _nodes(headers: Mapping[bytes, bytes]) -> Iterator[str]:
    """Yield at most ``_HOPS_MAX`` entries of the forwarding header, the nearest proxy's first.

    They are texts that need not have an address.
    """
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
    """Return ``Forwarded`` without its last element, and this element; both empty without one.

    The last element is the shortest tail after a comma that is a valid element. So a quote that
    the client opened and did not close cannot include the element that a proxy appended; and a
    comma within quotes leaves a tail with an unbalanced quote, which is not an element.
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
    """Return the value of ``for`` in an element of ``Forwarded``; empty when it has none."""
    for name, value in _ANY_PAIR.findall(element):
        if name.lower() == "for":
            return re.sub(r"\\(.)", r"\1", value[1:-1]) if value.startswith('"') else value
    return ""


def _address_of(node: str) -> str:
    """Return the address in ``node``, which may have a port; empty when it has no address.

    Forms: ``203.0.113.9``, ``203.0.113.9:443``, ``2001:db8::7``, ``[2001:db8::7]`` and
    ``[2001:db8::7]:443``. ``unknown`` and obfuscated names such as ``_hidden`` are not addresses.
    """
    if len(node) > _TEXT_MAX + len("[]:65535"):
        return ""
    match = _NODE.fullmatch(node)
    text = next((part for part in match.groups() if part is not None), "") if match else ""
    if len(text) > _TEXT_MAX or "%" in text:  # a zone is valid on its own machine only
        return ""
    try:
        return str(_read(text))
    except ValueError:
        return ""
