"""One upstream message: its raw bytes, its head and its receive time.

Subscribers get the frame that the exchange sent, unchanged. Only the head is decoded, by one
Struct, at 0.75 µs per message.
"""

from typing import Annotated, Any

import msgspec

from hedgehogd.domain.channel import Topic
from hedgehogd.domain.limits import SEQUENCE_MAX, TOPICS_MAX

_Number = Annotated[int, msgspec.Meta(ge=0, le=SEQUENCE_MAX)]


class Head(msgspec.Struct, gc=False):
    """The fields of a message that hedgehogd reads; an absent field is empty or None.

    Attributes:
        type: the kind of message, for example ``"ticker"``.
        product_id: the market; empty if the message is not about a product.
        sequence: the product's counter of engine events. No unit.
        trade_id: the product's counter of trades. No unit.
        last_trade_id: the id of the product's newest trade, in a heartbeat. No unit.
        message: the text of an ``error``.
        reason: the reason of an ``error``.

    Source: docs/COINBASE.md §6.
    """

    type: str
    product_id: str = ""
    sequence: _Number | None = None
    trade_id: _Number | None = None
    last_trade_id: _Number | None = None
    message: str = ""
    reason: str = ""


class _LenientHead(msgspec.Struct, gc=False):
    type: str
    product_id: str = ""
    sequence: Any = None
    trade_id: Any = None
    last_trade_id: Any = None
    message: Any = ""
    reason: Any = ""


_decode_head = msgspec.json.Decoder(Head).decode
_decode_lenient_head = msgspec.json.Decoder(_LenientHead).decode
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class BadMessage(Exception):
    """An upstream message with an unreadable head, or unreadable content for a book.

    It is dropped and counted, never fatal.
    """


_decode_row = msgspec.json.Decoder(list[Any]).decode
_ROW_FIELDS_MIN = 3
_DIGITS_MAX = len(str(SEQUENCE_MAX))


def read_head(payload: bytes) -> Head:
    """Decode the head of one message; for a ``level3`` array the first three elements.

    The type of an array is ``"level3"`` for every kind of event in it (COINBASE §6.13).

    A number or text of a wrong type counts as absent, and so does a number below 0 or above
    ``SEQUENCE_MAX``: a peer's input never stops the daemon. ``type`` is required, because
    messages are routed by it.

    Raises:
        BadMessage: ``payload`` is not JSON, is neither an object nor a ``level3`` array, or has
            no text as ``type``, or another value than a text as ``product_id``.
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
        lenient = _decode_lenient_head(payload)
    except _UNREADABLE as error:
        raise BadMessage(str(error)) from None
    return Head(
        lenient.type,
        lenient.product_id,
        _number(lenient.sequence),
        _number(lenient.trade_id),
        _number(lenient.last_trade_id),
        lenient.message if isinstance(lenient.message, str) else "",
        lenient.reason if isinstance(lenient.reason, str) else "",
    )


def _read_row(payload: bytes) -> Head:
    """Decode a ``level3`` array ``[type, product, sequence, …]`` of texts.

    The sequence may be a JSON integer too; None if it is neither. Raises BadMessage if the array
    has fewer than three elements, or if type or product is not a text.
    """
    try:
        row = _decode_row(payload)
    except _UNREADABLE as error:
        raise BadMessage(str(error)) from None
    if len(row) < _ROW_FIELDS_MIN or not all(isinstance(field, str) for field in row[:2]):
        raise BadMessage("an array that is not a level3 message")
    digits = row[2]
    if not isinstance(digits, str):
        return Head("level3", row[1], _number(digits))
    is_number = digits.isascii() and digits.isdigit() and len(digits) <= _DIGITS_MAX
    return Head("level3", row[1], _number(int(digits)) if is_number else None)


def _number(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value <= SEQUENCE_MAX else None


class Message(msgspec.Struct, gc=False):
    """One message on its path from the feed to subscribers.

    Attributes:
        topic: the topic of the message.
        type: the ``type`` of its head, for example ``"l2update"``; ``"level3"`` for every level3
            array.
        frame: the unmasked WebSocket text frame, header included; WebSocket subscribers get
            these bytes.
        payload: the JSON text in the frame, as the exchange sent it.
        sequence: as in its head.
        trade_id: as in its head.
        also: a second topic of the message, for example ``matches`` for a match received on
            ``full``; or None.
        line: its NDJSON wire form; None until a cohort needs it.
        event: the part of its SSE wire form that all cohorts share; None until one needs it.
        deflated: its frame, compressed, for subscribers that negotiated compression; None if
            it was not made, as for small messages. It is made before publication.
        received_us: the receive time, µs since the epoch: when the socket was read. Of a message
            that hedgehogd derives from another one, the receive time of that one; of one without
            such an origin, the time of its publication; 0 while it is not known.
        id: its id in the log (``domain.record``), by which a recorded message is found again; 0
            before it is recorded.
        published_us: the time of its publication, µs since the epoch, the same for one batch: its
            place among the messages of the tape; of a recorded message, its receive time; 0 before
            publication. It may be seconds after ``received_us``.
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
    id: int = 0
    published_us: int = 0


_topics: dict[tuple[str, str], Topic] = {}


def intern_topic(channel: str, product_id: str) -> Topic:
    """Return the ``Topic`` of a topic channel and a product: one shared object for all messages.

    After ``TOPICS_MAX`` topics, which only a hostile feed reaches, each further topic is a new
    object at each call.
    """
    key = (channel, product_id)
    topic = _topics.get(key)
    if topic is None:
        topic = Topic(*key)
        if len(_topics) < TOPICS_MAX:
            _topics[key] = topic
    return topic
