"""Replay of a stretch of history: the recorded messages, byte for byte, in their order."""

import json
from collections import Counter
from contextlib import closing, contextmanager
from itertools import islice

import msgspec
import pytest
import trio
from structlog.testing import capture_logs
from trio_websocket import wrap_client_stream

from hedgehogd.app.replay_server import Replay, Stretch, replay
from hedgehogd.domain import limits
from hedgehogd.domain.channel import Topic
from hedgehogd.domain.errors import OperatorError
from hedgehogd.domain.instant import NEVER_US
from hedgehogd.domain.message import read_head
from hedgehogd.domain.record import GapKind
from hedgehogd.log.archive.errors import ArchiveError
from hedgehogd.log.archive.writer import Sizes
from hedgehogd.log.collected_books import Books
from hedgehogd.simulator.inprocess import connect
from hedgehogd.simulator.rest import catalogue_app
from hedgehogd.simulator.server import Server
from hedgehogd.simulator.stretch import StretchExchange
from tests.e2e.harness import (
    PATIENCE_S,
    WEBSOCKET_HEADERS,
    RawStream,
    free_port,
    quick,
    rest,
    running,
    subscribe,
    texts_of,
    websocket,
)
from tests.e2e.test_process import process
from tests.fakes import make_message
from tests.log import past as archive
from tests.recordings import PRO, recording

US = 1_000_000
NOW = 1_700_000_000 * US
BTC, ETH = "BTC-USD", "ETH-USD"
CHANNELS = ["matches", "ticker", "full", "level2"]
SECONDS = 40
UNREADABLE = GapKind.UNREADABLE


def entry(at_us, channel, product_id, number=None, kind=None, **more):
    payload = make_message(channel, product_id, number, kind, **more).payload
    return archive.recorded(Topic(channel, product_id), at_us, payload)


def market():
    """Return 40 s of two products on four channels, about ten messages a second."""
    found, done = [], Counter()
    for tenth in range(SECONDS * 10):
        at = NOW + tenth * US // 10
        product_id = (BTC, ETH)[tenth % 2]
        second, number = tenth // 10, tenth + 1
        if tenth % 150 < 2:  # each product's book, every 15 s
            more = {"bids": [[str(100 + second), "1"]], "asks": [["999", "1"]]}
            found.append(entry(at, "level2", product_id, kind="snapshot", **more))
        elif tenth % 10 < 4:
            changes = [["buy", str(100 + tenth % 50), "2"]]
            found.append(entry(at, "level2", product_id, changes=changes))
        elif tenth % 10 < 6:
            done[product_id] += 1
            found.append(entry(at, "full", product_id, done[product_id], kind="done"))
        elif tenth % 10 < 8:
            found.append(entry(at, "matches", product_id, number, trade_id=1 + second))
        else:
            found.append(entry(at, "ticker", product_id, number))
    return found


@pytest.fixture(scope="module")
def kept():
    return market()


@pytest.fixture(scope="module")
def directory(tmp_path_factory, kept):
    """An archive of ``kept``: several segments, and a tail after them."""
    return archive.write(tmp_path_factory.mktemp("history"), kept, each=10)


def wish(directory, since_s=0.0, until_s=100.0, **more):
    return Replay(directory, NOW + int(since_s * US), NOW + int(until_s * US), **more)


def played(stretch):
    """Return all messages of a stretch, and close it."""
    with stretch.opened() as timeline:
        found = list(timeline)
    stretch.close()
    return found


def payloads(entries):
    return [each.payload for each in entries]


# Messages of a stretch


def test_all_recorded_messages_are_replayed_in_order(directory, kept):
    """The order is that of all topics together; times count from the first message."""
    stretch = Stretch(wish(directory, since_s=-1000))
    found = played(stretch)

    assert [each.message.payload for each in found] == payloads(kept)
    assert [each.due_s for each in found] == [(e.received_us - NOW) / US for e in kept]
    assert (stretch.messages, stretch.gaps) == (len(kept), {})
    assert {topic.channel for topic in stretch.offered} == {
        *CHANNELS, "ticker_batch", "level2_batch",
    }  # fmt: skip


