"""A subscriber that joins a book late gets a snapshot, and then exactly the messages after it.

The last test is the main one: a feed, a broker and subscribers that join and leave, each of which
keeps a book of the messages that it receives. The tests before it state single facts.
"""

import json
from decimal import Decimal
from functools import partial
from random import Random

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from hedgehogd.arbitration.batch import NoticeKind, TopicNotice
from hedgehogd.books import snapshots as snapshots_module
from hedgehogd.books.level2_batch import Level2Batch
from hedgehogd.domain import limits
from hedgehogd.domain.book import Book
from hedgehogd.domain.channel import Topic, upstream_topics
from hedgehogd.domain.level2 import snapshot_parts
from hedgehogd.domain.product import Catalogue
from hedgehogd.engine.delivery import Delivery
from hedgehogd.engine.demand import Demand
from hedgehogd.engine.tape import Tape
from hedgehogd.fanout import broker as broker_module
from hedgehogd.fanout import hub as hub_module
from hedgehogd.fanout.broker import Broker
from hedgehogd.fanout.pipe import Pipe
from hedgehogd.fanout.session import Session
from hedgehogd.fanout.sessions import Sessions
from hedgehogd.protocol.wire import (
    NDJSON,
    SSE,
    WEBSOCKET,
    WEBSOCKET_DEFLATE,
    WEBSOCKET_STRICT,
    WEBSOCKET_STRICT_DEFLATE,
)
from tests.fakes import FakeMember, make_message
from tests.fanout.conftest import command

BTC = "BTC-USD"
LEVEL2, BATCH = Topic("level2", BTC), Topic("level2_batch", BTC)


def a_snapshot(size="1", product_id=BTC, channel="level2", levels=1):
    bids = [[str(100 - n), size] for n in range(levels)]
    return make_message(channel, product_id, kind="snapshot", bids=bids, asks=[["200", "1"]])


def a_change(price, size, side="buy", product_id=BTC, channel="level2"):
    return make_message(channel, product_id, changes=[[side, str(price), str(size)]], time="t")


def kept(member):
    """Return the book that a client keeps of the messages that it received: bids by price."""
    bids = None
    for message in member.messages:
        body = json.loads(message.payload)
        if body["type"] == "snapshot":
            bids = dict(body["bids"])
        elif body["type"] == "l2update":
            for _, price, size in body["changes"]:
                if Decimal(size):
                    bids[price] = size
                else:
                    del bids[price]
    return bids


@pytest.fixture
async def making(plumbing, nursery):
    """A pipe in which snapshots are made."""
    nursery.start_soon(plumbing.pipe.snapshots.run)
    return plumbing


@pytest.fixture
def short_slices(monkeypatch):
    """Make snapshots two levels at a time; the list of those begun so far."""
    begun = []

    def parts(*arguments, **options):
        begun.append(None)
        return snapshot_parts(*arguments, **options, levels_per_slice=2)

    monkeypatch.setattr(snapshots_module, "snapshot_parts", parts)
    return begun


async def test_a_late_joiner_receives_a_shared_snapshot(making):
    """The exchange's next one might arrive only with the next reconnection, in days."""
    making.join("level2")
    await making.publish(a_snapshot(), a_change(101, 2))
    _, late = making.join("level2")
    assert late.chunks == []
    await wait_all_tasks_blocked()
    await making.publish(a_change(100, 0))

    assert [m.type for m in late.messages] == ["snapshot", "l2update"]
    assert kept(late) == {"101": "2"}
    assert json.loads(late.messages[0].payload)["time"] == "t"


async def test_two_hundred_joiners_at_once_cost_two_snapshots_at_most(making):
    """A fleet that restarts must not stop the market for the other subscribers."""
    making.join("level2")
    await making.publish(a_snapshot(levels=3000))
    members = []
    for n in range(200):
        members.append(making.join("level2")[1])
        if n % 50 == 0:
            await making.publish(a_change(100, 5 + n))
    await wait_all_tasks_blocked()

    assert making.pipe.snapshots.made <= 2
    assert making.pipe.snapshots.shared == 200
    expected = kept(members[0])
    assert expected["100"] == "155"
    assert all(kept(member) == expected for member in members)


