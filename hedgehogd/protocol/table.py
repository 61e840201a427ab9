"""Tables: messages as rows of CSV (RFC 4180), for spreadsheets and databases.

A channel whose messages all look the same has a column for each of their keys; what they say
beyond that stands as JSON in ``more``, so nothing is lost. Of other channels the whole message
is one cell. The first column is when a message was received.
"""

import csv
import io
from collections.abc import Iterable

import msgspec

from hedgehogd.domain.channel import HEARTBEAT, MATCHES, TICKER
from hedgehogd.domain.instant import to_text
from hedgehogd.domain.message import Message

_COLUMNS = {
    MATCHES.topic_channel: (
        "type", "product_id", "trade_id", "sequence", "time", "side", "price", "size",
        "maker_order_id", "taker_order_id",
    ),
    TICKER.topic_channel: (
        "type", "product_id", "sequence", "time", "price", "side", "last_size", "trade_id",
        "best_bid", "best_bid_size", "best_ask", "best_ask_size", "open_24h", "high_24h", "low_24h",
        "volume_24h", "volume_30d",
    ),
    HEARTBEAT.topic_channel: ("type", "product_id", "sequence", "last_trade_id", "time"),
}  # fmt: skip
_WHOLE = ("type", "product_id", "sequence", "trade_id", "message")


def header(channel: str) -> bytes:
    """Return the first row: the names of the columns of a topic channel."""
    names = _COLUMNS.get(channel)
    return _rows([("received", *((*names, "more") if names else _WHOLE))])


def rows(messages: Iterable[Message]) -> bytes:
    """Return a row for each of ``messages``."""
    return _rows(_row(message) for message in messages)


def _row(message: Message) -> tuple[object, ...]:
    received = to_text(message.received_us)
    names = _COLUMNS.get(message.topic.channel)
    if names is not None:
        try:
            fields = msgspec.json.decode(message.payload, type=dict[str, object])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            fields = {"type": message.payload.decode("utf-8", "replace")}
        cells = [fields.pop(name, "") for name in names]
        more = msgspec.json.encode(fields).decode() if fields else ""
        return (received, *cells, more)
    return (
        received,
        message.type,
        message.topic.product_id,
        message.sequence,
        message.trade_id,
        message.payload.decode("utf-8", "replace"),
    )


def _rows(rows: Iterable[tuple[object, ...]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()
