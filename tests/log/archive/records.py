"""Seeded records of a small market, and small archives of them."""

from random import Random

from hedgehogd.domain.channel import FULL, HEARTBEAT, LEVEL2, MATCHES, TICKER, Topic
from hedgehogd.domain.message import Message
from hedgehogd.domain.record import (
    FeedRecord,
    GapKind,
    GapRecord,
    Record,
    RefusalRecord,
    TradeRecord,
)
from hedgehogd.log.archive.writer import Sizes
from hedgehogd.protocol.frames import encode_text

DEPLOYMENT = "k3f9qa".replace("9", "2")
START_US = 1_790_000_000_000_000
SMALL = Sizes(tail_bytes=2_000, tail_age_s=1e9, segment_bytes=2_500, segment_age_s=1e9)
"""Sizes that make a few hundred records several segments."""
TOPICS = [
    channel.topic(product_id)
    for channel in (MATCHES, TICKER, LEVEL2, HEARTBEAT, FULL)
    for product_id in ("BTC-USD", "ETH-USD", "A%B\nC")
]

BOOKS = [LEVEL2.topic(product_id) for product_id in ("BTC-USD", "ETH-USD", "A%B\nC")]
BOOK_US = START_US - 1
"""The receive time of every book of a checkpoint."""


def book(topic: Topic, position: int) -> Message:
    """Return the book of ``topic`` for a checkpoint at ``position``, which is its sequence."""
    return message(topic, position, 0, BOOK_US, "snapshot")


def message(topic: Topic, number: int, id_: int, received_us: int = 0, kind: str = "") -> Message:
    """Return a message of ``topic`` with ``number`` as its numbers."""
    kind = kind or {"matches": "match", "level2": "l2update"}.get(topic.channel, topic.channel)
    payload = b'{"type":"%b","sequence":%d,"pad":"%b"}' % (
        kind.encode(), number, b"x" * (number % 40))  # fmt: skip
    return Message(
        topic, kind, encode_text(payload), payload, number, number,
        received_us=received_us or START_US + id_, id=id_,
    )  # fmt: skip


def records(random: Random, count: int, first_id: int = 1) -> list[Record]:
    """Return records of all kinds with rising ids from ``first_id`` on."""
    found: list[Record] = []
    gaps: list[GapRecord] = []
    id_ = first_id
    for number in range(count):
        topic = random.choice(TOPICS)
        us = START_US + id_ + random.randrange(-50, 50)
        draw = random.random()
        if draw < 0.03:
            gap = GapRecord(topic, GapKind.MISSING, id_, id_ + 4, id=id_, received_us=us)
            found.append(gap)
            gaps.append(gap)
        elif draw < 0.06 and gaps:
            gap = random.choice(gaps)
            trade_id = (gap.first or 0) + random.randrange(5)
            payload = b'{"type":"match","trade_id":%d}' % trade_id
            found.append(TradeRecord(gap.topic, trade_id, payload, gap.id, id_, us))
        elif draw < 0.07:
            found.append(RefusalRecord(topic, "no", "such", 5, id_, us))
        elif draw < 0.08:
            found.append(FeedRecord("live", "text", (topic.product_id,), id_, us))
        else:
            each = message(topic, number, id_, us)
            if draw < 0.15:
                each.sequence = each.trade_id = None
            if draw > 0.97:
                each.payload += b"\xff"
                each.frame = encode_text(each.payload)
            if topic.channel == "full" and draw > 0.5:
                each.also = MATCHES.topic(topic.product_id)
            found.append(each)
        id_ += random.choice((1, 1, 2, 50, 10_000))
    return found
