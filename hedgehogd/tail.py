"""``hedgehogd tail``: a stream for people, one line a message.

Speaks Coinbase's protocol, so it reads a hedgehogd, a simulator or the exchange itself.
On a terminal a line of counts and rate is kept below the messages.
"""

import os
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import msgspec
from trio_websocket import (
    ConnectionClosed,
    ConnectionRejected,
    HandshakeError,
    open_websocket_url,
)

from hedgehogd.domain.errors import EXIT_UNAVAILABLE

_COUNTS_EVERY_S = 0.5
_FIELDS = ("side", "price", "last_size", "size", "best_bid", "best_ask", "trade_id", "sequence")
_CHANGES_SHOWN_MAX = 3
_NOTHING_SUBSCRIBED = '{"type":"subscriptions","channels":[]'


class Tail(NamedTuple):
    """What to print.

    Attributes:
        url: a ``ws://`` or ``wss://`` URL.
        pairs: products to subscribe to; empty when the URL says it all.
        channels: channels to subscribe to.
        form: ``raw`` (the very text) or ``human``.
        count_max: stop after this many messages; 0 for never.
    """

    url: str
    pairs: tuple[str, ...]
    channels: tuple[str, ...]
    form: str
    count_max: int


def human(payload: str) -> str:
    """Return one message in a line of its essential fields; odd ones as they are."""
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
    """Counts by type and the rate, shown on a terminal only."""

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
        """Take the line away, so that a message can be printed in its place."""
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


async def tail(what: Tail) -> int:
    """Print messages until ``count_max``, the peer's end, or cancellation.

    Returns:
        The exit status: 0, or 69 when the peer could not be reached, closed on us, or had
        nothing of what was asked for.
    """
    counts = Counts(sys.stderr)
    try:
        async with open_websocket_url(what.url, max_message_size=64 * 1024 * 1024) as connection:
            if what.pairs:
                request = {
                    "type": "subscribe",
                    "product_ids": what.pairs,
                    "channels": what.channels,
                }
                await connection.send_message(msgspec.json.encode(request).decode())
            seen = 0
            while not what.count_max or seen < what.count_max:
                message = await connection.get_message()
                payload = message if isinstance(message, str) else message.decode(errors="replace")
                seen += 1
                counts.add(payload)
                counts.clear()
                print(human(payload) if what.form == "human" else payload, flush=True)
                counts.show()
                if what.pairs and payload.startswith(_NOTHING_SUBSCRIBED):
                    print("hedgehogd: nothing of that can be had there", file=sys.stderr)
                    return EXIT_UNAVAILABLE
    except ConnectionClosed as closed:
        reason = closed.reason
        code = f"{reason.code} {reason.reason or ''}".strip() if reason else "no reason given"
        print(f"hedgehogd: {what.url} closed: {code}", file=sys.stderr)
        return EXIT_UNAVAILABLE
    except BrokenPipeError:  # `| head` has seen enough
        _silence_stdout()
    except (HandshakeError, OSError) as error:
        print(f"hedgehogd: cannot open {what.url}: {_why(error)}", file=sys.stderr)
        return EXIT_UNAVAILABLE
    finally:
        counts.clear()
        if sys.stderr.isatty():
            print(counts, file=sys.stderr)
    return 0


def _why(error: Exception) -> str:
    """Say why a stream cannot be opened; the library hides the reason in the cause."""
    if isinstance(error, ConnectionRejected):
        body = (error.body or b"").decode(errors="replace")
        return f"HTTP {error.status_code} {body}".strip()
    return str(error) or str(error.__cause__ or "") or type(error).__name__


def _silence_stdout() -> None:
    """Let Python's last flush of a broken stdout go nowhere instead of complaining."""
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


def default_url(port: int) -> str:
    """Return the URL of the hedgehogd on this machine that listens on ``port``."""
    return f"ws://127.0.0.1:{port}/ws-feed"
