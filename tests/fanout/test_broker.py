"""The broker: from the inbox to all subscribers, in order, until the last producer ends."""

import json

import pytest
import trio

from hedgehogd.arbitration.batch import NoticeKind, Refusal, TopicNotice
from hedgehogd.domain import limits
from hedgehogd.domain.channel import Topic
from hedgehogd.engine.delivery import Delivery
from hedgehogd.fanout.broker import Broker
from hedgehogd.fanout.ticker_batch import TickerBatch
from hedgehogd.protocol.commands import drop_pair
from hedgehogd.protocol.wire import (
    NDJSON,
    NDJSON_BARE,
    SSE,
    WEBSOCKET,
    WEBSOCKET_DEFLATE,
    WEBSOCKET_STRICT,
)
from tests.fakes import FakeMember, make_message

TICKER = Topic("ticker", "BTC-USD")
MATCHES = Topic("matches", "BTC-USD")
NOTHING = frozenset()


async def test_the_broker_publishes_until_the_last_producer_is_gone(plumbing, nursery):
    """A drain ends the pipe from its beginning: queued deliveries are still published."""
    _, member = plumbing.join("ticker")
    send, inbox = trio.open_memory_channel(8)
    await nursery.start(plumbing.broker.run, inbox)
    for sequence, producer in enumerate([send.clone(), send]):
        producer.send_nowait(Delivery([make_message("ticker", sequence=sequence)]))
        producer.close()
    await trio.testing.wait_all_tasks_blocked()

    assert [message.sequence for message in member.messages] == [0, 1]
    assert nursery.child_tasks == frozenset()


async def test_deliveries_that_arrive_during_a_write_are_written_together(plumbing, nursery):
    """One write per member for all of them, in order; but never too much for one write."""
    _, member = plumbing.join("ticker")
    send, inbox = trio.open_memory_channel(8)
    half = limits.MESSAGES_PER_WRITE_MAX // 2
    for first in (0, half, 2 * half):
        sequences = range(first, first + half)
        send.send_nowait(Delivery([make_message("ticker", sequence=n) for n in sequences]))
    send.close()
    await plumbing.broker.run(inbox)

    assert [chunk.count for chunk in member.chunks] == [2 * half, half]
    assert [message.sequence for message in member.messages] == list(range(3 * half))


async def test_a_notice_between_deliveries_stays_between_them(plumbing):
    """Published together, they are still in the order in which they arrived."""
    _, member = plumbing.join("ticker", form=SSE[False])
    before, behind = make_message("ticker", sequence=1), make_message("ticker", sequence=9)
    gap = TopicNotice(TICKER, b'{"type":"gap"}')
    await plumbing.broker.publish([Delivery([before]), Delivery([behind], [gap])])

    first, second = member.chunks
    assert member.data == first.data + SSE[False].tell(gap.payload) + second.data


async def test_a_notice_for_all_reaches_sessions_without_live_topics(plumbing):
    """A session that is not notified believes that the feed is live."""
    waiting = plumbing.join("level2", form=WEBSOCKET)[1]
    idle = plumbing.join("ticker", form=WEBSOCKET)
    idle[0].apply(drop_pair("BTC-USD"))
    strict = plumbing.join("ticker", form=WEBSOCKET_STRICT)[1]
    gone = plumbing.join("ticker", form=WEBSOCKET)
    gone[0].close()
    await plumbing.publish(notices=[TopicNotice(None, b"{}")])

    assert [m.notices for m in (waiting, idle[1], strict, gone[1])] == [[b"{}"], [b"{}"], [], []]


async def test_a_whole_notice_is_sent_to_no_subscriber(plumbing):
    """It is for resumes: the tape records it."""
    _, member = plumbing.join("ticker", form=WEBSOCKET)
    ticker = make_message("ticker", sequence=7)
    await plumbing.publish(ticker)
    await plumbing.publish(notices=[TopicNotice(None, b"{}", NoticeKind.STALE)])
    assert plumbing.pipe.tape.is_open([ticker.topic])
    await plumbing.publish(notices=[TopicNotice(ticker.topic, b"", NoticeKind.WHOLE)])

    assert not plumbing.pipe.tape.is_open([ticker.topic])
    assert member.notices == [b"{}"]


async def test_a_released_topic_is_forgotten_in_order(plumbing):
    """Messages in flight before it are published, and leave no state afterwards."""
    _, member = plumbing.join("ticker")
    last = make_message("ticker", sequence=7)
    await plumbing.broker.publish(
        [Delivery([], flows=frozenset({TICKER})), Delivery([last]), Delivery([], flows=NOTHING)]
    )

    assert member.messages == [last]
    assert plumbing.pipe.latest.greeting(TICKER) is None
    assert plumbing.pipe.tape.position([TICKER], plumbing.pipe.tape.end) == {}


