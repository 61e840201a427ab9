"""A time range of history as an exchange: each client gets its topics, when due, once."""

import json
from contextlib import contextmanager, suppress
from itertools import pairwise

import pytest
import trio
from trio_websocket import ConnectionClosed, wrap_client_stream

from hedgehogd.domain.channel import Topic
from hedgehogd.domain.errors import OperatorError
from hedgehogd.log.collected_books import Books
from hedgehogd.simulator import stretch
from hedgehogd.simulator.inprocess import connect
from hedgehogd.simulator.order_messages import SCHEMA
from hedgehogd.simulator.rest import catalogue_app
from hedgehogd.simulator.server import Server
from hedgehogd.simulator.stretch import Due, StretchExchange, sources
from tests.fakes import make_message, make_row

BTC, ETH = "BTC-USD", "ETH-USD"
MATCHES, TICKER, LEVEL2, FULL = (Topic(c, BTC) for c in ("matches", "ticker", "level2", "full"))


@pytest.fixture(autouse=True)
def no_threads(monkeypatch):
    """Replace threads: time on a mock clock would jump while a thread works."""

    async def run_sync(call, *arguments, **_):
        await trio.lowlevel.checkpoint()
        return call(*arguments)

    monkeypatch.setattr(trio.to_thread, "run_sync", run_sync)


def match(number, due_s, product_id=BTC):
    message = make_message("matches", product_id, number, trade_id=number)
    return Due(due_s, message, (message.topic,))


def ticker(number, due_s):
    return Due(due_s, make_message("ticker", BTC, number), (TICKER,))


def snapshot(bid, due_s, topics=(LEVEL2,)):
    more = {"bids": [[bid, "1"]], "asks": [["9", "1"]]}
    return Due(due_s, make_message("level2", BTC, kind="snapshot", **more), topics)


def update(price, size, due_s, topics=(LEVEL2,), **more):
    return Due(due_s, make_message("level2", BTC, changes=[["buy", price, size]], **more), topics)


class Client:
    """A client that reads at once, and records its messages and their times."""

    def __init__(self, websocket):
        self.websocket = websocket
        self.received = []
        self.times = []

    async def read(self):
        with suppress(ConnectionClosed):
            while True:
                message = await self.websocket.get_message()
                self.received.append(message.encode())
                self.times.append(trio.current_time())

    async def send(self, kind, channels, *product_ids):
        message = {"type": kind, "channels": channels, "product_ids": product_ids}
        await self.websocket.send_message(json.dumps(message))
        await trio.sleep(0.01)

    def take_received(self):
        """Return the messages since the last call, without acknowledgements."""
        received, self.received, self.times = self.received, [], []
        return [each for each in received if b'"subscriptions"' not in each]


class World:
    """One exchange that plays ``due`` to its subscribers."""

    def __init__(self, nursery, due, speed=1.0, offered=None):
        @contextmanager
        def opened():
            yield iter(due)

        for number, each in enumerate(due, 1):
            each.message.id = number
        offered = {topic for each in due for topic in each.topics} if offered is None else offered
        self.due = due
        self.asked = []
        self.exchange = StretchExchange(opened, offered, self.books_at, 0, speed)
        self.nursery = nursery
        self.server = Server(self.exchange, catalogue_app([], lambda: 0))
        nursery.start_soon(self.server.run)

    def books_at(self, topics, place):
        """Return the books of ``level2`` and ``level2_batch``, which are one book."""
        self.asked.append((set(topics), place))
        books = Books()
        for each in self.due[:place]:
            books.follow(LEVEL2, each.message)
        return {topic: book.payload for book in books.snapshots() for topic in topics}

    def read_books_slowly(self, monkeypatch, seconds):
        """Let each later read of books take ``seconds``."""
        run_sync = trio.to_thread.run_sync

        async def slow(call, *arguments, **more):
            if call == self.books_at:
                await trio.sleep(seconds)
            return await run_sync(call, *arguments, **more)

        monkeypatch.setattr(trio.to_thread, "run_sync", slow)

    async def client(self, *channels, product_ids=(BTC,)):
        stream = connect(self.server, self.nursery)
        client = Client(await wrap_client_stream(self.nursery, stream, "x", "/ws-feed"))
        self.nursery.start_soon(client.read)
        if channels:
            await client.send("subscribe", channels, *product_ids)
        return client


def payloads(due):
    return [each.message.payload for each in due]


