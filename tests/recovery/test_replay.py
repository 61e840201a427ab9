"""The past as if it were live: at its pace, to its end, or on into the present."""

import json

import pytest
import trio

from hedgehogd.domain.channel import HEARTBEAT, LEVEL2, LEVEL2_BATCH, TICKER
from hedgehogd.domain.errors import SubscriberError
from hedgehogd.domain.position import Start
from hedgehogd.engine.health import FeedHealth
from hedgehogd.fanout.broker import Broker
from hedgehogd.fanout.instance import Instance
from hedgehogd.fanout.sessions import Sessions
from hedgehogd.protocol.commands import ChannelRequest, Command, Pace
from hedgehogd.protocol.wire import NDJSON_BARE, SSE, WEBSOCKET
from hedgehogd.recovery.history_port import CALLER, PastGap, PastUnavailable
from tests.fakes import make_message
from tests.recovery.returning import (
    BTC,
    EPOCH_US,
    ID_OF_TIME_0,
    MATCH,
    TICK,
    Memory,
    Returner,
    data,
    missing_at,
    told,
)

BOOK, BEAT = LEVEL2.topic(BTC), HEARTBEAT.topic(BTC)
S = 1_000_000
PLACE_0 = EPOCH_US + ID_OF_TIME_0


@pytest.fixture
async def stage(nursery):
    """A pipe whose past has a trade in each of its first ten seconds; it is second 20 now."""
    returner = Returner(Memory())
    nursery.start_soon(returner.pipe.resumes.run)
    nursery.start_soon(returner.pipe.snapshots.run)
    for second in range(10):
        keep(returner, "matches", second, second)
    return returner


def keep(stage, channel, sequence, second, kind=None, **more):
    """Keep a message as if it had come in that second."""
    message = make_message(channel, BTC, sequence, kind, **more)
    place = PLACE_0 + second * S
    while any(place == each[0] for each in stage.past.kept):
        place += 1
    message.id, message.received_us = place, place - ID_OF_TIME_0
    message.published_us = message.received_us
    stage.past.kept.append((place, message.topic, message))
    stage.past.kept.sort(key=lambda each: each[0])


def watch(stage, since, *topics, form=None, **pace):
    starts = dict.fromkeys(topics or (MATCH,), Start(after_us=EPOCH_US + int(since * S)))
    options = {} if form is None else {"form": form}
    member, session = stage.come(starts, pace=Pace(**pace), **options)
    at = trio.current_time()
    member.on_write = lambda chunk: times.append(round(trio.current_time() - at, 3))
    times = []
    return member, session, times


async def test_as_fast_as_it_is_read_to_the_end_of_the_stretch(stage, autojump_clock):
    """From behind its start to before its end; then the stream ends, and is not cut."""
    await trio.sleep(20)
    member, session, _ = watch(stage, 3.5, until_us=EPOCH_US + 7 * S)
    await trio.sleep(1)

    assert (data(member), told(member)) == ([4, 5, 6], [])
    assert member.ends == [(1000, "replay_ended")]
    assert session.is_closed


async def test_replays_of_one_page_share_its_bytes(stage, autojump_clock):
    """A store returns the page that it read for the subscriber before."""
    await trio.sleep(20)
    read, pages = stage.past.page, {}

    async def page(topics, after):
        key = (frozenset(topics), after)
        if key not in pages:
            pages[key] = await read(topics, after)
        return pages[key]

    stage.past.page = page
    members = []
    for _ in range(2):
        members.append(watch(stage, 3.5, until_us=EPOCH_US + 7 * S)[0])
        await trio.sleep(1)

    assert [data(member) for member in members] == [[4, 5, 6], [4, 5, 6]]
    assert pages


