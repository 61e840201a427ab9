"""The recorder: what the tape brought is on the disk, whoever writes and whatever fails.

The world at the end is the heart of it: instances that get the same feed at different times
and take over from one another, orderly or not, on a disk that fails now and then.
"""

import json
import threading
from functools import partial
from itertools import pairwise
from random import Random

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from hedgehogd.arbitration.batch import NoticeKind, TopicNotice
from hedgehogd.domain import limits
from hedgehogd.domain.channel import Topic
from hedgehogd.domain.product import Catalogue
from hedgehogd.engine.delivery import Delivery
from hedgehogd.engine.demand import Demand
from hedgehogd.engine.health import HistoryHealth, HistoryState
from hedgehogd.engine.memory import weight
from hedgehogd.engine.tape import Tape
from hedgehogd.fanout.broker import Broker
from hedgehogd.fanout.pipe import Pipe
from hedgehogd.fanout.sessions import Sessions
from hedgehogd.history.lock import WriterLock
from hedgehogd.history.reader import Reader
from hedgehogd.history.recorder import Recorder, Retention
from hedgehogd.history.schema import StoreError
from hedgehogd.history.writer import Hole, Writer
from tests.fakes import FakeMember, make_message
from tests.history.conftest import (
    FULL,
    HEARTBEAT,
    LEVEL2,
    MATCHES,
    NAMES,
    NOW,
    TICKER,
    Store,
    read_all,
)

WRITING, READING, FAILED = HistoryState.WRITING, HistoryState.READING, HistoryState.FAILED
RECORDED = [MATCHES, TICKER, FULL, LEVEL2, HEARTBEAT]
LEVELS = 5
STALE = TopicNotice(None, b"stale", NoticeKind.STALE)


@pytest.fixture(autouse=True)
def threads(request, monkeypatch):
    """Run at once what goes to threads: a clock that jumps would jump while they work."""
    if "autojump_clock" in request.fixturenames:
        monkeypatch.setattr(trio.to_thread, "run_sync", run_at_once)


async def run_at_once(function, limiter=None):
    await trio.lowlevel.checkpoint()
    return function()


def trade(number, product_id="BTC-USD"):
    return make_message(
        "matches", product_id, 10 * number, "match", trade_id=number, time="2026-01-31T12:00:00Z"
    )


def ticker(number):
    return make_message("ticker", sequence=10 * number)


def change(number):
    """Return the change that makes a size of a book ``number``; so each is known by it."""
    return make_message("level2", changes=[["buy", str(1 + number % LEVELS), str(number)]])


def book(number):
    """Return the whole book after the change ``number``."""
    sizes = range(number, max(0, number - LEVELS), -1)
    bids = [[str(1 + size % LEVELS), str(size)] for size in sizes]
    return make_message("level2", kind="snapshot", bids=bids, asks=[])


def newest(snapshot):
    """Return the number of the last change that is in a snapshot."""
    return max([int(size) for _, size in json.loads(snapshot)["bids"]], default=0)


class Instance:
    """A pipe and its recorder."""

    def __init__(self, directory, recorded=RECORDED, tape_bytes=10**6, retention=Retention()):  # noqa: B008
        self.directory = directory
        self.pipe = Pipe.build(
            Tape(tape_bytes), Demand(linger_s=0), Catalogue(), trio.current_time, self.wall_us
        )
        self.broker = Broker(self.pipe, Sessions())
        self.health = HistoryHealth()
        self.lock = WriterLock(directory)
        self.recorder = Recorder(
            directory, self.pipe, recorded, NAMES, self.lock, self.health, self.wall_us, retention
        )
        self.scope = trio.CancelScope()

    def wall_us(self):
        return NOW + int(trio.current_time() * 1e6)

    async def run(self, *, task_status=trio.TASK_STATUS_IGNORED):
        with self.scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.pipe.snapshots.run)
                await nursery.start(self.recorder.run)
                task_status.started()
        assert not self.lock.is_held

    async def publish(self, *messages):
        await self.broker.publish([Delivery(list(messages))])

    async def wait(self, seconds=1.0):
        await trio.sleep(seconds)

    def kill(self):
        """End it as ``kill -9`` does: nothing more is written, and the lock is free."""
        if self.recorder._writer is not None:
            self.recorder._writer.close()
            self.recorder._writer = None
        self.recorder._round = partial(trio.sleep, 0)
        self.scope.cancel()


def what_is_kept(directory, *topics):
    store = Store(directory)
    try:
        return read_all(store.reader, topics)
    finally:
        store.close()


def trades_of(directory, topic=MATCHES):
    return [message.trade_id for message in what_is_kept(directory, topic)[0]]