async def test_shared_bytes_are_made_once(making):
    """Joiners share the bytes of the snapshot and of the updates after it."""
    making.join("level2")
    await making.publish(a_snapshot())
    making.join("level2")
    await wait_all_tasks_blocked()
    await making.publish(a_change(100, 7), a_change(99, 7))
    late = [making.join("level2", form=SSE[True])[1] for _ in range(2)]
    await wait_all_tasks_blocked()

    (first_snapshot, first_rest), (second_snapshot, second_rest) = (m.chunks for m in late)
    assert first_snapshot.data is second_snapshot.data
    assert first_rest is second_rest
    assert making.pipe.snapshots.made == 1


async def test_each_joiner_has_its_own_offsets(making):
    """A shared one would move with the next joiner: positions would include waiting messages."""
    making.join("level2")
    await making.publish(a_snapshot())
    _, first = making.join("level2")
    await wait_all_tasks_blocked()
    at = making.pipe.tape.end + 1
    await making.publish(make_message("ticker", sequence=1))
    making.join("level2")
    await wait_all_tasks_blocked()

    assert first.chunks[0].offsets == [at]


@pytest.mark.parametrize(("age_s", "made"), [(0.9, 1), (1.1, 2)])
async def test_a_snapshot_serves_for_a_second(making, autojump_clock, age_s, made):
    """Ever more updates would follow an older one."""
    making.join("level2")
    await making.publish(a_snapshot())
    for _ in range(2):
        making.join("level2")
        await wait_all_tasks_blocked()
        await trio.sleep(age_s)

    assert making.pipe.snapshots.made == made


async def test_a_snapshot_whose_updates_left_the_tape_is_not_used(making):
    """A gap would follow it."""
    making.join("level2")
    await making.publish(a_snapshot())
    making.join("level2")
    await wait_all_tasks_blocked()
    making.pipe.tape._bytes_max = 0
    await making.publish(a_change(100, 7))
    await making.publish(a_change(99, 7))
    _, late = making.join("level2")
    await wait_all_tasks_blocked()

    assert making.pipe.snapshots.made == 2
    assert kept(late) == {"100": "7", "99": "7"}


@pytest.mark.usefixtures("short_slices")
async def test_making_a_snapshot_yields_to_other_tasks(making, nursery):
    """46,000 levels in one turn would hold up every write."""
    making.join("level2")
    await making.publish(a_snapshot(levels=100))
    _, late = making.join("level2")
    turns = 0
    while not late.chunks:
        await trio.lowlevel.checkpoint()
        turns += 1

    assert turns > 50


async def wait_begun(begun):
    while not begun:
        await trio.lowlevel.checkpoint()


async def test_updates_during_the_making_follow_the_snapshot(making, short_slices):
    """It is of the moment when it was begun; later messages are read from the tape."""
    making.join("level2")
    await making.publish(a_snapshot(levels=9))
    _, late = making.join("level2")
    await wait_begun(short_slices)
    await making.publish(a_change(100, 0))
    await making.publish(a_change(101, 3))
    await wait_all_tasks_blocked()
    await making.publish(a_change(101, 0))

    assert "100" in dict(json.loads(late.messages[0].payload)["bids"])
    assert kept(late) == {str(n): "1" for n in range(92, 100)}


async def test_a_book_that_ends_during_the_making_gives_no_snapshot(making, short_slices):
    """Subscribers would keep a book that nothing updates."""
    making.join("level2")
    await making.publish(a_snapshot(levels=9))
    _, late = making.join("level2")
    await wait_begun(short_slices)
    await making.publish(notices=[TopicNotice(frozenset({BTC}), b"{}", NoticeKind.STALE)])
    await wait_all_tasks_blocked()

    assert [message.type for message in late.messages] == []
    assert making.pipe.snapshots.made == 0


