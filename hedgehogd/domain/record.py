"""The records of the log: messages, gaps, backfilled trades, refusals, changes of feed state.

A deployment has one ordered log. Each record has an *id*, an ordinal that rises by at least one
from record to record: the larger of the clock's µs and the last id + 1. An id is never read as a
time. The time is ``received_us``: when the frame was read, or the record was made, µs since the
epoch. Times may repeat or step back with the clock; ids do not.

A ``Message`` is a record, too: the most frequent one.
"""

from enum import IntEnum

import msgspec

from hedgehogd.domain.channel import Topic
from hedgehogd.domain.message import Message


class GapKind(IntEnum):
    """Why messages of a topic are missing.

    Attributes:
        MISSING: no connection delivered them.
        UNRECORDED: they were delivered, but left the tape before the log had them, left the window
            before the archive had them, or were too large for the log.
        UNREADABLE: the archive had them, and their bytes are damaged.
    """

    MISSING = 0
    UNRECORDED = 1
    UNREADABLE = 2


class GapRecord(msgspec.Struct, gc=False):
    """Messages of a topic that are not in the log; its place is between the messages around it.

    Attributes:
        topic: the topic.
        kind: why they are missing.
        first: the first missing number: a trade id on ``matches``, else a sequence; None when it
            is not known, as for books.
        last: the last missing number, included; None when it is not known, as for a ticker that may
            have missed messages.
        id: its id; 0 before it is appended.
        received_us: when the gap was declared, µs since the epoch.
    """

    topic: Topic
    kind: GapKind = GapKind.MISSING
    first: int | None = None
    last: int | None = None
    id: int = 0
    received_us: int = 0


class TradeRecord(msgspec.Struct, gc=False):
    """A backfilled trade: the feed missed it, and REST returned it later.

    A read whose position precedes the gap delivers it at the place of the gap.

    Attributes:
        topic: the ``matches`` topic of its product.
        trade_id: its trade id.
        payload: the trade as a JSON object in the form of a ``match`` message, without orders and
            sequence if REST returned it.
        gap_id: the id of the gap record that it fills; 0 if that is not in the log.
        id: its id; 0 before it is appended.
        received_us: when the answer was read, µs since the epoch.
    """

    topic: Topic
    trade_id: int
    payload: bytes
    gap_id: int = 0
    id: int = 0
    received_us: int = 0


class RefusalRecord(msgspec.Struct, gc=False):
    """The exchange refuses a product or a channel, or lifts its refusal.

    Attributes:
        topic: the refused topic: without a product a whole channel, without a channel a product.
        message: the ``message`` of the exchange's error; empty when the refusal is lifted.
        reason: the ``reason`` of the exchange's error.
        retry_us: when a new wish is sent to the exchange again, µs since the epoch; 0 for never.
        id: its id; 0 before it is appended.
        received_us: when the error was read, µs since the epoch.
    """

    topic: Topic
    message: str = ""
    reason: str = ""
    retry_us: int = 0
    id: int = 0
    received_us: int = 0


class FeedRecord(msgspec.Struct, gc=False):
    """The state of the writer's feed has changed, or, in a quiet market, is the same.

    Attributes:
        state: ``live``, ``stale`` or ``begun``: the first record of an epoch.
        detail: a text for operators.
        products: the products concerned; empty for all.
        id: its id; 0 before it is appended.
        received_us: when it was made, µs since the epoch.
    """

    state: str
    detail: str = ""
    products: tuple[str, ...] = ()
    id: int = 0
    received_us: int = 0


Record = Message | GapRecord | TradeRecord | RefusalRecord | FeedRecord
"""Any record of the log."""
