"""The hub: each member gets its messages in order, once, for any order of events.

The last tests are the main ones: random schedules against the simplest possible model. The tests
before them state single facts.
"""

from functools import partial
from random import Random
from types import SimpleNamespace

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from hedgehogd.domain.channel import Topic
from hedgehogd.domain.position import from_text
from hedgehogd.engine.chunk import Chunk
from hedgehogd.engine.tape import Tape, positions
from hedgehogd.fanout import hub as hub_module
from hedgehogd.fanout.hub import Hub
from hedgehogd.protocol.wire import (
    NDJSON,
    NDJSON_BARE,
    SSE,
    WEBSOCKET,
    WEBSOCKET_DEFLATE,
    WEBSOCKET_STRICT,
)
from tests.fakes import FakeMember, make_message

PRODUCTS = ["ADA-USD", "BTC-USD", "ETH-USD", "SOL-USD", "XRP-USD"]
CHANNELS = ("heartbeat", "matches", "ticker", "full")
TOPICS = [Topic(channel, p) for channel in CHANNELS for p in PRODUCTS]
HEARTBEAT, MATCHES, TICKER, FULL = (Topic(channel, "BTC-USD") for channel in CHANNELS)
FORMS = [WEBSOCKET, WEBSOCKET_STRICT, NDJSON[True], NDJSON[False], SSE[True], SSE[False]]


class Market:
    """A tape, its hub, and a market of numbered messages."""

    def __init__(self, tape_bytes_max=10**6):
        self.tape = Tape(tape_bytes_max)
        self.hub = Hub(self.tape)
        self.sequence = 100

    def place(self, *topics, form=WEBSOCKET, **options):
        member = FakeMember(form, **options)
        self.hub.place(member, frozenset(topics), form)
        return member

    def batch(self, *topics):
        """Append one message of each of ``topics`` to the tape."""
        messages = []
        for topic in topics:
            self.sequence += 1
            is_trade = topic.channel == "full" and self.sequence % 2 == 0
            also = Topic("matches", topic.product_id) if is_trade else None
            messages.append(make_message(*topic, self.sequence, also=also))
        self.tape.append(messages)
        return messages

    async def publish(self, *topics):
        messages = self.batch(*topics)
        await self.hub.publish(messages)
        return messages


@pytest.fixture
def market():
    return Market()


@pytest.fixture
def one_write_a_turn(monkeypatch):
    monkeypatch.setattr(hub_module, "WRITES_PER_TURN_MAX", 1)


def events(received):
    """Read unchunked SSE: the data and id of each event, as a browser would."""
    found = []
    for block in bytes(received).split(b"\n\n")[:-1]:
        fields = dict(line.split(b": ", 1) for line in block.split(b"\n"))
        found.append((fields.get(b"data"), from_text(fields.get(b"id", b"").decode())))
    return found


async def test_a_cohort_shares_one_chunk_a_batch(market):
    """Joining bytes per member was a third of the cost of the fan-out."""
    members = [market.place(TICKER, MATCHES) for _ in range(3)]
    other_form = market.place(TICKER, MATCHES, form=NDJSON[False])
    messages = await market.publish(TICKER, HEARTBEAT, MATCHES)

    (chunk,) = members[0].chunks
    assert [[chunk]] * 3 == [member.chunks for member in members]
    assert chunk.messages == [messages[0], messages[2]]
    assert chunk.offsets == [1, 3]
    assert other_form.data == b"".join(m.payload + b"\n" for m in chunk.messages)


async def test_no_member_is_always_last(market):
    """With thousands of members the last one gets a message milliseconds later."""
    order = []
    members = [market.place(TICKER) for _ in range(3)]
    for name, member in enumerate(members):
        member.on_write = lambda chunk, name=name: order.append(name)
    for _ in range(3):
        await market.publish(TICKER)

    firsts, lasts = order[0::3], order[2::3]
    assert [0, 1, 2] == sorted(firsts) == sorted(lasts)


async def test_a_long_batch_yields_to_other_tasks(market, monkeypatch, nursery):
    """Ten thousand writes in one turn would hold up pings, joins and the feed."""
    monkeypatch.setattr(hub_module, "WRITES_PER_TURN_MAX", 4)
    monkeypatch.setattr(hub_module, "FORMED_PER_TURN_MAX", 100)
    members = [market.place(TICKER) for _ in range(10)]

    turns = await written_after_turns(market, members, nursery)

    assert set(turns) <= {0, 4, 8, 10}
    assert {4, 8} & set(turns)


