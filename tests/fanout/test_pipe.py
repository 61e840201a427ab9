"""The pipe: the parts of one instance that use each other."""

import json
from random import Random

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from hedgehogd.arbitration.batch import NoticeKind, Refusal, TopicNotice
from hedgehogd.domain.channel import Topic, upstream_topics
from hedgehogd.engine.delivery import Delivery, FetchedOrders
from hedgehogd.protocol.wire import WEBSOCKET, WEBSOCKET_DEFLATE
from tests.fakes import make_message, make_row
from tests.fanout.conftest import Plumbing

PRODUCTS = ("BTC-USD", "ETH-USD")


@pytest.mark.parametrize(
    ("channel", "form", "expected"),
    [
        ("status", WEBSOCKET_DEFLATE, True),
        ("status", WEBSOCKET, False),
        ("ticker", WEBSOCKET_DEFLATE, False),
        ("level2", WEBSOCKET_DEFLATE, True),  # it waits for its snapshot
        ("matches", WEBSOCKET_DEFLATE, True),  # by its second topic
    ],
)
def test_large_messages_are_compressed_for_their_receivers(plumbing, channel, form, expected):
    """Compressing costs more than all the rest."""
    messages = {
        "level2": make_message("level2"),
        "matches": make_message("full", also=make_message("matches").topic),
    }
    plumbing.join(channel, form=form)

    assert plumbing.pipe.deflates(messages.get(channel, make_message("status", ""))) is expected


