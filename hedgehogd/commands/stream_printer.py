"""Print a stream, one line a message.

The client has Coinbase's protocol, so it reads from a hedgehogd, a simulator or the exchange
itself. On a terminal a line of counts and rate stays below the messages.
"""

import os
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import msgspec
import trio
from trio_websocket import (
    ConnectionClosed,
    ConnectionRejected,
    HandshakeError,
    WebSocketConnection,
    wrap_client_stream,
)

from hedgehogd.domain import limits
from hedgehogd.domain.errors import EXIT_UNAVAILABLE
from hedgehogd.domain.feed_address import FeedAddress, parse_url
from hedgehogd.domain.secret import hide_in_url
from hedgehogd.feeds.dial import dial
from hedgehogd.feeds.disconnects import OUTSIDE_ERRORS, cause_of, describe
from hedgehogd.logs.bounds import printable

_MESSAGE_BYTES_MAX = 64 * 1024 * 1024
_COUNTS_EVERY_S = 0.5
_FIELDS = ("side", "price", "last_size", "size", "best_bid", "best_ask", "trade_id", "sequence")
_CHANGES_SHOWN_MAX = 3
_NOTHING_SUBSCRIBED = '{"type":"subscriptions","channels":[]'


class Stream(NamedTuple):
    """The stream to print.

    Attributes:
        url: a ``ws://`` or ``wss://`` URL.
        pairs: products to subscribe to; empty when the URL subscribes already.
        channels: channels to subscribe to.
        form: ``raw`` (the message's own text) or ``human``.
        count_max: stop after this many messages, acknowledgements included; 0 for never.
    """

    url: str
    pairs: tuple[str, ...]
    channels: tuple[str, ...]
    form: str
    count_max: int


def human(payload: str) -> str:
    """Return one message as a line of its essential fields; an unexpected one unchanged."""
    try:
        message = msgspec.json.decode(payload)
    except msgspec.DecodeError:
        return payload
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        return payload
    return " ".join(
        (
            str(message.get("time", ""))[11:23].ljust(12),
            message["type"].ljust(13),
            str(message.get("product_id", "")).ljust(9),
            _essence(message),
        )
    ).rstrip()


def _essence(message: dict[str, Any]) -> str:
    changes = message.get("changes")
    if isinstance(changes, list):
        more = f" +{len(changes) - _CHANGES_SHOWN_MAX}" if len(changes) > _CHANGES_SHOWN_MAX else ""
        return ", ".join(" ".join(map(str, c)) for c in changes[:_CHANGES_SHOWN_MAX]) + more
    if message["type"] == "snapshot":
        return f"{len(message.get('bids', ()))} bids, {len(message.get('asks', ()))} asks"
    if message["type"] in {"subscriptions", "error", "session"}:
        rest = {key: value for key, value in message.items() if key != "type"}
        return msgspec.json.encode(rest).decode()
    return " ".join(f"{name}={message[name]}" for name in _FIELDS if name in message)


