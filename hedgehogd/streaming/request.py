"""Requests of the streaming plane, read from a parsed request head; no I/O.

Five paths serve streams: ``/`` and ``/ws-feed`` (exactly Coinbase's protocol), ``/ws`` (that
protocol with notices), ``/api/v1/subscribe/<pair>`` and ``/api/v1/stream``. A WebSocket upgrade
on any of them is a stream, and so is a GET or HEAD on the last two. The control plane answers all
other requests.
"""

import binascii
import re
from enum import Enum, auto
from typing import NamedTuple
from urllib.parse import unquote

import h11

from hedgehogd.domain import limits
from hedgehogd.domain.channel import Topic
from hedgehogd.domain.errors import SubscriberError
from hedgehogd.domain.position import BadPosition, Start, from_text, read_moment, read_start
from hedgehogd.protocol.commands import (
    DEFAULT_CHANNELS,
    ChannelRequest,
    Command,
    Pace,
    channel_requests,
)
from hedgehogd.protocol.deflate import answer_offers
from hedgehogd.protocol.negotiation import choose_form
from hedgehogd.protocol.query import (
    PEER_PARAMETERS,
    STREAM_PARAMETERS,
    read_query,
    split_list,
)
from hedgehogd.protocol.wire import (
    NDJSON,
    NDJSON_BARE,
    SSE,
    WEBSOCKET,
    WEBSOCKET_DEFLATE,
    WEBSOCKET_STRICT,
    WEBSOCKET_STRICT_DEFLATE,
    WireForm,
)

STREAM_PATH = "/api/v1/stream"
SUBSCRIBE_PREFIX = "/api/v1/subscribe/"
STRICT_PATHS = frozenset({"/", "/ws-feed"})
EXTENDED_PATH = "/ws"
_KEY_BYTES = 16
_AUTHORITY = re.compile(r"(?i)https?://[^/?]*")
FORMS = {"ndjson": "application/x-ndjson", "sse": "text/event-stream"}
"""Values of the parameter ``format``, and the media types of ``Accept``."""
_FLAGS = {"true": True, "1": True, "": False, "false": False, "0": False}
_PARAMETERS = STREAM_PARAMETERS | PEER_PARAMETERS

_BARE = "notices may be none, on NDJSON streams only; by default notices are sent"


class Plane(Enum):
    """The plane that answers a request."""

    STREAMING = auto()
    CONTROL = auto()


class StreamRequest(NamedTuple):
    """A peer's request for a stream.

    Attributes:
        form: the wire form of the messages.
        command: the subscribe to carry out at once; None when the request names no topic, and the
            client subscribes later, by frames or by REST.
        websocket_key: ``Sec-WebSocket-Key``; empty for SSE and NDJSON.
        is_strict: whether Coinbase's protocol and its five-second rule apply.
        origin: the header ``Origin``; empty when there is none.
        extensions: ``Sec-WebSocket-Extensions`` of the answer; empty for none.
    """

    form: WireForm
    command: Command | None
    websocket_key: bytes
    is_strict: bool
    origin: str
    extensions: bytes = b""


def headers_of(request: h11.Request) -> dict[bytes, bytes]:
    """Return the headers by lower-case name, repeated ones joined by commas (RFC 9110 §5.3)."""
    found: dict[bytes, bytes] = {}
    for name, value in request.headers:
        found[name] = found[name] + b", " + value if name in found else value
    return found


def authority_of(request: h11.Request, headers: dict[bytes, bytes]) -> str | None:
    """Return host and port of a request; None when it has neither, as HTTP/1.0 allows.

    Those of an absolute URL take precedence over ``Host`` (RFC 9112 §3.2.2).
    """
    absolute = _AUTHORITY.match(request.target.decode("latin-1"))
    if absolute is not None:
        return absolute[0].partition("://")[2]
    host = headers.get(b"host")
    return None if host is None else host.decode("latin-1")


def split_target(request: h11.Request) -> tuple[str, str]:
    """Return the decoded path and the raw query of a path or an absolute URL (RFC 9112 §3.2.2)."""
    target = request.target.decode("latin-1")
    authority = _AUTHORITY.match(target)
    path, _, query = target[authority.end() if authority else 0 :].partition("?")
    return unquote(path) or "/", query