async def test_the_end_of_another_book_keeps_a_snapshot(making):
    """It is as good for the next joiner as before."""
    making.join("level2")
    await making.publish(a_snapshot())
    making.join("level2")
    await wait_all_tasks_blocked()
    making.pipe.snapshots.forget({"ETH-USD"})
    making.join("level2")
    await wait_all_tasks_blocked()

    assert making.pipe.snapshots.made == 1


async def test_a_resync_during_the_making_serves_the_joiner_at_once(making, short_slices):
    """The exchange's own snapshot is as good, and no joiner gets two."""
    making.join("level2")
    await making.publish(a_snapshot(levels=9))
    _, late = making.join("level2")
    await wait_begun(short_slices)
    resync = a_snapshot("8")
    await making.publish(resync)
    await wait_all_tasks_blocked()

    assert late.messages == [resync]
    assert making.pipe.snapshots.shared == 0


@pytest.mark.parametrize("lost", ["forgotten", "not ready"])
async def test_without_a_book_joiners_wait_for_the_exchange(making, lost):
    """An old book would be believed."""
    sessions = [making.join("level2")[0]]
    await making.broker.publish([Delivery([a_snapshot()], flows=frozenset({LEVEL2}))])
    sessions.append(making.join("level2")[0])
    await wait_all_tasks_blocked()
    if lost == "forgotten":
        for session in sessions:
            session.close()
        await making.broker.publish([Delivery([], flows=frozenset())])
        assert making.pipe.snapshots._recent == {}
        await making.broker.publish([Delivery([], flows=frozenset({LEVEL2}))])
    else:
        await making.publish(make_message("level2", kind="snapshot"))
    _, late = making.join("level2")
    await wait_all_tasks_blocked()
    assert late.chunks == []

    fresh = a_snapshot("8")
    await making.publish(fresh)
    assert late.messages == [fresh]


async def test_a_book_that_ends_during_admission_serves_no_more_joiners(making, monkeypatch):
    """The other joiners get the next one."""
    monkeypatch.setattr(snapshots_module, "ADMISSIONS_PER_TURN_MAX", 1)
    making.join("level2")
    await making.publish(a_snapshot())
    late = [making.join("level2")[1] for _ in range(9)]
    while not late[0].chunks:
        await trio.lowlevel.checkpoint()
    fresh = a_snapshot("8", levels=5000)
    await making.publish(fresh)

    assert late[0].messages[1:] == [fresh]
    assert late[8].messages == [fresh]
    assert making.pipe.snapshots._waiting == {}


async def test_a_joiner_that_closes_or_unsubscribes_while_waiting_does_not_join(
    making, short_slices
):
    """And no snapshot is made when every joiner has left."""
    making.join("level2")
    await making.publish(a_snapshot(levels=9), a_snapshot(product_id="ETH-USD"))
    closing, _ = making.join("level2", pairs=[BTC, "ETH-USD"])
    leaving, member = making.join("level2", "ticker")
    await wait_begun(short_slices)
    closing.close()
    leaving.apply(command("level2", subscribes=False))
    await wait_all_tasks_blocked()

    assert (making.pipe.snapshots._waiting, making.pipe.snapshots.shared) == ({}, 0)
    assert making.pipe.snapshots.made <= 1
    assert member.chunks == []


async def test_a_snapshot_is_compressed_once(making, monkeypatch):
    """In a thread: 6 ms per MB."""
    calls = []
    run_sync = trio.to_thread.run_sync

    async def counted(*arguments):
        calls.append(arguments)
        return await run_sync(*arguments)

    monkeypatch.setattr(trio.to_thread, "run_sync", counted)
    making.join("level2")
    await making.publish(a_snapshot(levels=500))
    forms = [WEBSOCKET_DEFLATE, WEBSOCKET_STRICT_DEFLATE, WEBSOCKET, WEBSOCKET_DEFLATE]
    members = [making.join("level2", form=form)[1] for form in forms]
    with trio.fail_after(5):
        while not all(member.chunks for member in members):
            await trio.lowlevel.checkpoint()

    assert len(calls) == 1
    sizes = [member.chunks[0].size for member in members]
    assert sizes[0] == sizes[1] == sizes[3] < sizes[2] / 2
    assert making.pipe.snapshots.made == 1


