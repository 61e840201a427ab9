"""The appender: each message of the tape once, the gaps between, books with their snapshots."""

import trio

from hedgehogd.arbitration.batch import NoticeKind, TopicNotice
from hedgehogd.domain import limits
from hedgehogd.domain.channel import Topic
from hedgehogd.domain.record import FeedRecord, GapKind, GapRecord, TradeRecord
from hedgehogd.engine.delivery import Delivery
from hedgehogd.engine.health import FeedState
from hedgehogd.log.continuity import Continuity
from hedgehogd.log.errors import WindowFull
from hedgehogd.log.window import Window
from tests.fakes import make_message
from tests.log.instances import (
    BTC,
    FAILED,
    FULL,
    HEARTBEAT,
    LEVEL2,
    MATCHES,
    READING,
    TICKER,
    WRITING,
    Instance,
    archived,
    beat,
    book,
    books_of,
    change,
    gaps,
    messages,
    sizes,
    ticker,
    trade,
    trades,
)


async def test_numbers_left_out_are_a_gap(tmp_path, autojump_clock, nursery):
    """On dense channels by the numbers alone."""
    here = Instance(tmp_path)
    await here.record(
        nursery, trade(1), trade(4), make_message("full", sequence=7, kind="done"),
        make_message("full", sequence=9, kind="done"), ticker(1), ticker(5),
    )  # fmt: skip

    assert [(MATCHES, GapKind.MISSING, 2, 3), (FULL, GapKind.MISSING, 8, 8)] == gaps(tmp_path)


async def test_a_ticker_has_a_gap_where_the_feed_had_one(tmp_path, autojump_clock, nursery):
    """Its numbers alone report none; the tape knows when the feed was lost."""
    here = Instance(tmp_path)
    await nursery.start(here.run)
    await here.publish(ticker(1))
    stale = TopicNotice(None, b"stale", NoticeKind.STALE)
    await here.broker.publish([Delivery([], [stale])])
    await here.publish(ticker(4))
    await trio.sleep(1)
    await here.stop()

    assert [(TICKER, GapKind.MISSING, 11, 39)] == gaps(tmp_path)


async def test_backfilled_trades_name_their_gap(tmp_path, autojump_clock, nursery):
    """A trade that the log has is not recorded again, though this instance missed it."""
    here = Instance(tmp_path)
    await nursery.start(here.run)
    await trio.sleep(1)
    await here.publish(trade(1), trade(5))
    here.recorder.keep_trades(BTC, [{"trade_id": n} for n in (1, 2, 3)])
    await trio.sleep(1)
    here.recorder.keep_trades(BTC, [{"trade_id": n} for n in (3, 4)])
    await trio.sleep(1)
    await here.stop()
    (gap,) = [each for each in archived(tmp_path) if isinstance(each, GapRecord)]
    found = [each for each in archived(tmp_path) if isinstance(each, TradeRecord)]

    assert [(2, gap.id), (3, gap.id), (4, gap.id)] == [(t.trade_id, t.gap_id) for t in found]


async def test_messages_that_left_the_tape_are_a_gap_of_each_topic(
    tmp_path, autojump_clock, nursery, monkeypatch
):
    """The log is slower than the feed for once: nothing is lost in silence."""
    here = Instance(tmp_path, tape_bytes=20_000)
    await nursery.start(here.run)
    await trio.sleep(1)
    await here.publish(trade(1), ticker(1), beat(1))
    await trio.sleep(1)
    await here.publish(ticker(50))
    for n in range(2, 100):
        await here.publish(trade(n))
    await here.publish(beat(2), ticker(100))
    await trio.sleep(1)
    await here.stop()
    (of_beats, of_tickers, of_trades) = gaps(tmp_path)

    assert (MATCHES, GapKind.UNRECORDED, 2) == of_trades[:3]
    assert (HEARTBEAT, GapKind.UNRECORDED, None, None) == of_beats
    assert (TICKER, GapKind.UNRECORDED, 11, None) == of_tickers
    assert [*range(of_trades[3] + 1, 100)] == trades(tmp_path)[1:]
    assert 1 == here.health.overruns


