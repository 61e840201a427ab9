"""The output of history queries and exports: messages as lines, or as rows of CSV (RFC 4180).

A channel with one form of message has a column for each key; further keys are JSON in the column
``more``, so no value is lost. A book has a row for each price level. For any other channel one
cell holds the whole message. The first column is the receive time of the message.

A text is written as it is, ``null`` and an absent key as an empty cell, and any other value as
the JSON that the exchange sent. No cell is longer than ``CSV_CELL_CHARACTERS_MAX``. A message with
a longer cell, or of another form than its channel's, has only receive time, type and product in
their columns and is wholly in its last cell. A last cell that is too long continues in further
rows, which repeat the other cells.

A trade that the exchange sent as ``last_match`` after a reconnect is written as a ``match``.
"""

import csv
import io
from collections.abc import Iterable, Iterator

import msgspec

from hedgehogd.domain.channel import HEARTBEAT, LEVEL2, LEVEL2_BATCH, MATCHES, TICKER
from hedgehogd.domain.instant import to_text
from hedgehogd.domain.limits import CSV_CELL_CHARACTERS_MAX
from hedgehogd.domain.message import Message
from hedgehogd.protocol.coinbase import match_of
from hedgehogd.protocol.wire import one_line

_BOOK_COLUMNS = ("type", "product_id", "time", "side", "price", "size")
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
    LEVEL2.topic_channel: _BOOK_COLUMNS,
    LEVEL2_BATCH.topic_channel: _BOOK_COLUMNS,
}  # fmt: skip
_WHOLE = ("type", "product_id", "sequence", "trade_id", "message")
_WHITE = b" \t\r\n"
_SIDES = {"bids": b'"buy"', "asks": b'"sell"'}

_Fields = dict[str, msgspec.Raw]
_Levels = list[list[msgspec.Raw]]


def payload_of(message: Message) -> bytes:
    """Return the payload of a recorded message; that of a ``last_match`` as a ``match``."""
    return match_of(message.payload) if message.type == "last_match" else message.payload


def timed_payload_of(message: Message) -> bytes:
    """Return ``payload_of`` with the receive time as its last member, ``"received"``.

    The other bytes are unchanged. An array, which ``level3`` messages are, has it as its last
    element; a payload that is neither an object nor an array is unchanged.
    """
    payload = payload_of(message).rstrip(_WHITE)
    received = b'"%b"' % to_text(message.received_us).encode()
    opening, closing = payload[:1], payload[-1:]
    if (opening, closing) not in {(b"{", b"}"), (b"[", b"]")}:
        return payload
    body = payload[:-1].rstrip(_WHITE)
    separator = b"" if body.strip(_WHITE) == opening else b","
    member = received if opening == b"[" else b'"received":' + received
    return body + separator + member + closing


def timed_lines(messages: Iterable[Message]) -> bytes:
    """Return ``timed_payload_of`` of ``messages``, one per line."""
    return b"".join([one_line(timed_payload_of(message)) + b"\n" for message in messages])


def lines(messages: Iterable[Message]) -> bytes:
    """Return the payloads of ``messages``, one per line; a ``last_match`` as a ``match``."""
    return b"".join([one_line(payload_of(message)) + b"\n" for message in messages])


def header(channel: str) -> bytes:
    """Return the header row of a topic channel; that of whole messages if it has no columns."""
    names = _COLUMNS.get(channel)
    return _written([("received", *((*names, "more") if names else _WHOLE))])


def rows(messages: Iterable[Message]) -> bytes:
    """Return ``messages`` as rows of CSV, without a header row, in the same order.

    One message may have several rows; a ``last_match`` is a ``match``.
    """
    return _written(row for message in messages for row in _rows_of(message))


def _rows_of(message: Message) -> Iterator[tuple[object, ...]]:
    received, payload = to_text(message.received_us), payload_of(message)
    names = _COLUMNS.get(message.topic.channel)
    text = payload.decode("utf-8", "replace")
    if names is None:
        numbers = message.sequence, message.trade_id
        yield from _continued((received, message.type, message.topic.product_id, *numbers), text)
        return
    try:
        table = [(received, *_row(fields, names)) for fields in _per_row(payload)]
        is_long = any(len(str(cell)) > CSV_CELL_CHARACTERS_MAX for row in table for cell in row)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        is_long = True
    if is_long:  # the whole message is in its last cell
        blanks = [""] * (len(names) - 2)
        about = message.type.removeprefix("last_"), message.topic.product_id
        yield from _continued((received, *about, *blanks), text)
    else:
        yield from table


def _per_row(payload: bytes) -> list[_Fields]:
    """Return the fields of each row of a message: one row, or one per level of a book.

    Raises:
        msgspec.DecodeError: ``payload`` is not an object, or a side of it is not a list of rows.
        UnicodeDecodeError: ``payload`` is not UTF-8.
        RecursionError: ``payload`` is nested too deeply.
    """
    fields = msgspec.json.decode(payload, type=_Fields)
    if not (fields.keys() & {*_SIDES, "changes"}):
        return [fields]
    levels = [
        (msgspec.Raw(side), *level)
        for key, side in _SIDES.items()
        for level in msgspec.json.decode(fields.pop(key, b"[]"), type=_Levels)
    ]
    changes = msgspec.json.decode(fields.pop("changes", b"[]"), type=_Levels)
    levels += [tuple(change) for change in changes]
    names = ("side", "price", "size")
    if not levels or any(len(level) != len(names) for level in levels):
        return [msgspec.json.decode(payload, type=_Fields)]  # no levels: one row holds all data
    common = {key: fields[key] for key in ("type", "product_id", "time") if key in fields}
    by_row = [common | dict(zip(names, level, strict=True)) for level in levels]
    by_row[0] = fields | by_row[0]
    return by_row


def _row(fields: _Fields, names: Iterable[str]) -> tuple[str, ...]:
    fields = dict(fields)
    cells = [_cell(fields.pop(name, None)) for name in names]
    more = msgspec.json.format(msgspec.json.encode(fields), indent=-1).decode() if fields else ""
    return (*cells, more)


def _cell(value: msgspec.Raw | None) -> str:
    """Return a value as the text of a cell: empty for null or None, a text without quotes."""
    raw = b"null" if value is None else bytes(value)
    if raw == b"null":
        return ""
    if raw.startswith(b'"'):
        return msgspec.json.decode(raw, type=str)
    return msgspec.json.format(raw, indent=-1).decode()


def _continued(cells: tuple[object, ...], text: str) -> Iterator[tuple[object, ...]]:
    """Yield a row of ``cells`` and ``text``, and further rows for the rest of a long text."""
    for start in range(0, max(1, len(text)), CSV_CELL_CHARACTERS_MAX):
        yield (*cells, text[start : start + CSV_CELL_CHARACTERS_MAX])


def _written(rows: Iterable[tuple[object, ...]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()