async def test_a_notice_of_a_topic_that_is_not_held_is_not_recorded(plumbing):
    """A later subscriber of the topic would get the gap of its former time."""
    await plumbing.broker.publish([Delivery([], flows=frozenset({TICKER}))])
    gap = TopicNotice(MATCHES, b'{"type":"gap"}', NoticeKind.GAP)
    await plumbing.publish(notices=[gap])

    assert list(plumbing.pipe.standing.of([MATCHES])) == []


async def test_a_book_outlives_another_topic_of_its_product(plumbing):
    """The release of a ticker is no reason for a new snapshot."""
    level2 = Topic("level2", "BTC-USD")
    snapshot = make_message(
        "level2", "BTC-USD", kind="snapshot", bids=[["1", "1"]], asks=[["2", "1"]]
    )
    plumbing.join("level2")
    await plumbing.broker.publish(
        [Delivery([], flows=frozenset({TICKER, level2})), Delivery([snapshot])]
    )
    await plumbing.broker.publish([Delivery([], flows=frozenset({level2}))])

    assert plumbing.pipe.books.is_live("BTC-USD")


async def test_a_delivery_is_kept_counted_and_delivered(plumbing):
    """Tape, state and hub change in one step: a joiner finds it in all of them or in none."""
    messages = [make_message("ticker", sequence=1), make_message("matches", sequence=2)]
    _, member = plumbing.join("ticker")
    await plumbing.publish(*messages)
    await plumbing.publish(make_message("heartbeat"))

    assert member.messages == messages[:1]
    assert (plumbing.broker.messages_in, plumbing.pipe.tape.end) == (3, 3)
    assert plumbing.pipe.latest.greeting(TICKER) is messages[0]


async def test_a_message_without_a_receive_time_gets_that_of_its_publication(plumbing):
    """It is set in the turn of the tape, for messages that hedgehogd makes."""
    times = iter(range(1_700_000_000_000_000, 1_700_000_000_000_009))
    plumbing.pipe = plumbing.pipe._replace(wall_us=lambda: next(times))
    plumbing.broker = Broker(plumbing.pipe, plumbing.sessions)
    plumbing.join("level2_batch")
    snapshot = make_message("level2", kind="snapshot", bids=[], asks=[])
    change = make_message("level2", changes=[["buy", "1", "2"]])
    await plumbing.publish(make_message("ticker", sequence=1), snapshot, change)
    await plumbing.broker.publish([Delivery([], ends_window=True)])
    tape = plumbing.pipe.tape

    assert [m.received_us % 100 for m in tape._messages] == [0, 1, 1, 2]
    assert [m.published_us % 100 for m in tape._messages] == [0, 1, 1, 2]


async def test_a_message_that_waited_keeps_the_time_of_its_read(plumbing):
    """It waited in the inbox for 3 s; messages that are made from it have its time, too."""
    read_us, now_us = 1_700_000_000_000_000, 1_700_000_003_000_000
    plumbing.pipe = plumbing.pipe._replace(wall_us=lambda: now_us)
    plumbing.broker = Broker(plumbing.pipe, plumbing.sessions)
    plumbing.join("level2_batch", "ticker_batch")
    snapshot = make_message("level2", kind="snapshot", bids=[], asks=[])
    changes = [["buy", "1", "2"], ["buy", "9", "0"]]  # without a level at 9: it is removed
    change = make_message("level2", changes=changes)
    messages = [make_message("ticker", sequence=1), make_message("matches"), snapshot, change]
    for each in messages:
        each.received_us = read_us
    await plumbing.publish(*messages)
    await plumbing.broker.publish([Delivery([], ends_window=True)])
    await plumbing.publish(*TickerBatch(plumbing.pipe.hub, plumbing.pipe.latest).due())
    found = [(str(m.topic), m.received_us, m.published_us) for m in plumbing.pipe.tape._messages]

    names = ["ticker", "matches", "level2", "level2", "level2_batch", "ticker_batch"]
    assert found == [(f"{name}:BTC-USD", read_us, now_us) for name in names]
    assert plumbing.pipe.latest.greeting(Topic("matches", "BTC-USD")).received_us == read_us