async def test_forming_for_many_cohorts_yields_to_other_tasks(market, monkeypatch, nursery):
    """Subscribers of different topics share no bytes, which cost more than their writes."""
    monkeypatch.setattr(hub_module, "WRITES_PER_TURN_MAX", 8)
    monkeypatch.setattr(hub_module, "FORMED_PER_TURN_MAX", 2)
    topics = [Topic("matches", f"A{n}-USD") for n in range(10)]
    members = [market.place(TICKER, topic, form=SSE[True]) for topic in topics]

    turns = await written_after_turns(market, members, nursery)

    assert set(turns) <= {0, 2, 4, 6, 8, 10}
    assert {2, 4, 6, 8} & set(turns)


async def test_members_that_end_together_end_in_several_turns(market, nursery):
    """Each frees its backlog: 250 of them held up every other task for 58 ms."""
    members = [market.place(TICKER, chunks_max=0) for _ in range(10)]
    left = []

    async def other():
        while True:
            left.append(sum(member.cohort is not None for member in members))
            await trio.lowlevel.checkpoint()

    for member in members:
        member.session = SimpleNamespace(close=partial(market.hub.remove, member))
    nursery.start_soon(other)
    await market.publish(TICKER)
    nursery.cancel_scope.cancel()

    assert len(set(left)) > 3


async def test_routing_to_many_cohorts_yields_to_other_tasks(market, monkeypatch, nursery):
    """A batch of 256 messages for 250 cohorts held up every other task for 13 ms."""
    monkeypatch.setattr(hub_module, "ROUTED_PER_TURN_MAX", 20)
    for n in range(10):
        market.place(TICKER, Topic("matches", f"A{n}-USD"))
    late = []

    async def other():
        while True:
            late.append(market.place(TICKER))
            await trio.lowlevel.checkpoint()

    nursery.start_soon(other)
    await market.publish(*[TICKER] * 10)
    nursery.cancel_scope.cancel()

    assert len(late) > 3
    assert [len(member.messages) for member in late if member.served_to == market.tape.end] == [
        0
    ] * len(late)


async def test_nothing_is_formed_for_a_cohort_without_members(market):
    """Subscribers that move between topics while a batch is written leave such cohorts."""
    stays, leaves = market.place(TICKER), market.place(TICKER, MATCHES)
    cohort = leaves.cohort
    stays.on_write = lambda chunk: market.hub.remove(leaves)
    await market.publish(TICKER)

    assert [len(member.chunks) for member in (stays, leaves)] == [1, 0]
    assert cohort.pending == []


async def written_after_turns(market, members, nursery):
    """Publish a ticker; return how many members had it after each turn of the loop."""
    turns = []

    async def other():
        while True:
            turns.append(sum(len(member.chunks) for member in members))
            await trio.lowlevel.checkpoint()

    nursery.start_soon(other)
    await market.publish(TICKER)
    nursery.cancel_scope.cancel()
    return turns


async def test_deliveries_are_counted(market):
    """Operators see them by kind of stream."""
    frames, lines = market.place(TICKER), market.place(TICKER, MATCHES, form=NDJSON[True])
    market.place(HEARTBEAT, form=SSE[True])
    await market.publish(TICKER, MATCHES)
    (ticker,) = frames.messages
    market.hub.deliver(frames, [ticker], [1])

    assert market.hub.deliveries == {"websocket": 2, "ndjson": 2}
    assert market.hub.bytes_out == len(frames.data) + len(lines.data)


async def test_listeners_are_members_of_the_topic_on_streams_with_notices(market):
    """Coinbase's own clients would fail on a notice; a stream of bare lines is ended instead."""
    both, sse = market.place(TICKER, MATCHES), market.place(MATCHES, form=SSE[True])
    lines = market.place(MATCHES, form=NDJSON[True])
    market.place(TICKER)
    market.place(MATCHES, form=WEBSOCKET_STRICT)
    bare = market.place(MATCHES, form=NDJSON_BARE[True])
    market.place(TICKER, form=NDJSON_BARE[True])

    assert market.hub.listeners(MATCHES) == [both, sse, lines]
    assert market.hub.ended_by_gaps(MATCHES) == [bare]
    assert market.hub.listeners(HEARTBEAT) == market.hub.ended_by_gaps(HEARTBEAT) == []