@pytest.mark.parametrize(("speed", "between"), [(1.0, 1.0), (10.0, 0.1), (0.5, 2.0)])
async def test_each_message_comes_when_it_is_due(stage, autojump_clock, speed, between):
    """A trader wants to see yesterday as it was, or in a tenth of the time."""
    await trio.sleep(20)
    member, _, times = watch(stage, 3, speed=speed, until_us=EPOCH_US + 7 * S)
    await trio.sleep(30)

    assert data(member) == [4, 5, 6]
    assert times == pytest.approx([between, 2 * between, 3 * between], abs=0.002)


async def test_a_clock_that_was_set_does_not_stop_the_pace(stage, autojump_clock):
    """By years back for some messages, then ahead: each era has its own times."""
    for _, _, message in stage.past.kept[5:8]:
        message.received_us -= 3 * 365 * 86_400 * S
    await trio.sleep(20)
    member, _, times = watch(stage, 2, speed=1)
    await trio.sleep(30)

    assert data(member) == [3, 4, 5, 6, 7, 8, 9]
    assert sorted(set(times[:6])) == pytest.approx([1, 2, 3, 4, 5], abs=0.002)


async def test_a_replay_becomes_live_after_a_clock_that_was_ahead(stage, autojump_clock):
    """The newest records are dated next year: they do not say what was recorded until then."""
    stage.past.stopped_us = EPOCH_US + 365 * 86_400 * S
    await trio.sleep(20)
    await stage.publish("ticker", 10)
    member, _, _ = watch(stage, 8.5, MATCH, TICK)
    await trio.sleep(300)

    assert data(member) == [9, 10]


async def test_what_came_together_is_given_together(stage, autojump_clock):
    """Channels keep their order."""
    for number in (21, 22, 23):
        keep(stage, "matches", number, 12)
        keep(stage, "ticker", number, 12)
    await trio.sleep(20)
    member, _, times = watch(stage, 10, MATCH, TICK, speed=4, until_us=EPOCH_US + 15 * S)
    await trio.sleep(10)

    assert [m.topic for m in member.messages] == [MATCH, TICK] * 3
    assert len(times) <= 3


async def test_without_an_end_it_becomes_live(stage, autojump_clock):
    """No seam: nothing twice, nothing left out, whatever it was stored or not."""
    await trio.sleep(20)
    await stage.publish("matches", 10)
    keep(stage, "matches", 10, 20)
    member, _, _ = watch(stage, 4.5)
    await trio.sleep(10)
    await stage.publish("matches", 11)

    assert data(member) == [5, 6, 7, 8, 9, 10, 11]
    assert [notice["type"] for notice in told(member)] == ["resumed"]


@pytest.mark.parametrize("speed", [0, 2, 1000])
@pytest.mark.parametrize("on_tape", [0, 1, 3])
@pytest.mark.parametrize("topics", [(MATCH,), (MATCH, TICK), (MATCH, BEAT, BOOK)])
@pytest.mark.parametrize("form", [WEBSOCKET, SSE[True]])
async def test_resumed_counts_the_messages_of_the_replay(
    stage, autojump_clock, speed, on_tape, topics, form
):
    """The notice states how many messages the session sent before it, also those of the replay."""
    keep(stage, "ticker", 9, 9)
    keep(stage, "heartbeat", 9, 9)
    keep(stage, "level2", None, 8, "snapshot")
    stage.past.gaps.append(missing_at(MATCH, PLACE_0 + 5 * S + 1, 55, 56))
    await trio.sleep(20)
    for number in range(10, 10 + on_tape):
        await stage.publish("matches", number)
        keep(stage, "matches", number, number + 10)
    member, _, _ = watch(stage, 4.5, *topics, form=form, speed=speed)
    await trio.sleep(60)

    kinds = [m.type for m in member.messages]
    notices = [json.loads(m.payload) for m in member.messages if m.type == "notice"]
    resumed = [notice for notice in notices if notice["type"] == "resumed"]
    assert [notice["messages"] for notice in resumed] == [len(kinds) - kinds.count("notice")]
    assert len(kinds) > 5