async def test_a_joiner_that_leaves_during_compression_does_not_join(making, monkeypatch):
    """Any state may change at each checkpoint."""
    making.join("level2")
    await making.publish(a_snapshot())
    leaving, member = making.join("level2", form=WEBSOCKET_DEFLATE)

    async def leave(function, *arguments):
        leaving.close()
        return function(*arguments)

    monkeypatch.setattr(trio.to_thread, "run_sync", leave)
    await wait_all_tasks_blocked()

    assert member.chunks == []


async def test_a_batch_is_split_before_each_snapshot(plumbing):
    """A joiner there gets the snapshot first, and no message from before it."""
    a, b = a_change(1, 1), a_snapshot()
    parts = plumbing.pipe.snapshots.parts

    plumbing.pipe.snapshots.admit(b)  # no subscriber waits
    assert list(parts([a])) == [[a]]
    assert list(parts([b, a])) == [[b, a]]
    assert list(parts([a, b, b, a])) == [[a], [b], [b, a]]


async def test_level2_batch_begins_at_a_window_s_end(making, nursery, autojump_clock):
    """Within a window a snapshot would include changes that the window's message repeats."""
    send, inbox = trio.open_memory_channel(9)
    nursery.start_soon(making.broker.run, inbox)
    nursery.start_soon(Level2Batch(making.pipe.books).run, send)
    making.join("level2")
    await making.publish(a_snapshot(), a_change(101, 2))
    _, late = making.join("level2_batch")
    await wait_all_tasks_blocked()
    assert late.chunks == []
    await trio.sleep(limits.LEVEL2_BATCH_S * 1.5)
    await making.publish(a_change(101, 0), a_change(100, 0), a_change(100, 3), a_change(5, 1))
    await trio.sleep(limits.LEVEL2_BATCH_S)

    assert [m.type for m in late.messages] == ["snapshot", "l2update"]
    assert kept(late) == {"100": "3", "5": "1"}


async def test_a_joiner_after_windows_stopped_gets_a_new_snapshot(making, nursery, autojump_clock):
    """Changes without demand are in no window."""
    send, inbox = trio.open_memory_channel(9)
    nursery.start_soon(making.broker.run, inbox)
    nursery.start_soon(Level2Batch(making.pipe.books).run, send)
    making.join("level2")
    await making.publish(a_snapshot())
    first, _ = making.join("level2_batch")
    await trio.sleep(limits.LEVEL2_BATCH_S * 2.5)
    first.close()
    await trio.sleep(limits.LEVEL2_BATCH_S * 2.5)
    await making.publish(a_change(101, 2))
    _, again = making.join("level2_batch")
    await trio.sleep(limits.LEVEL2_BATCH_S * 2.5)

    assert kept(again) == {"100": "1", "101": "2"}


async def test_a_change_right_after_the_first_snapshot_is_in_a_window(
    making, nursery, autojump_clock
):
    """No change may be lost before the demand is next examined."""
    send, inbox = trio.open_memory_channel(9)
    nursery.start_soon(making.broker.run, inbox)
    nursery.start_soon(Level2Batch(making.pipe.books).run, send)
    _, member = making.join("level2_batch")
    await making.publish(a_snapshot())
    await making.publish(a_change(101, 2))
    await trio.sleep(limits.LEVEL2_BATCH_S * 2.5)

    assert kept(member) == {"100": "1", "101": "2"}


async def test_an_unused_frozen_book_is_not_kept(plumbing, autojump_clock):
    """A book is megabytes."""
    plumbing.join("level2_batch")
    await plumbing.publish(a_snapshot())
    late, _ = plumbing.join("level2_batch")
    await plumbing.broker.publish([Delivery([], ends_window=True)])
    assert list(plumbing.pipe.snapshots._frozen) == [BATCH]
    late.close()
    await plumbing.broker.publish([Delivery([], ends_window=True)])

    assert plumbing.pipe.snapshots._frozen == {}