@pytest.mark.parametrize(("since_s", "until_s"), [(20.0, 30.0), (20.05, 39.85), (15.0, 15.1)])
def test_a_stretch_ends_before_its_end(directory, kept, since_s, until_s):
    """``since`` is included, ``until`` is not, so one stretch continues another one."""
    stretch = Stretch(wish(directory, since_s, until_s))
    found = played(stretch)
    since, until = NOW + since_s * US, NOW + until_s * US
    inside = [each for each in kept if since <= each.received_us < until]

    assert [each.message.payload for each in found] == payloads(inside)
    assert found[0].due_s == 0
    assert stretch.messages == len(inside)


@pytest.mark.parametrize("since_s", [20.0, 20.05, 15.0, 39.9])
def test_books_are_those_at_the_place(directory, kept, since_s):
    """At the beginning of the stretch and within it, of both channels that have the book."""
    stretch = Stretch(wish(directory, since_s))
    with stretch.opened() as timeline:
        places = [stretch.begin, *(each.message.id for each in islice(timeline, 25))]
    levels = {Topic(channel, BTC) for channel in ("level2", "level2_batch")}
    for place in places:
        books = stretch.books_at(frozenset({*levels, Topic("matches", BTC)}), place)
        expected = Books()
        for each in kept:
            if each.topic == Topic("level2", BTC) and each.id <= place:
                expected.follow(each.topic, each)
        [book] = expected.snapshots()
        assert books == dict.fromkeys(levels, book.payload)
    stretch.close()


def test_a_book_may_have_no_snapshot_before(tmp_path):
    """Without one the book begins with its first recorded message."""
    entries = [entry(NOW + n * US, "level2", BTC, changes=[["buy", "1", "1"]]) for n in range(4)]
    archive.write(tmp_path, entries)

    assert [each.due_s for each in played(Stretch(wish(tmp_path, 2)))] == [0, 1]


def test_books_that_are_not_known_are_logged(tmp_path):
    """A client of such a book receives nothing until the next recorded snapshot."""
    entries = [entry(NOW + n * US, "level2", BTC, changes=[["buy", "1", "1"]]) for n in range(4)]
    archive.write(tmp_path, entries)
    stretch = Stretch(wish(tmp_path, 2))
    with capture_logs() as logs:
        assert stretch.books_at(stretch.offered, stretch.begin) == {}
    stretch.close()

    assert [(row["event"], row["topics"]) for row in logs] == [
        ("books are not known here", ["level2:BTC-USD"])
    ]


def test_pages_are_read_when_they_are_needed(directory, kept, monkeypatch):
    """A day of history is larger than memory."""
    monkeypatch.setattr(limits, "ARCHIVE_PAGE_RECORDS_MAX", 30)
    stretch = Stretch(wish(directory))
    places, page = [], stretch._reader.page

    def watched(topics, after):
        places.append(after)
        return page(topics, after)

    monkeypatch.setattr(stretch._reader, "page", watched)
    with stretch.opened() as timeline:
        for each in timeline:
            assert places[-1] < each.message.received_us
            assert places[-1] >= each.message.received_us - 5 * US  # the span of a page
    stretch.close()
    assert len(places) > 10


def test_pairs_and_channels_choose(directory, kept):
    """Any name of a channel selects it, also if it is served from another channel."""
    found = played(Stretch(wish(directory, pairs=(ETH,), channels=("matches", "ticker_1000"))))

    assert [each.message.payload for each in found] == payloads(
        each for each in kept if each.topic in {Topic("matches", ETH), Topic("ticker", ETH)}
    )
    assert {each.topics for each in found} == {
        (Topic("matches", ETH),), (Topic("ticker_batch", ETH),),
    }  # fmt: skip