async def test_the_state_of_the_feed_is_recorded(tmp_path, autojump_clock, nursery):
    """A reader of a quiet stretch knows whether the feed was there."""
    here = Instance(tmp_path)
    await nursery.start(here.run)
    await trio.sleep(1)
    for state in (FeedState.LIVE, FeedState.STALE, FeedState.CONNECTING, FeedState.LIVE):
        here.feed.become(state, f"is {state}")
        await trio.sleep(1)
    await here.stop()

    assert [
        ("begun", "term 1"),
        ("live", "is live"),
        ("stale", "is stale"),
        ("live", "is live"),
    ] == [(each.state, each.detail) for each in archived(tmp_path)]


async def test_a_book_begins_with_a_snapshot_again_and_again(tmp_path, autojump_clock, nursery):
    """A reader can begin within the window; the snapshot is in its place and repeats no change."""
    here = Instance(tmp_path)
    await here.publish(book(10), change(11))
    await nursery.start(here.run)
    for n in range(12, 200):
        await here.publish(change(n))
        await trio.sleep(10)
    await here.stop()
    found = messages(tmp_path, LEVEL2)
    kinds = [each.type for each in found]

    assert ["snapshot", "l2update"] == kinds[:2]
    assert 3 <= kinds.count("snapshot") <= 5
    assert [sizes(book(n).payload) for n in range(11, 200)] == [
        at for at, kind in zip(books_of(found), kinds, strict=True) if kind == "l2update"
    ]


async def test_a_batched_book_is_that_of_the_last_windows_end(tmp_path, autojump_clock, nursery):
    """A snapshot with a part of the running window would have its changes twice."""
    batch = Topic("level2_batch", BTC)
    here = Instance(tmp_path, [batch])
    here.pipe.demand.want([batch])
    await nursery.start(here.run)
    await here.publish(book(10))
    for n in range(11, 40):
        await here.publish(change(n))
        await trio.sleep(0.3)
        if n % 3 == 0:
            here.pipe.books.watch()
            await here.broker.publish([Delivery([], ends_window=True)])
    await trio.sleep(1)
    await here.stop()
    found = messages(tmp_path, batch)

    assert {"snapshot", "l2update"} == {each.type for each in found}
    assert sizes(book(39).payload) == books_of(found)[-1]


async def test_a_snapshot_within_a_window_has_no_change_of_it(tmp_path, autojump_clock, nursery):
    """A change that the window takes back is in none of its messages: the book would keep it."""
    batch = Topic("level2_batch", BTC)
    here = Instance(tmp_path, [batch])
    here.pipe.demand.want([batch])
    await nursery.start(here.run)
    await here.publish(book(10))
    here.pipe.books.watch()
    ends_window = Delivery([], ends_window=True)
    await here.publish(change(11))
    await here.broker.publish([ends_window])  # its message makes the appender begin the book
    for size in ("99", sizes(book(11).payload)["3"]):
        await here.publish(make_message("level2", changes=[["buy", "3", size]]))
        await trio.sleep(1)
    await here.broker.publish([ends_window])
    await trio.sleep(1)
    await here.stop()
    found = [m for m in messages(tmp_path, batch) if m.topic == batch]

    assert ["snapshot"] == [message.type for message in found]
    assert [sizes(book(11).payload)] == books_of(found)


async def test_a_full_window_delays_the_log(tmp_path, autojump_clock, nursery, monkeypatch):
    """Nothing is published that is not in the log; the tape has it until there is space."""
    here = Instance(tmp_path)
    await nursery.start(here.run)
    await trio.sleep(1)
    await here.publish(trade(1))
    await trio.sleep(2)
    with monkeypatch.context() as patch:
        patch.setattr(Window, "_write", full_window)
        await here.publish(trade(2))
        await trio.sleep(2)
        await here.publish(trade(3))
        await trio.sleep(1)
        assert (FAILED, "no space in the window") == (here.health.state, here.health.reason)
    await trio.sleep(2)
    assert WRITING == here.health.state
    await here.stop()

    assert [1, 2, 3] == trades(tmp_path)


def full_window(*_):
    raise WindowFull("no space in the window")


