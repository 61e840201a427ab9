"""The first head of a connection: where it ends, whether it is one, what may pass on. Pure."""

import re

import h11

from hedgehogd.domain import limits

HEAD_END = re.compile(rb"\n\r?\n")  # h11 takes bare line feeds too
_VERSIONS = frozenset({b"1.0", b"1.1"})
_TARGET = re.compile(rb"/|(?i:https?)://")  # RFC 9112 §3.2; nothing is a proxy here
_HTTP2_PREFACE = b"PRI * HTTP/2.0"
_UPGRADE_LINES = re.compile(
    rb"(?im)^(?:upgrade|http2-settings)[ \t]*:[^\r\n]*\r?\n(?:[ \t][^\r\n]*\r?\n)*"
)


class BadHead(Exception):
    """A request head that is none.

    Attributes:
        status: the HTTP status that says so.
        received: what was received of it.
    """

    def __init__(self, status: int, code: str, message: str, received: bytes = b"") -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.received = received


def read_head(data: bytes) -> h11.Request:
    """Parse the head that ``data`` begins with.

    Raises:
        BadHead: it is not HTTP/1.0 or HTTP/1.1, its method is not in capital letters, or its
            target is not one of a server's.
    """
    if data.startswith(_HTTP2_PREFACE):
        raise BadHead(505, "http_version", "HTTP/1.1 is spoken here, not HTTP/2")
    parser = h11.Connection(h11.SERVER, max_incomplete_event_size=limits.HEAD_BYTES_MAX)
    try:
        parser.receive_data(data)
        event = parser.next_event()
    except h11.RemoteProtocolError as error:
        raise BadHead(error.error_status_hint, "bad_request", str(error)) from None
    if not isinstance(event, h11.Request):
        raise BadHead(400, "bad_request", "that was not a request")
    if event.http_version not in _VERSIONS:
        version = event.http_version.decode("ascii")
        raise BadHead(505, "http_version", f"HTTP/1.1 is spoken here, not HTTP/{version}")
    if event.method != event.method.upper():  # case matters, and Hypercorn would guess
        raise BadHead(400, "bad_request", "a method is written in capital letters")
    if not _TARGET.match(event.target) and (event.method, event.target) != (b"OPTIONS", b"*"):
        raise BadHead(400, "bad_request", "a target begins with / or is an absolute URL")
    return event


def without_upgrade(data: bytes, head_end: int) -> bytes:
    """Return ``data`` without the header lines that would change the protocol.

    Hypercorn follows ``Upgrade: h2c``; a connection that speaks HTTP/2 afterwards would
    not be the first request of its connection any more.
    """
    return _UPGRADE_LINES.sub(b"", data[:head_end]) + data[head_end:]


def is_not_http(data: bytes) -> bool:
    """Say whether more bytes cannot make a head of this: a TLS hello, a banner, HTTP/2."""
    line, newline, _ = data.partition(b"\n")
    if data.startswith(_HTTP2_PREFACE):
        return True
    return (bool(newline) and b" HTTP/" not in line) or data[:1] in {b"\x16", b"\x80", b"\x00"}
