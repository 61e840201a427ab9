"""Seeded stores of the former version, and the records that a migration has to make of them."""

import json
import sqlite3
import zlib
from itertools import accumulate
from random import Random

from hedgehogd.domain.channel import (
    CHANNELS,
    FULL,
    LEVEL2,
    LEVEL2_BATCH,
    LEVEL3,
    MATCHES,
    STATUS,
    Topic,
)
from hedgehogd.domain.instant import to_text
from hedgehogd.domain.message import Message
from hedgehogd.domain.record import GapRecord, TradeRecord
from hedgehogd.log.archive.reader import Reader
from hedgehogd.log.migration.old_block import _priming
from hedgehogd.log.migration.old_store import BOOK_START, FILE_NAME, MISSING
from tests.log.migration.old_writer import Entry, Gap, OldWriter

START_US = 1_790_000_000_000_000
S = 1_000_000
PRODUCTS = ("BTC-USD", "ETH-USD", "A%B")
OF_BOOKS = (LEVEL2, LEVEL2_BATCH)


class World:
    """A market, and the store into which its messages are written.

    Attributes:
        trades: the backfilled trades that the store keeps, as topic and trade id.
    """

    def __init__(self, directory, random):
        self.random = random
        self.now = START_US
        self.numbers = {}
        self.trades = set()
        self.missing = []
        self._directory = directory
        self._writer = None
        self._pending = []

    def play(self, steps):
        """Write ``steps`` batches; the writer ends and begins again now and then."""
        for _ in range(steps):
            if self._writer is None or self.random.random() < 0.05:
                self.close()
                self._writer = OldWriter(self._directory, {"pairs": "BTC-USD"})
            for _ in range(self.random.randrange(40)):
                self._one()
            self.now += self.random.choice((S, S, 4 * S, 3600 * S, -50 * S, 0))
            self._writer.write(self._pending, self.now)
            self._pending = []
            if self.missing and self.random.random() < 0.4:
                self._backfill()

    def close(self):
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _number(self, kind, product):
        """Return the next number; it leaves some out, or begins again."""
        key, random = (kind, product), self.random
        number = self.numbers.get(key, random.randrange(1, 1000)) + 1
        draw = random.random()
        if draw < 0.06:
            first, number = number, number + random.randrange(1, 5)
            if kind == "trade":
                self.missing.append((product, first, number - 1, self.now))
        elif draw < 0.07:
            number = random.randrange(1, 50)
        self.numbers[key] = number
        return number

    def _one(self):
        random = self.random
        self.now += random.choice((0, 1, 2, 700, 20_000))
        channel = random.choice(CHANNELS)
        product = "" if channel is STATUS else random.choice(PRODUCTS)
        topic = channel.topic(product)
        if channel in OF_BOOKS:
            self._book(topic)
            return
        fields = {"type": channel.name, "product_id": product, "pad": "é" * random.randrange(9)}
        sequence = self._number(channel.topic_channel, product)
        trade_id = None
        if channel is MATCHES or (channel is FULL and random.random() < 0.5):
            trade_id = self._number("trade", product)
            fields |= {"type": "match", "trade_id": trade_id}
        payload = json.dumps(fields | {"sequence": sequence}, ensure_ascii=False).encode()
        if channel is LEVEL3:
            payload = json.dumps(["open", product, str(sequence), "x"]).encode()
        elif random.random() < 0.01:
            payload, sequence, trade_id = b"\xc3\xa9 is no message", None, None
        if random.random() < 0.02 and sequence is not None:
            self._pending.append(Gap(topic, MISSING, sequence, sequence + 3, self.now))
        self._add(topic, payload, sequence, trade_id)
        if trade_id is not None and channel is FULL:
            self._add(MATCHES.topic(product), payload, sequence, trade_id)

    def _book(self, topic):
        random = self.random
        rows = [[str(random.randrange(1, 9)), str(random.randrange(4))] for _ in range(3)]
        if random.random() < 0.8:
            changes = [[random.choice(("buy", "sell")), *row] for row in rows]
            fields = {"type": "l2update", "changes": changes, "time": "2026-09-21T00:00:00Z"}
        else:
            fields = {"type": "snapshot", "bids": rows, "asks": [["9.5", "1"]]}
            if random.random() < 0.3:
                self._pending.append(Gap(topic, BOOK_START, at_us=self.now))
        payload = json.dumps(fields | {"product_id": topic.product_id}).encode()
        self._add(topic, payload)
        if topic.channel == LEVEL2.topic_channel and fields["type"] == "snapshot":
            self._add(LEVEL2_BATCH.topic(topic.product_id), payload)

    def _add(self, topic, payload, sequence=None, trade_id=None):
        self._pending.append(Entry(topic, self.now, payload, sequence, trade_id))

    def _backfill(self):
        """Keep some of the missing trades, and one that is in no gap."""
        product, first, last, at_us = self.missing.pop(0)
        numbers = self.random.sample(
            range(first, last + 1), self.random.randint(1, last + 1 - first)
        )
        numbers += [10**6 + first] if self.random.random() < 0.2 else []
        self._writer.keep_trades(product, [self._trade(each, at_us) for each in numbers])
        self.trades |= {(MATCHES.topic(product), each) for each in numbers}

    def _trade(self, number, at_us):
        time = {"time": to_text(at_us)} if self.random.random() < 0.9 else {}
        return {"type": "match", "trade_id": number, **time}


def make_store(directory, seed, steps=120):
    """Write a store; return the backfilled trades in it."""
    directory.mkdir(exist_ok=True)
    world = World(directory, Random(seed))
    world.play(steps)
    world.close()
    return world.trades


def stored_messages(directory):
    """Return the places and payloads of the messages of a store, by topic."""
    connection = sqlite3.connect(directory / FILE_NAME)
    messages = {}
    for number, *names in connection.execute("SELECT id, channel, product_id FROM topic"):
        topic = Topic(*names)
        blocks = "SELECT data FROM block WHERE topic = ? ORDER BY last_place"
        rows = "SELECT place, payload FROM open WHERE topic = ? ORDER BY place"
        found = []
        for (data,) in connection.execute(blocks, (number,)):
            found += unpacked(topic, data)
        found += connection.execute(rows, (number,)).fetchall()
        if found:
            messages[topic] = found
    connection.close()
    return messages


def unpacked(topic, data):
    """Return the places and payloads of a block."""
    *payloads, places = (
        zlib.decompressobj(-15, zdict=_priming(topic)).decompress(data).split(b"\xff")
    )
    return list(zip(accumulate(map(int, places.split(b","))), payloads, strict=True))


def stored_gaps(directory):
    """Return the gaps of a store."""
    query = "SELECT place, channel, product_id, first, last FROM gap JOIN topic ON id = topic"
    connection = sqlite3.connect(directory / FILE_NAME)
    rows = connection.execute(f"{query} WHERE kind = ? ORDER BY place", (MISSING,)).fetchall()
    connection.close()
    return [(place, Topic(*topic), first, last) for place, *topic, first, last in rows]


def read_all(directory, topics=None, placed=False):
    """Return the records of an archive."""
    reader = Reader(directory)
    placement = reader.placement() if placed else None
    after, found = 0, []
    while True:
        page = reader.read(after, topics, placement=placement)
        found += page.records
        after = page.end_id
        if page.is_last:
            break
    reader.close()
    return found


def gaps_of(records):
    return [each for each in records if isinstance(each, GapRecord)]


def trades_of(records):
    return [each for each in records if isinstance(each, TradeRecord)]


def messages_of(records):
    return [each for each in records if isinstance(each, Message)]


def only(topic: Topic):
    return frozenset({topic})