async def test_waiting_trades_are_bounded(tmp_path, autojump_clock, nursery, monkeypatch):
    """The oldest ones are dropped: their gap remains."""
    monkeypatch.setattr(limits, "LOG_TRADES_WAITING_MAX", 3)
    here = Instance(tmp_path)
    here.recorder.keep_trades(BTC, [{"trade_id": 2}])  # it is no writer yet
    await nursery.start(here.run)
    await trio.sleep(1)
    await here.publish(trade(1), trade(9))
    for chunk in ((2, 3), (4, 5), (6,)):
        here.recorder.keep_trades(BTC, [{"trade_id": n} for n in chunk])
    await trio.sleep(1)
    await here.stop()

    assert [4, 5, 6] == [t.trade_id for t in archived(tmp_path) if isinstance(t, TradeRecord)]


async def test_a_message_that_is_too_large_is_a_gap(tmp_path, autojump_clock, nursery, monkeypatch):
    """It would not fit into an entry; a book begins again after it."""
    monkeypatch.setattr(limits, "LOG_MESSAGE_BYTES_MAX", 2_000)
    here = Instance(tmp_path)
    await here.publish(book(10))
    large = make_message("level2", changes=[["buy", "1", "11"]], filler="x" * 2_000)
    await here.record(nursery, change(10), beat(1), large, change(12))
    found = messages(tmp_path, LEVEL2)

    assert [(LEVEL2, GapKind.UNRECORDED, None, None)] == gaps(tmp_path)
    assert "12" in books_of(found)[-1].values()
    assert "11" in books_of(found)[-1].values()


def batch_of(kind, **more):
    """Return a message of ``level2_batch`` as the exchange sends it: one of level2, too."""
    return make_message("level2_batch", kind=kind, also=LEVEL2, **more)


async def test_the_exchanges_batches_are_of_two_topics(tmp_path, autojump_clock, nursery):
    """Where it refuses level2; so are the snapshots that begin a book again."""
    batch = Topic("level2_batch", BTC)
    for n in (1, 2):
        here = Instance(tmp_path, [LEVEL2])
        await here.publish(batch_of("snapshot", bids=[["1", "1"]], asks=[]))
        await here.publish(batch_of("l2update", changes=[["buy", "1", str(n)]]))
        await nursery.start(here.run)
        await trio.sleep(1)
        here.recorder._begin_books()
        await here.publish(batch_of("l2update", changes=[["buy", "2", str(n)]]))
        await trio.sleep(1)
        await here.stop()
    found = messages(tmp_path, LEVEL2)

    assert {(batch, LEVEL2)} == {(message.topic, message.also) for message in found}
    assert 4 == len([message for message in found if message.type == "snapshot"])
    assert {"1": "2", "2": "2"} == books_of(found)[-1]


async def test_a_batched_book_that_paused_begins_again(tmp_path, autojump_clock, nursery):
    """Without demand no window has the changes; the next window follows another book."""
    batch = Topic("level2_batch", BTC)
    here = Instance(tmp_path, [batch])
    await nursery.start(here.run)
    await here.publish(book(10))

    async def end_window():
        here.pipe.books.watch()
        await here.broker.publish([Delivery([], ends_window=True)])
        await trio.sleep(1)

    for first in (11, 21):
        here.pipe.demand.want([batch])
        await end_window()
        for n in range(first, first + 4):
            await here.publish(change(n))
            await end_window()
        here.pipe.demand.release([batch], trio.current_time())
        await trio.sleep(1)
        await end_window()
        for n in range(first + 4, first + 10):  # in no window
            await here.publish(change(n))
    await here.stop()
    found = messages(tmp_path, batch)
    values = books_of(found)[-1].values()

    assert {"20", "21", "22", "23", "24"} == set(values)


STALE = TopicNotice(None, b"stale", NoticeKind.STALE)


