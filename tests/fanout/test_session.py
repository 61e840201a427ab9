"""Sessions: first the state, and from then on each message once, without a gap."""

import json
from itertools import pairwise
from random import Random

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from hedgehogd.arbitration.batch import Refusal
from hedgehogd.domain import limits
from hedgehogd.domain.channel import Topic
from hedgehogd.engine.chunk import Chunk
from hedgehogd.fanout import hub as hub_module
from hedgehogd.protocol.wire import NDJSON, NDJSON_BARE, SSE, WEBSOCKET, WEBSOCKET_STRICT
from tests.fakes import make_message, make_row
from tests.fanout.conftest import Plumbing, command

MATCHES, TICKER = Topic("matches", "BTC-USD"), Topic("ticker", "BTC-USD")


def texts(member):
    """Return the sequence and type of each message that a member received."""
    return [f"{message.sequence} {message.type}" for message in member.messages]


async def test_a_new_subscriber_gets_the_state_and_then_each_message(plumbing):
    """As with Coinbase; a page must not stay empty until the next trade."""
    await plumbing.publish(
        make_message("matches", sequence=6, trade_id=1),
        make_message("ticker", sequence=6),
        make_message("matches", sequence=7, trade_id=2),
        make_message("ticker", sequence=7),
        make_message("status", ""),
        make_message("ticker", "ETH-USD", 9),
    )
    _, member = plumbing.join("status", "ticker", "matches", "heartbeat")
    await plumbing.publish(make_message("matches", sequence=8), make_message("ticker", sequence=8))

    assert texts(member) == ["7 last_match", "None status", "7 ticker", "8 match", "8 ticker"]


async def test_state_is_sent_for_new_topics_only(plumbing):
    """A second subscribe must not look like a second last trade."""
    await plumbing.publish(make_message("ticker", sequence=6), make_message("matches", sequence=6))
    session, member = plumbing.join("ticker")
    session.apply(command("ticker", "matches"))
    session.apply(command("ticker", "matches"))

    assert texts(member) == ["6 ticker", "6 last_match"]


async def test_without_state_none_is_sent(plumbing):
    """The first subscriber of a topic gets the exchange's own."""
    _, member = plumbing.join("ticker", "matches", "status", "level2")

    assert member.chunks == []


async def test_waiting_state_does_not_move_the_position(plumbing):
    """A position covers the messages delivered before it: all of the tape, but not the state."""
    session, member = plumbing.join("matches")
    await plumbing.publish(make_message("ticker", sequence=5), make_message("matches", sequence=6))
    session.apply(command("ticker"))
    _, greeting = member.chunks

    assert session.position(greeting.offsets[0] - 1) == {MATCHES: 6, TICKER: 5}


async def test_the_answer_is_errors_and_then_the_whole_state(plumbing):
    """Coinbase's clients wait for exactly that."""
    session, _ = plumbing.join("ticker")
    subscribed = session.answer(command("ticker", "status", pairs=["ETH-USD", "no product"]))
    unsubscribed = session.answer(command("ticker", subscribes=False)._replace(errors=("what?",)))

    assert [json.loads(text) for text in subscribed] == [
        {
            "type": "error",
            "message": "Failed to subscribe",
            "reason": "no product is not a valid product",
        },
        {
            "type": "subscriptions",
            "channels": [
                {"name": "ticker", "product_ids": ["BTC-USD", "ETH-USD"], "account_ids": None},
                {"name": "status", "product_ids": [], "account_ids": None},
            ],
        },
    ]
    error, state = map(json.loads, unsubscribed)
    assert error == {"type": "error", "message": "Failed to unsubscribe", "reason": "what?"}
    assert state["channels"][0]["product_ids"] == ["ETH-USD"]


@pytest.mark.parametrize(
    ("form", "expected"), [(WEBSOCKET, {TICKER}), (SSE[True], {TICKER}), (NDJSON_BARE[True], set())]
)
async def test_conflation_needs_a_form_with_notices(plumbing, form, expected):
    """Messages that disappear without a notice are a loss."""
    session, _ = plumbing.open(form)
    session.apply(command("ticker", policy="conflate"))

    assert session.subscription.conflated == expected