@pytest.mark.parametrize("has_second", [True, False])
def test_trades_are_served_from_full_if_only_full_was_recorded(tmp_path, has_second):
    """Order events are not trades. A migrated store of ``full`` alone has no second topics."""
    entries = [
        entry(NOW, "full", BTC, 1, kind="open"),
        entry(NOW + US, "full", BTC, 2, kind="match", trade_id=1),
        entry(NOW + 2 * US, "full", BTC, 3, kind="done"),
    ]
    if not has_second:
        entries[1].also = None
    archive.write(tmp_path, entries)
    found = played(Stretch(wish(tmp_path)))
    full, matches = Topic("full", BTC), Topic("matches", BTC)
    trades = played(Stretch(wish(tmp_path, channels=("matches",))))

    assert [set(each.topics) for each in found] == [{full}, {full, matches}, {full}]
    assert [(each.due_s, each.message.payload, each.topics) for each in trades] == [
        (0, entries[1].payload, (matches,))
    ]


@pytest.mark.parametrize("pairs", [(), (BTC,)])
@pytest.mark.parametrize("has_second", [True, False])
def test_an_rfq_match_is_of_its_product_and_of_all(tmp_path, has_second, pairs):
    """A log has it with both topics; a subscriber of all gets those of the replayed pairs."""
    everything = Topic("rfq_matches", "")
    trades = [entry(NOW + n, "rfq_matches", p, kind="rfq_match") for n, p in enumerate((BTC, ETH))]
    for each in trades:
        each.also = everything if has_second else None
    archive.write(tmp_path, trades)
    found = played(Stretch(wish(tmp_path, pairs=pairs)))
    expected = [Topic("rfq_matches", product_id) for product_id in pairs or (BTC, ETH)]

    assert [sorted(each.topics) for each in found] == [[everything, topic] for topic in expected]


@pytest.mark.parametrize("channels", [("level2",), ("level2_batch",), ()])
def test_a_batch_of_changes_is_of_both_channels(tmp_path, channels):
    """An instance may serve ``level2`` from ``level2_batch``; a log then has both topics."""
    topics = [Topic(channel, BTC) for channel in ("level2", "level2_batch")]
    changes = [entry(NOW + n * US, "level2_batch", BTC, kind="l2update") for n in range(3)]
    for each in changes:
        each.also = topics[0]
    archive.write(tmp_path, changes)
    found = played(Stretch(wish(tmp_path, channels=channels)))
    expected = [each for each in topics if each.channel in (channels or ("level2", "level2_batch"))]

    assert [(each.due_s, sorted(each.topics)) for each in found] == [
        (second, expected) for second in range(3)
    ]


@pytest.mark.parametrize("is_first", [True, False])
def test_gaps_are_counted_and_logged(tmp_path, is_first):
    """An incomplete stretch must not look complete; retention may have removed all before a gap."""
    records = [] if is_first else [entry(NOW, "matches", BTC, 10, trade_id=1)]
    records += [
        archive.gap(2, 4, NOW + US - 1, NOW + US - 1),
        entry(NOW + US, "matches", BTC, 20, trade_id=5),
        archive.gap(None, None, NOW + 3 * US, NOW + 3 * US, Topic("level2", ETH)),
        entry(NOW + 4 * US, "level2", ETH, kind="snapshot", bids=[], asks=[]),
        archive.gap(None, None, NOW + 5 * US, NOW + 9 * US, Topic("level2", ETH), UNREADABLE),
        entry(NOW + 6 * US, "level2", ETH, kind="snapshot", bids=[], asks=[]),
        archive.gap(6, 8, NOW + 9 * US - 1, NOW + 9 * US - 1),
        entry(NOW + 9 * US, "matches", BTC, 60, trade_id=9),
    ]
    archive.write(tmp_path, records, each=9)
    stretch = Stretch(wish(tmp_path, until_s=8))
    with capture_logs() as logs:
        played(stretch)

    assert stretch.gaps == {"missing": 2, "unreadable": 1}
    assert [(row["event"], row["count"]) for row in logs] == [("gaps in history", 3)]
    assert logs[0]["topics"] == ["level2:ETH-USD", "matches:BTC-USD"]


