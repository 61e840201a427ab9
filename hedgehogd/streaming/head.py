"""Find the end of a connection's first request head, parse it, remove upgrades; no I/O."""

import re

import h11

from hedgehogd.domain import limits

HEAD_END = re.compile(rb"\n\r?\n")  # h11 accepts bare line feeds too
_VERSIONS = frozenset({b"1.0", b"1.1"})
_TARGET = re.compile(rb"/|(?i:https?)://")  # RFC 9112 §3.2; the forms for proxies are refused
_HTTP2_PREFACE = b"PRI * HTTP/2.0"
_UPGRADE_LINES = re.compile(
    rb"(?im)^(?:upgrade|http2-settings)[ \t]*:[^\r\n]*\r?\n(?:[ \t][^\r\n]*\r?\n)*"
)


class BadHead(Exception):
    """A request head that is invalid, too large or too slow; the text is for the client.

    Attributes:
        status: the HTTP status of the refusal.
        code: the error code of the refusal.
        received: the bytes that were received; empty if the caller has them.
    """

    def __init__(self, status: int, code: str, message: str, received: bytes = b"") -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.received = received


def read_head(data: bytes) -> h11.Request:
    """Parse the request head at the beginning of ``data``.

    Raises:
        BadHead: it is incomplete or invalid, it is not HTTP/1.0 or HTTP/1.1 (505), its method is
            not in capital letters, or its target has a form that only a proxy accepts.
    """
    if data.startswith(_HTTP2_PREFACE):
        raise BadHead(505, "http_version", "the protocol here is HTTP/1.1, not HTTP/2")
    parser = h11.Connection(h11.SERVER, max_incomplete_event_size=limits.HEAD_BYTES_MAX)
    try:
        parser.receive_data(data)
        event = parser.next_event()
    except h11.RemoteProtocolError as error:
        raise BadHead(error.error_status_hint, "bad_request", str(error)) from None
    if not isinstance(event, h11.Request):
        raise BadHead(400, "bad_request", "the bytes are not an HTTP request")
    if event.http_version not in _VERSIONS:
        version = event.http_version.decode("ascii")
        raise BadHead(505, "http_version", f"the protocol here is HTTP/1.1, not HTTP/{version}")
    if event.method != event.method.upper():  # methods are case-sensitive; Hypercorn ignores that
        raise BadHead(400, "bad_request", "a method is written in capital letters")
    if not _TARGET.match(event.target) and (event.method, event.target) != (b"OPTIONS", b"*"):
        raise BadHead(400, "bad_request", "a target begins with / or is an absolute URL")
    return event


def without_upgrade(data: bytes, head_end: int) -> bytes:
    """Return ``data`` without the lines ``Upgrade`` and ``HTTP2-Settings`` of its head.

    Hypercorn accepts ``Upgrade: h2c``, and further requests on that HTTP/2 connection would not
    pass the door.
    """
    return _UPGRADE_LINES.sub(b"", data[:head_end]) + data[head_end:]


def is_not_http(data: bytes) -> bool:
    """Return whether ``data`` cannot become an HTTP/1 head: a TLS hello, a banner, HTTP/2."""
    line, newline, _ = data.partition(b"\n")
    if data.startswith(_HTTP2_PREFACE):
        return True
    return (bool(newline) and b" HTTP/" not in line) or data[:1] in {b"\x16", b"\x80", b"\x00"}