async def test_a_closed_session_leaves_all_topics_and_receives_nothing(plumbing):
    """Its peer may stay for seconds, at no cost upstream or in the hub."""
    session, member = plumbing.join("ticker", "level2")
    session.close()
    session.close()
    assert (plumbing.wanted, session.is_closed, member.cohort) == ([], True, None)

    session.apply(command("matches", "level2"))
    await plumbing.publish(
        make_message("level2", kind="snapshot"),
        make_message("ticker", sequence=5),
        make_message("matches", sequence=5),
    )
    assert (plumbing.wanted, member.chunks) == ([], [])
    assert session.position(plumbing.pipe.tape.end) == {}


async def test_closing_twice_releases_once(plumbing):
    """Otherwise the second close would release the topic of another subscriber."""
    (leaver, _), (_, stayer) = plumbing.join("ticker"), plumbing.join("ticker")
    leaver.close()
    leaver.close()

    assert plumbing.wanted == ["ticker:BTC-USD"]
    await plumbing.publish(make_message("ticker", sequence=1))
    assert texts(stayer) == ["1 ticker"]


async def test_a_session_ended_by_its_state_leaves_no_demand(plumbing):
    """The state can exceed its backlog; the topic must not be held for ever."""
    await plumbing.publish(make_message("ticker", sequence=1), make_message("matches", sequence=1))
    session, member = plumbing.open(chunks_max=1)
    session.apply(command("matches"))
    session.apply(command("ticker", "level2"))

    assert session.is_closed
    assert (plumbing.wanted, member.cohort) == ([], None)


async def test_a_session_ended_by_the_running_batch_joins_nothing(plumbing):
    """The owed messages can exceed its backlog; then it has left before it joins."""
    session, member = plumbing.open(chunks_max=0)
    session.apply(command("matches"))
    _, trigger = plumbing.join("heartbeat")
    trigger.on_write = lambda chunk: session.apply(command("ticker"))
    await plumbing.publish(
        make_message("ticker", sequence=1),
        make_message("heartbeat", sequence=1),
        make_message("matches", sequence=1),
    )

    assert (member.ends, member.cohort) == ([(4001, "slow_consumer")], None)
    plumbing.sessions.discard(session)
    assert plumbing.wanted == []


async def test_a_refused_product_is_dropped_and_reported(plumbing):
    """In the exchange's own words, as if the subscriber were connected to it."""
    _, member = plumbing.join("ticker", "level2", pairs=["BTC-USD", "NO-USD"])
    _, other = plumbing.join("ticker")
    refusal = Refusal("NO-USD", "Failed to subscribe", "NO-USD is not a valid product")
    await plumbing.publish(refusals=[refusal])

    error, state = map(json.loads, member.notices)
    assert error == {"type": "error", "message": refusal.message, "reason": refusal.reason}
    assert [row["product_ids"] for row in state["channels"]] == [["BTC-USD"], ["BTC-USD"]]
    assert other.notices == []
    assert plumbing.wanted == ["level2:BTC-USD", "ticker:BTC-USD"]
    assert member.ends == []


async def test_a_refusal_without_a_message_gets_the_default_one(plumbing):
    """A client reads ``message`` first."""
    session, member = plumbing.join("ticker", form=WEBSOCKET_STRICT)
    session.refuse(Refusal("BTC-USD", "", "BTC-USD is delisted"))

    assert json.loads(member.notices[0])["message"] == "Failed to subscribe"
    assert json.loads(member.notices[1])["channels"] == []


async def test_a_stream_that_cannot_carry_a_refusal_ends_with_it(plumbing):
    """An NDJSON client would wait for a product that will never arrive."""
    session, member = plumbing.join("ticker", form=NDJSON_BARE[True])
    session.refuse(Refusal("BTC-USD", "", "BTC-USD is delisted"))

    assert member.ends == [(1008, "refused_product")]
    assert session.is_closed


async def test_a_book_begins_with_its_snapshot(plumbing):
    """Changes without the state that they change are useless, or a wrong book."""
    _, early = plumbing.join("level2")
    await plumbing.publish(make_message("level2", kind="snapshot"))
    _, late = plumbing.join("level2", "ticker")
    await plumbing.publish(
        make_message("level2", sequence=1),
        make_message("ticker", sequence=2),
        make_message("level2", sequence=3, kind="snapshot"),
        make_message("level2", sequence=4),
    )

    assert texts(early) == ["None snapshot", "1 l2update", "3 snapshot", "4 l2update"]
    assert texts(late) == ["2 ticker", "3 snapshot", "4 l2update"]