async def test_a_joiner_in_the_first_write_of_a_batch_gets_its_last_state(plumbing):
    """State is kept before any write, so a joiner's state is never older than the batch."""
    _, member = plumbing.join("ticker")
    joined = []
    member.on_write = lambda chunk: joined.append(plumbing.join("matches")[1])
    await plumbing.publish(make_message("ticker", sequence=1), make_message("matches", sequence=2))

    assert [(m.type, m.sequence) for m in joined[0].messages] == [("last_match", 2)]


async def test_a_notice_is_sent_before_the_messages_after_the_gap(plumbing):
    """A client that gets the notice later has already processed the messages after the gap."""
    _, member = plumbing.join("ticker", form=SSE[False])
    _, other = plumbing.join("ticker", pairs=["ETH-USD"])
    notices = [TopicNotice(TICKER, b'{"type":"gap"}'), TopicNotice(None, b'{"type":"stale"}')]
    await plumbing.publish(make_message("ticker", sequence=1), notices=notices)

    (chunk,) = member.chunks
    sent = b"".join(SSE[False].tell(notice.payload) for notice in notices)
    assert member.data == sent + chunk.data
    assert other.notices == [b'{"type":"stale"}']


async def test_a_session_that_ends_on_a_notice_disturbs_no_other(plumbing, monkeypatch):
    """A notice can exceed the backlog of a subscriber that does not read."""

    class LastStraw(FakeMember):
        def tell(self, payload):
            for session in sessions:
                session.close()

    monkeypatch.setattr("tests.fanout.conftest.FakeMember", LastStraw)
    first = plumbing.join("ticker", form=WEBSOCKET)[0]
    monkeypatch.undo()
    second, notified_once = plumbing.join("ticker", form=WEBSOCKET)
    sessions = [first, second]
    third = plumbing.join("ticker", form=WEBSOCKET)[1]
    everybody, some = TopicNotice(None, b"{}"), TopicNotice(TICKER, b'{"type":"gap"}')
    await plumbing.publish(notices=[some, everybody])

    assert third.notices == [b'{"type":"gap"}', b"{}"]
    assert notified_once.notices == [b'{"type":"gap"}']


async def test_a_notice_for_thousands_takes_several_turns(plumbing, monkeypatch):
    """Market data does not wait until every subscriber has the notice."""
    monkeypatch.setattr(limits, "WRITES_PER_TURN_MAX", 2)
    for _ in range(5):
        plumbing.join("ticker", form=WEBSOCKET, pairs=["NO-USD"])
    notices = [TopicNotice(None, b"{}"), TopicNotice(Topic("ticker", "NO-USD"), b"{}")]
    for delivery in (
        Delivery([], notices[:1]),
        Delivery([], notices[1:]),
        Delivery([], refusals=[Refusal("NO-USD", "", "NO-USD is not a valid product")]),
    ):
        with trio.testing.assert_checkpoints():
            await plumbing.broker.publish([delivery])


async def test_a_delivery_without_messages_appends_nothing_to_the_tape(plumbing):
    """The line is down: there is a notice to send and no message to keep."""
    _, member = plumbing.join("ticker", form=WEBSOCKET)
    await plumbing.publish(notices=[TopicNotice(None, b"{}")])

    assert (member.notices, plumbing.pipe.tape.end, plumbing.broker.messages_in) == ([b"{}"], 0, 0)


async def test_a_refused_product_is_refused_at_once_the_next_time(plumbing, command):
    """The exchange is not asked again for each client that mistypes the same name."""
    session, _ = plumbing.join("ticker", pairs=["NO-USD", "BTC-USD"])
    plumbing.join("ticker", pairs=["NO-USD"])
    assert "ticker:NO-USD" in plumbing.wanted
    await plumbing.publish(refusals=[Refusal("NO-USD", "", "NO-USD is not a valid product")])

    assert plumbing.wanted == ["ticker:BTC-USD"]
    assert session.apply(command("matches", pairs=["NO-USD"])) == ["NO-USD is not a valid product"]


async def test_a_joiner_of_a_book_joins_just_before_its_snapshot(plumbing):
    """In the middle of a batch, while all other members get the batch in order."""
    _, early = plumbing.join("level2")
    await plumbing.publish(make_message("level2", kind="snapshot"))
    _, late = plumbing.join("level2")
    batch = [
        make_message("level2", sequence=1),
        make_message("level2", sequence=2, kind="snapshot"),
        make_message("level2", sequence=3),
    ]
    await plumbing.publish(*batch)

    assert early.messages[1:] == batch
    assert late.messages == batch[1:]