async def test_books_without_gathering_are_not_frozen(plumbing):
    """A joiner of ``level2`` is served at any offset; a book that has ended cannot be frozen."""
    plumbing.join("level2_batch", "level2", pairs=["ETH-USD"])
    plumbing.join("level2")
    await plumbing.publish(a_snapshot())
    plumbing.join("level2")
    await plumbing.broker.publish([Delivery([], ends_window=True)])

    assert plumbing.pipe.snapshots._frozen == {}


# --- the world ---

PRODUCTS = (BTC, "ETH-USD")
FORMS = (
    WEBSOCKET, WEBSOCKET_STRICT, NDJSON[False], SSE[False], WEBSOCKET_DEFLATE,
    WEBSOCKET_STRICT_DEFLATE,
)  # fmt: skip


class Client(FakeMember):
    """Keeps a book of each product, and asserts that each message fits it."""

    __slots__ = ("books", "channels", "ids", "opened")

    def __init__(self, form):
        super().__init__(form)
        self.channels = {}
        self.books = {}
        self.ids = set()
        self.on_write = self.take

    def take(self, chunk):
        for message in chunk.messages:
            if message.type not in {"snapshot", "l2update"}:
                continue
            body = json.loads(message.payload)
            product_id = body["product_id"]
            assert Topic(self.channels[product_id], product_id) in {message.topic, message.also}
            if body["type"] == "snapshot":
                self.books[product_id] = {
                    (side, Decimal(price)): Decimal(size)
                    for side, rows in (("buy", body["bids"]), ("sell", body["asks"]))
                    for price, size in rows
                }
                continue
            assert id(message) not in self.ids, "twice"
            self.ids.add(id(message))
            book = self.books[product_id]  # else an update before its snapshot
            for side, price, size in body["changes"]:
                if Decimal(size):
                    book[side, Decimal(price)] = Decimal(size)
                else:
                    del book[side, Decimal(price)]  # raises for a missing level