async def test_a_trade_of_full_reaches_members_of_either_topic_once(market):
    """Matches are made from full; a subscriber of both must not get a trade twice."""
    market.sequence = 1
    full, matches, both = market.place(FULL), market.place(MATCHES), market.place(FULL, MATCHES)
    event = market.place(MATCHES, form=SSE[False])
    trade, other = await market.publish(FULL, FULL)

    assert trade.also == MATCHES
    assert other.also is None
    assert full.messages == both.messages == [trade, other]
    assert matches.messages == event.messages == [trade]
    assert [ids for _, ids in events(event.data)] == [{MATCHES: 2}]


async def test_rfq_matches_reach_members_of_all_products_or_of_that_one_once(market):
    """One channel of the exchange serves both."""
    everything, one, other = (Topic("rfq_matches", p) for p in ("", "BTC-USD", "ETH-USD"))
    members = [
        market.place(*topics) for topics in ([everything], [one], [other], [everything, one])
    ]
    message = make_message(*one, also=everything)
    market.tape.append([message])
    await market.hub.publish([message])

    assert [member.messages for member in members] == [[message], [message], [], [message]]


async def test_the_schema_of_level3_reaches_every_member_of_level3(market):
    """It has no product; without it the arrays are meaningless (COINBASE §6.13)."""
    schema, level3 = Topic("level3", ""), [Topic("level3", p) for p in PRODUCTS[:2]]
    members = [market.place(level3[0]), market.place(*level3, TICKER)]
    market.place(TICKER)
    messages = await market.publish(schema, level3[1])

    assert [member.messages for member in members] == [messages[:1], messages]
    for member in members:
        market.hub.remove(member)
    assert market.hub.topics("level3") == []


async def test_large_messages_are_compressed_for_members_with_compression(market):
    """20 µs without such a member are 20 µs too much."""
    market.place(TICKER, MATCHES)
    assert not market.hub.deflates(TICKER)
    market.place(TICKER, form=WEBSOCKET_DEFLATE)

    assert market.hub.deflates(TICKER)
    assert not market.hub.deflates(MATCHES)


@pytest.mark.usefixtures("one_write_a_turn")
async def test_a_member_moved_by_its_owed_messages_gets_them_once(market):
    """They may overflow its backlog, and conflation drops its books: a move within a move."""
    trigger, mover = market.place(HEARTBEAT), market.place(MATCHES, TICKER)
    trigger.on_write = lambda chunk: market.hub.place(mover, frozenset({TICKER}), WEBSOCKET)
    mover.on_write = lambda chunk: market.hub.place(mover, frozenset({FULL}), WEBSOCKET)
    batch = await market.publish(HEARTBEAT, MATCHES)

    assert mover.messages == batch[1:]
    assert mover.cohort.topics == {FULL}


async def test_topics_are_those_with_members(market):
    """A topic without members is not derived, and not kept after the last one leaves."""
    first, second = market.place(TICKER, MATCHES), market.place(TICKER, form=SSE[True])
    other = market.place(Topic("ticker", "ETH-USD"))
    assert market.hub.topics("ticker") == [TICKER, Topic("ticker", "ETH-USD")]

    market.hub.place(first, frozenset({MATCHES}), WEBSOCKET)
    market.hub.remove(other)
    assert market.hub.topics("ticker") == [TICKER]

    for member in (first, second, other):
        market.hub.remove(member)
    assert [market.hub.topics(channel) for channel in ("ticker", "matches")] == [[], []]
    assert market.hub._cohorts == {}


async def test_delivering_to_a_member_without_topics_is_an_error(market):
    """It has no wire form: the call is a bug, and must not look like a quiet market."""
    member = market.place()

    with pytest.raises(AssertionError):
        market.hub.deliver(member, [make_message("ticker")], [1])
    with pytest.raises(AssertionError):
        market.hub.deliver_chunk(member, Chunk([b"x"], [make_message("ticker")], [1]))


async def test_a_member_that_leaves_during_a_batch_gets_nothing_more(market):
    """Bytes after a farewell would be a broken stream."""
    first, second = market.place(TICKER), market.place(TICKER)
    first.on_write = lambda chunk: market.hub.remove(second)
    second.on_write = lambda chunk: market.hub.remove(first)
    await market.publish(TICKER)
    await market.publish(TICKER)

    assert sorted([len(first.chunks), len(second.chunks)]) == [0, 2]


@pytest.mark.usefixtures("one_write_a_turn")
async def test_a_member_that_moves_during_a_batch_is_owed_only_its_old_topics(market):
    """The new ones begin when the move is answered; the old ones were promised before."""
    trigger, mover = market.place(HEARTBEAT), market.place(MATCHES)
    trigger.on_write = lambda chunk: market.hub.place(mover, frozenset({TICKER}), WEBSOCKET)
    batch = await market.publish(HEARTBEAT, MATCHES, TICKER)
    trigger.on_write = lambda chunk: None
    batch += await market.publish(MATCHES, TICKER)

    assert mover.messages == [batch[1], batch[4]]