async def test_only_what_is_to_be_kept_is_kept(tmp_path, autojump_clock, nursery):
    """In the order of the feed; a trade that came on ``full`` is one of ``matches`` too."""
    here = Instance(tmp_path, [MATCHES, TICKER])
    await nursery.start(here.run)
    of_full = make_message("full", sequence=30, kind="match", also=MATCHES, trade_id=3)
    await here.publish(trade(1), make_message("heartbeat"), ticker(2), trade(1, "ETH-USD"))
    await here.publish(of_full, make_message("full", sequence=31, kind="done"), trade(4))
    await here.wait()
    messages, gaps = what_is_kept(tmp_path, *RECORDED, Topic("matches", "ETH-USD"))

    assert [(m.topic, m.sequence) for m in messages] == [
        (MATCHES, 10), (TICKER, 20), (MATCHES, 30), (MATCHES, 40)
    ]  # fmt: skip
    assert messages[2].payload == of_full.payload
    assert [(gap.first, gap.last) for gap in gaps] == [(2, 2)]
    assert (here.health.state, here.health.kept, here.health.overruns) == (WRITING, 4, 0)


async def test_a_topic_and_its_trades_are_kept_under_both(tmp_path, autojump_clock, nursery):
    """Whoever keeps ``full`` and ``matches`` finds each under its name."""
    here = Instance(tmp_path)
    await nursery.start(here.run)
    await here.publish(make_message("full", sequence=30, kind="match", also=MATCHES, trade_id=3))
    await here.wait()

    assert [m.topic for m in what_is_kept(tmp_path, *RECORDED)[0]] == [FULL, MATCHES]


async def test_what_came_before_it_began_is_kept_too(tmp_path, autojump_clock, nursery):
    """The feed does not wait for the disk."""
    here = Instance(tmp_path)
    await here.publish(trade(1), trade(2))
    await nursery.start(here.run)
    await here.publish(trade(3))
    await here.wait()

    assert trades_of(tmp_path) == [1, 2, 3]


