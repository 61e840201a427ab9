"""Wire forms: how a message looks on each kind of stream.

WebSocket subscribers get the upstream's own frame, or, where they asked for compression and
the message is large, the one that ``deflate`` made of it. NDJSON subscribers get the payload as
one line, SSE subscribers as one event with a resume position. On HTTP/1.1 each line or
event travels as one chunk, so that an end we planned differs from a cut; on HTTP/1.0 the
connection's end is the stream's.

A message's line, and the part of its event that is the same for all, are made once, when
the first cohort wants them.

Sources: WHATWG HTML "Server-sent events"; RFC 9112 §7.1 (chunks); ndjson.org.
"""

from typing import Protocol

from hedgehogd.domain.message import Message
from hedgehogd.protocol.frames import encode_ping, encode_text

LAST_CHUNK = b"0\r\n\r\n"
SSE_RETRY_MS = 1000


class WireForm(Protocol):
    """How one kind of stream writes things.

    Attributes:
        kind: the label in metrics: ``websocket``, ``sse`` or ``ndjson``.
        states_position: True when events carry a resume position.
        can_tell: True when something that is not data can be said at all.
        has_notices: True when hedgehogd's own messages may be sent.
        ends_at_gaps: True when a gap ends the stream, because it cannot be reported on it.
        deflates: True when a message's compressed frame, if it has one, is sent instead.
    """

    kind: str
    states_position: bool
    can_tell: bool
    has_notices: bool
    ends_at_gaps: bool
    deflates: bool

    def data(self, message: Message, position: str) -> bytes:
        """Return the bytes of one message; ``position`` is empty when not to be stated."""

    def tell(self, payload: bytes) -> bytes:
        """Return the bytes of something that is not data; empty where the form has none."""

    def keep_alive(self) -> bytes:
        """Return bytes that mean nothing but keep proxies from closing a quiet stream."""

    def end(self) -> bytes:
        """Return the bytes of a planned end; empty where closing is the end."""


class WebSocketForm:
    """Frames as the exchange sent them; what we say ourselves is never compressed.

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
        """Return the very frame that arrived, or what was made of it for those who inflate."""
        if self.deflates and message.deflated is not None:
            return message.deflated
        return message.frame

    def tell(self, payload: bytes) -> bytes:
        """Return ``payload`` as a text frame."""
        return encode_text(payload)

    def keep_alive(self) -> bytes:
        """Return a ping; its pong also proves that the peer lives."""
        return encode_ping()

    def end(self) -> bytes:
        """Return nothing: a close frame, which states a code, is the end."""
        return b""


class NdjsonForm:
    """One message or notice a line; a blank line keeps the stream alive.

    Without notices every line is the exchange's, and a gap ends the stream.
    """

    kind = "ndjson"
    states_position = False
    deflates = False

    def __init__(self, *, chunked: bool, has_notices: bool = True) -> None:
        self._chunked = chunked
        self.can_tell = self.has_notices = has_notices
        self.ends_at_gaps = not has_notices

    def data(self, message: Message, position: str) -> bytes:  # noqa: ARG002
        """Return the payload and a line feed."""
        line = message.line
        if line is None:
            line = message.line = one_line(message.payload) + b"\n"
        return chunk(line) if self._chunked else line

    def tell(self, payload: bytes) -> bytes:
        """Return ``payload`` as a line; nothing when the subscriber wants no notices."""
        if not self.has_notices:
            return b""
        line = one_line(payload) + b"\n"
        return chunk(line) if self._chunked else line

    def keep_alive(self) -> bytes:
        """Return a blank line."""
        return chunk(b"\n") if self._chunked else b"\n"

    def end(self) -> bytes:
        """Return the last chunk."""
        return LAST_CHUNK if self._chunked else b""


class SseForm:
    """One message an event; data without a name, ours named ``hedgehogd``."""

    kind = "sse"
    states_position = True
    can_tell = True
    has_notices = True
    ends_at_gaps = False
    deflates = False

    def __init__(self, *, chunked: bool) -> None:
        self._chunked = chunked

    def data(self, message: Message, position: str) -> bytes:
        """Return an event for ``onmessage``; with ``position`` as its id, if there is one."""
        event = message.event
        if event is None:
            event = message.event = b"data: " + _sse_lines(message.payload) + b"\n"
        event = b"%bid: %b\n\n" % (event, position.encode()) if position else event + b"\n"
        return chunk(event) if self._chunked else event

    def tell(self, payload: bytes) -> bytes:
        """Return an event named ``hedgehogd``; it has no id, so it moves no position."""
        event = notice_event(payload) + b"\n"
        return chunk(event) if self._chunked else event

    def keep_alive(self) -> bytes:
        """Return a comment."""
        return chunk(b":\n\n") if self._chunked else b":\n\n"

    def retry(self, retry_ms: int) -> bytes:
        """Return how long an EventSource shall wait before it connects again."""
        field = b"retry: %d\n\n" % retry_ms
        return chunk(field) if self._chunked else field

    def end(self) -> bytes:
        """Return the last chunk."""
        return LAST_CHUNK if self._chunked else b""


def chunk(data: bytes) -> bytes:
    """Return ``data`` (not empty) as one HTTP/1.1 chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def one_line(payload: bytes) -> bytes:
    """Return JSON text without line breaks.

    Between JSON's tokens a line break is white space and inside its texts it cannot stand
    (RFC 8259 §2, §7), so a blank in its place changes no meaning. The exchange sends none.
    """
    if b"\n" in payload or b"\r" in payload:
        return payload.replace(b"\r", b" ").replace(b"\n", b" ")
    return payload


def notice_event(payload: bytes) -> bytes:
    """Return the event of one of hedgehogd's own messages, without the line that ends it."""
    return b"event: hedgehogd\ndata: " + _sse_lines(payload) + b"\n"


def _sse_lines(payload: bytes) -> bytes:
    """Return JSON text for a ``data:`` field: one line a field, which the client rejoins.

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