async def test_books_arrive_each_with_its_own_snapshot(plumbing):
    """A small book must not wait for a large one."""
    session, member = plumbing.join("level2", pairs=["AAA-USD", "BBB-USD", "CCC-USD"])
    await plumbing.publish(
        make_message("level2", "BBB-USD", 1),
        make_message("level2", "AAA-USD", 2, "snapshot"),
        make_message("level2", "BBB-USD", 3),
        make_message("level2", "AAA-USD", 4),
        make_message("level2", "BBB-USD", 5, "snapshot"),
    )
    session.apply(command("level2", pairs=["CCC-USD"], subscribes=False))
    await plumbing.publish(
        make_message("level2", "CCC-USD", 6, "snapshot"), make_message("level2", "BBB-USD", 7)
    )

    assert texts(member) == ["2 snapshot", "4 l2update", "5 snapshot", "7 l2update"]


async def test_a_session_that_waits_no_longer_does_not_join(plumbing):
    """It has unsubscribed or closed: the snapshot is not for it."""
    unsubscriber, first = plumbing.join("level2", "ticker")
    leaver, second = plumbing.join("level2")
    unsubscriber.apply(command("level2", subscribes=False))
    leaver.close()
    assert plumbing.pipe.snapshots._waiting == {}

    await plumbing.publish(make_message("level2", kind="snapshot"))
    assert first.chunks + second.chunks == []


async def test_a_session_with_both_books_gets_the_exchanges_snapshot_once(plumbing):
    """It begins level2 and level2_batch."""
    _, member = plumbing.join("level2", "level2_batch")
    await plumbing.publish(make_message("level2", kind="snapshot"))

    assert texts(member) == ["None snapshot"]


async def test_a_dropped_book_starts_again_when_the_backlog_has_room(plumbing):
    """Dropped changes would make all later ones wrong."""
    session, member = plumbing.join("level2", "ticker")
    await plumbing.publish(make_message("level2", kind="snapshot", bids=[["1", "1"]], asks=[]))
    book = Topic("level2", "BTC-USD")
    session.step_aside([book, Topic("level2", "XRP-USD")])
    await plumbing.publish(
        make_message("level2", changes=[["buy", "1", "2"]]), make_message("ticker", sequence=9)
    )
    assert texts(member) == ["None snapshot", "9 ticker"]

    session.step_in()
    assert list(plumbing.pipe.snapshots._waiting) == [book]
    await plumbing.publish(make_message("level2", kind="snapshot", bids=[["1", "3"]], asks=[]))
    assert texts(member)[2:] == ["None snapshot"]


async def test_a_book_that_is_too_much_again_is_not_continued(plumbing):
    """Its snapshot was dropped as it was written: no update may follow it."""
    session, member = plumbing.join("level2", "ticker")
    book = Topic("level2", "BTC-USD")
    snapshot, update = make_message("level2", kind="snapshot"), make_message("level2")
    member.on_write = lambda chunk: session.step_aside([book])
    chunks = [Chunk([m.frame], [m], [1]) for m in (snapshot, update)]
    session.admit(book, chunks)

    assert member.messages == [snapshot]
    assert member.cohort.topics == {Topic("ticker", "BTC-USD")}


async def test_a_session_ended_by_its_snapshot_gets_nothing_after_it(plumbing):
    """Bytes after a farewell would be a broken stream."""
    session, member = plumbing.join("level2", chunks_max=0)
    chunks = [Chunk([b"x"], [make_message("level2")], [1])] * 2
    session.admit(Topic("level2", "BTC-USD"), chunks)

    assert (len(member.ends), session.is_closed, member.cohort) == (1, True, None)


async def test_level3_begins_with_its_schema(plumbing):
    """The first subscriber gets the exchange's own, later ones the kept one; each once."""
    schema = make_message("level3", "", schema={})
    _, first = plumbing.join("level3", pairs=["BTC-USD", "ETH-USD"])
    await plumbing.publish(schema)
    _, late = plumbing.join("level3", pairs=["BTC-USD", "ETH-USD"])
    row = make_row("done", "BTC-USD", 7, "a", "t")
    await plumbing.publish(row)

    assert first.messages == late.messages == [schema, row]


TRADES = [{"trade_id": n} for n in range(1, 4)]


def backfilled(member):
    return [json.loads(notice) for notice in member.notices]


