"""Wire forms: the bytes of a message on each kind of stream.

WebSocket subscribers get the frame that arrived from the exchange, or, for a large message after
negotiated compression, the frame that ``deflate`` made of it. NDJSON subscribers get the payload
as one line, SSE subscribers as one event with a resume position. On HTTP/1.1 each line or event
is one chunk, so that a client can distinguish a planned end from a broken connection. On HTTP/1.0
the end of the connection is the end of the stream.

The line of a message, and the part of its event that all subscribers share, are made once, when
the first cohort needs them.

Sources: WHATWG HTML "Server-sent events"; RFC 9112 §7.1 (chunks); ndjson.org.
"""

from typing import Protocol

from hedgehogd.domain.message import Message
from hedgehogd.protocol.frames import encode_ping, encode_text

LAST_CHUNK = b"0\r\n\r\n"
SSE_RETRY_MS = 1000


class WireForm(Protocol):
    """The encoding of one kind of stream.

    Attributes:
        kind: the label in metrics: ``websocket``, ``sse`` or ``ndjson``.
        states_position: True if events carry a resume position.
        can_tell: True if the stream can carry anything besides data, such as an error.
        has_notices: True if notices may be sent.
        ends_at_gaps: True if a gap ends the stream, because it cannot carry a gap notice.
        deflates: True if the compressed frame of a message is sent when there is one.
    """

    kind: str
    states_position: bool
    can_tell: bool
    has_notices: bool
    ends_at_gaps: bool
    deflates: bool

    def data(self, message: Message, position: str) -> bytes:
        """Return the bytes of one message, with ``position`` if the form states positions.

        An empty ``position`` is left out. Bytes that all cohorts share are stored in ``message``.
        """

    def tell(self, payload: bytes) -> bytes:
        """Return the bytes of a notice, an answer or an error; empty if the form has none."""

    def keep_alive(self) -> bytes:
        """Return bytes without content that keep proxies from closing a quiet stream."""

    def end(self) -> bytes:
        """Return the bytes of a planned end; empty if the form has none."""


class WebSocketForm:
    """WebSocket frames as the exchange sent them, or the shared compressed ones for ``deflates``.

    hedgehogd's own messages are never compressed.

    ``has_notices`` is False on the strict endpoints, ``/`` and ``/ws-feed``.
    """

    kind = "websocket"
    states_position = False
    can_tell = True
    ends_at_gaps = False

    def __init__(self, *, has_notices: bool, deflates: bool = False) -> None:
        self.has_notices = has_notices
        self.deflates = deflates

    def data(self, message: Message, position: str) -> bytes:  # noqa: ARG002
        """Return the frame that arrived, or the compressed one if it exists and was negotiated."""
        if self.deflates and message.deflated is not None:
            return message.deflated
        return message.frame

    def tell(self, payload: bytes) -> bytes:
        """Return ``payload`` as a text frame."""
        return encode_text(payload)

    def keep_alive(self) -> bytes:
        """Return a ping; its pong also proves that the peer is alive."""
        return encode_ping()

    def end(self) -> bytes:
        """Return no bytes: the stream ends with a close frame, which carries a code."""
        return b""


class NdjsonForm:
    """One message or notice per line, ``chunked`` on HTTP/1.1; the keep-alive is a blank line.

    Without notices every line is a message of the exchange, and a gap ends the stream.
    """

    kind = "ndjson"
    states_position = False
    deflates = False

    def __init__(self, *, chunked: bool, has_notices: bool = True) -> None:
        self._chunked = chunked
        self.can_tell = self.has_notices = has_notices
        self.ends_at_gaps = not has_notices

    def data(self, message: Message, position: str) -> bytes:  # noqa: ARG002
        """Return the payload as one line, with its line feed."""
        line = message.line
        if line is None:
            line = message.line = one_line(message.payload) + b"\n"
        return chunk(line) if self._chunked else line

    def tell(self, payload: bytes) -> bytes:
        """Return ``payload`` as a line; no bytes if the stream has no notices."""
        if not self.has_notices:
            return b""
        line = one_line(payload) + b"\n"
        return chunk(line) if self._chunked else line

    def keep_alive(self) -> bytes:
        """Return a blank line; on HTTP/1.1 as a chunk."""
        return chunk(b"\n") if self._chunked else b"\n"

    def end(self) -> bytes:
        """Return the last chunk; no bytes on HTTP/1.0."""
        return LAST_CHUNK if self._chunked else b""