async def test_faster_than_life_it_catches_up_with_it(stage, autojump_clock):
    """At twice the pace, what is twenty seconds behind is there after twenty."""
    await trio.sleep(20)
    member, _, _ = watch(stage, 0, speed=2)
    for second in range(20, 60):
        await stage.publish("matches", second)
        keep(stage, "matches", second, second)
        await trio.sleep(1)

    assert data(member) == [*range(1, 10), *range(20, 60)]
    assert told(member)[-1]["type"] == "resumed"


async def test_at_its_own_pace_it_stays_behind(stage, autojump_clock):
    """A delayed stream, for ever."""
    await trio.sleep(20)
    member, _, _ = watch(stage, 0.5, speed=1)
    for second in range(20, 60):
        await stage.publish("matches", second)
        keep(stage, "matches", second, second)
        await trio.sleep(1)

    assert data(member) == [*range(1, 10), *range(20, 41)]
    assert told(member) == []


async def test_an_end_in_the_future_is_waited_for(stage, autojump_clock):
    """The stretch is over when all that belongs to it is stored."""
    await trio.sleep(20)
    member, _, _ = watch(stage, 7.5, until_us=EPOCH_US + 25 * S)
    await trio.sleep(4)
    assert (data(member), member.ends) == ([8, 9], [])
    keep(stage, "matches", 30, 24)
    await trio.sleep(10)

    assert (data(member), member.ends) == ([8, 9, 30], [(1000, "replay_ended")])


async def test_a_book_begins_as_it_was(stage, autojump_clock):
    """With the snapshot before the stretch and what has changed since, at once."""
    for second, kind in ((-9, "l2update"), (-8, "snapshot"), (-7, "l2update"), (-6, "l2update"),
            (5, "l2update"), (6, "snapshot"), (7, "l2update")):  # fmt: skip
        keep(stage, "level2", None, second, kind, at=second)
    await trio.sleep(20)
    member, _, times = watch(stage, 0, BOOK, speed=1, until_us=EPOCH_US + 10 * S)
    await trio.sleep(20)

    assert [json.loads(m.payload)["at"] for m in member.messages] == [-8, -7, -6, 5, 6, 7]
    assert times[0] == 0
    assert times[-3:] == pytest.approx([5, 6, 7], abs=0.002)


async def test_a_book_without_a_snapshot_begins_with_the_first_one(stage, autojump_clock):
    """Changes to what is not known mean nothing."""
    for second, kind in ((2, "l2update"), (3, "snapshot"), (4, "l2update")):
        keep(stage, "level2", None, second, kind, at=second)
    stage.past.gaps.append(missing_at(BOOK, PLACE_0 + 2 * S + 5, 1, 1))
    await trio.sleep(20)
    member, _, _ = watch(stage, 0, BOOK, until_us=EPOCH_US + 10 * S)
    await trio.sleep(20)

    assert [m.type for m in member.messages] == ["notice", "snapshot", "l2update"]


async def test_a_snapshot_of_two_topics_begins_both_books(stage, autojump_clock):
    """The log has a snapshot of both channels of a book once."""
    batch = LEVEL2_BATCH.topic(BTC)
    keep(stage, "level2", None, 3, "snapshot", also=batch)
    for second, channel in ((4, "level2"), (5, "level2_batch")):
        keep(stage, channel, None, second, "l2update")
    await trio.sleep(20)
    member, _, _ = watch(stage, 2, BOOK, batch, until_us=EPOCH_US + 10 * S)
    await trio.sleep(20)

    assert [m.topic for m in member.messages] == [BOOK, BOOK, batch]


async def test_what_has_no_position_goes_on_live(stage, autojump_clock):
    """Heartbeats are state, and a book gets a snapshot of now."""
    keep(stage, "heartbeat", 9, 10)
    keep(stage, "level2", None, 11, "snapshot")
    await trio.sleep(20)
    await stage.publish("heartbeat", 8)
    member, session, _ = watch(stage, 9.5, BEAT, BOOK, TICK)
    await trio.sleep(10)
    await stage.publish("heartbeat", 10)
    await stage.publish("ticker", 11)

    assert [m.topic for m in member.messages if m.type != "notice"] == [BEAT, BOOK, BEAT, TICK]
    assert session._awaiting == {BOOK}


