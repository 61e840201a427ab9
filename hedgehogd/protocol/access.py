"""Access by host name and web page: checks of a request's ``Host`` and ``Origin``. Pure.

A browser lets any page open a WebSocket to any address, and sends the page's origin in
``Origin``. So the listener serves a page only if its origin is the host and port that the request
names, or if the operator admits the origin. An attacker can also serve a page under a name of
its own and then resolve that name to 127.0.0.1 (DNS rebinding); ``Origin`` and ``Host`` then
agree. So a listener on a loopback address serves only loopback names and the names that the
operator lists.
"""

import re
from collections.abc import Iterable
from ipaddress import IPv6Address
from typing import NamedTuple

from hedgehogd.domain.errors import SubscriberError

ANY = "*"

_PORT_MAX = 65535
_SHOWN_CHARS_MAX = 100  # of a header, in a refusal and in the log
_AUTHORITY = re.compile(
    r"(?:\[([0-9a-f:.]{2,45})\]|([0-9a-z_-][0-9a-z._-]*))(?::(\d{0,5}))?", re.ASCII
)
_LOOPBACK = re.compile(r"127(?:\.\d{1,3}){3}", re.ASCII)  # a name never ends in a number
_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://([^/]+)", re.ASCII)
_DEFAULT_PORTS = {"http": 80, "ws": 80, "https": 443, "wss": 443}


class Authority(NamedTuple):
    """Host and port of a ``Host`` header.

    Attributes:
        host: in lower case, without a trailing dot; an IPv6 address without brackets.
        port: None if the header has no port.
    """

    host: str
    port: int | None

    @property
    def is_loopback(self) -> bool:
        """True for ``localhost`` and loopback addresses, which no DNS answer can redirect."""
        if ":" not in self.host:
            return self.host == "localhost" or _LOOPBACK.fullmatch(self.host) is not None
        address = IPv6Address(self.host)
        return (address.ipv4_mapped or address).is_loopback


class Origin(NamedTuple):
    """The origin of a page: a value of ``Origin`` other than ``null``.

    Attributes:
        scheme: in lower case.
        host: as in ``Authority``.
        port: the scheme's default if the header has no port; None for a scheme without default.
    """

    scheme: str
    host: str
    port: int | None

    def is_of(self, authority: Authority) -> bool:
        """Return True if the page comes from ``authority``, with any scheme.

        A proxy that terminates TLS removes the scheme, so an ``authority`` without a port matches
        the ports 80 and 443.
        """
        if self.host != authority.host or self.port is None:
            return False
        if authority.port is None:
            return self.port in _DEFAULT_PORTS.values()
        return self.port == authority.port


def read_authority(text: str) -> Authority | None:
    """Parse ``HOST[:PORT]``; return None for any other form, with userinfo for example."""
    match = _AUTHORITY.fullmatch(text.lower())
    if match is None:
        return None
    bracketed, host, digits = match.groups()
    port = int(digits) if digits else None
    if port is not None and port > _PORT_MAX:
        return None
    if bracketed is None:
        return Authority(host.removesuffix("."), port)
    try:
        return Authority(str(IPv6Address(bracketed)), port)
    except ValueError:
        return None


def read_origin(text: str) -> Origin | None:
    """Parse ``SCHEME://HOST[:PORT]``; return None for ``null``, paths, userinfo and lists."""
    match = _ORIGIN.fullmatch(text.lower())
    authority = read_authority(match[2]) if match else None
    if match is None or authority is None:
        return None
    port = _DEFAULT_PORTS.get(match[1]) if authority.port is None else authority.port
    return Origin(match[1], authority.host, port)


class CrossOrigins:
    """The page origins that the operator admits to a listener of another origin (CORS)."""

    def __init__(self, texts: Iterable[str] = ()) -> None:
        """``texts`` are origins, or ``*`` for any; a text that is no origin is ignored."""
        listed = frozenset(texts)
        self._admits_any = ANY in listed
        self._admitted = {read_origin(text) for text in listed} - {None}

    def answer(self, origin: str) -> str:
        """Return the value of ``Access-Control-Allow-Origin`` for a page of ``origin``.

        It is ``*`` if any page is admitted, else ``origin``; empty for a page not admitted.
        """
        if self._admits_any:
            return ANY
        return origin if self._admitted and read_origin(origin) in self._admitted else ""


class Access:
    """The host names and page origins that one listener serves."""

    def __init__(self, cross_origins: CrossOrigins, hosts: Iterable[str] | None = None) -> None:
        """``hosts`` are the names served besides loopback ones, in lower case, ``*`` for any.

        None switches the check of names off.
        """
        self._cross_origins = cross_origins
        self._hosts = None if hosts is None else frozenset(hosts)

    def check(self, authority: str | None, origin: str | None) -> None:
        """Raise an error for a request that must not be served.

        Args:
            authority: the host and port that the request names; None for an HTTP/1.0 request
                without them, which no browser sends and which is served for every name.
            origin: the ``Origin`` header; None for a request without one.

        Raises:
            SubscriberError: 421 for a name that is not served, 403 for a foreign page.
        """
        named = None if authority is None else read_authority(authority)
        if authority is not None and not self._serves(named):
            raise SubscriberError(
                "bad_host",
                f"{authority[:_SHOWN_CHARS_MAX]!r} is not served at this address; "
                "an operator can allow a name by serve.hosts (--hosts)",
                421,
            )
        if origin is None or self._cross_origins.answer(origin):
            return
        page = read_origin(origin)
        if page is None or named is None or not page.is_of(named):
            raise SubscriberError(
                "bad_origin",
                f"pages of {origin[:_SHOWN_CHARS_MAX]!r} are not served here; "
                "an operator can allow an origin by serve.cors_origins (--cors-origins)",
                403,
            )

    def _serves(self, named: Authority | None) -> bool:
        if self._hosts is None or ANY in self._hosts:
            return True
        return named is not None and (named.is_loopback or named.host in self._hosts)