def test_backfilled_trades_are_replayed_at_their_gap(tmp_path):
    """The messages that a subscriber of that time received, and the trades fetched later."""
    archive.write(tmp_path, archive.usual())
    stretch = Stretch(Replay(tmp_path, archive.NOW + 5 * US, archive.NOW + 12 * US))
    with capture_logs() as logs:
        found = played(stretch)

    assert [each.message.trade_id for each in found] == [5, 6, 7, 8, 10, 11]
    assert [each.due_s for each in found] == [0, 1, 2, 5 - 1e-6, 5, 6]
    assert (stretch.messages, stretch.gaps) == (6, {"missing": 1})
    assert [(row["event"], row["count"]) for row in logs] == [("gaps in history", 1)]


def test_a_trade_of_full_is_sent_once_to_each_subscriber_of_either(tmp_path):
    """An archive has it once, with both topics."""
    full, matches = Topic("full", BTC), Topic("matches", BTC)
    first = archive.match(1, topic=full, also=matches)
    archive.write(tmp_path, [first, archive.match(2, topic=matches)])
    found = played(Stretch(Replay(tmp_path, 0, NEVER_US)))

    assert [set(each.topics) for each in found] == [{full, matches}, {matches}]


@pytest.mark.parametrize(
    "channels", [("level2_batch",), ("level2",), (), ("level2", "level2_batch")]
)
def test_a_snapshot_of_two_topics_begins_the_books_of_both(tmp_path, channels):
    """An archive has it once, with both topics; each subscriber receives it once."""
    level2, batch = Topic("level2", BTC), Topic("level2_batch", BTC)
    snapshot = archive.book(1, "snapshot", topic=level2)
    snapshot.also = batch
    records = [archive.book(n, topic=(level2, batch)[n % 2]) for n in range(2, 12)]
    archive.write(tmp_path, [snapshot, *records])
    found = played(Stretch(Replay(tmp_path, archive.NOW, NEVER_US, channels=channels)))

    for topic, ids in ((level2, range(200, 1101, 200)), (batch, range(300, 1101, 200))):
        sent = [each.message for each in found if topic in each.topics]
        is_chosen = topic.channel in (channels or ("level2", "level2_batch"))
        assert [m.id for m in sent] == ([100, *ids] if is_chosen else [])
        assert [m.type for m in sent[:1]] == (["snapshot"] if is_chosen else [])


YEARS_US = 3 * 365 * 86_400 * US


@pytest.mark.parametrize("step_us", [YEARS_US, -YEARS_US])
def test_both_eras_of_a_clock_are_replayed_at_the_pace(tmp_path, step_us):
    """A replay would wait for years where the clock was set forward, and for nothing after that."""
    records = [
        archive.match(n, received_us=archive.NOW + n * US + (step_us if n < 4 else 0))
        for n in range(1, 6)
    ]
    archive.write(tmp_path, records, each=1)
    found = played(Stretch(Replay(tmp_path, 0, NEVER_US)))
    late = played(Stretch(Replay(tmp_path, archive.NOW, archive.NOW + 5 * US)))

    assert [(each.message.trade_id, each.due_s) for each in found] == [
        (1, 0), (2, 1), (3, 2), (4, 2), (5, 3),
    ]  # fmt: skip
    assert [each.message.trade_id for each in late] == [4]