class World:
    """An exchange, a feed that holds topics, and a broker, in any order of events.

    The exchange sends whether the feed holds a topic or not. Messages of held topics arrive in
    order. Of released topics some messages still arrive: they were in flight. Level-3
    books arrive long after they were fetched. The connection is lost and resumes.
    """

    def __init__(self, seed, plumbing):
        self.random = Random(seed)
        self.plumbing, self.pipe = plumbing, plumbing.pipe
        self.held, self.is_connected = frozenset(), True
        self.number = 100
        self.sequence = dict.fromkeys(PRODUCTS, 100)  # of full and level3
        self.levels = {product_id: {"100": "1"} for product_id in PRODUCTS}
        self.newest = {}  # the newest ticker of each product
        self.fetched = []  # level-3 books on their way

    async def deliver(self, *messages, **more):
        await self.plumbing.broker.publish([Delivery(list(messages), **more)])

    def arrives(self, topic):
        """Say whether a message of ``topic`` reaches the broker: held, or still in flight."""
        return self.is_connected and (topic in self.held or self.random.random() < 0.5)

    async def hold(self):
        channels = ("ticker", "matches", "full", "level3", "level2", "level2_batch")
        wanted = {
            Topic(self.random.choice(channels), self.random.choice(PRODUCTS))
            for _ in range(self.random.randint(0, 4))
        }
        asked = upstream_topics(wanted)
        trades = {Topic("matches", t.product_id) for t in asked if t.channel == "full"}
        beats = {Topic("heartbeat", t.product_id) for t in wanted}
        added = (wanted | asked | trades | beats) - self.held
        self.held = frozenset(wanted | asked | trades | beats)
        await self.deliver(flows=self.held)
        if self.is_connected and self.random.random() < 0.7:  # else it was never unsubscribed
            await self.greet(added)

    async def greet(self, topics):
        for topic in topics & self.held:
            if topic.channel == "ticker" and topic.product_id in self.newest:
                await self.deliver(self.newest[topic.product_id])
            if topic in self.held and topic.channel in ("level2", "level2_batch"):
                await self.snapshot(topic)

    async def snapshot(self, topic):
        if topic in upstream_topics(self.held):
            rows = [list(row) for row in self.levels[topic.product_id].items()]
            await self.deliver(
                make_message(*topic, kind="snapshot", bids=rows, asks=[["900", "1"]])
            )

    async def trade(self):
        product_id = self.random.choice(PRODUCTS)
        self.number += 1
        ticker = make_message("ticker", product_id, self.number)
        self.newest[product_id] = ticker
        if self.arrives(ticker.topic):
            await self.deliver(ticker)
        batch = make_message("ticker_batch", product_id, self.number, kind="ticker")
        if self.random.random() < 0.2:
            await self.deliver(batch)
        match = make_message("matches", product_id, self.number, trade_id=self.number)
        if self.arrives(match.topic):
            await self.deliver(match, make_message("heartbeat", product_id, self.number))

    async def order(self):
        product_id = self.random.choice(PRODUCTS)
        number = self.sequence[product_id] = self.sequence[product_id] + 1
        full = make_message("full", product_id, number, kind="received")
        row = make_row("noop", product_id, number, "t")
        if self.random.random() < 0.5:
            full.also = Topic("matches", product_id)
        messages = [message for message in (full, row) if self.arrives(message.topic)]
        await self.deliver(*messages)

    async def change(self):
        product_id = self.random.choice(PRODUCTS)
        price, size = str(self.random.randint(1, 5)), str(self.random.randint(1, 9))
        self.levels[product_id][price] = size
        changes = [["buy", price, size]]
        channel = next(
            (t.channel for t in upstream_topics(self.held)
             if t.product_id == product_id and t.channel in ("level2", "level2_batch")),
            "level2",
        )  # fmt: skip
        update = make_message(channel, product_id, changes=changes)
        if self.arrives(update.topic):
            await self.deliver(update)

    async def fetch(self):
        product_id = self.random.choice(PRODUCTS)
        self.fetched.append(FetchedOrders(product_id, [], [], self.sequence[product_id]))

    async def fetched_arrives(self):
        if self.fetched:
            book = self.fetched.pop(self.random.randrange(len(self.fetched)))
            await self.deliver(order_book=book)

    async def gap(self):
        topic = Topic(self.random.choice(["full", "matches"]), self.random.choice(PRODUCTS))
        if topic not in self.held:
            await self.deliver(notices=[TopicNotice(topic, b"{}", NoticeKind.GAP)])

    async def lose(self):
        if self.is_connected:
            self.is_connected = False
            self.audience = self.random.choice([None, frozenset(PRODUCTS)])
            await self.deliver(notices=[TopicNotice(self.audience, b"[]", NoticeKind.STALE)])

    async def resume(self):
        if not self.is_connected:
            self.is_connected = True
            await self.greet(self.held)
            await self.deliver(notices=[TopicNotice(self.audience, b"[]", NoticeKind.BACK)])

    async def end_window(self):
        await self.deliver(ends_window=True)

    async def join(self):
        session, _ = self.plumbing.join(
            self.random.choice(["level2", "level2_batch"]), pairs=[self.random.choice(PRODUCTS)]
        )
        await trio.lowlevel.checkpoint()
        if self.random.random() < 0.8:
            session.close()

    async def resync(self):
        for topic in self.pipe.demand.take_snapshots():
            if self.is_connected:
                await self.snapshot(topic)

    async def check(self):
        pipe, flows = self.pipe, self.pipe.flows
        tape = pipe.tape
        remembered = {
            *pipe.latest._by_topic, *pipe.standing._gaps, *tape._last, *tape._began, *tape._left,
            *tape._broken, *tape._before, *tape._holes.open,
        }  # fmt: skip
        assert {t for t in remembered if not flows.has(t)} == set()
        products = {*pipe.standing._stale, *tape._flows}
        assert {p for p in products if not flows.has(Topic("heartbeat", p))} == set()
        books = {*pipe.books.products()}
        books |= {t.product_id for t in (*pipe.snapshots._recent, *pipe.snapshots._frozen)}
        assert {p for p in books if not flows.has_book(p)} == set()
        for product_id, held in pipe.orders._held.items():
            assert flows.has(Topic(held.channel, product_id))
        for product_id in PRODUCTS:
            answer = await pipe.orders.answer(product_id, 3, "now")
            if answer is not None:
                assert json.loads(answer)["sequence"] == self.sequence[product_id]
            held = pipe.books.get(product_id)
            if held is not None:
                assert dict(held.book.freeze().rows("buy")) == self.levels[product_id]
        states = pipe.book_states()
        assert states[2]["live"] == len(pipe.books)
        assert states[3]["live"] == len(pipe.orders)

    async def run(self, steps):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.pipe.snapshots.run)
            await self.deliver(flows=self.held)
            for _ in range(steps):
                step = self.random.choice([
                    self.hold, self.trade, self.order, self.order, self.order, self.change,
                    self.change, self.fetch, self.fetched_arrives, self.fetched_arrives, self.gap,
                    self.lose, self.resume, self.end_window, self.join, self.resync,
                ])  # fmt: skip
                await step()
                await self.check()
            self.is_connected = False  # no more subscriptions, and all that is in flight arrives
            self.held = frozenset()
            await self.deliver(flows=self.held)
            self.is_connected = True
            for step in (self.trade, self.order, self.change, self.fetched_arrives, self.gap) * 5:
                await step()
            await wait_all_tasks_blocked()
            await self.check()
            nursery.cancel_scope.cancel()