class World:
    """A feed that sends the wanted topics, and subscribers that join and leave."""

    def __init__(self, seed):
        self.random = random = Random(seed)
        self.refused = frozenset(random.choice([(), (), ("level2",)]))
        held = random.choice([(), (), [LEVEL2], [BATCH], [LEVEL2, BATCH]])
        demand = Demand(held, linger_s=random.choice([0, 0.2]))
        self.tape = Tape(random.choice([10**6, 10**6, 3000]))
        self.pipe = Pipe.build(self.tape, demand, Catalogue(), trio.current_time)
        self.sessions = Sessions()
        self.broker = Broker(self.pipe, self.sessions)
        self.truth = {product_id: {} for product_id in PRODUCTS}
        self.flowing = {}
        self.remembered = frozenset()
        self.clients = []
        self.messages = []  # so that ids stay unique
        self.pauses = random.choice([(0,), (0, 0.001, 0.01), (0, 0.01, 0.06, 0.3)])

    async def pause(self):
        pause = self.random.choice(self.pauses)
        if pause:
            await trio.sleep(pause)
        else:
            await trio.lowlevel.checkpoint()

    # -- the exchange

    def price(self, side):
        return str(self.random.randint(1, 9) + (100 if side == "sell" else 0))

    def changes(self, product_id, most):
        book = self.truth[product_id]
        found = []
        for _ in range(self.random.randint(1, most)):
            side = self.random.choice(["buy", "sell"])
            price = self.price(side)
            if self.random.random() < 0.4:
                found.append([side, price, self.random.choice(["0", "0.00"])])  # may be missing
                book.pop((side, Decimal(price)), None)
            else:
                size = str(self.random.randint(1, 9))
                found.append([side, price, size])
                book[side, Decimal(price)] = Decimal(size)
        return found

    def snapshot(self, product_id):
        book = self.truth[product_id]
        self.changes(product_id, 5)  # the changes that were missed
        rows = {
            side: [[str(p), str(size)] for (s, p), size in book.items() if s == side]
            for side in ("buy", "sell")
        }
        return self.message(product_id, "snapshot", bids=rows["buy"], asks=rows["sell"])

    def message(self, product_id, kind, **fields):
        channel = self.flowing[product_id].channel
        also = Topic("level2", product_id) if channel == "level2_batch" else None
        message = make_message(channel, product_id, kind=kind, also=also, **fields)
        self.messages.append(message)
        return message

    def plan(self):
        """Act as the feed does: topics wanted, snapshots to request, topics to forget."""
        wanted = self.pipe.demand.wanted(trio.current_time())
        asked = upstream_topics(wanted, self.refused)
        books = {t for t in wanted | asked if t.channel in {"level2", "level2_batch"}}
        changed, self.remembered = self.remembered != books, frozenset(books)
        messages = []
        for product_id in PRODUCTS:
            of_it = [t for t in asked if t.product_id == product_id and t in books]
            if not of_it:
                self.flowing.pop(product_id, None)
                continue
            is_late = product_id in self.flowing and self.random.random() < 0.5
            if self.flowing.get(product_id) != of_it[0] and not is_late:
                self.flowing[product_id] = of_it[0]
                messages.append(self.snapshot(product_id))
        messages += [
            self.snapshot(topic.product_id)
            for topic in sorted(self.pipe.demand.take_snapshots())
            if self.flowing.get(topic.product_id) == topic
        ]
        return self.remembered if changed else None, messages

    async def feed(self, inbox, rounds):
        for _ in range(rounds):
            flows, messages = self.plan()
            for product_id in self.random.choices(PRODUCTS, k=self.random.randint(0, 4)):
                topic = self.flowing.get(product_id)
                if topic is None:
                    messages.append(make_message("ticker", product_id, 1))
                elif self.random.random() < 0.1:
                    messages.append(self.snapshot(product_id))
                else:
                    changes = self.changes(product_id, 1 if topic.channel == "level2" else 4)
                    time = trio.current_time()
                    messages.append(
                        self.message(product_id, None, changes=changes, time=f"{time:020.6f}")
                    )
            if flows is not None:
                await inbox.send(Delivery([], flows=flows))
            if messages:
                await inbox.send(Delivery(messages))
            await self.pause()

    # -- the subscribers

    def join(self):
        form = self.random.choice(FORMS)
        client = Client(form)
        client.session = Session(f"1.{len(self.clients)}", client, form, self.pipe, 100)
        self.sessions.add(client.session)
        self.clients.append(client)
        self.say(client)

    def say(self, client):
        product_id = self.random.choice(PRODUCTS)
        channel = client.channels.get(product_id)
        if channel is None:
            channel = client.channels[product_id] = self.random.choice(["level2", "level2_batch"])
            client.session.apply(command(channel, pairs=[product_id]))
        else:
            client.session.apply(command(channel, pairs=[product_id], subscribes=False))
            del client.channels[product_id]
            client.books.pop(product_id, None)
            client.ids.clear()

    async def meddle(self, rounds):
        for _ in range(rounds):
            if len(self.clients) < 3 or (self.random.random() < 0.3 and len(self.clients) < 12):
                self.join()
            client = self.random.choice(self.clients)
            if client.session.is_closed:
                pass
            elif self.random.random() < 0.2:
                self.sessions.discard(client.session)
            else:
                self.say(client)
            await self.pause()

    async def run(self):
        async with trio.open_nursery() as nursery:
            send, inbox = trio.open_memory_channel(self.random.choice([1, 8]))
            await nursery.start(self.broker.run, inbox)
            nursery.start_soon(self.pipe.snapshots.run)
            nursery.start_soon(Level2Batch(self.pipe.books).run, send.clone())
            async with trio.open_nursery() as actors:
                actors.start_soon(self.feed, send, 25)
                actors.start_soon(self.meddle, 20)
            # requested messages still arrive; then all have had time
            for _ in range(4):
                await self.feed(send, 1)
                await trio.sleep(limits.LEVEL2_BATCH_S * 3)
            nursery.cancel_scope.cancel()

    def check(self):
        for client in self.clients:
            if client.session.is_closed:
                continue
            for product_id in client.channels:
                assert client.books[product_id] == self.truth[product_id]