class Counts:
    """Counts of messages by type, and their rate since the start; shown on a terminal only."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._by_type: Counter[str] = Counter()
        self._begin = time.monotonic()
        self._shown_at = 0.0

    def add(self, payload: str) -> None:
        """Count one message."""
        _, _, rest = payload.partition('"type":"')
        self._by_type[rest.partition('"')[0] or "?"] += 1

    def clear(self) -> None:
        """Erase the line, so that a message can be printed in its place."""
        if self._out.isatty():
            self._out.write("\r\x1b[K")
            self._out.flush()

    def show(self) -> None:
        """Show the line, at most every ``_COUNTS_EVERY_S``."""
        now = time.monotonic()
        if not self._out.isatty() or now - self._shown_at < _COUNTS_EVERY_S:
            return
        self._shown_at = now
        self._out.write(f"\r\x1b[K{self}")
        self._out.flush()

    def __str__(self) -> str:
        """Return total, rate and counts by type."""
        total = self._by_type.total()
        rate = total / max(0.001, time.monotonic() - self._begin)
        kinds = " ".join(f"{kind}={count}" for kind, count in self._by_type.most_common())
        return f"{total} messages, {rate:.1f}/s  {kinds}"


async def print_stream(stream: Stream) -> int:
    """Print messages until ``count_max``, or until the peer or the reader of stdout closes.

    The reason of a failure is printed to stderr.

    Returns:
        The exit status: 0 after ``count_max`` or when the reader of stdout has closed it; 69 when
        the peer cannot be reached, closes the connection, or has none of the topics.

    Raises:
        OperatorError: the URL is not a WebSocket URL.
    """
    counts = Counts(sys.stderr)
    status = EXIT_UNAVAILABLE
    address = parse_url(stream.url)
    try:
        async with _connected(address) as connection:
            status = await _print_messages(connection, stream, counts)
    except* BrokenPipeError:  # `| head` has ended
        _silence_stdout()
        status = 0
    except* (HandshakeError, *OUTSIDE_ERRORS) as group:
        reason = _reason_of(cause_of(group), hide_in_url(stream.url))
        print(f"hedgehogd: {printable(address.secrets.hide(reason))}", file=sys.stderr)
    finally:
        counts.clear()
        if sys.stderr.isatty():
            print(counts, file=sys.stderr)
    return status


@asynccontextmanager
async def _connected(address: FeedAddress) -> AsyncIterator[WebSocketConnection]:
    """Open a WebSocket; close it at the end.

    Opening it raises one of ``OUTSIDE_ERRORS`` or HandshakeError, perhaps in an exception group.
    ``trio-websocket``'s own connect waits a minute for a peer with an invalid certificate.
    """
    with trio.fail_after(limits.DIAL_TIMEOUT_S):
        stream = await dial(address)
    try:
        async with trio.open_nursery() as nursery:
            with trio.fail_after(limits.DIAL_TIMEOUT_S):
                connection = await wrap_client_stream(
                    nursery,
                    stream,  # type: ignore[arg-type]  # trio-websocket accepts any stream
                    address.host_header,
                    address.resource,
                    extra_headers=address.headers,
                    max_message_size=_MESSAGE_BYTES_MAX,
                )
            yield connection
            with trio.move_on_after(limits.FAREWELL_S):
                await connection.aclose()
            nursery.cancel_scope.cancel()
    finally:
        await trio.aclose_forcefully(stream)


async def _print_messages(connection: WebSocketConnection, stream: Stream, counts: Counts) -> int:
    """Subscribe and print; return the exit status, 69 if the peer has none of the topics.

    Raises:
        ConnectionClosed: the peer closed the connection.
        BrokenPipeError: the reader of stdout has closed it.
    """
    if stream.pairs:
        request = {"type": "subscribe", "product_ids": stream.pairs, "channels": stream.channels}
        await connection.send_message(msgspec.json.encode(request).decode())
    seen = 0
    while not stream.count_max or seen < stream.count_max:
        message = await connection.get_message()
        payload = message if isinstance(message, str) else message.decode(errors="replace")
        seen += 1
        counts.add(payload)
        counts.clear()
        print(human(payload) if stream.form == "human" else payload, flush=True)
        counts.show()
        if stream.pairs and payload.startswith(_NOTHING_SUBSCRIBED):
            print("hedgehogd: none of these topics exists there", file=sys.stderr)
            return EXIT_UNAVAILABLE
    return 0


def _reason_of(error: Exception, url: str) -> str:
    """Return a text with the reason why the stream at ``url`` ended or could not be opened."""
    if isinstance(error, ConnectionClosed):
        return f"{url} {describe(error)}"
    if isinstance(error, ConnectionRejected):
        body = (error.body or b"").decode(errors="replace")
        return f"cannot open {url}: HTTP {error.status_code} {body}".rstrip()
    return f"cannot open {url}: {describe(error)}"


def _silence_stdout() -> None:
    """Redirect stdout to /dev/null, so that Python's last flush does not report a broken pipe."""
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