@pytest.mark.parametrize("each", [1, 9])
@pytest.mark.parametrize("snapshots", [(1,), (1, 4)])
def test_a_book_is_sent_again_where_messages_of_other_times_changed_it(tmp_path, each, snapshots):
    """The clock was set for a while; the subscriber's book would miss the changes of that while."""
    records = []
    for n in range(1, 10):
        at = archive.NOW + n * US + (YEARS_US if n in {3, 4, 6, 9} else 0)
        level = [str(n), "1"]
        if n in snapshots:
            record = entry(at, "level2", BTC, kind="snapshot", bids=[level], asks=[])
        else:
            record = entry(at, "level2", BTC, changes=[["buy", *level]])
        record.id = n * 100
        records.append(record)
    lost = archive.gap(None, None, 820, archive.NOW + 8 * US + YEARS_US, records[0].topic)
    times = archive.NOW + YEARS_US, archive.NOW + 8 * US
    unchanged = [entry(at, "matches", BTC, 1, trade_id=1) for at in times]
    unchanged[0].id, unchanged[1].id = 810, 815
    records = sorted([*records, lost, *unchanged], key=lambda record: record.id)
    archive.write(tmp_path, records, each=each)
    stretch = Stretch(Replay(tmp_path, archive.NOW, archive.NOW + 20 * US))
    found = played(stretch)

    first = [3, 4] if snapshots == (1,) else [4]
    kept = [1, 2] if snapshots == (1,) else []
    assert [(due.message.id, due.due_s) for due in found] == [
        (100, 0), (200, 1), (499, 4), (500, 4), (699, 6), (700, 6), (800, 7), (815, 7),
    ]  # fmt: skip
    for due, prices in ((found[2], [*kept, *first]), (found[4], [*kept, *first, 5, 6])):
        assert (due.message.type, due.topics) == ("snapshot", found[0].topics)
        bids = json.loads(due.message.payload)["bids"]
        assert [int(price) for price, _ in reversed(bids)] == prices
    assert (stretch.messages, stretch.gaps) == (6, {})


def test_books_are_read_again_only_if_their_messages_were_left_out(tmp_path, monkeypatch):
    """Messages of two lines may be out of order by time; each would cost a read of all books."""
    trades = [archive.match(n) for n in range(1, 7)]
    trades[3].received_us = archive.NOW
    archive.write(tmp_path, [archive.book(1, "snapshot", topic=Topic("level2", ETH)), *trades])
    stretch = Stretch(Replay(tmp_path, archive.NOW + 2 * US, NEVER_US))
    asked = []
    monkeypatch.setattr(stretch._reader, "books_at", lambda *arguments: asked.append(arguments))

    assert [due.message.trade_id for due in played(stretch)] == [2, 3, 5, 6]
    assert asked == []


def test_retention_that_overtakes_the_replay_is_a_gap(tmp_path, monkeypatch):
    """The numbers of the removed messages are not known any more."""
    monkeypatch.setattr(limits, "ARCHIVE_PAGE_RECORDS_MAX", 10)
    archive.write(tmp_path, [archive.match(n) for n in range(1, 200)])
    stretch = Stretch(Replay(tmp_path, 0, NEVER_US))
    with capture_logs() as logs, stretch.opened() as timeline:
        next(timeline)
        with closing(archive.Writer(tmp_path, archive.DEPLOYMENT, sizes=archive.SMALL)) as writer:
            while writer.retain(archive.NOW + 400 * US, 300.0, 2**60):
                pass
        found = list(timeline)
    stretch.close()

    assert len(found) < 198
    assert [row["event"] for row in logs] == ["gaps in history"]
    assert stretch.gaps == {"removed": 1}


