"""The address of a feed, and how to connect to it."""

import ssl
from typing import NamedTuple
from urllib.parse import urlsplit

import trio

from hedgehogd.domain.errors import EXIT_CONFIG, OperatorError
from hedgehogd.domain.secret import (
    NO_SECRETS,
    Secrets,
    basic_authorization,
    hide_in_url,
    secrets_of,
)

COINBASE_URL = "wss://ws-feed.exchange.coinbase.com"
COINBASE_REST_URL = "https://api.exchange.coinbase.com"
SANDBOX_URL = "wss://ws-feed-public.sandbox.exchange.coinbase.com"
SANDBOX_REST_URL = "https://api-public.sandbox.exchange.coinbase.com"


class FeedAddress(NamedTuple):
    """A WebSocket URL in parts, and the URL of its REST service. Its ``repr`` shows no secret.

    Attributes:
        host: name or address.
        port: TCP port.
        resource: path and query, at least ``/``.
        is_tls: True for ``wss``.
        rest_url: ``https://host[:port]`` without a path.
        authorization: the header for the URL's ``user:password@``; empty without one.
        secrets: strings that no displayed text may contain.
    """

    host: str
    port: int
    resource: str
    is_tls: bool
    rest_url: str
    authorization: str = ""
    secrets: Secrets = NO_SECRETS

    def __repr__(self) -> str:
        """Return a text with the URL that may be displayed."""
        return f"FeedAddress({self.url!r})"

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """The request headers for the URL, in the form of trio-websocket."""
        return [(b"Authorization", self.authorization.encode())] if self.authorization else []

    @property
    def host_header(self) -> str:
        """The ``Host`` header; it names the port only if it is not the default port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.is_tls else 80) else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """The URL for display: without user, password and query."""
        return hide_in_url(f"{'wss' if self.is_tls else 'ws'}://{self.host_header}{self.resource}")


def parse_url(url: str, rest_url: str = "") -> FeedAddress:
    """Parse a ``ws://`` or ``wss://`` URL; the REST service is at the same host by default.

    Raises:
        OperatorError: the URL has another scheme, no host, or an invalid port.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        port = 0
    if port == 0 or parts.scheme not in {"ws", "wss"} or not parts.hostname:
        raise OperatorError(
            f"{hide_in_url(url)!r} is not a feed.\n  Expected ws://HOST[:PORT][/PATH] or wss://…",
            EXIT_CONFIG,
        )
    is_tls = parts.scheme == "wss"
    resource = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    address = FeedAddress(
        parts.hostname,
        port or (443 if is_tls else 80),
        resource,
        is_tls,
        "",
        basic_authorization(parts),
        secrets_of(parts),
    )
    scheme = "https" if is_tls else "http"
    return address._replace(rest_url=rest_url or f"{scheme}://{address.host_header}")


async def dial(address: FeedAddress) -> trio.abc.Stream:
    """Connect to ``address``; the caller limits the time and closes the stream.

    Raises:
        OSError: no route, connection refused, unknown host name, certificate not valid.
        trio.BrokenResourceError: the connection broke during the TLS handshake.
    """
    stream = await trio.open_tcp_stream(address.host, address.port)
    if not address.is_tls:
        return stream
    tls = trio.SSLStream(
        stream,
        ssl.create_default_context(),
        server_hostname=address.host,
        https_compatible=True,
    )
    try:
        await tls.do_handshake()
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    return tls