class SseForm:
    """One message per event, ``chunked`` on HTTP/1.1.

    Data events have no name, notices have the name ``hedgehogd``.
    """

    kind = "sse"
    states_position = True
    can_tell = True
    has_notices = True
    ends_at_gaps = False
    deflates = False

    def __init__(self, *, chunked: bool) -> None:
        self._chunked = chunked

    def data(self, message: Message, position: str) -> bytes:
        """Return an event for ``onmessage``, with ``position`` as its id unless it is empty."""
        event = message.event
        if event is None:
            event = message.event = b"data: " + _sse_lines(message.payload) + b"\n"
        event = b"%bid: %b\n\n" % (event, position.encode()) if position else event + b"\n"
        return chunk(event) if self._chunked else event

    def tell(self, payload: bytes) -> bytes:
        """Return an event named ``hedgehogd``, without an id, so that it changes no position."""
        event = notice_event(payload) + b"\n"
        return chunk(event) if self._chunked else event

    def keep_alive(self) -> bytes:
        """Return a comment, which clients ignore; on HTTP/1.1 as a chunk."""
        return chunk(b":\n\n") if self._chunked else b":\n\n"

    def retry(self, retry_ms: int) -> bytes:
        """Return the field that sets the pause of an EventSource before it reconnects.

        ``retry_ms`` is in milliseconds.
        """
        field = b"retry: %d\n\n" % retry_ms
        return chunk(field) if self._chunked else field

    def end(self) -> bytes:
        """Return the last chunk; no bytes on HTTP/1.0."""
        return LAST_CHUNK if self._chunked else b""


def chunk(data: bytes) -> bytes:
    """Return ``data`` (not empty) as one HTTP/1.1 chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def one_line(payload: bytes) -> bytes:
    """Return JSON text without line breaks.

    A line break between JSON tokens is white space, and JSON strings contain none (RFC 8259 §2,
    §7), so a space in its place does not change the meaning. The exchange sends no line breaks.
    """
    if b"\n" in payload or b"\r" in payload:
        return payload.replace(b"\r", b" ").replace(b"\n", b" ")
    return payload


def notice_event(payload: bytes) -> bytes:
    """Return the event of a notice, without the blank line that ends an event."""
    return b"event: hedgehogd\ndata: " + _sse_lines(payload) + b"\n"


def _sse_lines(payload: bytes) -> bytes:
    """Return JSON text for ``data:`` fields: one field per line, which the client joins again.

    A carriage return ends a line too, and another relay may send one in a notice.
    """
    if b"\n" in payload or b"\r" in payload:
        return b"\ndata: ".join(payload.splitlines())
    return payload


WEBSOCKET_STRICT = WebSocketForm(has_notices=False)
WEBSOCKET = WebSocketForm(has_notices=True)
WEBSOCKET_STRICT_DEFLATE = WebSocketForm(has_notices=False, deflates=True)
WEBSOCKET_DEFLATE = WebSocketForm(has_notices=True, deflates=True)
NDJSON = {chunked: NdjsonForm(chunked=chunked) for chunked in (True, False)}
NDJSON_BARE = {chunked: NdjsonForm(chunked=chunked, has_notices=False) for chunked in NDJSON}
SSE = {True: SseForm(chunked=True), False: SseForm(chunked=False)}
