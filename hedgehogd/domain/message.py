"""One upstream message: its raw bytes, the few fields we read of it, when it came.

Raw is sacred (DESIGN, invariant 6): the frame that the exchange sent is the frame that
subscribers get. Only the head is decoded, by one Struct, at 0.75 µs a message.
"""

from typing import Annotated, Any

import msgspec

from hedgehogd.domain.channel import TOPIC_CHANNEL_BY_TYPE, Topic
from hedgehogd.domain.limits import SEQUENCE_MAX, TOPICS_MAX

_Number = Annotated[int, msgspec.Meta(ge=0, le=SEQUENCE_MAX)]


class Head(msgspec.Struct, gc=False):
    """The few fields we read of a message; absent ones are empty or None.

    Attributes:
        type: the kind of message, for example ``"ticker"``.
        product_id: the market; empty when the message is about none.
        sequence: the product's counter of engine events, or None. No unit.
        trade_id: the product's counter of trades, or None. No unit.
        message: an ``error``'s text.
        reason: an ``error``'s reason.

    Source: FEED §6.
    """

    type: str
    product_id: str = ""
    sequence: _Number | None = None
    trade_id: _Number | None = None
    message: str = ""
    reason: str = ""


class _OddHead(msgspec.Struct, gc=False):
    type: str
    product_id: str = ""
    sequence: Any = None
    trade_id: Any = None
    message: Any = ""
    reason: Any = ""


_decode_head = msgspec.json.Decoder(Head).decode
_decode_odd_head = msgspec.json.Decoder(_OddHead).decode
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class BadMessage(Exception):
    """An upstream message without a readable head; dropped and counted, never fatal."""


def read_head(payload: bytes) -> Head:
    """Decode the head of one message.

    Wrong types in numbers and texts are tolerated (they count as absent), and so are
    numbers below 0 or above ``SEQUENCE_MAX``: what others send never stops us. Without a
    ``type`` there is nothing to route by.

    Raises:
        BadMessage: not JSON, not an object, or no text for ``type`` or ``product_id``.
    """
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
        odd.message if isinstance(odd.message, str) else "",
        odd.reason if isinstance(odd.reason, str) else "",
    )


def _number(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value <= SEQUENCE_MAX else None


class Message(msgspec.Struct, gc=False):
    """One message on its way from the feed to subscribers.

    Attributes:
        topic: what it belongs to.
        type: its ``type``, for example ``"l2update"``.
        frame: the unmasked WebSocket text frame, header included: what WebSocket
            subscribers get, byte for byte.
        payload: the JSON text in it: what the exchange sent.
        sequence: the product's engine counter, or None. No unit.
        trade_id: the product's trade counter, or None. No unit.
        line: its NDJSON wire form, once somebody wanted it.
        event: the part of its SSE wire form that all cohorts share, once wanted.
        deflated: its compressed WebSocket frame, where one is wanted and smaller.
    """

    topic: Topic
    type: str
    frame: bytes
    payload: bytes
    sequence: int | None = None
    trade_id: int | None = None
    line: bytes | None = None
    event: bytes | None = None
    deflated: bytes | None = None


_topics: dict[tuple[str, str], Topic] = {}


def topic_of(head: Head) -> Topic | None:
    """Return the topic that a message with ``head`` belongs to, or None for unknown types.

    Topics are interned: the exchange has a few thousand of them and a message each
    microsecond. A hostile feed cannot grow the table beyond ``TOPICS_MAX``.
    """
    channel = TOPIC_CHANNEL_BY_TYPE.get(head.type)
    if channel is None:
        return None
    key = (channel, head.product_id)
    topic = _topics.get(key)
    if topic is None:
        topic = Topic(*key)
        if len(_topics) < TOPICS_MAX:
            _topics[key] = topic
    return topic