async def test_each_message_comes_when_it_is_due(autojump_clock, nursery):
    """At the original pace, or faster."""
    due = [snapshot("1", 0.0), match(1, 0.0), match(2, 0.0), ticker(2, 3.5), match(3, 700.0)]
    for speed in (1.0, 10.0):
        client = await World(nursery, due, speed).client("matches", "ticker", "level2")
        await trio.sleep(1000)

        assert client.received[1:] == payloads(due)
        first = client.times[1]
        waits = [at - first for at in client.times[1:]]
        assert waits == pytest.approx([0, 0, 0, 3.5 / speed, 700 / speed])


async def test_speed_0_sends_all_at_once(autojump_clock, nursery):
    """For far more messages than one batch."""
    due = [match(number, number * 10.0) for number in range(500)]
    client = await World(nursery, due, speed=0).client("matches")
    begin = trio.current_time()
    await trio.sleep(1)

    assert client.received[1:] == payloads(due)
    assert client.times[-1] - begin < 1


async def test_playback_starts_after_the_first_subscribe(autojump_clock, nursery):
    """It then waits 0.5 s for further subscribes of this client or of its other connections."""
    due = [snapshot("1", -1.0), match(1, 0.0), match(2, 0.1)]
    world = World(nursery, due)
    idle = await world.client()
    await idle.send("unsubscribe", ["ticker"], BTC)
    await idle.send("subscribe", ["status"])
    await trio.sleep(4)
    assert not world.exchange.ended.is_set()
    first = await world.client("matches")
    second = await world.client("level2")
    await first.send("subscribe", ["level2"], BTC)
    await world.exchange.ended.wait()
    await trio.sleep(0.01)

    assert first.take_received() == payloads(due)
    assert second.take_received() == payloads(due[:1])


async def test_each_client_gets_its_topics_and_no_more(autojump_clock, nursery):
    """By channel and product, until the client unsubscribes."""
    due = [match(1, 0), match(1, 1, ETH), ticker(1, 2), match(2, 3), match(2, 3, ETH), ticker(2, 3)]
    world = World(nursery, due)
    btc = await world.client("matches")
    both = await world.client("matches", product_ids=(BTC, ETH))
    leaving = await world.client("matches", "ticker")
    gone = await world.client("matches")
    await gone.websocket.aclose()
    await trio.sleep(2.7)
    await leaving.send("unsubscribe", ["matches"])
    await trio.sleep(10)

    assert btc.take_received() == payloads([due[0], due[3]])
    assert both.take_received() == payloads([due[0], due[1], due[3], due[4]])
    assert leaving.take_received() == payloads([due[0], due[2], due[5]])


async def test_a_client_with_two_channels_of_one_source_gets_each_message_once(
    autojump_clock, nursery
):
    """Trades of ``full`` are those of ``matches``; both book channels carry one book."""
    trade = match(1, 0)._replace(topics=(FULL, MATCHES))
    order = Due(1, make_message("full", BTC, 2, kind="done"), (FULL,))
    book = snapshot("1", 2, (LEVEL2, Topic("level2_batch", BTC)))
    world = World(nursery, [trade, order, book])
    all_of_it = await world.client("full", "matches", "level2", "level2_batch")
    trades = await world.client("matches", "level2_batch")
    await world.exchange.ended.wait()
    await trio.sleep(1)
    newcomer = await world.client("level2", "level2_batch")
    await trio.sleep(1)

    assert all_of_it.take_received() == payloads([trade, order, book])
    assert trades.take_received() == payloads([trade, book])
    assert len(newcomer.take_received()) == 1


async def test_a_late_subscriber_of_a_book_first_gets_a_snapshot(autojump_clock, nursery):
    """Changes are useless without one."""
    due = [
        snapshot("1", 0),
        update("2", "5", 1, time="2026-01-31T12:00:00Z"),
        update("1", "0", 2),
        update("3", "1", 10),
    ]
    world = World(nursery, due)
    await world.client("level2")
    await trio.sleep(5)
    late = await world.client("level2")
    await trio.sleep(10)
    made, *rest = late.take_received()

    assert rest == payloads(due[3:])
    assert json.loads(made) == {
        "type": "snapshot", "product_id": BTC, "asks": [["9", "1"]], "bids": [["2", "5"]],
        "time": "2026-01-31T12:00:00Z",
    }  # fmt: skip