async def test_a_notice_keeps_its_place_within_a_delivery(plumbing):
    """A gap is reported between its two messages, wherever the reads were split."""
    _, member = plumbing.join("ticker", form=SSE[False])
    messages = [make_message("ticker", sequence=n) for n in (1, 2, 5, 9)]
    first, second, last = (TopicNotice(TICKER, b'{"gap":%d}' % n) for n in (1, 2, 3))
    delivery = Delivery(messages, [first, second, last], [2, 3, 4])
    await plumbing.broker.publish([delivery, Delivery([make_message("ticker", sequence=10)])])

    tell = SSE[False].tell
    one, two, three, four = (chunk.data for chunk in member.chunks)
    assert [chunk.count for chunk in member.chunks] == [2, 1, 1, 1]
    assert member.data == one + tell(first.payload) + two + tell(second.payload) + (
        three + tell(last.payload) + four
    )


async def test_a_notice_about_products_reaches_sessions_with_any_of_their_topics(plumbing):
    """One product has fallen silent; the other products are live."""
    live = plumbing.join("ticker", form=WEBSOCKET)[1]
    other = plumbing.join("ticker", pairs=["ETH-USD"], form=WEBSOCKET)[1]
    strict = plumbing.join("matches", form=WEBSOCKET_STRICT)[1]
    waiting = plumbing.join("level2", "matches", form=WEBSOCKET)[1]  # for a snapshot
    leaver, left = plumbing.join("ticker", form=WEBSOCKET)
    leaver.close()
    await plumbing.publish(notices=[TopicNotice(frozenset({"BTC-USD"}), b"{}")])

    assert [live.notices, waiting.notices] == [[b"{}"], [b"{}"]]
    assert other.notices + strict.notices + left.notices == []


@pytest.mark.parametrize("name", ["full", "level3"])
async def test_a_refused_channel_is_reported_to_present_and_later_subscribers(
    plumbing, command, name
):
    """In the exchange's words; the exchange is not asked again."""
    _, member = plumbing.join(name, "ticker")
    leaver, _ = plumbing.join(name, pairs=["ETH-USD"])
    leaver.close()
    refusal = Refusal("", "Failed to subscribe", f"{name}: no key", name)
    await plumbing.publish(refusals=[refusal])

    error, now = map(json.loads, member.notices)
    assert (error["message"], error["reason"]) == ("Failed to subscribe", f"{name}: no key")
    assert [row["name"] for row in now["channels"]] == ["ticker"]
    assert plumbing.wanted == ["ticker:BTC-USD"]
    late, _ = plumbing.open()
    assert late.apply(command(name)) == [f"{name}: no key"]
    await plumbing.broker.publish([Delivery([], allowed=[name])])
    assert late.apply(command(name)) == []


async def test_a_refusal_of_level2_is_not_reported(plumbing):
    """level2_batch serves its subscribers instead."""
    _, member = plumbing.join("level2")
    await plumbing.publish(refusals=[Refusal("", "Failed", "no key", "level2")])
    snapshot = make_message(
        "level2_batch", kind="snapshot", also=Topic("level2", "BTC-USD"), bids=[], asks=[]
    )
    await plumbing.publish(snapshot)

    assert (member.notices, member.messages) == ([], [snapshot])
    assert plumbing.wanted == ["level2:BTC-USD"]
    assert plumbing.pipe.catalogue.refusal_of("level2") is None


async def test_trades_of_full_are_forgotten_with_matches(plumbing):
    """They were state of matches; the feed reports when it holds neither any longer."""
    matches, full = Topic("matches", "BTC-USD"), Topic("full", "BTC-USD")
    trade = make_message("full", kind="match", sequence=7, also=matches)
    await plumbing.broker.publish([Delivery([trade], flows=frozenset({full, matches}))])
    await plumbing.broker.publish([Delivery([], flows=frozenset({matches}))])
    assert plumbing.pipe.latest.greeting(matches).sequence == 7
    assert plumbing.pipe.tape.position([matches], 1) == {matches: 7}

    await plumbing.broker.publish([Delivery([], flows=NOTHING)])
    assert plumbing.pipe.latest.greeting(matches) is None
    assert plumbing.pipe.tape.position([matches], 1) == {}


async def test_a_large_message_is_compressed_once_if_negotiated(plumbing):
    """Snapshots and status; small messages, and those without such a subscriber, are not."""
    strict = plumbing.join("level2_batch", form=WEBSOCKET_STRICT)[1]
    levels = [[str(n), "1"] for n in range(1, 900)]

    def a_snapshot():
        return make_message("level2", kind="snapshot", bids=levels, asks=[])

    plain = a_snapshot()
    await plumbing.publish(plain)
    assert plain.deflated is None
    member = plumbing.join("level2_batch", form=WEBSOCKET_DEFLATE)[1]
    small = make_message("level2", changes=[["buy", "1", "2"]])
    compressed = a_snapshot()
    await plumbing.publish(compressed, small)

    assert member.data == compressed.deflated
    assert len(compressed.deflated) < len(compressed.frame) / 2
    assert strict.data == plain.frame + compressed.frame
    assert small.deflated is None