@pytest.mark.parametrize("speed", [0, 10])
@pytest.mark.parametrize(
    ("form", "expected", "end"),
    [
        (WEBSOCKET, [5, "told", 6, 7], (1000, "replay_ended")),
        (NDJSON_BARE[True], [5], (4002, "position_expired")),
    ],
)
async def test_recorded_gaps_are_told_in_their_place(
    stage, autojump_clock, form, expected, end, speed
):
    """Who was there heard of them too; a stream without notices ends at the gap."""
    stage.past.gaps.append(missing_at(TICK, PLACE_0 + 4 * S + 2, 55, 56))
    stage.past.gaps.append(missing_at(MATCH, PLACE_0 + 5 * S + 1, 55, 56))
    await trio.sleep(20)
    member, session, _ = watch(stage, 4, form=form, until_us=EPOCH_US + 8 * S, speed=speed)
    await trio.sleep(1)

    assert [m.sequence or "told" for m in member.messages] == expected
    assert (member.ends, session.is_closed) == ([end], True)


@pytest.mark.parametrize("speed", [0, 10])
async def test_gaps_without_times_are_reported_in_the_stretch(stage, autojump_clock, speed):
    """Their time is that at which the gap was found: after the stretch, perhaps by years."""
    for second in (5, 9):
        place = PLACE_0 + second * S + 1
        found_us = EPOCH_US + 1000 * S
        stage.past.gaps.append(PastGap(MATCH, place, "unreadable", None, None, found_us))
    await trio.sleep(20)
    member, session, _ = watch(stage, 4, until_us=EPOCH_US + 8 * S, speed=speed)
    await trio.sleep(1)

    assert [m.sequence or "told" for m in member.messages] == [5, "told", 6, 7]
    assert session.is_closed


async def test_an_event_stream_resumes_its_replay(stage, autojump_clock):
    """Its ids are positions; it goes on where it was, at the same pace."""
    await trio.sleep(20)
    member, session = stage.come(
        {MATCH: Start(4)},
        SSE[True],
        pace=Pace(10.0, EPOCH_US + 8 * S),
        channels=["matches", "ticker"],
    )
    await trio.sleep(0.25)
    assert data(member) == [5, 6]
    assert session.position(0) == {MATCH: 6}
    await trio.sleep(10)

    assert data(member) == [5, 6, 7]
    assert b"id: matches:BTC-USD@7\n" in member.data


async def test_topics_that_are_not_equally_far_get_what_they_lack(stage, autojump_clock):
    """A stream may have ended between a trade and its ticker."""
    for number in (4, 5, 6):
        keep(stage, "ticker", number, number)
    await trio.sleep(20)
    member, _ = stage.come({MATCH: Start(6), TICK: Start(4)}, pace=Pace(0, EPOCH_US + 8 * S))
    await trio.sleep(1)

    assert [(m.topic, m.sequence) for m in member.messages] == [(TICK, 5), (TICK, 6), (MATCH, 7)]


async def test_who_leaves_meanwhile_is_given_no_more(stage, autojump_clock):
    """A pause of the replay may be long."""
    await trio.sleep(20)
    member, session, _ = watch(stage, 3, speed=1)
    await trio.sleep(1.5)
    stage.sessions.discard(session)
    await trio.sleep(10)

    assert data(member) == [4]


@pytest.mark.parametrize("topic", [MATCH, BOOK])
async def test_a_store_that_cannot_be_read_ends_it(stage, autojump_clock, topic):
    """There is nothing to go on with."""
    await trio.sleep(20)
    stage.past.is_down = True
    member, _, _ = watch(stage, 3, topic)
    await trio.sleep(1)

    assert member.ends == [(4002, "position_expired")]