async def test_books_of_several_late_subscribers_are_read_together(autojump_clock, nursery):
    """Each gets one snapshot, also for two channels of one book, and after it the changes."""
    batch = Topic("level2_batch", BTC)
    due = [snapshot("1", 0, (LEVEL2, batch)), update("2", "5", 1, (LEVEL2, batch))]
    due += [update("3", "1", 10, (LEVEL2, batch))]
    world = World(nursery, due)
    first = await world.client("level2")
    await trio.sleep(5)
    clients = [await world.client() for _ in range(3)]
    async with trio.open_nursery() as together:
        for client in clients:
            together.start_soon(client.send, "subscribe", ["level2", "level2_batch"], BTC)
    await trio.sleep(10)

    assert world.asked[0] == ({LEVEL2}, 0)
    assert {place for _, place in world.asked[1:]} == {2}
    assert first.take_received() == payloads(due)
    for client in clients:
        made, *rest = client.take_received()
        assert [["2", "5"], ["1", "1"]] == json.loads(made)["bids"]
        assert rest == payloads(due[2:])


@pytest.mark.parametrize("speed", [0, 1])
async def test_the_playback_waits_while_a_book_is_read(autojump_clock, nursery, monkeypatch, speed):
    """Otherwise a client would receive changes before the book that has them already."""
    due = [snapshot("1", 0), *(update(str(n), "1", n) for n in range(2, 9))]
    world = World(nursery, due, speed)
    run_sync = trio.to_thread.run_sync
    places = []

    async def slow(call, *arguments, **more):
        if call == world.books_at:
            await trio.sleep(4)
            places.append((arguments[1], world.exchange._place))
        return await run_sync(call, *arguments, **more)

    monkeypatch.setattr(trio.to_thread, "run_sync", slow)
    first = await world.client("level2")
    await trio.sleep(6.5)
    late = await world.client("level2")
    await trio.sleep(20)
    made, *rest = late.take_received()
    place = world.asked[1][1]

    assert places == [(0, 0), (place, place)]
    assert place == (len(due) if speed == 0 else 2)
    assert first.take_received() == payloads(due)
    assert len(json.loads(made)["bids"]) == place
    assert rest == payloads(due[place:])


async def test_a_client_that_unsubscribes_meanwhile_gets_no_book(
    autojump_clock, nursery, monkeypatch
):
    """Nor one that has left; the playback goes on for the other client."""
    due = [snapshot("1", 0), update("2", "1", 1), update("3", "1", 9)]
    world = World(nursery, due)
    first = await world.client("level2")
    await trio.sleep(4)
    world.read_books_slowly(monkeypatch, 1)
    late, gone = await world.client("level2"), await world.client("level2")
    await late.send("unsubscribe", ["level2"], BTC)
    await gone.websocket.aclose()
    await trio.sleep(10)

    assert late.take_received() == []
    assert first.take_received() == payloads(due)


async def test_books_that_a_client_does_not_read_close_it(autojump_clock, nursery, monkeypatch):
    """A large book waits for its client; a client that reads nothing delays other clients once."""
    waited = []

    async def wait_written(client):
        waited.append(client.waiting_bytes)
        client.close_slow()
        await trio.lowlevel.checkpoint()

    monkeypatch.setattr(stretch, "wait_written", wait_written)
    world = World(nursery, [snapshot("1", 0), update("3", "1", 9)])
    first = await world.client("level2")
    await trio.sleep(4)
    world.server._backlog_bytes_max = 200  # of the next clients; a book has more than half of them
    late = await world.client("level2")
    await trio.sleep(10)

    assert len(waited) == 1
    assert 100 < waited[0] <= 200
    assert [json.loads(each)["type"] for each in late.take_received()] == ["error"]
    assert len(first.take_received()) == 2


async def test_a_client_that_subscribes_again_meanwhile_gets_one_book(
    autojump_clock, nursery, monkeypatch
):
    """A client in a loop of subscribe and unsubscribe gets no more, and holds up no other one."""
    due = [snapshot("1", 0), *(update(str(n), "1", n) for n in range(2, 60))]
    world = World(nursery, due)
    first = await world.client("level2")
    await trio.sleep(4)
    world.read_books_slowly(monkeypatch, 1)
    late = await world.client("level2")
    for _ in range(5):
        await late.send("unsubscribe", ["level2"], BTC)
        await late.send("subscribe", ["level2"], BTC)
    await trio.sleep(10)
    made = [json.loads(each)["type"] for each in late.take_received()]
    assert made == ["snapshot"] + ["l2update"] * (len(made) - 1)

    begin, received = trio.current_time(), len(first.received)
    while trio.current_time() < begin + 20:
        await late.send("unsubscribe", ["level2"], BTC)
        await late.send("subscribe", ["level2"], BTC)
    assert len(first.received) - received >= 9  # one each second while it runs


