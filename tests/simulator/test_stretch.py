"""A stretch of the past as an exchange: to each what it asked for, when it is due, once."""

import json
from contextlib import contextmanager, suppress

import pytest
import trio
from trio_websocket import ConnectionClosed, wrap_client_stream

from hedgehogd.domain.channel import Topic
from hedgehogd.domain.errors import OperatorError
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
    """On a mock clock time would jump while a thread works."""

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
    """One that reads at once, and writes down what it got and when."""

    def __init__(self, websocket):
        self.websocket = websocket
        self.heard = []
        self.times = []

    async def read(self):
        with suppress(ConnectionClosed):
            while True:
                message = await self.websocket.get_message()
                self.heard.append(message.encode())
                self.times.append(trio.current_time())

    async def say(self, kind, channels, *product_ids):
        message = {"type": kind, "channels": channels, "product_ids": product_ids}
        await self.websocket.send_message(json.dumps(message))
        await trio.sleep(0.01)

    def taken(self):
        """Return what has come since the last time, but for acknowledgements."""
        heard, self.heard, self.times = self.heard, [], []
        return [each for each in heard if b'"subscriptions"' not in each]


class World:
    """One exchange that plays ``due`` to whoever asks."""

    def __init__(self, nursery, due, speed=1.0, offered=None):
        @contextmanager
        def opened():
            yield iter(due)

        offered = {topic for each in due for topic in each.topics} if offered is None else offered
        self.exchange = StretchExchange(opened, offered, speed)
        self.nursery = nursery
        self.server = Server(self.exchange, catalogue_app([], lambda: 0))
        nursery.start_soon(self.server.run)

    async def client(self, *channels, product_ids=(BTC,)):
        stream = connect(self.server, self.nursery)
        client = Client(await wrap_client_stream(self.nursery, stream, "x", "/ws-feed"))
        self.nursery.start_soon(client.read)
        if channels:
            await client.say("subscribe", channels, *product_ids)
        return client


def payloads(due):
    return [each.message.payload for each in due]


async def test_each_message_comes_when_it_is_due(autojump_clock, nursery):
    """At the pace it had, or faster; what was before the beginning is there at once."""
    before = [snapshot("1", -60.0), update("2", "1", -30.0)]
    due = [*before, match(1, 0.0), match(2, 0.0), ticker(2, 3.5), match(3, 700.0)]
    for speed in (1.0, 10.0):
        client = await World(nursery, due, speed).client("matches", "ticker", "level2")
        await trio.sleep(1000)

        assert client.heard[1:] == payloads(due)
        first = client.times[1]
        waits = [at - first for at in client.times[1:]]
        assert waits == pytest.approx([0, 0, 0, 0, 3.5 / speed, 700 / speed])


async def test_as_fast_as_possible_is_all_at_once(autojump_clock, nursery):
    """Speed 0, far more than one batch."""
    due = [match(number, number * 10.0) for number in range(500)]
    client = await World(nursery, due, speed=0).client("matches")
    begin = trio.current_time()
    await trio.sleep(1)

    assert client.heard[1:] == payloads(due)
    assert client.times[-1] - begin < 1


async def test_nothing_begins_before_somebody_wants_something(autojump_clock, nursery):
    """And then waits a moment for what else that client, or its other connection, asks for."""
    due = [snapshot("1", -1.0), match(1, 0.0), match(2, 0.1)]
    world = World(nursery, due)
    idle = await world.client()
    await idle.say("unsubscribe", ["ticker"], BTC)
    await idle.say("subscribe", ["status"])
    await trio.sleep(4)
    assert not world.exchange.ended.is_set()
    first = await world.client("matches")
    second = await world.client("level2")
    await first.say("subscribe", ["level2"], BTC)
    await world.exchange.ended.wait()
    await trio.sleep(0.01)

    assert first.taken() == payloads(due)
    assert second.taken() == payloads(due[:1])


async def test_everybody_gets_what_they_asked_for_and_no_more(autojump_clock, nursery):
    """By channel and product, until they unsubscribe."""
    due = [match(1, 0), match(1, 1, ETH), ticker(1, 2), match(2, 3), match(2, 3, ETH), ticker(2, 3)]
    world = World(nursery, due)
    btc = await world.client("matches")
    both = await world.client("matches", product_ids=(BTC, ETH))
    leaving = await world.client("matches", "ticker")
    gone = await world.client("matches")
    await gone.websocket.aclose()
    await trio.sleep(2.7)
    await leaving.say("unsubscribe", ["matches"])
    await trio.sleep(10)

    assert btc.taken() == payloads([due[0], due[3]])
    assert both.taken() == payloads([due[0], due[1], due[3], due[4]])
    assert leaving.taken() == payloads([due[0], due[2], due[5]])