async def test_no_snapshot_is_made_while_the_exchanges_own_is_compressed(
    plumbing, nursery, monkeypatch
):
    """It would be megabytes, made and compressed for no use, and sent twice."""
    nursery.start_soon(plumbing.pipe.snapshots.run)
    _, member = plumbing.join("level2", form=WEBSOCKET_DEFLATE)

    async def slow(function, *arguments):
        await trio.testing.wait_all_tasks_blocked()
        return function(*arguments)

    monkeypatch.setattr(trio.to_thread, "run_sync", slow)
    levels = [[str(n), "1"] for n in range(1, 900)]
    snapshot = make_message("level2", kind="snapshot", bids=levels, asks=[])
    await plumbing.publish(snapshot)
    await trio.testing.wait_all_tasks_blocked()

    assert member.messages == [snapshot]
    assert plumbing.pipe.snapshots.made == 0


async def test_a_batch_of_only_bare_removals_is_not_written(plumbing):
    """They are removed from messages, and no empty write follows."""
    _, member = plumbing.join("level2")
    await plumbing.publish(make_message("level2", kind="snapshot", bids=[], asks=[]))
    await plumbing.publish(make_message("level2", changes=[["buy", "1", "0"]]))

    assert len(member.chunks) == 1
    assert plumbing.pipe.tape.end == 1


async def test_a_window_ends_in_order(plumbing):
    """After the messages before it, and before the messages after it."""
    _, member = plumbing.join("level2_batch")
    changes = [make_message("level2", changes=[["buy", str(n), "1"]]) for n in (1, 2)]
    await plumbing.publish(make_message("level2", kind="snapshot", bids=[], asks=[]))
    await plumbing.broker.publish(
        [Delivery(changes[:1]), Delivery([], ends_window=True), Delivery(changes[1:])]
    )

    assert [json.loads(m.payload)["changes"] for m in member.messages[1:]] == [[["buy", "1", "1"]]]


@pytest.mark.parametrize("kind", list(NoticeKind))
async def test_a_gap_ends_a_stream_of_bare_lines_and_no_other(plumbing, kind):
    """It has no notices, and a missing message must not go unnoticed."""
    _, bare = plumbing.join("matches", form=NDJSON_BARE[True])
    _, other_topic = plumbing.join("ticker", form=NDJSON_BARE[True])
    _, lines = plumbing.join("matches", form=NDJSON[True])
    _, strict = plumbing.join("matches", form=WEBSOCKET_STRICT)
    await plumbing.publish(
        make_message("matches", sequence=1), notices=[TopicNotice(MATCHES, b"{}", kind)]
    )

    assert bare.ends == ([(4002, "gap")] if kind is NoticeKind.GAP else [])
    assert [each.ends for each in (other_topic, lines, strict)] == [[], [], []]
    assert lines.notices == ([] if kind is NoticeKind.WHOLE else [b"{}"])
    assert bare.notices == strict.notices == []


@pytest.mark.parametrize("step_s", [-86_400, -1, 0, 86_400])
async def test_a_step_of_the_wall_clock_loses_and_repeats_nothing_live(plumbing, step_s):
    """Unnumbered messages have no order but that of their arrival."""
    now_us = 1_700_000_000_000_000
    plumbing.pipe = plumbing.pipe._replace(wall_us=lambda: now_us)
    plumbing.broker = Broker(plumbing.pipe, plumbing.sessions)
    kinds = ("rfq_matches", "auctionfeed", "status", "heartbeat", "ticker", "matches")
    members = [
        plumbing.join(kind, form=form)[1] for kind in kinds for form in (WEBSOCKET, SSE[True])
    ]
    sent = []
    for number in range(1, 7):
        now_us += 1_000_000 + (step_s * 1_000_000 if number == 4 else 0)
        batch = [
            make_message(kind, "" if kind == "status" else "BTC-USD", sequence=number)
            for kind in kinds
        ]
        sent.append(batch)
        await plumbing.publish(*batch)

    for place, member in enumerate(members):
        assert member.messages == [batch[place // 2] for batch in sent]
    assert plumbing.pipe.tape.end == 6 * len(kinds)
