"""The address of a feed: a WebSocket URL in parts, and the REST service beside it."""

from typing import NamedTuple
from urllib.parse import urlsplit

from hedgehogd.domain.errors import EXIT_CONFIG, OperatorError
from hedgehogd.domain.secret import (
    NO_SECRETS,
    Secrets,
    basic_authorization,
    hide_in_url,
    secrets_of,
)


class FeedAddress(NamedTuple):
    """A WebSocket URL in parts, and the REST service beside it; its ``repr`` shows no secret.

    Attributes:
        host: name or address, an IPv6 address without brackets.
        port: TCP port.
        resource: path and query, at least ``/``; the query is not hidden here.
        is_tls: True for ``wss``.
        rest_url: base URL of REST: the same host and port with ``http`` or ``https``, or the
            configured URL.
        authorization: the value of ``Authorization`` for the URL's ``user:password@``; empty
            without one.
        secrets: values that no log line, error or page may contain.
    """

    host: str
    port: int
    resource: str
    is_tls: bool
    rest_url: str
    authorization: str = ""
    secrets: Secrets = NO_SECRETS

    def __repr__(self) -> str:
        """Return the URL without secrets."""
        return f"FeedAddress({self.url!r})"

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """The headers that the URL requires, for trio-websocket: ``Authorization``, or none."""
        return [(b"Authorization", self.authorization.encode())] if self.authorization else []

    @property
    def host_header(self) -> str:
        """The value of ``Host``: with the port only when it is not the scheme's default."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.is_tls else 80) else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """The URL for logs and errors: without user and password, its query replaced."""
        return hide_in_url(f"{'wss' if self.is_tls else 'ws'}://{self.host_header}{self.resource}")


def parse_url(url: str, rest_url: str = "") -> FeedAddress:
    """Read a ``ws://`` or ``wss://`` URL; REST is at the same host unless ``rest_url`` is set.

    Raises:
        OperatorError: the URL is invalid, its scheme is another one, its host is missing, or its
            port is not from 1 to 65535.
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
