"""A recording as the feed: the same bytes at the same pace; its end is no outage."""

import json
import time

import pytest
import structlog
import trio
from trio.testing import wait_all_tasks_blocked

from hedgehogd.app.daemon import make_instance
from hedgehogd.domain.channel import Topic
from hedgehogd.domain.errors import EXIT_CONFIG, OperatorError
from hedgehogd.engine.delivery import Delivery
from hedgehogd.engine.health import FeedState
from hedgehogd.fanout.session import Session
from hedgehogd.feeds.recording import RecordingFeed
from hedgehogd.protocol.commands import parse
from hedgehogd.protocol.wire import WEBSOCKET
from hedgehogd.settings.keys import Settings
from tests.fakes import FakeMember
from tests.feeds.script import full, match, ticker
from tests.recordings import FULL, PRO, recording

SNAPSHOT = b'{"type":"snapshot","product_id":"BTC-USD","bids":[["1.00","2"]],"asks":[["2.00","1"]]}'
TICKER = Topic("ticker", "BTC-USD")


@pytest.fixture(autouse=True)
def threads(monkeypatch):
    """Run the functions meant for threads at once: the mock clock would jump during a thread.

    Returns the names of the functions.
    """
    calls = []

    async def run_at_once(function, *arguments):
        await trio.lowlevel.checkpoint()
        calls.append(function.__name__)
        return function(*arguments)

    monkeypatch.setattr(trio.to_thread, "run_sync", run_at_once)
    return calls


class Playing:
    """A feed that plays a recording, and the messages received from it."""

    def __init__(self, path, pairs=("BTC-USD",), linger_s=30.0):
        self.instance = make_instance(Settings(feed_pairs=pairs, feed_linger_s=linger_s))
        tx, self.inbox = trio.open_memory_channel[Delivery](256)
        self.feed = RecordingFeed(path, self.instance.pipe, tx, self.instance.health)
        self.received = []
        self.topics = []
        self.received_us = []

    async def listen(self):
        async for delivery in self.inbox:
            now = trio.current_time()
            self.received += [(now, message.payload) for message in delivery.messages]
            self.topics += [(message.topic, message.also) for message in delivery.messages]
            self.received_us += [message.received_us for message in delivery.messages]


@pytest.fixture
def play(nursery):
    """Play a recording to its end; return the feed with the received messages."""

    async def play(path):
        playing = Playing(path)
        nursery.start_soon(playing.listen)
        await nursery.start(playing.feed.run)
        while playing.instance.health.state is not FeedState.ENDED:
            await trio.sleep(1)
        await wait_all_tasks_blocked()
        return playing

    return play


@pytest.fixture
def record(tmp_path):
    """Write a recording and return its directory."""

    def record(lines, times=None, products=None):
        (tmp_path / "feed.jsonl").write_bytes(b"".join(line + b"\n" for line in lines))
        if times is not None:
            (tmp_path / "feed.recv_ts.txt").write_text("".join(f"{time}\n" for time in times))
        if products is not None:
            (tmp_path / "rest_products.json").write_bytes(products)
        return tmp_path

    return record


async def test_a_real_recording_is_played_byte_for_byte(autojump_clock, play):
    """31 seconds of Coinbase in 2021 arrive in order; no message is lost, no number rounded."""
    path = recording(PRO)
    playing = await play(path)
    lines = (path / "feed.jsonl").read_bytes().splitlines()
    unheard = {b'{"type":"subscriptions"'}
    expected = [line for line in lines if line[:23] not in unheard]

    assert [payload for _, payload in playing.received] == expected
    assert playing.received[-1][0] == pytest.approx(30.84, abs=0.1)
    assert playing.instance.pipe.catalogue.accepts("BTC-USD")
    assert playing.instance.health.gaps == 0


async def test_messages_have_the_time_at_which_they_are_played(
    autojump_clock, monkeypatch, play, record
):
    """A recording has no receive times of this instance; messages of one batch have one time."""
    begin_s = 1_790_000_000
    monkeypatch.setattr(time, "time_ns", lambda: int((begin_s + trio.current_time()) * 1e9))
    lines = [ticker(sequence=number) for number in range(4)]
    playing = await play(record(lines, [100.0, 100.0, 100.5, 103.0]))

    received_s = [each / 1e6 - begin_s for each in playing.received_us]
    assert received_s == pytest.approx([0, 0, 0.5, 3], abs=0.001)
    assert playing.received_us[0] == playing.received_us[1]


async def test_messages_arrive_at_their_recorded_pace(autojump_clock, play, record):
    """The bursts of a market are the value of a recording."""
    lines = [ticker(sequence=number) for number in range(4)]
    playing = await play(record(lines, [100.0, 100.0, 100.5, 103.0]))

    assert playing.received == list(zip([0, 0, 0.5, 3], lines, strict=True))