async def test_a_returning_subscriber_of_matches_gets_the_backfilled_trades(plumbing, monkeypatch):
    """It was away when the notice was sent, and does not know that it missed them."""
    monkeypatch.setattr("hedgehogd.fanout.session.BACKFILL_CHUNK_TRADES_MAX", 2)
    plumbing.pipe.backfilled.add("BTC-USD", TRADES, 0.0)
    plumbing.now = limits.BACKFILLED_KEEP_S - 1
    session, member = plumbing.join("matches", "ticker")
    session.apply(command("matches"))
    _, other = plumbing.join("ticker", "full")
    _, strict = plumbing.join("matches", form=WEBSOCKET_STRICT)

    notice = {"type": "backfilled", "product_id": "BTC-USD"}
    assert backfilled(member) == [
        {**notice, "trades": TRADES[:2]},
        {**notice, "trades": TRADES[2:]},
    ]
    assert other.notices + strict.notices == []
    plumbing.now += 1
    assert plumbing.join("matches")[1].notices == []


async def test_of_many_backfilled_trades_the_newest_are_sent_again(plumbing, monkeypatch):
    """All of them would exceed the space for messages other than data."""
    monkeypatch.setattr("hedgehogd.fanout.session.BACKFILL_RETOLD_TRADES_MAX", 2)
    plumbing.pipe.backfilled.add("BTC-USD", TRADES, 0.0)
    _, member = plumbing.join("matches")

    assert [notice["trades"] for notice in backfilled(member)] == [TRADES[1:]]


@pytest.mark.parametrize(
    ("product_ids", "concerned"), [({"BTC-USD"}, True), ({"X-Y", "BTC-USD"}, True), (set(), False)]
)
async def test_a_product_concerns_each_session_with_a_topic_of_it(plumbing, product_ids, concerned):
    """Also a session that waits for the book's snapshot, and is in no cohort yet."""
    session, _ = plumbing.join("level2")

    topics = frozenset(Topic("level2", product_id) for product_id in product_ids)
    assert session.has_any(topics) == concerned
    session.close()
    assert not session.has_any(topics)


async def test_statistics_are_the_member_s(plumbing):
    """REST shows them beside the subscription."""
    session, _ = plumbing.join("ticker")
    await plumbing.publish(make_message("ticker", sequence=1))

    assert session.statistics() == (1, 0, 0, 0.0)


PRODUCTS = ["BTC-USD", "ETH-USD"]
CHANNELS = [
    "ticker", "ticker_batch", "matches", "full", "level2", "level2_batch", "heartbeat", "status",
]  # fmt: skip
BOOKS = {"level2", "level2_batch"}
FEED = [
    Topic(channel, product_id)
    for channel in ("ticker", "matches", "full", "level2", "level2_batch", "heartbeat")
    for product_id in PRODUCTS
]
FEED.append(Topic("status", ""))


class Witness:
    """A session, and the messages that it must receive.

    Attributes:
        since: its topics, each with the end of the tape when it subscribed.
        due: offset and message of all messages that it is due, except for state.
        greetings: topic and sequence of the state it is due when it subscribes.
    """

    def __init__(self, session, member):
        self.session, self.member = session, member
        self.since = {}
        self.due = []
        self.greetings = []