async def test_a_store_that_breaks_within_a_book_ends_it(stage, autojump_clock):
    """Between its snapshot and the changes behind it."""
    keep(stage, "level2", None, 11, "snapshot")
    keep(stage, "level2", None, 12, "l2update")
    await trio.sleep(20)
    snapshot_before = stage.past.snapshot_before

    async def then_break(topic, place):
        found = await snapshot_before(topic, place)
        stage.past.is_down = True
        return found

    stage.past.snapshot_before = then_break
    member, _, _ = watch(stage, 15, BOOK)
    await trio.sleep(1)

    assert ([m.type for m in member.messages], member.ends) == (
        ["snapshot"], [(4002, "position_expired")],
    )  # fmt: skip


async def test_the_end_of_a_stretch_may_not_be_known(stage, autojump_clock):
    """The store breaks while the end is looked for; it is read page by page then."""
    await trio.sleep(20)

    async def broken(since_us, until_us):
        await trio.lowlevel.checkpoint()
        raise PastUnavailable("disk I/O error")

    stage.past.stretches = broken
    member, _, _ = watch(stage, 3.5, until_us=EPOCH_US + 7 * S)
    await trio.sleep(1)

    assert (data(member), member.ends) == ([4, 5, 6], [(1000, "replay_ended")])


async def test_a_stretch_without_a_message_is_over_at_once(stage, autojump_clock):
    """Nothing was received then, and nothing will be."""
    await trio.sleep(20)
    member, _, _ = watch(stage, 3.1, until_us=EPOCH_US + int(3.9 * S))
    await trio.sleep(1)

    assert (data(member), member.ends) == ([], [(1000, "replay_ended")])


async def test_a_clock_that_was_ahead_ends_no_replay(stage, autojump_clock):
    """Of the record as a whole each message that is dated within the stretch is replayed."""
    ahead = stage.past.kept[5][2]
    ahead.received_us = ahead.published_us = ahead.received_us + 3600 * S
    stage.past._visible = lambda: stage.past.kept
    await trio.sleep(20)
    member, _, _ = watch(stage, 3.5, until_us=EPOCH_US + 8 * S)
    await trio.sleep(1)

    assert (data(member), member.ends) == ([4, 6, 7], [(1000, "replay_ended")])


def instance_with(past):
    returner = Returner(past)
    sessions = Sessions()
    return Instance(1, returner.pipe, sessions, Broker(returner.pipe, sessions), FeedHealth())


def test_only_what_is_kept_can_be_replayed():
    """It is said before the stream begins, which could only end at once."""
    replay = Command(True, (ChannelRequest(TICKER, (BTC,)),), pace=Pace())
    past = Memory()
    past.keeps = lambda topic: topic == TICK
    instance_with(past).check_replay(replay)
    instance_with(None).check_replay(replay._replace(pace=None))
    other = Command(True, (ChannelRequest(TICKER, ("ETH-USD",)),), pace=Pace())
    for instance, command, code in (
        (instance_with(None), replay, "no_history"),
        (instance_with(past), other, "not_kept"),
    ):
        with pytest.raises(SubscriberError) as caught:
            instance.check_replay(command)
        assert (caught.value.code, caught.value.status) == (code, 404)


@pytest.mark.parametrize("pace", [None, Pace(until_us=EPOCH_US + 7 * S)])
async def test_a_resume_and_a_replay_read_the_past_for_their_own_address(
    stage, autojump_clock, monkeypatch, pace
):
    """The store reads for the addresses in turn."""
    await trio.sleep(20)
    shares = []
    for name in ("page", "find", "first_place"):
        read = getattr(stage.past, name)

        async def noting(*args, read=read):
            shares.append(CALLER.get())
            return await read(*args)

        monkeypatch.setattr(stage.past, name, noting)
    CALLER.set("of another task")
    start = Start(after_us=EPOCH_US + int(3.5 * S))
    member, session = stage.come({MATCH: start}, pace=pace)
    await trio.sleep(1)

    assert data(member)[:3] == [4, 5, 6]
    assert len(shares) > 1
    assert set(shares) == {session.share}