# Stretches that cannot be replayed


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (
            {"since_s": 1000, "until_s": 2000},
            "nothing is recorded from 2023-11-14T22:30:00.000000Z to",
        ),
        (
            {"since_s": 0.01, "until_s": 0.02},
            "nothing is recorded from 2023-11-14T22:13:20.010000Z to",
        ),
        ({"pairs": (BTC, "LTC-USD")}, "nothing is recorded of LTC-USD from"),
        ({"channels": ("ticker", "heartbeat")}, "nothing is recorded of heartbeat from"),
    ],
)
async def test_an_error_about_an_empty_stretch_lists_the_recorded_topics(directory, more, says):
    """An operator with a wrong date sees the recorded times."""
    with pytest.raises(OperatorError) as raised:
        await replay(wish(directory, **more))

    text = str(raised.value)
    assert text.startswith(says)
    assert "\n  matches:BTC-USD from 2023-11-14T22:13:20.600000Z to 2023-11-14T22:13:5" in text
    assert raised.value.exit_status == 64


def test_the_list_of_recorded_topics_is_short(tmp_path):
    """An exchange has hundreds of products, and the error names few."""
    archive.write(tmp_path, [entry(NOW + n, "ticker", f"A{n}-USD", n) for n in range(12)])
    with pytest.raises(OperatorError) as raised:
        Stretch(wish(tmp_path, 1000, 2000))

    assert str(raised.value).endswith("\n  and 2 more")
    assert str(raised.value).count("\n") == 12


def test_an_empty_history_is_named(tmp_path):
    archive.write(tmp_path, [])
    with pytest.raises(OperatorError, match="The history is empty"):
        Stretch(wish(tmp_path))


@pytest.mark.parametrize("content", [None, b"no database, by far " * 1000])
def test_a_directory_without_a_history_is_named(tmp_path, content):
    if content is not None:
        (tmp_path / "catalogue.sqlite").write_bytes(content)
    with pytest.raises(OperatorError, match=f"the history in {tmp_path} cannot be read: .*\n  Exp"):
        Stretch(wish(tmp_path))


def test_a_history_that_breaks_under_way_ends_the_replay(directory, monkeypatch):
    """The error has the directory's name, and no traceback."""
    stretch = Stretch(wish(directory))
    monkeypatch.setattr(
        stretch._reader, "page", lambda *_: (_ for _ in ()).throw(ArchiveError("locked"))
    )
    with pytest.raises(OperatorError, match="cannot be read: locked"):
        played(stretch)


# Served