async def test_a_burst_is_split_into_batches(autojump_clock, play, record):
    """One delivery must not occupy the loop for a whole recording."""
    lines = [ticker(sequence=number) for number in range(200)]
    playing = await play(record(lines, [1.0] * 200))

    assert [payload for _, payload in playing.received] == lines


async def test_a_real_recording_of_full_is_played_byte_for_byte(autojump_clock, play):
    """Coinbase in 2017: every event of a product belongs to ``full``."""
    path = recording(FULL)
    playing = await play(path)
    lines = (path / "feed.jsonl").read_bytes().splitlines()

    assert [payload for _, payload in playing.received] == lines
    assert playing.instance.health.gaps == 0
    assert playing.instance.health.dropped == {}
    assert {topic.channel for topic, _ in playing.topics} == {"full", "heartbeat"}


async def test_a_trade_on_full_is_one_on_matches_as_well(autojump_clock, play, record):
    """A recording has no subscriptions; its other events show that ``full`` was subscribed to."""
    playing = await play(record([full(1), full(2, trade_id=7), full(3)]))

    matches = Topic("matches", "BTC-USD")
    assert [also for _, also in playing.topics] == [None, matches, None]


async def test_a_late_subscriber_gets_a_snapshot_from_the_book(autojump_clock, record, nursery):
    """A recording cannot send another snapshot."""
    change = b'{"type":"l2update","product_id":"BTC-USD","changes":[["buy","1.00","3"]],"time":""}'
    playing = Playing(record([SNAPSHOT, change]))
    instance = playing.instance
    nursery.start_soon(instance.broker.run, playing.inbox)
    nursery.start_soon(instance.pipe.snapshots.run)
    await nursery.start(playing.feed.run)
    await trio.sleep(10)
    member = FakeMember()
    session = Session("1.late", member, WEBSOCKET, instance.pipe, 100)
    instance.sessions.add(session)
    wish = {"type": "subscribe", "channels": ["level2"], "product_ids": ["BTC-USD"]}
    session.apply(parse(json.dumps(wish)))
    await trio.sleep(1)

    assert instance.health.state is FeedState.ENDED
    assert [message.type for message in member.messages] == ["snapshot"]
    assert json.loads(member.messages[0].payload)["bids"] == [["1.00", "3"]]


async def test_the_end_of_a_recording_is_no_outage(autojump_clock, play, record):
    """Subscribers keep their streams, and a balancer keeps sending more."""
    playing = await play(record([ticker()]))
    await trio.sleep(1000)

    assert playing.instance.readiness() == (True, "recording ended")
    assert playing.instance.health.connects == 1


@pytest.mark.parametrize("lines", [[], [b"", b""]])
async def test_an_empty_recording_ends_at_once(autojump_clock, play, record, lines):
    """A recording without messages is valid."""
    assert (await play(record(lines))).received == []


async def test_gaps_in_a_recording_are_reported(autojump_clock, play, record):
    """A recording with missing messages plays with gap notices."""
    playing = await play(record([match(1), b'{"type":"odd"}', match(5)]))

    assert (playing.instance.health.gaps, playing.instance.health.missing) == (
        1,
        {"matches": 3},
    )
    assert playing.instance.health.dropped == {"unknown_type": 1}


async def test_a_recording_begins_with_the_first_demand(autojump_clock, record, nursery):
    """The first subscriber receives the recording from its beginning."""
    playing = Playing(record([ticker()]), pairs=())
    nursery.start_soon(playing.listen)
    await nursery.start(playing.feed.run)
    await trio.sleep(100)
    assert playing.received == []
    assert playing.instance.readiness() == (True, "idle")
    playing.instance.pipe.demand.want([TICKER])
    await trio.sleep(1)

    assert playing.received == [(100, ticker())]


async def test_demand_released_at_once_does_not_spin(autojump_clock, record, nursery):
    """A subscriber that joined and left in one turn once kept a core busy for ever."""
    playing = Playing(record([ticker()]), pairs=(), linger_s=0.0)
    await nursery.start(playing.feed.run)
    playing.instance.pipe.demand.want([TICKER])
    playing.instance.pipe.demand.release([TICKER], trio.current_time())
    with trio.fail_after(1):
        await wait_all_tasks_blocked()

    assert playing.instance.health.state is FeedState.IDLE


async def test_a_cancelled_producer_closes_the_inbox(autojump_clock, record):
    """The broker ends when its last producer has closed the inbox."""
    playing = Playing(record([ticker(), ticker(sequence=2)], [1, 1000]))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(playing.feed.run)
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    await playing.listen()

    assert [payload for _, payload in playing.received] == [ticker()]