async def test_a_lost_feed_is_a_gap_of_each_topic_in_its_place(tmp_path, autojump_clock, nursery):
    """Also if it is live again before the next append; a book begins again after its gap."""
    here = Instance(tmp_path)
    await nursery.start(here.run)
    await trio.sleep(1)
    here.feed.become(FeedState.LIVE)
    await here.publish(book(10), change(11), beat(1), trade(1))
    await trio.sleep(1)
    await here.publish(change(12), beat(2))
    await here.broker.publish([Delivery([], [STALE])])
    await here.broker.publish([Delivery([], [STALE])])
    await here.publish(change(13), book(14), change(15), beat(3), trade(2))
    await trio.sleep(1)
    await here.stop()
    found = archived(tmp_path)
    states = [each.state for each in found if isinstance(each, FeedRecord)]
    kinds = [
        (type(each).__name__, each.topic.channel)
        for each in found
        if not isinstance(each, FeedRecord) and each.topic.channel != "level2_batch"
    ]

    assert ["begun", "live", "stale", "live"] == states
    assert kinds == [
        ("Message", "level2"), ("Message", "level2"), ("Message", "heartbeat"),
        ("Message", "matches"), ("Message", "level2"), ("Message", "heartbeat"),
        ("GapRecord", "heartbeat"), ("GapRecord", "level2"), ("Message", "level2"),
        ("Message", "level2"), ("Message", "heartbeat"), ("Message", "matches"),
    ]  # fmt: skip


async def test_a_topic_without_demand_has_a_gap(tmp_path, autojump_clock, nursery):
    """The messages of the exchange until it was demanded again were not received."""
    topics = frozenset({HEARTBEAT, TICKER, LEVEL2, MATCHES})
    here = Instance(tmp_path)
    await nursery.start(here.run)
    await here.broker.publish([Delivery([], flows=topics)])
    await here.publish(book(10), change(11), beat(1), ticker(1), trade(1))
    for flows in (frozenset({MATCHES}), topics):  # within one round
        await here.broker.publish([Delivery([], flows=flows)])
    await here.publish(book(20), change(21), beat(2), ticker(5), trade(2))
    await trio.sleep(1)
    await here.stop()
    found = messages(tmp_path, LEVEL2)

    assert [
        (HEARTBEAT, GapKind.MISSING, None, None), (LEVEL2, GapKind.MISSING, None, None),
        (TICKER, GapKind.MISSING, 11, None),
    ] == sorted(gaps(tmp_path, HEARTBEAT, LEVEL2, TICKER))  # fmt: skip
    assert [sizes(book(n).payload) for n in (10, 11, 20, 21)] == books_of(found)


async def test_the_gap_of_an_overrun_does_not_wait_for_a_message(tmp_path, autojump_clock, nursery):
    """The topic may be quiet until the writer ends; a book begins again after its gap."""
    here = Instance(tmp_path, tape_bytes=20_000)
    await here.publish(book(10), change(11))
    await nursery.start(here.run)
    await trio.sleep(1)
    await here.publish(beat(1))
    await trio.sleep(1)
    for n in range(1, 100):
        await here.publish(trade(n))
    await trio.sleep(2)
    await here.stop()
    found = [each for each in archived(tmp_path, LEVEL2) if not isinstance(each, FeedRecord)]

    assert {
        (HEARTBEAT, GapKind.UNRECORDED, None, None), (LEVEL2, GapKind.UNRECORDED, None, None)
    } == {each for each in gaps(tmp_path) if each[0] in {HEARTBEAT, LEVEL2}}  # fmt: skip
    assert isinstance(found[-2], GapRecord)
    assert "snapshot" == found[-1].type


async def test_a_large_message_is_one_gap_of_each_of_its_topics(
    tmp_path, autojump_clock, nursery, monkeypatch
):
    """With its number, so that the next message reports none."""
    monkeypatch.setattr(limits, "LOG_MESSAGE_BYTES_MAX", 2_000)
    large = make_message("full", sequence=8, kind="match", also=MATCHES, trade_id=2, x="x" * 2_000)
    small = make_message("full", sequence=9, kind="match", also=MATCHES, trade_id=3)
    await Instance(tmp_path).record(
        nursery, make_message("full", sequence=7), trade(1), large, small
    )

    assert [(FULL, GapKind.UNRECORDED, 8, 8), (MATCHES, GapKind.UNRECORDED, 2, 2)] == gaps(tmp_path)