class Schedule:
    """A random schedule of deliveries and commands, and the simplest model of the result."""

    def __init__(self, seed):
        self.random = Random(seed)
        self.plumbing = Plumbing()
        self.log = [None]  # the messages of the tape, by offset
        self.newest = {}
        self.witnesses = []
        self.busy = False
        self.meddling = self.random.choice([0.0, 0.2, 0.6])
        self.slowness = self.random.choice([0.0, 0.2, 0.6])
        self.names = self.random.sample(CHANNELS, self.random.randint(2, 5))  # few: cohorts meet
        self.pairs = self.random.sample(PRODUCTS, self.random.randint(1, 2))
        self.forms = self.random.sample([WEBSOCKET, SSE[True], NDJSON[False]], 2)
        tape = self.plumbing.pipe.tape
        self.append, tape.append = tape.append, self.append_and_note
        for _ in range(3):
            self.join()

    def append_and_note(self, messages):
        """Record the due messages of each session, in the turn in which they are published."""
        self.append(messages)
        for message in messages:
            self.log.append(message)
            offset = len(self.log) - 1
            for topic in (message.topic, message.also):
                if topic is not None and topic.channel in {"ticker", "matches", "status"}:
                    self.newest[topic] = message
            for witness in self.witnesses:
                is_due = any(
                    topic in witness.since and self.has_begun(topic, witness.since[topic], offset)
                    for topic in (message.topic, message.also)
                )
                if is_due and not witness.session.is_closed:
                    witness.due.append((offset, message))

    def has_begun(self, topic, since, offset):
        return topic.channel not in BOOKS or any(
            topic in {earlier.topic, earlier.also} and earlier.type == "snapshot"
            for earlier in self.log[since + 1 : offset + 1]
        )

    def join(self):
        chunks_max = self.random.randint(0, 6) if self.random.random() < self.slowness else None
        witness = Witness(*self.plumbing.open(self.random.choice(self.forms), chunks_max))
        witness.member.on_write = lambda chunk: self.act(0.3)
        self.witnesses.append(witness)
        self.send_command(witness)

    def send_command(self, witness):
        """Send a random command, and record the messages that have to follow."""
        session = witness.session
        names = self.random.sample(self.names, self.random.randint(1, len(self.names)))
        pairs = self.random.sample(self.pairs, self.random.randint(1, len(self.pairs)))
        sent = command(*names, pairs=pairs, subscribes=self.random.random() < 0.7)
        end = len(self.log) - 1
        session.apply(sent)
        if session.is_closed:
            return
        topics = session.subscription.topics()
        greetings = {}
        for topic in sorted(topics - witness.since.keys()):
            name = "ticker" if topic.channel == "ticker_batch" else topic.channel
            state = self.newest.get(topic._replace(channel=name))
            if state is not None:
                greetings[topic._replace(channel=name), state.sequence] = None
        witness.greetings += greetings
        witness.since = {topic: witness.since.get(topic, end) for topic in topics}

    def act(self, likelihood=1.0):
        """Do at most one thing, perhaps none."""
        if self.busy or self.random.random() > self.meddling * likelihood:
            return
        self.busy = True
        witness = self.random.choice(self.witnesses)
        if self.random.random() < 0.1:
            witness.session.close()
        elif self.random.random() < 0.2 and len(self.witnesses) < 12:
            self.join()
        else:
            self.send_command(witness)
        self.busy = False

    def delivery(self):
        for topic in self.random.choices(FEED, k=self.random.randint(1, 8)):
            kind = also = None
            if topic.channel in BOOKS and self.random.random() < 0.4:
                kind = "snapshot"
            if topic.channel == "level2_batch":
                also = topic._replace(channel="level2")
            elif topic.channel == "full" and self.random.random() < 0.5:
                kind, also = "match", topic._replace(channel="matches")
            yield make_message(*topic, self.random.randint(1, 10**6), kind, also)

    async def run(self):
        async def others():
            while True:
                self.act()
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(others)
            for _ in range(12):
                await self.plumbing.publish(*self.delivery())
            nursery.cancel_scope.cancel()


@given(st.integers(min_value=0, max_value=2**32))
async def test_a_session_gets_the_state_and_then_each_message(seed):
    """No gap, no repeat, no change before its snapshot, and no demand after its end.

    Hypothesis prints the seed that fails, and seeds trio's own choices too.
    """
    schedule = Schedule(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hub_module, "WRITES_PER_TURN_MAX", schedule.random.randint(1, 3))
        await schedule.run()

    wanted = set()
    for witness in schedule.witnesses:
        given = [
            pair
            for chunk in witness.member.chunks
            for pair in zip(chunk.offsets, chunk.messages, strict=True)
        ]
        from_tape = [(o, m) for o, m in given if m is dict(enumerate(schedule.log)).get(o)]
        greetings = [(m.topic, m.sequence) for o, m in given if (o, m) not in from_tape]
        assert all(before <= after for (before, _), (after, _) in pairwise(given))
        if witness.session.is_closed:
            assert from_tape == witness.due[: len(from_tape)]
            assert greetings[: len(witness.greetings)] == witness.greetings[: len(greetings)]
        else:
            assert from_tape == witness.due
            assert greetings == witness.greetings
            wanted |= set(map(str, witness.since))
    assert schedule.plumbing.wanted == sorted(t for t in wanted if not t.startswith("heartbeat"))


def test_a_command_weighs_the_topics_that_it_names_or_the_session_has(plumbing):
    """To leave one of a thousand topics costs as much as to join them: the answer states all."""
    session, _ = plumbing.open()
    big = command("ticker", "matches", pairs=("A-B", "C-D", "E-F"))
    small = command("ticker", pairs=("A-B",), subscribes=False)

    assert (session.weight(big), session.weight(small)) == (6, 1)
    session.apply(big)
    assert session.weight(small) == 6
    assert session.share == session.id