async def test_a_member_that_moves_during_a_batch_of_other_topics_is_owed_nothing(market):
    """An empty write would still cost a system call."""
    trigger, mover = market.place(HEARTBEAT), market.place(MATCHES)
    trigger.on_write = lambda chunk: market.hub.place(mover, frozenset({TICKER}), WEBSOCKET)
    await market.publish(HEARTBEAT)

    assert mover.chunks == []


async def test_a_trade_of_full_follows_one_of_matches_in_one_chunk(market):
    """A subscriber of ``matches`` gets both in one write."""
    member = market.place(MATCHES)
    market.sequence = 100
    batch = await market.publish(MATCHES, FULL)

    assert [message.topic for message in batch] == [MATCHES, FULL]
    assert member.messages == batch
    assert len(member.chunks) == 1


async def test_a_mover_gets_the_whole_batch_from_a_tape_smaller_than_it():
    """A book's snapshot may be larger than the tape that an operator chose."""
    market = Market(tape_bytes_max=1)
    trigger, mover = market.place(HEARTBEAT), market.place(MATCHES)
    trigger.on_write = lambda chunk: market.hub.place(mover, frozenset({TICKER}), WEBSOCKET)
    batch = await market.publish(HEARTBEAT, MATCHES, MATCHES, TICKER)

    assert mover.messages == batch[1:3]


async def test_a_member_ended_by_its_owed_messages_is_not_placed(market):
    """The hub would write to a closed subscriber in a cohort until its peer disconnects."""
    trigger, slow = market.place(HEARTBEAT), market.place(MATCHES, chunks_max=0)

    class Closing:
        def close(self):
            market.hub.remove(slow)

    slow.session = Closing()
    trigger.on_write = lambda chunk: market.hub.place(slow, frozenset({TICKER}), WEBSOCKET)
    await market.publish(HEARTBEAT, MATCHES)

    assert slow.ends == [(4001, "slow_consumer")]
    assert slow.cohort is None
    assert market.hub.topics("ticker") == []


async def test_an_event_states_the_position_up_to_itself(market):
    """A client that is disconnected anywhere resumes at exactly the next message."""
    reader = market.place(TICKER, MATCHES, HEARTBEAT, form=SSE[False])
    await market.publish(MATCHES, HEARTBEAT, TICKER)
    await market.publish(MATCHES)

    assert [ids for _, ids in events(reader.data)] == [
        {MATCHES: 101},
        {MATCHES: 101},
        {MATCHES: 101, TICKER: 103},
        {MATCHES: 104, TICKER: 103},
    ]


async def test_with_many_topics_only_the_last_event_of_a_batch_states_a_position(market):
    """Nine topics are 250 bytes of id; every event with it would double the stream."""
    reader = market.place(*TOPICS[5:14], form=SSE[False])
    await market.publish(*TOPICS[5:8])

    assert [ids for _, ids in events(reader.data)] == [
        {},
        {},
        {TOPICS[5]: 101, TOPICS[6]: 102, TOPICS[7]: 103},
    ]


async def test_messages_for_one_member_state_its_position_once_at_the_end(market):
    """The cohort's own position may be in the middle of a batch."""
    await market.publish(MATCHES)
    reader = market.place(TICKER, MATCHES, form=SSE[False])
    state = [make_message("matches", sequence=101), make_message("ticker", sequence=90)]
    market.hub.deliver(reader, state, [2, 2])

    assert [ids for _, ids in events(reader.data)] == [{}, {MATCHES: 101}]


class Subscriber(FakeMember):
    """A member with a record of the messages that it is due.

    Attributes:
        due: every message of its topics published while it had them, in order.
        topics_at: its topics at each message, to check the stated positions.
        is_gone: it was removed, or ended by itself.
        is_moving: a ``place`` of it is under way.
    """

    __slots__ = ("due", "is_gone", "is_moving", "topics", "topics_at")

    def __init__(self, form):
        super().__init__(form)
        self.topics = frozenset()
        self.due = []
        self.topics_at = []
        self.is_gone = False
        self.is_moving = False