async def test_who_holds_two_channels_of_one_source_gets_each_message_once(autojump_clock, nursery):
    """Trades of ``full`` are those of ``matches``; both books' channels are one book."""
    trade = match(1, 0)._replace(topics=(FULL, MATCHES))
    order = Due(1, make_message("full", BTC, 2, kind="done"), (FULL,))
    book = snapshot("1", 2, (LEVEL2, Topic("level2_batch", BTC)))
    world = World(nursery, [trade, order, book])
    all_of_it = await world.client("full", "matches", "level2", "level2_batch")
    trades = await world.client("matches", "level2_batch")
    await world.exchange.ended.wait()
    await trio.sleep(1)
    greeted = await world.client("level2", "level2_batch")
    await trio.sleep(1)

    assert all_of_it.taken() == payloads([trade, order, book])
    assert trades.taken() == payloads([trade, book])
    assert len(greeted.taken()) == 1


async def test_who_comes_late_to_a_book_gets_a_snapshot_of_it_first(autojump_clock, nursery):
    """Changes alone are of no use to anybody."""
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
    made, *rest = late.taken()

    assert rest == payloads(due[3:])
    assert json.loads(made) == {
        "type": "snapshot", "product_id": BTC, "asks": [["9", "1"]], "bids": [["2", "5"]],
        "time": "2026-01-31T12:00:00Z",
    }  # fmt: skip


@pytest.mark.parametrize(
    "odd",
    [update("x", "1", 1), Due(1, make_message("level2", BTC, changes="none"), (LEVEL2,))],
    ids=["amount", "update"],
)
async def test_an_unreadable_change_costs_itself(autojump_clock, nursery, odd):
    """The book goes on with all others."""
    world = World(nursery, [snapshot("1", 0), odd, update("5", "5", 2)])
    await world.client("level2")
    await trio.sleep(5)
    late = await world.client("level2")

    assert ["5", "5"] in json.loads(late.taken()[0])["bids"]


@pytest.mark.parametrize(
    "spoilt",
    [
        Due(1, make_message("level2", BTC, kind="snapshot"), (LEVEL2,)),
    ],
    ids=["snapshot"],
)
async def test_a_book_that_cannot_be_followed_greets_nobody(autojump_clock, nursery, spoilt):
    """Until its next snapshot; what was kept is given as it is."""
    due = [snapshot("1", 0), spoilt, update("5", "5", 2), snapshot("6", 10)]
    world = World(nursery, due)
    first = await world.client("level2")
    await trio.sleep(5)
    late = await world.client("level2")
    await trio.sleep(10)
    later = await world.client("level2")

    assert first.taken() == payloads(due)
    assert late.taken() == payloads(due[3:])
    assert json.loads(later.taken()[0])["bids"] == [["6", "1"]]


async def test_level3_begins_with_its_schema(autojump_clock, nursery):
    """The exchange says what its arrays mean; it is about no product, and is not kept."""
    row = make_row("noop", BTC, 1, "t")
    world = World(nursery, [Due(0, row, (row.topic,))])
    client = await world.client("level3")
    await trio.sleep(1)

    assert client.taken() == [SCHEMA, row.payload]


async def test_errors_are_the_exchanges_and_spoil_nothing_else(autojump_clock, nursery):
    """A wrong word, an unknown channel or product, and what was not kept of either."""
    offered = {MATCHES, TICKER, Topic("matches", ETH)}
    world = World(nursery, [match(1, 0)], offered=offered)
    client = await world.client()
    await client.websocket.send_message("oops")
    await trio.sleep(0.01)
    assert json.loads(client.taken()[0])["message"] == "Malformed JSON"
    await client.say("subscribe", ["matches", "ticker", "level2", "nonsense"], BTC, ETH, "NO-NO")
    *errors, acknowledgement = [json.loads(each) for each in client.heard]

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
    client.taken()
    await client.say("subscribe", ["ticker"], ETH)
    *errors, acknowledgement = [json.loads(each) for each in client.heard]

    assert [error["reason"] for error in errors] == ["no ticker of ETH-USD is kept"]
    assert len(acknowledgement["channels"]) == 2


async def test_a_stretch_that_cannot_be_read_any_more_ends_the_replay(nursery, monkeypatch):
    """Better a loud end than a silent hole."""
    monkeypatch.setattr(stretch, "_GATHER_S", 0)

    def broken():
        raise OperatorError("gone")
        yield

    @contextmanager
    def opened():
        yield broken()

    class Deaf:
        has_subscribed = False

        def send(self, frame):
            pass

    exchange = StretchExchange(opened, {MATCHES}, 1)
    exchange.heard(Deaf(), '{"type":"subscribe","channels":["matches"],"product_ids":["BTC-USD"]}')
    with pytest.raises(OperatorError, match="gone"):
        await exchange.run()


def test_a_channel_is_served_from_what_has_its_messages():
    """Its own record if there is one."""
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