def _tokens(value: bytes) -> set[bytes]:
    return {token.strip().lower() for token in value.split(b",")}


def asks_for_websocket(headers: dict[bytes, bytes]) -> bool:
    """Return whether the head requests an upgrade to WebSocket."""
    return b"websocket" in _tokens(headers.get(b"upgrade", b""))


def plane_of(request: h11.Request) -> Plane:
    """Return the plane that answers ``request``.

    Streaming: a WebSocket handshake on any path, and GET or HEAD of a stream's path.
    """
    path, _ = split_target(request)
    if asks_for_websocket(headers_of(request)):
        return Plane.STREAMING
    is_stream_path = path == STREAM_PATH or path.startswith(SUBSCRIBE_PREFIX)
    is_read = request.method in {b"GET", b"HEAD"}
    return Plane.STREAMING if is_stream_path and is_read else Plane.CONTROL


def read_stream_request(request: h11.Request, now_us: int = 0) -> StreamRequest:
    """Read a request of the streaming plane.

    Args:
        request: its head.
        now_us: the time of day in µs since the epoch, from which ages are subtracted.

    Raises:
        SubscriberError: an invalid handshake (400, 426), no such stream (404), an invalid query
            or position (400), a private channel (403), or no acceptable wire form (406).
    """
    path, query = split_target(request)
    headers = headers_of(request)
    origin = headers.get(b"origin", b"").decode("latin-1")
    if asks_for_websocket(headers):
        key = _check_handshake(request, headers)
        extensions = answer_offers(headers.get(b"sec-websocket-extensions", b""))
        is_strict = path in STRICT_PATHS
        form = _websocket_form(is_strict=is_strict, deflates=bool(extensions))
        values = read_query(query, parameters_of(path) - {"format", "notices"})
        waits = is_strict or path == EXTENDED_PATH
        command = None if waits else _command(path, values, b"", now_us)
        return StreamRequest(form, command, key, is_strict, origin, extensions)
    values = read_query(query, parameters_of(path))
    accept = headers.get(b"accept", b"").decode("latin-1")
    is_sse = choose_form(accept, values.get("format"), FORMS) == FORMS["sse"]
    is_bare = _wants_no_notices(values)
    if is_bare and is_sse:
        raise SubscriberError("bad_request", _BARE)
    form = (SSE if is_sse else NDJSON_BARE if is_bare else NDJSON)[request.http_version == b"1.1"]
    event_id = headers.get(b"last-event-id", b"") if form.states_position else b""
    command = _command(path, values, event_id, now_us)
    return StreamRequest(form, command, b"", is_strict=False, origin=origin)


def _wants_no_notices(values: dict[str, str]) -> bool:
    """Return whether the request asks for a stream without notices.

    Raises:
        SubscriberError: ``notices`` has another value than ``none``.
    """
    value = values.get("notices")
    if value not in {None, "none"}:
        raise SubscriberError("bad_request", _BARE)
    return value is not None


def _check_handshake(request: h11.Request, headers: dict[bytes, bytes]) -> bytes:
    """Return the client's key from a valid handshake (RFC 6455 §4.2.1).

    Raises:
        SubscriberError: the handshake is invalid (400), or of another version (426); the message
            states the fault.
    """
    if request.method != b"GET" or request.http_version != b"1.1":
        raise SubscriberError("bad_handshake", "a WebSocket handshake is a GET with HTTP/1.1")
    if b"upgrade" not in _tokens(headers.get(b"connection", b"")):
        raise SubscriberError("bad_handshake", "the header Connection does not contain Upgrade")
    if headers.get(b"sec-websocket-version") != b"13":
        raise SubscriberError("bad_handshake", "the header Sec-WebSocket-Version is not 13", 426)
    key = headers.get(b"sec-websocket-key", b"")
    try:
        size = len(binascii.a2b_base64(key, strict_mode=True))
    except binascii.Error:
        size = 0
    if size != _KEY_BYTES:
        raise SubscriberError(
            "bad_handshake", "the header Sec-WebSocket-Key is not 16 bytes in base64"
        )
    return key


def _websocket_form(*, is_strict: bool, deflates: bool) -> WireForm:
    if is_strict:
        return WEBSOCKET_STRICT_DEFLATE if deflates else WEBSOCKET_STRICT
    return WEBSOCKET_DEFLATE if deflates else WEBSOCKET