@pytest.mark.parametrize(
    ("lines", "times", "reason"),
    [
        ([ticker(), b"hello"], None, "feed.jsonl: line 2: found 'hello'"),
        ([ticker(), ticker()[:20]], None, "feed.jsonl: line 2: found"),
        ([ticker()], ["noon"], "feed.jsonl: line 1: found 'noon'"),
        ([ticker(), ticker()], [1], "feed.jsonl: line 2: found a message without a receive time"),
    ],
)
async def test_a_broken_recording_names_the_line(autojump_clock, record, lines, times, reason):
    """A truncated download must not look like a short day."""
    playing = Playing(record(lines, times))
    with pytest.raises(OperatorError, match=reason) as caught:
        await playing.feed.run()
    assert caught.value.exit_status == EXIT_CONFIG


async def test_an_unreadable_recording_ends_with_its_reason(autojump_clock, record):
    """The file may have been removed before the first subscriber."""
    path = record([ticker()])
    playing = Playing(path)
    (path / "feed.jsonl").unlink()
    with pytest.raises(OperatorError, match=r"feed\.jsonl: No such file"):
        await playing.feed.run()


@pytest.mark.parametrize("products", [b"{", b'[{"id":7}]', b"\xff", b'[{"id":"\xff"}]'])
async def test_a_broken_list_of_products_is_named(autojump_clock, record, products):
    """An incomplete recording is an operator's error, not a bug."""
    playing = Playing(record([ticker()], products=products))
    with pytest.raises(OperatorError, match=r"rest_products\.json"):
        await playing.feed.run()


async def test_an_unreadable_product_beside_a_recording_is_left_out(autojump_clock, play, record):
    """The list of a live exchange is read in the same way: unreadable entries are left out."""
    playing = await play(record([ticker()], products=b'[{"id":7},{"id":"BTC-USD"}]'))

    assert playing.instance.pipe.catalogue.known() == {"BTC-USD"}


async def test_the_list_beside_a_recording_has_the_only_products(autojump_clock, play, record):
    """A subscriber of another product gets an error, as from the exchange."""
    listed = [{"id": "BTC-USD", "status": "online"}, {"id": "OLD-USD", "status": "delisted"}]
    playing = await play(record([ticker()], products=json.dumps(listed).encode()))
    catalogue = playing.instance.pipe.catalogue

    assert catalogue.accepts("BTC-USD")
    assert not catalogue.accepts("OLD-USD")


async def test_log_lines_about_unexpected_messages_are_bounded(autojump_clock, play, record):
    """The operator must see why fewer messages are played, without losing the rest of the log."""
    unexpected = [b'{"type":"odd%d"}' % number for number in range(50)]
    error = b'{"type":"error","message":"Failed to subscribe","reason":"%b"}'
    lines = [*unexpected, error % b"too many", error % b"X-Y is not a valid product", ticker()]
    with structlog.testing.capture_logs() as logs:
        playing = await play(record(lines, [1.0] * len(lines)))
    events = [line["event"] for line in logs]

    assert events.count("unexpected upstream message") == 3
    assert events.count("upstream error") == 1
    assert events.count("upstream refusal") == 1
    assert playing.instance.health.complaints == 1
    assert [payload for _, payload in playing.received] == [ticker()]


async def test_a_book_joined_before_its_snapshot_is_not_warned_of(autojump_clock, record, nursery):
    """The first subscriber gets the whole recording, so there is nothing to warn about."""
    playing = Playing(record([b'{"type":"snapshot","product_id":"BTC-USD"}']), pairs=())
    nursery.start_soon(playing.listen)
    await nursery.start(playing.feed.run)
    with structlog.testing.capture_logs() as logs:
        playing.instance.pipe.demand.want([Topic("level2", "BTC-USD")])
        playing.instance.pipe.demand.ask_snapshot(Topic("level2", "BTC-USD"))
        await trio.sleep(1)

    assert [line["event"] for line in logs] == ["recording ended"]


async def test_the_file_is_read_in_threads(autojump_clock, play, record, threads):
    """A slow disk must not block the streams."""
    await play(record([ticker()] * 200, products=b"[]"))

    assert threads == ["read_bytes", *["list"] * 5]  # 200 are four batches, then the end


async def test_real_threads_play_the_same(record, monkeypatch):
    """The other tests replace threads; and cancellation must not wait for the end of the file."""
    monkeypatch.undo()
    lines = [ticker(sequence=number) for number in range(200)]
    playing = Playing(record([*lines, ticker()], [*[1.0] * 200, 1000]))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(playing.listen)
        nursery.start_soon(playing.feed.run)
        with trio.fail_after(5):
            while len(playing.received) < 200:
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()

    assert [payload for _, payload in playing.received] == lines
