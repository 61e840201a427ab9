"""A small archive for the tests that read the past from it: trades, a gap, backfilled trades."""

import json
from contextlib import closing

from hedgehogd.domain.channel import MATCHES, Topic
from hedgehogd.domain.instant import to_text
from hedgehogd.domain.message import Message
from hedgehogd.domain.record import GapKind, GapRecord, TradeRecord
from hedgehogd.log.archive.writer import Writer
from hedgehogd.protocol.frames import encode_text
from hedgehogd.recovery.history_port import message_of
from tests.log.archive.records import DEPLOYMENT, SMALL

NOW = 1_790_000_000_000_000
S = 1_000_000
BTC = MATCHES.topic("BTC-USD")


def match(number, *, id_=None, received_us=None, topic=BTC, also=None):
    """Return a trade; its id is no time."""
    body = {"type": "match", "product_id": topic.product_id, "trade_id": number,
        "sequence": 10 * number, "time": to_text(NOW + number * S), "side": "buy",
        "price": "1.10", "size": "2"}  # fmt: skip
    payload = json.dumps(body).encode()
    return Message(
        topic, "match", encode_text(payload), payload, 10 * number, number, also,
        received_us=NOW + number * S if received_us is None else received_us,
        id=number * 100 if id_ is None else id_,
    )  # fmt: skip


def recorded(topic, received_us, payload, *, id_=None):
    """Return a message as a log has it; by default its id is its receive time."""
    message = message_of(topic, payload)
    message.received_us, message.id = received_us, received_us if id_ is None else id_
    return message


def book(number, kind="l2update", *, topic=None):
    """Return a message of a level-2 book, which has no numbers."""
    topic = topic or Topic("level2", "BTC-USD")
    payload = json.dumps({"type": kind, "product_id": topic.product_id, "n": number}).encode()
    return Message(
        topic, kind, encode_text(payload), payload, received_us=NOW + number * S, id=number * 100
    )


def backfilled(number, gap_id, id_, topic=BTC):
    """Return a backfilled trade, received an hour after the trades around it."""
    body = {"type": "match", "product_id": topic.product_id, "trade_id": number, "side": "buy",
        "price": "1.10", "size": "2", "time": to_text(NOW + number * S)}  # fmt: skip
    payload = json.dumps(body).encode()
    return TradeRecord(topic, number, payload, gap_id, id_, NOW + 3600 * S)


def gap(first, last, id_, received_us, topic=BTC, kind=GapKind.MISSING):
    return GapRecord(topic, kind, first, last, id_, received_us)


def usual():
    """Return trades 1 to 20, one a second, without 8 and 9; 8 was backfilled in second 15."""
    records = [match(n) for n in (*range(1, 8), *range(10, 21))]
    records.append(gap(8, 9, 999, NOW + 10 * S - 1))
    records.append(backfilled(8, 999, 1501))
    return sorted(records, key=lambda record: record.id)


def write(directory, records, *, sizes=SMALL, each=3, checkpoint=tuple):
    """Write an archive of ``records`` with several blocks and segments; return the directory.

    ``each`` records are appended and synced together.
    """
    with closing(Writer(directory, DEPLOYMENT, sizes=sizes, checkpoint=checkpoint)) as writer:
        for at in range(0, len(records), each):
            writer.append(records[at : at + each])
            writer.sync()
            while writer.work():
                pass
    return directory