class Oracle(Market):
    """A random schedule, and the simplest model of its result."""

    def __init__(self, seed):
        self.random = Random(seed)
        super().__init__(self.random.choice([1, 10**6]))
        self.members = []
        self.topics = self.random.sample(TOPICS, self.random.randint(2, len(TOPICS)))
        self.meddling = self.random.choice([0.0, 0.1, 0.5])
        self.depth = 0
        for _ in range(self.random.randint(1, 6)):
            self.join()

    def choice_of_topics(self):
        if self.members and self.random.random() < 0.5:
            return self.random.choice(self.members).topics  # so that cohorts are shared
        return frozenset(self.random.sample(self.topics, self.random.randint(0, len(self.topics))))

    def join(self):
        member = Subscriber(self.random.choice(FORMS))
        member.on_write = lambda chunk: self.after_write(member)
        self.move(member, self.choice_of_topics())
        self.members.append(member)

    def move(self, member, topics):
        member.is_moving = True
        self.hub.place(member, topics, member.form)
        member.is_moving = False
        if not member.is_gone:
            member.topics = topics
            assert member.due == member.messages  # messages of old topics, and none of new ones

    def remove(self, member):
        self.hub.remove(member)
        member.is_gone = True
        member.topics = frozenset()

    def act(self):
        """Join, move, leave or be removed, whichever is possible."""
        member = self.random.choice(self.members)
        free = not (member.is_gone or member.is_moving)
        match self.random.randrange(4):
            case 0 if len(self.members) < 20:
                self.join()
            case 1 | 2 if free:
                self.move(member, self.choice_of_topics())
            case 3 if free and self.random.random() < 0.3:
                self.remove(member)

    def after_write(self, member):
        """Act in the middle of a write; sometimes the write ends the member."""
        assert not member.is_gone
        member.topics_at += [member.topics] * (len(member.messages) - len(member.topics_at))
        if self.random.random() < self.meddling / 5:
            self.remove(member)
        if self.depth < 3 and self.random.random() < self.meddling:
            self.depth += 1
            self.act()
            self.depth -= 1

    def batch(self, *topics):
        messages = super().batch(*topics)
        for member in self.members:
            member.due += [m for m in messages if member.topics & {m.topic, m.also}]
        return messages

    async def run(self):
        async def change_members():
            while True:
                if self.random.random() < self.meddling:
                    self.act()
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(change_members)
            for _ in range(12):
                await self.publish(*self.random.choices(self.topics, k=self.random.randint(1, 6)))
                self.check_deliveries()
                if self.random.random() < 0.3:
                    self.act()
            nursery.cancel_scope.cancel()

    def check_deliveries(self):
        for member in self.members:
            if member.is_gone:
                del member.due[len(member.messages) :]
            assert member.due == member.messages


SEEDS = st.integers(min_value=0, max_value=2**32)


async def run_schedule(seed):
    """Run one; Hypothesis prints the seed that fails, and seeds trio's own choices too."""
    oracle = Oracle(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hub_module, "WRITES_PER_TURN_MAX", oracle.random.randint(1, 4))
        patch.setattr(hub_module, "ROUTED_PER_TURN_MAX", oracle.random.choice([1, 3, 1000]))
        await oracle.run()
    return oracle


@given(SEEDS)
async def test_each_member_gets_its_messages_in_order_once(seed):
    """Members join, move, leave or break at any time: no gap and no repeat."""
    oracle = await run_schedule(seed)

    for member in oracle.members:
        pieces = b"".join(piece for chunk in member.chunks for piece in chunk.pieces)
        assert pieces == member.data
        if not member.form.states_position:
            data = [member.form.data(message, "") for message in member.due]
            assert b"".join(data) == member.data
    written = sum(chunk.count for member in oracle.members for chunk in member.chunks)
    assert oracle.hub.deliveries.total() == written
    assert oracle.hub.bytes_out == sum(len(member.data) for member in oracle.members)


@given(SEEDS)
async def test_an_event_id_covers_exactly_the_messages_up_to_it(seed):
    """A browser that resumes with the last id that it received misses no message of its topics."""
    oracle = await run_schedule(seed)

    for member in oracle.members:
        if member.form is not SSE[False]:
            continue
        found = events(member.data)
        assert [message.payload for message in member.messages] == [data for data, _ in found]
        seen = {}
        for index, (_, ids) in enumerate(found):
            message = member.messages[index]
            seen |= dict.fromkeys(positions(message), message.sequence)
            later = member.due[index + 1 :]
            for topic, sequence in ids.items():
                assert topic in member.topics_at[index]
                assert seen.get(topic, sequence) <= sequence
                assert all(m.sequence > sequence for m in later if topic in positions(m))
            if ids:
                had = member.topics_at[index] & seen.keys()
                assert had <= ids.keys()