def parameters_of(path: str) -> frozenset[str]:
    """Return the names of the query parameters that the stream at ``path`` accepts.

    Raises:
        SubscriberError: there is no stream at ``path`` (404).
    """
    if path in STRICT_PATHS or path == EXTENDED_PATH:
        return frozenset()
    if path == STREAM_PATH:
        return _PARAMETERS | {"pairs"}
    if path.startswith(SUBSCRIBE_PREFIX):
        return _PARAMETERS
    raise SubscriberError("no_such_stream", f"there is no stream at {path}", 404)


def _command(path: str, values: dict[str, str], event_id: bytes, now_us: int) -> Command | None:
    """Return the subscribe of a path and its query; None when they name no topic.

    Without pairs only channels that have none, such as ``status``, name a topic.

    Raises:
        SubscriberError: a value of the query is invalid (400), or a channel is private (403).
    """
    is_one = path.startswith(SUBSCRIBE_PREFIX)
    pairs = [path.removeprefix(SUBSCRIBE_PREFIX)] if is_one else split_list(values.get("pairs", ""))
    names = split_list(values.get("channels", "")) or DEFAULT_CHANNELS
    pairs = [pair.upper() for pair in pairs]
    requests = channel_requests(names, tuple(pairs), values.get("policy"))
    if not pairs and not _needs_no_pairs(requests):
        return None
    try:
        since = _since(values, event_id, requests, now_us)
    except BadPosition as error:
        raise SubscriberError("bad_position", str(error)) from None
    is_strict, is_alone = (_flag(values, name) for name in ("strict", "alone"))
    pace = _pace(values, now_us)
    if pace is not None and not since:
        raise SubscriberError("bad_request", "a replay needs its start: since is missing")
    return Command(True, requests, since=since, is_strict=is_strict, is_alone=is_alone, pace=pace)


def _flag(values: dict[str, str], name: str) -> bool:
    """Return a boolean value of the query.

    Raises:
        SubscriberError: it is neither true nor false.
    """
    text = values.get(name, "false")
    if text not in _FLAGS:
        raise SubscriberError("bad_request", f"{name} is true or false, not {text[:40]!r}")
    return _FLAGS[text]


def _pace(values: dict[str, str], now_us: int) -> Pace | None:
    """Return the speed and the end of a replay; None when the query requests no replay.

    Raises:
        SubscriberError: the speed is invalid, or the end is not a time or an age.
    """
    if not values.keys() & {"speed", "until"}:
        return None
    try:
        speed = float(values.get("speed", "0"))
    except ValueError:
        speed = -1.0
    if not 0 <= speed <= limits.REPLAY_SPEED_MAX:
        raise SubscriberError(
            "bad_request", f"speed is a number from 0 to {limits.REPLAY_SPEED_MAX}"
        )
    until = values.get("until")
    try:
        return Pace(speed, read_moment(until, now_us) if until else None)
    except BadPosition as error:
        raise SubscriberError("bad_request", f"until: {error}") from None


def _since(
    values: dict[str, str],
    event_id: bytes,
    requests: tuple[ChannelRequest, ...],
    now_us: int,
) -> dict[Topic, Start]:
    """Return the positions at which a stream resumes; empty when the request has none.

    The header takes precedence over the query.

    An EventSource that reconnects sends the header together with the URL of its first request, so
    the header's position is the newer one.

    Raises:
        BadPosition: the text is not a position, or it is a sequence and there are several pairs.
    """
    text = event_id.decode("latin-1") or values.get("last_event_id", "")
    if text:
        return {topic: Start(number) for topic, number in from_text(text).items()}
    text = values.get("since", "")
    if not text:
        return {}
    start = read_start(text, now_us)
    topics = [r.channel.topic(p) for r in requests for p in r.product_ids]
    if start.sequence is not None and len({topic.product_id for topic in topics}) > 1:
        raise BadPosition("a sequence belongs to one pair; use a time or an age for several pairs")
    return dict.fromkeys(topics, start)


def _needs_no_pairs(requests: tuple[ChannelRequest, ...]) -> bool:
    return all(not request.channel.takes_products for request in requests)
