"""One upstream message: its raw bytes, the few fields we read of it, when it came.

Raw is sacred (DESIGN, invariant 6): the frame that the exchange sent is the frame that
subscribers get. Only the head is decoded, by one Struct, at 0.75 µs a message.
"""

from typing import Annotated, Any

import msgspec

from hedgehogd.domain.channel import Topic
from hedgehogd.domain.limits import SEQUENCE_MAX, TOPICS_MAX

_Number = Annotated[int, msgspec.Meta(ge=0, le=SEQUENCE_MAX)]


class Head(msgspec.Struct, gc=False):
    """The few fields we read of a message; absent ones are empty or None.

    Attributes:
        type: the kind of message, for example ``"ticker"``.
        product_id: the market; empty when the message is about none.
        sequence: the product's counter of engine events, or None. No unit.
        trade_id: the product's counter of trades, or None. No unit.
        last_trade_id: a heartbeat's newest trade, or None. No unit.
        message: an ``error``'s text.
        reason: an ``error``'s reason.

    Source: FEED §6.
    """

    type: str
    product_id: str = ""
    sequence: _Number | None = None
    trade_id: _Number | None = None
    last_trade_id: _Number | None = None
    message: str = ""
    reason: str = ""


class _OddHead(msgspec.Struct, gc=False):
    type: str
    product_id: str = ""
    sequence: Any = None
    trade_id: Any = None
    last_trade_id: Any = None
    message: Any = ""
    reason: Any = ""


_decode_head = msgspec.json.Decoder(Head).decode
_decode_odd_head = msgspec.json.Decoder(_OddHead).decode
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class BadMessage(Exception):
    """An upstream message without a readable head; dropped and counted, never fatal."""


_decode_row = msgspec.json.Decoder(list[Any]).decode
_ROW_FIELDS_MIN = 3
_DIGITS_MAX = len(str(SEQUENCE_MAX))


def read_head(payload: bytes) -> Head:
    """Decode the head of one message; of a ``level3`` array the first three elements.

    The type of an array is ``"level3"``, whatever happened in it (FEED §6.13).

    Wrong types in numbers and texts are tolerated (they count as absent), and so are
    numbers below 0 or above ``SEQUENCE_MAX``: what others send never stops us. Without a
    ``type`` there is nothing to route by.

    Raises:
        BadMessage: not JSON, neither object nor such an array, or no text for ``type`` or
            ``product_id``.
    """
    if payload[:1] == b"[":
        return _read_row(payload)
    try:
        return _decode_head(payload)
    except msgspec.ValidationError:
        pass
    except _UNREADABLE as error:
        raise BadMessage(str(error)) from None
    try:
        odd = _decode_odd_head(payload)
    except _UNREADABLE as error:
        raise BadMessage(str(error)) from None
    return Head(
        odd.type,
        odd.product_id,
        _number(odd.sequence),
        _number(odd.trade_id),
        _number(odd.last_trade_id),
        odd.message if isinstance(odd.message, str) else "",
        odd.reason if isinstance(odd.reason, str) else "",
    )


def _read_row(payload: bytes) -> Head:
    """Decode a ``level3`` array: ``[type, product, sequence, …]``, all of them texts."""
    try:
        row = _decode_row(payload)
    except _UNREADABLE as error:
        raise BadMessage(str(error)) from None
    if len(row) < _ROW_FIELDS_MIN or not all(isinstance(field, str) for field in row[:2]):
        raise BadMessage("an array that is not of level3")
    digits = row[2]
    if not isinstance(digits, str):
        return Head("level3", row[1], _number(digits))
    is_number = digits.isascii() and digits.isdigit() and len(digits) <= _DIGITS_MAX
    return Head("level3", row[1], _number(int(digits)) if is_number else None)


def _number(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value <= SEQUENCE_MAX else None


class Message(msgspec.Struct, gc=False):
    """One message on its way from the feed to subscribers.

    Attributes:
        topic: what it belongs to.
        type: its ``type``, for example ``"l2update"``; ``"level3"`` for all its arrays.
        frame: the unmasked WebSocket text frame, header included: what WebSocket
            subscribers get, byte for byte.
        payload: the JSON text in it: what the exchange sent.
        sequence: the product's engine counter, or None. No unit.
        trade_id: the product's trade counter, or None. No unit.
        also: a second topic that it belongs to, for example the ``matches`` of a match
            that came on ``full``; or None.
        line: its NDJSON wire form, once somebody wanted it.
        event: the part of its SSE wire form that all cohorts share, once wanted.
        deflated: its frame compressed, for those who negotiated that; made for large
            messages only, before they are published.
        received_us: when it was published, µs since the epoch; 0 before.
    """

    topic: Topic
    type: str
    frame: bytes
    payload: bytes
    sequence: int | None = None
    trade_id: int | None = None
    also: Topic | None = None
    line: bytes | None = None
    event: bytes | None = None
    deflated: bytes | None = None
    received_us: int = 0


_topics: dict[tuple[str, str], Topic] = {}


def intern_topic(channel: str, product_id: str) -> Topic:
    """Return the one ``Topic`` of a channel and a product.

    The exchange has a few thousand of them and a message each microsecond. A hostile feed
    cannot grow the table beyond ``TOPICS_MAX``.
    """
    key = (channel, product_id)
    topic = _topics.get(key)
    if topic is None:
        topic = Topic(*key)
        if len(_topics) < TOPICS_MAX:
            _topics[key] = topic
    return topic