async def test_a_book_that_is_too_large_is_left_out(tmp_path, autojump_clock, nursery, monkeypatch):
    """Its snapshot would not fit into an entry; it is tried again later."""
    monkeypatch.setattr(limits, "LOG_MESSAGE_BYTES_MAX", 2_000)
    here = Instance(tmp_path)
    bids = [["1", "9"], *[[str(100 + n), "1"] for n in range(200)]]
    await here.publish(make_message("level2", kind="snapshot", bids=bids, asks=[]))
    await nursery.start(here.run)
    await trio.sleep(1)
    await here.publish(change(11), beat(1))
    await trio.sleep(1)
    assert WRITING == here.health.state
    for price, _ in bids:
        await here.publish(make_message("level2", changes=[["buy", price, "0"]]))
    await here.publish(change(12))
    await trio.sleep(limits.HISTORY_SNAPSHOT_S + 1)
    await here.stop()
    found = messages(tmp_path, LEVEL2)

    assert ["snapshot"] == [each.type for each in found]
    assert "12" in books_of(found)[-1].values()


async def test_trades_fill_each_gap_once(tmp_path, autojump_clock, nursery):
    """Numbers began again: of two gaps with the same numbers, each is filled."""
    here = Instance(tmp_path)
    await nursery.start(here.run)
    await trio.sleep(1)
    await here.publish(trade(1), trade(4), trade(1), trade(4))
    await trio.sleep(1)
    for _ in range(3):
        here.recorder.keep_trades(BTC, [{"trade_id": 2}])
        await trio.sleep(1)
    await here.stop()
    known = [each.id for each in archived(tmp_path) if isinstance(each, GapRecord)]

    assert known[::-1] == [t.gap_id for t in archived(tmp_path) if isinstance(t, TradeRecord)]


class Turns(trio.abc.Instrument):
    """Counts messages in each turn of a task.

    Attributes:
        most: the largest count of a turn.
        count: messages of this turn.
    """

    def __init__(self):
        self.most = self.count = 0

    def after_task_step(self, task):
        self.most, self.count = max(self.most, self.count), 0


async def test_a_start_compares_its_tape_in_short_turns(
    tmp_path, autojump_clock, nursery, monkeypatch
):
    """Also where the log has all of its messages; the comparison itself runs in a thread."""
    monkeypatch.setattr(limits, "LOG_BATCH_RECORDS_MAX", 50)
    turns, plain, threads, in_thread = Turns(), Continuity.admit, [], trio.to_thread.run_sync

    def admit(self, *arguments, **options):
        turns.count += 1
        return plain(self, *arguments, **options)

    async def run_sync(function, **options):
        threads.append(getattr(function, "func", None))
        return await in_thread(function, **options)

    monkeypatch.setattr(Continuity, "admit", admit)
    monkeypatch.setattr(trio.to_thread, "run_sync", run_sync)
    first, second = Instance(tmp_path), Instance(tmp_path)
    await nursery.start(first.run)
    await trio.sleep(1)
    await nursery.start(second.run)
    sent = [trade(n) for n in range(1, 1_001)]
    await first.publish(*sent)
    await second.publish(*sent)
    await trio.sleep(2)
    assert (WRITING, READING) == (first.health.state, second.health.state)
    turns.most = turns.count = 0
    trio.lowlevel.add_instrument(turns)
    await first.stop()
    trio.lowlevel.remove_instrument(turns)
    await second.publish(trade(1_001))
    await trio.sleep(1)
    await second.stop()

    assert Continuity in threads
    assert 50 == turns.most
    assert [*range(1, 1_002)] == trades(tmp_path)


async def test_messages_that_leave_the_tape_while_it_is_compared_are_appended(
    tmp_path, autojump_clock, nursery, monkeypatch
):
    """A full tape drops one for each that arrives: each start would have gaps."""
    here = Instance(tmp_path, tape_bytes=20_000)
    for n in range(1, 101):
        await here.publish(trade(n), beat(n))
    begin = here.pipe.tape.begin
    in_thread = trio.to_thread.run_sync

    async def run_sync(function, **options):
        if getattr(function, "func", None) is Continuity:
            for n in range(101, 110):
                await here.publish(trade(n), beat(n))
        return await in_thread(function, **options)

    monkeypatch.setattr(trio.to_thread, "run_sync", run_sync)
    await here.record(nursery, trade(110))

    assert 1 < begin < here.pipe.tape.begin - 10
    assert [*range((begin + 2) // 2, 111)] == trades(tmp_path)
    assert (0, []) == (here.health.overruns, gaps(tmp_path))