async def test_a_book_that_is_not_known_begins_with_its_next_snapshot(autojump_clock, nursery):
    """A client would apply changes to an empty book; it may also leave while it waits."""
    due = [match(1, 0), update("2", "1", 1), update("3", "1", 6), snapshot("4", 8),
           update("5", "1", 9), match(2, 10)]  # fmt: skip
    world = World(nursery, due)
    first = await world.client("matches", "level2")
    await trio.sleep(4)
    late, gone = await world.client("level2"), await world.client("level2")
    await gone.send("unsubscribe", ["level2"], BTC)
    await trio.sleep(20)

    assert first.take_received() == payloads([due[0], *due[3:]])
    assert late.take_received() == payloads(due[3:5])
    assert gone.take_received() == []


async def test_after_a_pause_the_pace_goes_on(autojump_clock, nursery, monkeypatch):
    """A burst of all that was due meanwhile would close clients that read at the pace."""
    due = [snapshot("1", 0), *(update(str(n), "1", n) for n in range(1, 21))]
    world = World(nursery, due)
    first = await world.client("level2")
    await trio.sleep(3)
    world.read_books_slowly(monkeypatch, 6)
    await world.client("level2")
    await trio.sleep(60)
    waits = [b - a for a, b in pairwise(first.times[1:])]

    assert first.take_received() == payloads(due)
    assert sorted(waits) == pytest.approx([1] * 19 + [waits[2]])
    assert 6 <= waits[2] <= 7


async def test_level3_begins_with_its_schema(autojump_clock, nursery):
    """The schema defines the fields of the arrays; it has no product, and is not recorded."""
    row = make_row("noop", BTC, 1, "t")
    world = World(nursery, [Due(0, row, (row.topic,))])
    client = await world.client("level3")
    await trio.sleep(1)

    assert client.take_received() == [SCHEMA, row.payload]


async def test_errors_are_the_exchanges_and_affect_nothing_else(autojump_clock, nursery):
    """For invalid JSON, an unknown channel or product, and topics without records."""
    offered = {MATCHES, TICKER, Topic("matches", ETH)}
    world = World(nursery, [match(1, 0)], offered=offered)
    client = await world.client()
    await client.websocket.send_message("oops")
    await trio.sleep(0.01)
    assert json.loads(client.take_received()[0])["message"] == "Malformed JSON"
    await client.send("subscribe", ["matches", "ticker", "level2", "nonsense"], BTC, ETH, "NO-NO")
    *errors, acknowledgement = [json.loads(each) for each in client.received]

    assert {(error["type"], error["message"]) for error in errors} == {
        ("error", "Failed to subscribe")
    }
    assert [error["reason"] for error in errors] == [
        "nonsense is not a valid channel",
        "no ticker of ETH-USD is kept",
        "NO-NO is not a valid product",
        "level2 is not a valid channel",
    ]
    assert [(row["name"], row["product_ids"]) for row in acknowledgement["channels"]] == [
        ("matches", [BTC, ETH]),
        ("ticker", [BTC]),
    ]
    client.take_received()
    await client.send("subscribe", ["ticker"], ETH)
    *errors, acknowledgement = [json.loads(each) for each in client.received]

    assert [error["reason"] for error in errors] == ["no ticker of ETH-USD is kept"]
    assert len(acknowledgement["channels"]) == 2


async def test_a_range_that_cannot_be_read_any_more_ends_the_replay(nursery, monkeypatch):
    """An error is better than a silent gap."""
    monkeypatch.setattr(stretch, "_START_DELAY_S", 0)

    def broken():
        raise OperatorError("gone")
        yield

    @contextmanager
    def opened():
        yield broken()

    class Silent:
        has_subscribed = False

        def send(self, frame):
            pass

    exchange = StretchExchange(opened, {MATCHES}, lambda *_: {}, 0, 1)
    exchange.receive(
        Silent(), '{"type":"subscribe","channels":["matches"],"product_ids":["BTC-USD"]}'
    )
    with pytest.raises(ExceptionGroup) as raised:
        await exchange.run()
    assert [str(error) for error in raised.value.exceptions] == ["gone"]


def test_a_channel_is_served_from_one_with_the_same_messages():
    """Its own records come first."""
    rfq = Topic("rfq_matches", BTC)
    kept = {
        FULL,
        TICKER,
        Topic("level2_batch", ETH),
        Topic("matches", ETH),
        Topic("full", ETH),
        rfq,
    }

    assert sources(kept) == {
        FULL: FULL,
        MATCHES: FULL,
        TICKER: TICKER,
        Topic("ticker_batch", BTC): TICKER,
        Topic("level2", ETH): Topic("level2_batch", ETH),
        Topic("level2_batch", ETH): Topic("level2_batch", ETH),
        Topic("matches", ETH): Topic("matches", ETH),
        Topic("full", ETH): Topic("full", ETH),
        rfq: rfq,
        Topic("rfq_matches", ""): None,
    }