async def test_when_it_was_received_is_kept(tmp_path, autojump_clock, nursery):
    """Not when it was written, nor when another one took over."""
    first, second = Instance(tmp_path), Instance(tmp_path)
    await nursery.start(first.run)
    await nursery.start(second.run)
    await first.publish(trade(1), ticker(1))
    await second.publish(trade(1), ticker(1))
    await trio.sleep(5)
    first.kill()
    await second.publish(trade(2))
    for n in (3, 4):
        await second.publish(ticker(n))
        await trio.sleep(1)
    messages, _ = what_is_kept(tmp_path, MATCHES, TICKER)

    assert [(m.received_us - NOW) // 10**6 for m in messages] == [0, 0, 5, 5, 6]


async def test_one_writes_and_the_next_takes_over_without_a_hole(tmp_path, autojump_clock, nursery):
    """Within a second, also when the first one has written more or less than the other has."""
    first, second = Instance(tmp_path), Instance(tmp_path)
    await nursery.start(first.run)
    await nursery.start(second.run)
    await trio.sleep(1)
    assert (first.health.state, second.health.state) == (WRITING, READING)
    for n in range(1, 40):
        for here in (first, second):
            await here.publish(trade(n), ticker(n), make_message("full", sequence=n, kind="done"))
        await trio.sleep(0.1)
    first.kill()
    for n in range(40, 60):
        await second.publish(trade(n), ticker(n), make_message("full", sequence=n, kind="done"))
    await trio.sleep(1)
    assert second.health.state is WRITING
    messages, gaps = what_is_kept(tmp_path, MATCHES, TICKER, FULL)

    for topic in (MATCHES, TICKER, FULL):
        factor = 1 if topic == FULL else 10
        numbers = [m.sequence for m in messages if m.topic == topic]
        assert numbers == [factor * n for n in range(1, 60)]
    assert gaps == []


async def test_tickers_that_nobody_has_are_missing(tmp_path, autojump_clock, nursery):
    """They have no dense numbers; so the tape says whether it reaches back far enough."""
    first = Instance(tmp_path, [TICKER])
    await nursery.start(first.run)
    await first.publish(ticker(1))
    await trio.sleep(1)
    first.scope.cancel()
    second = Instance(tmp_path, [TICKER])
    await second.publish(ticker(5), ticker(6))
    await nursery.start(second.run)
    await trio.sleep(2)  # it lets others go first: something may have come before it began
    second.scope.cancel()
    third = Instance(tmp_path, [TICKER])
    await nursery.start(third.run)
    await trio.sleep(2)
    await third.publish(ticker(6))  # what the exchange greets with
    await trio.sleep(1)
    await third.publish(ticker(8))
    await trio.sleep(1)
    messages, gaps = what_is_kept(tmp_path, TICKER)

    assert [m.sequence for m in messages] == [10, 50, 60, 80]
    assert [(g.kind, g.first, g.last) for g in gaps] == [("missing", 11, 49)]


@pytest.mark.parametrize("batch", [1, 2, 100])
async def test_tickers_said_while_the_feed_was_down_are_missing(
    tmp_path, autojump_clock, nursery, monkeypatch, batch
):
    """Wherever it is in what is taken at once."""
    monkeypatch.setattr(limits, "HISTORY_BATCH_MAX", batch)
    here = Instance(tmp_path, [TICKER, MATCHES])
    await here.broker.publish([Delivery([ticker(1)], [STALE], [1])])
    await here.publish(trade(4), ticker(4))  # before it is written for the first time
    await nursery.start(here.run)
    await trio.sleep(1)
    await here.broker.publish([Delivery([ticker(5)], [STALE], [1])])
    await here.publish(trade(8), ticker(8), ticker(9))
    await trio.sleep(1)
    messages, gaps = what_is_kept(tmp_path, TICKER)

    assert [m.sequence for m in messages] == [10, 40, 50, 80, 90]
    assert [(g.first, g.last) for g in gaps] == [(11, 39), (51, 79)]


async def test_who_takes_over_knows_what_the_one_before_has_kept(tmp_path, autojump_clock, nursery):
    """Its own feed was down for a while; nothing is missing for that."""
    first, second = Instance(tmp_path, [TICKER]), Instance(tmp_path, [TICKER])
    await nursery.start(first.run)
    await nursery.start(second.run)
    for number in range(1, 20):
        await first.publish(ticker(number))
        if number == 4:
            await second.broker.publish([Delivery([], [STALE])])
        if not 4 <= number <= 9:
            await second.publish(ticker(number))
        await trio.sleep(0.1)
    await trio.sleep(1)
    first.scope.cancel()
    await trio.sleep(5)
    await second.publish(ticker(20))
    await trio.sleep(1)
    messages, gaps = what_is_kept(tmp_path, TICKER)

    assert ([m.sequence for m in messages], gaps) == ([*range(10, 210, 10)], [])


async def test_an_overrun_loses_nothing_that_is_still_on_the_tape(
    tmp_path, autojump_clock, nursery
):
    """What is missing behind that is told by itself."""
    here = Instance(tmp_path, [TICKER], tape_bytes=8000)
    await nursery.start(here.run)
    await here.publish(ticker(1))
    await trio.sleep(1)
    for number in range(30):
        await here.publish(trade(number + 1))
    await here.publish(ticker(4))
    await here.broker.publish([Delivery([], [STALE])])
    await here.publish(ticker(8))
    await trio.sleep(1)
    messages, gaps = what_is_kept(tmp_path, TICKER)

    assert here.health.overruns == 1
    assert [m.sequence for m in messages] == [10, 40, 80]
    assert [(g.first, g.last) for g in gaps] == [(41, 79)]


async def test_while_nothing_is_heard_nothing_is_said_to_be_written(
    tmp_path, autojump_clock, nursery
):
    """Heartbeats are heard although they are not kept; who is silent for long is not waited for."""
    here = Instance(tmp_path, [TICKER, Topic("ticker", "ETH-USD")])
    await nursery.start(here.run)
    await here.publish(ticker(1))
    heard_us = here.wall_us()
    await trio.sleep(60)
    store = Store(tmp_path)
    assert store.reader.written_to() == here.health.written_us == heard_us
    await here.publish(make_message("heartbeat"))
    await trio.sleep(1)
    assert store.reader.written_to() == heard_us + 60_000_000
    await trio.sleep(limits.HISTORY_HEARD_S + 1)
    assert store.reader.written_to() == heard_us + 60_000_000
    await here.publish(make_message("heartbeat", "ETH-USD"))
    await trio.sleep(1)
    assert store.reader.written_to() > heard_us + 3_600_000_000
    store.close()


async def test_tickers_next_to_one_another_leave_no_gap(tmp_path, autojump_clock, nursery):
    """Nothing can be missing between two numbers that follow on one another."""
    for number in (7, 8):
        here = Instance(tmp_path, [TICKER])
        await nursery.start(here.run)
        await here.publish(make_message("ticker", sequence=number))
        await trio.sleep(1)
        here.scope.cancel()
        await trio.sleep(1)

    assert what_is_kept(tmp_path, TICKER)[1] == []


def replay(messages, gaps):
    """Check what is kept of a book; return the number of its last change, and of each seam.

    A change follows on the one before it, or on a snapshot; a snapshot that lies behind what
    was missed stands behind a seam.
    """
    seams = [gap.place for gap in gaps if gap.kind == "seam"]
    last, begins, found = None, 0, []
    for message in messages:
        while seams and seams[0] < message.received_us:
            del seams[0]
            last = None
        if message.type == "snapshot":
            number = newest(message.payload)
            assert last is None or number <= last
            begins += last is None
        else:
            assert last is not None
            number = int(json.loads(message.payload)["changes"][0][2])
            assert number == last + 1
        last = number
        found.append(number)
    return last, begins


async def test_a_book_begins_with_a_seam_and_a_snapshot(tmp_path, autojump_clock, nursery):
    """After a takeover too; nothing of it is kept before the snapshot."""
    first, second = Instance(tmp_path), Instance(tmp_path)
    await nursery.start(first.run)
    await nursery.start(second.run)
    for here in (first, second):
        await here.publish(book(0))
    for n in range(1, 30):
        for here in (first, second):
            await here.publish(change(n))
        await trio.sleep(0.1)
    first.kill()
    for n in range(30, 60):
        await second.publish(change(n))
        await trio.sleep(0.1)
    await trio.sleep(1)
    messages, gaps = what_is_kept(tmp_path, LEVEL2)

    assert [message.type for message in messages[:2]] == ["snapshot", "l2update"]
    assert replay(messages, gaps) == (59, 2)
    snapshots = [m.received_us for m in messages if m.type == "snapshot"]
    assert [gap.place + 1 for gap in gaps] == snapshots


async def test_the_exchanges_own_snapshot_begins_a_book(tmp_path, autojump_clock, nursery):
    """It passes while one of ours is waited for; the changes before it are not kept."""
    here = Instance(tmp_path, [LEVEL2])
    await here.publish(change(1))
    await nursery.start(here.run)
    await trio.sleep(1)
    await here.publish(change(1), book(1), change(2))
    await here.publish(change(3))
    await trio.sleep(1)
    messages, gaps = what_is_kept(tmp_path, LEVEL2)

    assert messages[0].payload == book(1).payload
    assert replay(messages, gaps) == (3, 1)
    assert len(messages) == 3


async def test_a_book_is_told_whole_now_and_then(tmp_path, autojump_clock, nursery):
    """Without a seam: nothing is missing. Who reads from the middle begins there."""
    here = Instance(tmp_path, [LEVEL2])
    await nursery.start(here.run)
    await here.publish(book(0))
    for n in range(1, 60):
        await here.publish(change(n))
        await trio.sleep(30)
    messages, gaps = what_is_kept(tmp_path, LEVEL2)
    at = [m.received_us for m in messages if m.type == "snapshot"]

    assert [gap.kind for gap in gaps] == ["seam"]
    assert replay(messages, gaps) == (59, 1)
    assert len(at) == 3
    assert all(600 <= (b - a) / 1e6 <= 700 for a, b in pairwise(at))


async def test_what_is_too_much_for_the_disk_is_missing(tmp_path, autojump_clock, nursery):
    """It is said of each topic, by numbers where there are any, and the book begins anew."""
    size = weight(trade(1000))
    here = Instance(tmp_path, tape_bytes=6 * size)
    await nursery.start(here.run)
    await here.publish(trade(1), ticker(1), book(0))
    await trio.sleep(1)
    for n in range(2, 30):
        await here.publish(trade(n), ticker(n), change(n - 1))
    await trio.sleep(1)
    await here.publish(change(29))
    await trio.sleep(1)
    messages, gaps = what_is_kept(tmp_path, MATCHES, TICKER, LEVEL2)

    assert here.health.overruns == 1
    trades = [m.trade_id for m in messages if m.topic == MATCHES]
    tickers = [m.sequence for m in messages if m.topic == TICKER]
    first, last = trades[1], tickers[1]
    assert trades == [1, *range(first, 30)]
    assert first > 20
    assert {(g.topic, g.kind, g.first, g.last) for g in gaps if g.topic != LEVEL2} == {
        (MATCHES, "missing", 2, first - 1),
        (TICKER, "missing", 11, last - 1),
    }
    of_book = [m for m in messages if m.topic == LEVEL2]
    assert replay(of_book, [g for g in gaps if g.topic == LEVEL2]) == (29, 2)


async def test_what_was_lost_while_a_book_was_told_whole_leaves_a_seam(
    tmp_path, autojump_clock, nursery
):
    """The tape is looked at when the snapshot comes, too."""
    here = Instance(tmp_path, [LEVEL2], tape_bytes=3 * weight(change(1000)))
    await nursery.start(here.run)
    await here.publish(book(0))
    await trio.sleep(1.1)  # the next round is still to come
    kept = here.recorder._books[LEVEL2]
    for n in range(1, 20):
        await here.publish(change(n))
    kept.refresh(float("inf"))
    await here.publish(book(19))
    await here.publish(change(20))
    await trio.sleep(1)
    messages, gaps = what_is_kept(tmp_path, LEVEL2)

    assert replay(messages, gaps) == (20, 2)
    assert [message.type for message in messages].count("snapshot") == 2
    assert here.health.overruns == 1
    assert not here.pipe.snapshots._waiting
    assert kept.has_begun(here.pipe.tape.end)


@pytest.fixture
def failing(monkeypatch):
    """A switch: while it is on, nothing can be written."""
    switch = {"on": False}
    write = Writer.write

    def failing(writer, entries, now_us):
        if switch["on"]:
            raise StoreError("database or disk is full")
        return write(writer, entries, now_us)

    monkeypatch.setattr(Writer, "write", failing)
    return switch


async def test_while_the_disk_fails_streams_go_on_and_nothing_is_lost(
    tmp_path, autojump_clock, nursery, failing
):
    """All that the tape still has is written as soon as there is space."""
    here = Instance(tmp_path)
    await nursery.start(here.run)
    await here.publish(book(0))
    for n in range(1, 100):
        await here.publish(trade(n), ticker(n), change(n))
        await trio.sleep(0.1)
        if n == 20:
            failing["on"] = True
        if n == 80:
            assert (here.health.state, here.health.reason) == (FAILED, "database or disk is full")
            assert not here.lock.is_held
            failing["on"] = False
    await trio.sleep(2)
    messages, gaps = what_is_kept(tmp_path, MATCHES, TICKER, LEVEL2)

    assert (here.health.state, here.health.reason) == (WRITING, "")
    assert [m.trade_id for m in messages if m.topic == MATCHES] == list(range(1, 100))
    assert [m.sequence for m in messages if m.topic == TICKER] == list(range(10, 1000, 10))
    assert {gap.topic for gap in gaps} == {LEVEL2}
    assert replay([m for m in messages if m.topic == LEVEL2], gaps) == (99, 2)


async def test_a_real_full_disk_is_written_again_when_there_is_space(
    full_disk, autojump_clock, nursery
):
    """By itself: nobody has to restart anything."""
    disk, fill, clear = full_disk
    here = Instance(disk, [MATCHES])
    await nursery.start(here.run)
    await here.publish(trade(1))
    await trio.sleep(1)
    fill()
    for n in range(2, 400):
        await here.publish(trade(n))
        await trio.sleep(0.05)
    assert here.health.state is FAILED
    assert "full" in here.health.reason
    assert 1 in trades_of(disk)
    clear()
    await trio.sleep(3)

    assert here.health.state is WRITING
    assert trades_of(disk) == list(range(1, 400))


async def test_another_instance_may_try_what_one_cannot(tmp_path, autojump_clock, nursery, failing):
    """The lock is not held by somebody who does not write."""
    here, other = Instance(tmp_path), Instance(tmp_path)
    await nursery.start(here.run)
    await trio.sleep(1)
    failing["on"] = True
    await trio.sleep(5)
    assert FAILED in {here.health.state, other.health.state}
    failing["on"] = False
    other.recorder._disk = trio.CapacityLimiter(1)
    await nursery.start(other.run)
    await trio.sleep(5)

    assert {here.health.state, other.health.state} == {WRITING, READING}


async def test_a_corrupt_store_is_left_to_people(tmp_path, autojump_clock, nursery):
    """It is never repaired, streams go on, and it is written again when it was put right."""
    store = Store(tmp_path)
    spoiled = b"this is no database" * 999
    store.file.write_bytes(spoiled)
    here = Instance(tmp_path)
    member = FakeMember()
    await nursery.start(here.run)
    for n in (1, 2):
        await here.publish(trade(n))
        await trio.sleep(5)
    assert (here.health.state, here.health.reason) == (FAILED, "file is not a database")
    assert (here.lock.is_held, member.ends) == (False, [])
    assert store.file.read_bytes() == spoiled
    store.file.unlink()
    await trio.sleep(2)

    assert here.health.state is WRITING
    assert trades_of(tmp_path) == [1, 2]


async def test_a_directory_may_come_later(tmp_path, autojump_clock, nursery):
    """A disk that is not mounted yet is no reason not to start."""
    directory = tmp_path / "later"
    here = Instance(directory)
    await nursery.start(here.run)
    await here.publish(trade(1))
    await trio.sleep(2)
    assert here.health.state is FAILED
    assert "No such file" in here.health.reason
    directory.mkdir()
    await trio.sleep(2)

    assert trades_of(directory) == [1]


async def test_what_is_left_is_written_at_the_end(tmp_path, autojump_clock, nursery):
    """The drain has stopped the feed; then nothing comes any more."""
    here = Instance(tmp_path)
    await nursery.start(here.run)
    await trio.sleep(0.3)
    await here.publish(trade(1), trade(2))
    here.scope.cancel()
    await trio.sleep(0.1)

    assert list(tmp_path.glob("*-wal")) == []  # closed
    assert trades_of(tmp_path) == [1, 2]


async def test_a_disk_that_fails_at_the_end_does_not_spoil_the_end(
    tmp_path, autojump_clock, nursery, failing
):
    """The others still have to be drained."""
    here = Instance(tmp_path)
    await nursery.start(here.run)
    await trio.sleep(1)
    await here.publish(trade(1))
    failing["on"] = True
    before = trio.current_time()
    here.scope.cancel()
    await trio.sleep(0.01)

    assert not nursery.child_tasks
    assert here.health.state is FAILED
    assert trio.current_time() - before < 1


async def test_the_end_does_not_wait_for_a_disk_that_is_too_slow(
    tmp_path, autojump_clock, nursery, monkeypatch
):
    """What has not been written by then is lost, as with a kill; the rest of the drain waits."""
    monkeypatch.setattr(limits, "HISTORY_BATCH_MAX", 10)
    here = Instance(tmp_path, [MATCHES])
    await nursery.start(here.run)
    await trio.sleep(1)

    async def slow(function, limiter):
        await trio.sleep(1)
        return function()

    monkeypatch.setattr(trio.to_thread, "run_sync", slow)
    await here.publish(*(trade(n) for n in range(1, 200)))
    before = trio.current_time()
    here.scope.cancel()
    while nursery.child_tasks:
        await trio.sleep(0.1)

    assert limits.FAREWELL_S <= trio.current_time() - before < limits.FAREWELL_S + 3
    assert trades_of(tmp_path) == list(range(1, len(trades_of(tmp_path)) + 1))


async def test_who_never_wrote_leaves_at_once(tmp_path, autojump_clock, nursery):
    """The other one goes on."""
    here, other = Instance(tmp_path), Instance(tmp_path)
    await nursery.start(here.run)
    await trio.sleep(0.1)
    await nursery.start(other.run)
    await trio.sleep(1)
    other.scope.cancel()
    await trio.sleep(0.01)
    await here.publish(trade(1))
    await trio.sleep(1)

    assert here.health.state is WRITING
    assert trades_of(tmp_path) == [1]


async def test_what_was_taken_is_written_although_it_is_cancelled_meanwhile(tmp_path, monkeypatch):
    """In a real thread, which nobody can interrupt; what it has not come to yet is written too."""
    monkeypatch.setattr(limits, "HISTORY_BATCH_MAX", 10)
    may_write, writes = threading.Event(), threading.Event()
    write = Writer.write

    def slow(writer, entries, now_us):
        writes.set()
        assert may_write.wait(10)
        return write(writer, entries, now_us)

    monkeypatch.setattr(Writer, "write", slow)
    here = Instance(tmp_path, [MATCHES])
    await here.publish(*(trade(n) for n in range(1, 36)))
    async with trio.open_nursery() as nursery:
        await nursery.start(here.run)
        await trio.to_thread.run_sync(writes.wait, 10)
        here.recorder.keep_trades("BTC-USD", [{"trade_id": 7, "time": ""}])
        here.scope.cancel()
        await trio.lowlevel.checkpoint()
        may_write.set()

    assert trades_of(tmp_path) == list(range(1, 36))
    store = Store(tmp_path)
    assert store.rows("SELECT trade_id FROM trade") == [(7,)]
    store.close()


async def test_who_is_cancelled_while_it_begins_writes_what_it_took(tmp_path, monkeypatch):
    """It has the store then, and nobody else has: what is on its tape is its to write."""
    may_open, opens = threading.Event(), threading.Event()
    begin = Writer.__init__

    def slow(writer, *arguments):
        opens.set()
        assert may_open.wait(10)
        begin(writer, *arguments)

    monkeypatch.setattr(Writer, "__init__", slow)
    here = Instance(tmp_path, [MATCHES])
    await here.publish(trade(1), trade(2))
    async with trio.open_nursery() as nursery:
        await nursery.start(here.run)
        await trio.to_thread.run_sync(opens.wait, 10)
        here.scope.cancel()
        await trio.lowlevel.checkpoint()
        may_open.set()

    assert trades_of(tmp_path) == [1, 2]


async def test_what_is_said_to_be_written_is(tmp_path, autojump_clock, nursery, monkeypatch):
    """Others begin to read their own tapes there; a message between would be lost to them."""
    monkeypatch.setattr(limits, "HISTORY_BATCH_MAX", 10)
    here = Instance(tmp_path, [MATCHES])
    claims = []
    write = Writer.write

    def watched(writer, entries, now_us):
        kept = write(writer, entries, now_us)
        claims.append((writer.last_sequence(MATCHES) or 0, now_us, len(entries)))
        return kept

    monkeypatch.setattr(Writer, "write", watched)
    for n in range(1, 100, 3):
        await here.publish(trade(n), trade(n + 1), trade(n + 2))
        await trio.sleep(0.001)
    await nursery.start(here.run)
    await trio.sleep(1)
    on_tape = [(m.published_us, m.sequence) for m in here.pipe.tape._messages]

    assert len(claims) > 10
    assert max(count for *_, count in claims) <= 10
    for written, claimed_us, _ in claims:
        assert all(sequence <= written for at, sequence in on_tape if at <= claimed_us)
    store = Store(tmp_path)
    assert store.reader.written_to() == here.health.written_us == claims[-1][1]
    assert here.health.written_us == on_tape[-1][0]  # nothing was heard since
    store.close()


async def test_fetched_trades_are_kept_by_who_writes(
    tmp_path, autojump_clock, nursery, monkeypatch
):
    """All instances fetch; those of a failed write are not lost."""
    here, other = Instance(tmp_path), Instance(tmp_path)
    await nursery.start(here.run)
    await trio.sleep(0.1)
    await nursery.start(other.run)
    await trio.sleep(1)
    here.recorder.keep_trades("BTC-USD", [{"trade_id": 7, "time": ""}])
    here.recorder.keep_trades("ETH-USD", [{"trade_id": 8, "time": ""}])  # nobody keeps it
    other.recorder.keep_trades("BTC-USD", [{"trade_id": 9, "time": ""}])
    keep = Writer.keep_trades
    fails = iter([True, False])

    def failing_once(writer, *arguments):
        if next(fails, False):
            raise StoreError("disk is full")
        keep(writer, *arguments)

    monkeypatch.setattr(Writer, "keep_trades", failing_once)
    other.scope.cancel()
    await trio.sleep(5)
    store = Store(tmp_path)

    assert store.reader.trades("BTC-USD", 0, 99) == {7: b'{"trade_id":7,"time":""}'}
    assert store.reader.trades("ETH-USD", 0, 99) == {}
    store.close()


async def test_what_is_too_old_is_removed_each_minute(tmp_path, autojump_clock, nursery):
    """As configured, by age; the recorder only says when."""
    here = Instance(tmp_path, [MATCHES], retention=Retention(age_max_s=300, bytes_max=10**9))
    await nursery.start(here.run)
    for n in range(1, 100):
        await here.publish(trade(n))
        await trio.sleep(20)
    kept = trades_of(tmp_path)

    assert kept == list(range(kept[0], 100))
    assert 100 - 20 <= kept[0] <= 100 - 15


async def test_a_slow_writer_gets_a_book_in_order(tmp_path, monkeypatch):
    """A snapshot comes while a batch is being written; it stands behind what came before."""
    may_write, writes = threading.Event(), threading.Event()
    write = Writer.write

    def slow(writer, entries, now_us):
        if any(isinstance(entry, Hole) for entry in entries):
            may_write.set()
        writes.set()
        assert may_write.wait(10)
        return write(writer, entries, now_us)

    monkeypatch.setattr(Writer, "write", slow)
    here = Instance(tmp_path, [MATCHES, LEVEL2])
    await here.publish(trade(1))
    async with trio.open_nursery() as nursery:
        await nursery.start(here.run)
        await trio.to_thread.run_sync(writes.wait, 10)
        await here.publish(trade(2), change(1), book(1), change(2), trade(3))
        may_write.set()
        with trio.fail_after(10):
            while here.health.kept < 5:
                await trio.sleep(0.01)
        here.scope.cancel()
    messages, gaps = what_is_kept(tmp_path, MATCHES, LEVEL2)

    assert [(m.topic, m.type) for m in messages] == [
        (MATCHES, "match"), (MATCHES, "match"), (LEVEL2, "snapshot"), (LEVEL2, "l2update"),
        (MATCHES, "match"),
    ]  # fmt: skip
    assert [gap.kind for gap in gaps] == ["seam"]


class World:
    """A feed, and instances that come, go, are killed, and cannot write now and then."""

    def __init__(self, seed, directory):
        self.random = Random(seed)
        self.directory = directory
        self.sent = 0
        self.instances = []
        self.disk_is_full = False

    def message(self, n):
        kind = n % 4
        count = 1 + n // 4
        if kind == 0:
            return trade(count)
        if kind == 1:
            return ticker(count)
        if kind == 2:
            return make_message("full", sequence=count, kind="done")
        return change(count)

    async def start(self, nursery):
        """Begin one; what came before, it has not heard of, but for the state of the book."""
        here = Instance(self.directory, tape_bytes=10**7)
        here.heard = self.sent
        await here.publish(book(self.sent // 4))
        self.instances.append(here)
        await nursery.start(here.run)

    async def hear(self, here):
        """Give an instance some of what it has not heard yet."""
        end = self.random.randint(here.heard, self.sent)
        while here.heard < end:
            size = self.random.randint(1, 5)
            batch = [self.message(n) for n in range(here.heard, min(end, here.heard + size))]
            here.heard += len(batch)
            await here.publish(*batch)

    async def run(self):
        async with trio.open_nursery() as nursery:
            await self.start(nursery)
            await self.start(nursery)
            for _ in range(self.random.randint(5, 60)):
                self.sent += 4 * self.random.randint(0, 8)
                for here in self.instances:
                    await self.hear(here)
                await trio.sleep(self.random.choice([0, 0.1, 0.3, 1]))
                self.disk_is_full = self.random.random() < 0.2
                if len(self.instances) > 1 and self.random.random() < 0.15:
                    leaver = self.instances.pop(self.random.randrange(len(self.instances)))
                    self.random.choice([leaver.kill, leaver.scope.cancel])()
                    if self.random.random() < 0.5:
                        await trio.sleep(self.random.choice([0, 1, 3]))
                    await self.start(nursery)
            self.disk_is_full = False
            self.sent += 4  # by which all see what they have missed
            for here in self.instances:
                while here.heard < self.sent:
                    await self.hear(here)
            await trio.sleep(3)
            for here in self.instances:
                here.scope.cancel()

    def check(self):
        count = self.sent // 4
        messages, gaps = what_is_kept(self.directory, MATCHES, TICKER, FULL, LEVEL2)
        for topic, factor in ((MATCHES, 10), (TICKER, 10), (FULL, 1)):
            numbers = [m.sequence // factor for m in messages if m.topic == topic]
            assert numbers == sorted(set(numbers))
            missing = {
                n
                for gap in gaps
                if gap.topic == topic
                for n in (
                    range(gap.first, gap.last + 1)
                    if topic != TICKER
                    else range(-(-gap.first // factor), gap.last // factor + 1)
                )
            }
            assert not missing & set(numbers)
            assert set(range(numbers[0], count + 1)) == set(numbers) | missing
        of_book = [m for m in messages if m.topic == LEVEL2]
        last, _ = replay(of_book, [g for g in gaps if g.topic == LEVEL2])
        assert last == count


@settings(max_examples=60)
@given(st.integers(min_value=0, max_value=2**32))
def test_whoever_writes_history_is_whole(tmp_path_factory, seed):
    """Everything is there once, or said to be missing; a book is the true one where it is kept.

    Hypothesis prints the seed.
    """
    world = World(seed, tmp_path_factory.mktemp("world"))
    write = Writer.write

    def sometimes(writer, entries, now_us):
        if world.disk_is_full:
            raise StoreError("disk is full")
        return write(writer, entries, now_us)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trio.to_thread, "run_sync", run_at_once)
        patch.setattr(limits, "HISTORY_BATCH_MAX", 7)
        patch.setattr(limits, "BLOCK_BYTES", 500)
        patch.setattr(Writer, "write", sometimes)
        trio.run(world.run, clock=MockClock(autojump_threshold=0))
    world.check()


async def test_readers_share_a_store_with_its_writer(tmp_path, autojump_clock, nursery):
    """Page by page while it grows, nothing is read twice or not at all."""
    here = Instance(tmp_path, [MATCHES])
    await nursery.start(here.run)
    await trio.sleep(1)
    reader, after, found = Reader(tmp_path), -1, []
    for n in range(1, 300):
        await here.publish(trade(n))
        await trio.sleep(0.3)
        page = reader.page([MATCHES], after)
        found += [message.trade_id for message in page.messages]
        after = page.end
    reader.close()

    assert found == list(range(1, found[-1] + 1))
    assert found[-1] >= 298