@contextmanager
def without_threads(monkeypatch):
    """The mock clock would jump while a thread works."""

    async def run_sync(call, *arguments, **_):
        await trio.lowlevel.checkpoint()
        return call(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(trio.to_thread, "run_sync", run_sync)
        yield


@pytest.mark.parametrize("speed", [0, 1])
async def test_it_is_served_byte_for_byte_at_its_pace(
    autojump_clock, nursery, monkeypatch, directory, kept, speed
):
    """At speed 0 messages arrive at once; at speed 1 each at its recorded time."""
    stretch = Stretch(wish(directory, since_s=10))
    exchange = StretchExchange(
        stretch.opened, stretch.offered, stretch.books_at, stretch.begin, speed
    )
    server = Server(exchange, catalogue_app([], lambda: 0))
    received, times = [], []
    with without_threads(monkeypatch):
        nursery.start_soon(server.run)
        client = await wrap_client_stream(nursery, connect(server, nursery), "x", "/ws-feed")
        await client.send_message(subscribe([BTC, ETH], CHANNELS))
        assert json.loads(await client.get_message())["type"] == "subscriptions"
        last = payloads(kept)[-1]
        while last not in received[-1:]:
            received.append((await client.get_message()).encode())
            times.append(trio.current_time())
    inside = [each for each in kept if each.received_us >= NOW + 10 * US]
    del received[: -len(inside)], times[: -len(inside)]

    assert received == payloads(inside)
    assert [at - times[0] for at in times] == pytest.approx(
        [speed * (each.received_us - inside[0].received_us) / US for each in inside]
    )
    stretch.close()


@pytest.mark.e2e
async def test_a_server_listens_until_it_is_cancelled(nursery, directory):
    """``started`` has the address."""
    async with trio.open_nursery() as inner:
        address = await inner.start(replay, wish(directory, host="::1"))
        inner.cancel_scope.cancel()

    assert address.url.startswith("ws://[::1]:")


@pytest.mark.e2e
@pytest.mark.parametrize("speed", ["0", "100"])
async def test_the_command_serves_any_client(directory, kept, speed):
    """A process serves plain WebSockets and REST; at the end it logs a line and sends no more."""
    port = free_port()
    arguments = ("--history", str(directory), "--since", "2023-11-14T22:13:20Z", "--speed", speed)
    async with process("replay", *arguments, "--port", str(port), ready='"replaying"') as (
        _,
        lines,
    ):
        status, products = await rest(port, "GET", "/products")
        async with websocket(port, "/ws-feed") as client, websocket(port, "/") as other:
            await client.send_message(subscribe([BTC, ETH], CHANNELS))
            await other.send_message(subscribe([ETH, "NO-NO"], ["matches"]))
            with trio.fail_after(PATIENCE_S):
                got = [(await client.get_message()).encode() for _ in range(len(kept) + 1)]
                error = json.loads(await other.get_message())
                trades = [each for each in kept if each.topic == Topic("matches", ETH)]
                await other.get_message()
                received = [(await other.get_message()).encode() for _ in trades]
                while not any('"replay ended"' in line for line in lines):
                    await trio.sleep(0.01)
            await client.ping()
    ended = [json.loads(line) for line in lines if "replay ended" in line]

    assert (status, [product["id"] for product in products]) == (200, [BTC, ETH])
    assert got[1:] == payloads(kept)
    assert error["reason"] == "NO-NO is not a valid product"
    assert received == payloads(trades)
    assert [(row["messages"], row["gaps"]) for row in ended] == [(len(kept), 0)]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A real recording as a history; return its directory and its messages."""
    lines = recording(f"{PRO}/feed.jsonl").read_bytes().splitlines()
    stamps = recording(f"{PRO}/feed.recv_ts.txt").read_text().split()
    channels = {"snapshot": "level2", "l2update": "level2", "ticker": "ticker"}
    messages = []
    for line, stamp in zip(lines, stamps, strict=True):
        head = read_head(line)
        if head.type != "subscriptions":
            topic = Topic(channels.get(head.type, "matches"), head.product_id)
            at_us = int(float(stamp) * US)
            messages.append(archive.recorded(topic, at_us, line, id_=len(messages) + 1))
    directory = tmp_path_factory.mktemp("recorded")
    archive.write(directory, messages, sizes=Sizes(), each=500)
    return directory, payloads(messages)


@pytest.mark.e2e
async def test_another_hedgehogd_can_be_run_on_yesterday(recorded):
    """Its subscribers receive all recorded messages in order, byte for byte."""
    directory, expected = recorded
    products = sorted({msgspec.json.decode(line)["product_id"] for line in expected})
    channels = ["level2", "ticker", "matches"]
    there = free_port()
    arguments = ("--history", str(directory), "--since", "2021-01-01T00:00:00Z", "--speed", "0")
    async with running(quick(feed_where=f"ws://127.0.0.1:{there}/ws-feed")) as daemon:
        stream = await RawStream.open(daemon.port, "/ws-feed", *WEBSOCKET_HEADERS)
        await stream.send_text(subscribe(products, channels).ljust(126))
        await stream.read_bytes(2)
        wanted = len(products) * (len(channels) + 1)  # each product's heartbeat too
        with trio.fail_after(PATIENCE_S):
            while len(daemon.instance.pipe.demand.wanted(0)) < wanted:
                await trio.sleep(0.01)
        async with process("replay", *arguments, "--port", str(there), ready='"replaying"'):
            await stream.read_to(expected[-1])
        await stream.aclose()

    got = [text for text in texts_of(stream.read) if b'"subscriptions"' not in text[:30]]
    assert len(expected) == 9943
    assert got == expected
