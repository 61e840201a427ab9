"""Instances that record in one log, and the records in window and archive afterwards."""

import json

import trio

from hedgehogd.domain.channel import Topic
from hedgehogd.domain.message import Message
from hedgehogd.domain.product import Catalogue
from hedgehogd.domain.record import GapRecord
from hedgehogd.engine.delivery import Delivery
from hedgehogd.engine.demand import Demand
from hedgehogd.engine.health import FeedHealth, HistoryHealth, HistoryState
from hedgehogd.engine.tape import Tape
from hedgehogd.fanout.broker import Broker
from hedgehogd.fanout.pipe import Pipe
from hedgehogd.fanout.sessions import Sessions
from hedgehogd.log.allocation import Bounds
from hedgehogd.log.archive.reader import Reader
from hedgehogd.log.archiver import Kept
from hedgehogd.log.directory import Directory
from hedgehogd.log.reader import Reader as WindowReader
from hedgehogd.log.recorder import LogFiles, Recorder
from tests.fakes import make_message

NOW = 1_700_000_000_000_000
"""When tests begin, µs since the epoch."""
BTC = "BTC-USD"
TICKER, MATCHES, FULL, LEVEL2, HEARTBEAT = (
    Topic(channel, BTC) for channel in ("ticker", "matches", "full", "level2", "heartbeat")
)
STATUS = Topic("status", "")
RECORDED = frozenset({TICKER, MATCHES, FULL, LEVEL2, HEARTBEAT, STATUS})
WRITING, READING, FAILED = HistoryState.WRITING, HistoryState.READING, HistoryState.FAILED
LEVELS = 5
SMALL = Bounds(segment_bytes=4096, window_bytes_max=1 << 16)


async def run_at_once(function, limiter=None, abandon_on_cancel=False):
    await trio.lowlevel.checkpoint()
    return function()


def monotonic_ns():
    """Return the time of the test's clock in ns."""
    return int(trio.current_time() * 1e9)


def trade(number, product_id=BTC):
    return make_message("matches", product_id, 10 * number, "match", trade_id=number)


def ticker(number):
    return make_message("ticker", sequence=10 * number)


def beat(number):
    return make_message("heartbeat", text=f"beat {number}")


def change(number):
    """Return the change that makes a size of a book ``number``; so each is known by it."""
    return make_message("level2", changes=[["buy", str(1 + number % LEVELS), str(number)]])


def book(number):
    """Return the whole book after the change ``number``."""
    sizes = range(number, max(0, number - LEVELS), -1)
    bids = [[str(1 + size % LEVELS), str(size)] for size in sizes]
    return make_message("level2", kind="snapshot", bids=bids, asks=[])


class Instance:
    """A pipe and its recorder.

    Attributes:
        off_s: by how much its wall clock is wrong, in seconds.
    """

    def __init__(self, path, topics=RECORDED, tape_bytes=10**6, bounds=Bounds(), **kept):  # noqa: B008
        self.off_s = 0.0
        self.place = LogFiles(
            path / "window", path / "archive", Kept(frozenset(topics), **kept), bounds=bounds
        )
        self.pipe = Pipe.build(
            Tape(tape_bytes), Demand(linger_s=0), Catalogue(), trio.current_time, self.wall_us
        )
        self.broker = Broker(self.pipe, Sessions())
        self.health, self.feed = HistoryHealth(), FeedHealth()
        self.recorder = Recorder(
            self.place, self.pipe, self.feed, self.health, self.wall_us, monotonic_ns=monotonic_ns
        )
        self.scope = trio.CancelScope()

    def wall_us(self):
        return NOW + int((trio.current_time() + self.off_s) * 1e6)

    async def run(self, *, task_status=trio.TASK_STATUS_IGNORED):
        with self.scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.pipe.snapshots.run)
                await nursery.start(self.recorder.run)
                task_status.started()

    async def publish(self, *messages):
        await self.broker.publish([Delivery(list(messages))])

    async def record(self, nursery, *messages, each_s=0.1):
        """Start it, publish messages one after the other, and stop it."""
        await nursery.start(self.run)
        await trio.sleep(1)
        for message in messages:
            await self.publish(message)
            await trio.sleep(each_s)
        await trio.sleep(2)
        await self.stop()

    async def stop(self):
        self.scope.cancel()
        await trio.sleep(2)


def archived(path, *topics):
    """Return the records of the archive, all of them or those of topics."""
    reader = Reader(path / "archive")
    try:
        records, after_id, is_last = [], 0, False
        while not is_last:
            page = reader.read(after_id, frozenset(topics) or None)
            records += page.records
            after_id, is_last = page.end_id, page.is_last
    finally:
        reader.close()
    ids = [record.id for record in records]
    assert sorted(set(ids)) == ids
    return records


def messages(path, *topics):
    return [record for record in archived(path, *topics) if isinstance(record, Message)]


def payloads(path, *topics):
    return [message.payload for message in messages(path, *topics)]


def gaps(path, *topics):
    return [
        (each.topic, each.kind, each.first, each.last)
        for each in archived(path, *topics)
        if isinstance(each, GapRecord)
    ]


def trades(path):
    return [message.trade_id for message in messages(path, MATCHES)]


def logged(path):
    """Return the records of the window."""
    directory = Directory(path / "window")
    reader = WindowReader(directory)
    records, position = [], 0
    while found := reader.read(position, 1000):
        records += found
        position = found[-1].id
    reader.close()
    directory.close()
    return records


def sizes(payload):
    return dict(json.loads(payload)["bids"])


def books_of(records):
    """Return the book after each message that was archived; each begins with a snapshot."""
    found, at = [], None
    for message in records:
        body = json.loads(message.payload)
        if message.type == "snapshot":
            at = dict(body["bids"])
        else:
            assert at is not None
            at = at | {price: size for _, price, size in body["changes"]}
        found.append(at)
    return found