@settings(max_examples=100)
@given(st.integers(min_value=0, max_value=2**32))
def test_only_topics_that_the_feed_holds_have_state(seed):
    """Topics are held and released in any order, and messages in flight arrive at any time.

    Nothing of a topic that is not held is in memory; each book that is served is the exchange's
    at this moment. Hypothesis prints the seed.
    """
    world = World(seed, Plumbing())
    trio.run(world.run, 60, clock=MockClock(autojump_threshold=0))
    pipe = world.pipe

    assert (pipe.latest._by_topic, pipe.tape._last, pipe.standing._gaps) == ({}, {}, {})
    assert (pipe.books.products(), pipe.orders.products()) == (set(), set())
    assert (pipe.snapshots._recent, pipe.snapshots._frozen) == ({}, {})


async def test_books_are_counted_by_state(plumbing):
    """An operator sees a book that the feed no longer updates; it is not in memory."""
    topics = frozenset(Topic(c, p) for c in ("level2", "full", "heartbeat") for p in PRODUCTS)
    await plumbing.broker.publish([Delivery([], flows=topics)])
    assert plumbing.pipe.book_states()[3] == {"live": 0, "loading": 2, "stale": 0}
    first = PRODUCTS[0]
    event = make_message("full", first, 10, kind="received")
    book = make_message("level2", first, kind="snapshot", bids=[], asks=[])
    await plumbing.broker.publish(
        [Delivery([event, book], order_book=FetchedOrders(first, [], [], 10))]
    )
    assert plumbing.pipe.book_states() == {
        level: {"live": 1, "loading": 1, "stale": 0} for level in (2, 3)
    }

    stale = TopicNotice(frozenset({first}), b"{}", NoticeKind.STALE)
    await plumbing.publish(notices=[stale])
    assert plumbing.pipe.book_states() == {
        level: {"live": 0, "loading": 1, "stale": 1} for level in (2, 3)
    }
    assert plumbing.pipe.orders.lost == {"stale": 1}
    await plumbing.publish(notices=[TopicNotice(None, b"{}", NoticeKind.STALE)])
    assert plumbing.pipe.book_states()[2] == {"live": 0, "loading": 0, "stale": 2}


async def test_no_book_of_a_refused_channel_is_counted(plumbing):
    """The feed requests it again later; until then no book arrives."""
    topics = frozenset(Topic(channel, PRODUCTS[0]) for channel in ("level2", "full"))
    await plumbing.broker.publish([Delivery([], flows=topics)])
    found = []
    for change in (
        Delivery([], refusals=[Refusal("", "Failed to subscribe", "no key", "full")]),
        Delivery([], allowed=["full"]),
    ):
        await plumbing.broker.publish([change])
        states = plumbing.pipe.book_states()
        found.append((states[2]["loading"], states[3]["loading"]))

    assert found == [(1, 0), (1, 1)]


async def test_a_gap_that_only_a_heartbeat_has_shown_ends_the_book(plumbing):
    """No event follows to show it, so the book would be served as current."""
    full = Topic("full", PRODUCTS[0])
    event = make_message(*full, 10, kind="received")
    book = FetchedOrders(full.product_id, [], [], 10)
    await plumbing.broker.publish([Delivery([event], order_book=book)])
    assert plumbing.pipe.orders.is_live(full.product_id)
    for topic, is_live in ((Topic("level3", full.product_id), True), (full, False)):
        await plumbing.publish(notices=[TopicNotice(topic, b"{}", NoticeKind.GAP)])
        assert plumbing.pipe.orders.is_live(full.product_id) is is_live

    assert plumbing.pipe.orders.lost == {"gap": 1}