async def _as_if_in_a_thread(function, *arguments):
    for _ in range(3):
        await trio.lowlevel.checkpoint()
    return function(*arguments)


@settings(max_examples=60)
@given(st.integers(min_value=0, max_value=2**32))
def test_every_subscriber_s_book_is_the_true_one(seed):
    """Subscribers join, leave and return; the exchange sends, resyncs and loses messages.

    Each keeps its book of the received messages alone: never an update before a snapshot, never a
    removal of a level that it does not have, each message once. Hypothesis prints the seed.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trio.to_thread, "run_sync", _as_if_in_a_thread)
        patch.setattr(broker_module, "DEFLATE_BYTES_MIN", 1)
        patch.setattr(hub_module, "WRITES_PER_TURN_MAX", 2)
        patch.setattr(snapshots_module, "ADMISSIONS_PER_TURN_MAX", 1)
        parts = partial(snapshot_parts, levels_per_slice=2)
        patch.setattr(snapshots_module, "snapshot_parts", parts)
        load_parts = Book.load_parts
        patch.setattr(Book, "load_parts", lambda book, bids, asks: load_parts(book, bids, asks, 2))
        world = World(seed)
        trio.run(world.run, clock=MockClock(autojump_threshold=0))
    world.check()


async def test_a_snapshot_is_held_while_it_is_valid(making, autojump_clock):
    """All its forms are counted while it is held; after a second it is dropped."""
    making.join("level2")
    await making.publish(a_snapshot(levels=300))
    budget, held = making.pipe.budget, []
    for form in (WEBSOCKET, SSE[True], NDJSON[True]):
        making.join("level2", form=form)
        await wait_all_tasks_blocked()
        held.append(budget.bytes)
    await making.publish(a_change(101, 2))
    making.join("level2")
    await wait_all_tasks_blocked()
    held.append(budget.bytes)
    await trio.sleep(limits.SNAPSHOT_AGE_MAX_S + 0.01)

    assert sorted(held) == held
    assert 0 < held[0] < held[1] < held[2] < held[3]
    assert (making.pipe.snapshots.made, budget.bytes) == (1, 0)


async def test_held_snapshots_make_room_when_the_budget_is_full(making):
    """They serve late joiners only; the next one needs another snapshot then."""
    making.join("level2")
    await making.publish(a_snapshot(levels=300))
    making.join("level2")
    await wait_all_tasks_blocked()
    budget = making.pipe.budget
    budget.bytes_max = budget.bytes - 1
    budget.relieve()
    assert budget.bytes == 0
    _, late = making.join("level2")
    await wait_all_tasks_blocked()

    assert [m.type for m in late.messages] == ["snapshot"]
    assert (making.pipe.snapshots.made, budget.bytes) == (2, 0)


async def test_a_snapshot_that_the_budget_cannot_hold_still_serves_its_joiners(making):
    """It is dropped while it is delivered, and is not counted afterwards."""
    making.join("level2")
    await making.publish(a_snapshot(levels=300))
    making.pipe.budget.bytes_max = 1
    joiners = [making.join("level2")[1] for _ in range(3)]
    await wait_all_tasks_blocked()

    assert [[m.type for m in each.messages] for each in joiners] == [["snapshot"]] * 3
    assert making.pipe.budget.bytes == 0


async def test_the_snapshot_of_another_product_is_held_until_it_is_too_old_itself(
    making, autojump_clock
):
    """Each has its own second."""
    for product_id in PRODUCTS:
        making.join("level2", pairs=(product_id,))
        await making.publish(a_snapshot(product_id=product_id))
        making.join("level2", pairs=(product_id,))
        await trio.sleep(0.3)
    held = making.pipe.budget.bytes
    await trio.sleep(0.6)

    assert 0 < making.pipe.budget.bytes < held
