"""Coming back: past, tape and live together are what was published, once and in order.

The property runs whole schedules on the mock clock: an instance that began late, or whose
tape is short, a store that lags behind, subscribers that read slowly and leave anywhere. What
each has sent to it is compared with what the market said.
"""

import os
import re
from random import Random

import pytest
import trio

from hedgehogd.domain import limits
from hedgehogd.domain.channel import BY_ALIAS, MATCHES, TICKER
from hedgehogd.domain.errors import CLOSE_EXPIRED
from hedgehogd.domain.position import Start, from_text
from hedgehogd.engine.delivery import Delivery
from hedgehogd.fanout.session import Session
from hedgehogd.protocol.commands import ChannelRequest, Command
from hedgehogd.protocol.wire import NDJSON_BARE, SSE, WEBSOCKET
from hedgehogd.recovery.history_port import BackfilledTrade
from tests.fakes import FakeMember, make_message
from tests.recovery.returning import (
    ALL,
    BTC,
    EPOCH_US,
    ID_OF_TIME_0,
    MATCH,
    TICK,
    Remembering,
    data,
    gap,
    keep,
    missing_at,
    resumed,
    told,
    wall_us,
)
from tests.recovery.schedules import Holed, Schedule, run_schedules

SEEDS = int(os.environ.get("HEDGEHOGD_RESUME_SEEDS", "6"))


@pytest.fixture
def schedules(monkeypatch):
    """Run schedules from the seed that is set, or from any; what they change is put back."""
    for name in ("RESUME_CHUNK_BYTES", "RESUME_WINDOW_MESSAGES_MAX"):
        monkeypatch.setattr(limits, name, getattr(limits, name))
    monkeypatch.setattr(trio._core._run, "_ALLOW_DETERMINISTIC_SCHEDULING", True)
    first = int(os.environ.get("HEDGEHOGD_RESUME_SEED", Random().getrandbits(31)))
    return lambda make: run_schedules(make, first, SEEDS)


@pytest.mark.random
def test_past_tape_and_live_are_what_was_published_once_and_in_order(schedules):
    """Whatever is where, however slow the reader is, and wherever it leaves."""
    schedules(Schedule)


@pytest.mark.random
def test_what_the_feed_did_not_give_us_comes_from_elsewhere_or_is_told(schedules):
    """From the store, from other instances; and if nobody has it there is a notice of it."""
    schedules(Holed)


async def test_who_comes_back_is_told_how_much_was_replayed(back, autojump_clock):
    """Then it is live, without anything between, and the notice stands between the two."""
    await back.publish("matches", 1, 2, 3)
    member, _ = back.come({MATCH: Start(1)})
    await trio.sleep(1)
    await back.publish("matches", 4)

    assert [m.sequence or "told" for m in member.messages] == [2, 3, "told", 4]
    assert told(member) == [resumed(2)]
    assert back.pipe.resumes.resumed == 1


async def test_who_resumes_is_not_greeted_with_what_it_has(back, autojump_clock):
    """A last_match of before the position would be a step back."""
    await back.publish("matches", 1, 2)
    member, _ = back.come({MATCH: Start(2)}, channels=["matches", "ticker"])
    await trio.sleep(1)

    assert data(member) == []


async def test_a_position_ahead_is_waited_for(back, autojump_clock):
    """Another instance is a little earlier than this one: nothing is missing, nothing repeated."""
    await back.publish("matches", 1)
    member, _ = back.come({MATCH: Start(3)})
    await trio.sleep(limits.RESUME_AHEAD_MAX_S - 0.5)
    await back.publish("matches", 2, 3, 4)
    await trio.sleep(1)

    assert data(member) == [4]
    assert told(member) == [resumed(1)]


async def test_a_position_that_stays_ahead_is_answered_as_expired(back, autojump_clock):
    """Numbers began anew, or it is not ours: say so, and go on with what there is."""
    await back.publish("matches", 1)
    member, _ = back.come({MATCH: Start(9)})
    await trio.sleep(limits.RESUME_AHEAD_MAX_S + 0.5)
    await back.publish("matches", 2)

    assert (data(member), told(member)) == ([2], [gap(10, None), resumed(0)])


async def test_who_comes_back_on_lines_gets_what_it_missed_and_no_word_of_it(back, autojump_clock):
    """NDJSON is the exchange's messages and nothing else."""
    await back.publish("matches", 1, 2)
    member, _ = back.come({MATCH: Start(1)}, NDJSON_BARE[True])
    await trio.sleep(1)
    await back.publish("matches", 3)

    assert (data(member), told(member), member.notices) == ([2, 3], [], [])


async def test_a_stretch_of_the_tape_without_its_topics_is_passed(
    back, monkeypatch, autojump_clock
):
    """There may be thousands of them."""
    monkeypatch.setattr(limits, "RESUME_WINDOW_MESSAGES_MAX", 2)
    await back.publish("matches", 1)
    await back.publish("ticker", *range(1, 10))
    await back.publish("matches", 2)
    member, _ = back.come({MATCH: Start(1)})
    await trio.sleep(1)

    assert (data(member), told(member)) == ([2], [resumed(1)])


async def test_what_is_nowhere_is_told_in_its_place(back, autojump_clock):
    """This instance began at 5; the subscriber has 2, and nothing is stored."""
    await back.publish("matches", 5, 6)
    member, _ = back.come({MATCH: Start(2)})
    await trio.sleep(1)

    assert [m.sequence or "told" for m in member.messages] == ["told", 5, 6, "told"]
    assert told(member) == [gap(3, 4), resumed(2)]


async def test_a_position_right_before_the_first_message_misses_nothing(back, autojump_clock):
    """Numbers in between do not exist."""
    await back.publish("matches", 5, 6)
    member, _ = back.come({MATCH: Start(4)})
    await trio.sleep(1)

    assert (data(member), told(member)) == ([5, 6], [resumed(2)])


@pytest.mark.parametrize(("form", "is_strict"), [(WEBSOCKET, True), (NDJSON_BARE[True], False)])
async def test_who_wants_all_or_cannot_be_told_is_ended(back, form, is_strict, autojump_clock):
    """NDJSON has no notices; the end is the only word it knows."""
    await back.publish("matches", 5, 6)
    member, session = back.come({MATCH: Start(2)}, form, is_strict=is_strict)
    await trio.sleep(1)

    assert (member.ends, data(member)) == ([(4002, "position_expired")], [])
    assert session.is_closed


async def test_of_a_topic_that_never_spoke_nothing_is_known(back, autojump_clock):
    """No number to end the gap with: the next message does."""
    member, _ = back.come({MATCH: Start(2)}, is_strict=False)
    await trio.sleep(limits.RESUME_AHEAD_MAX_S + 0.5)
    await back.publish("matches", 3)

    assert (data(member), told(member)) == ([3], [gap(3, None), resumed(0)])


async def test_a_message_that_was_read_before_a_topic_joined_and_published_after_is_given(
    back, autojump_clock
):
    """A message waits between read and publication; the place of a joiner is one of publication."""
    await back.publish("matches", 1)
    member, _ = back.come({MATCH: Start(2)}, SSE[True], channels=["matches", "ticker"])
    await trio.sleep(0.5)  # the catch-up waits for message 2
    late = make_message("ticker", BTC, 7)
    late.received_us = wall_us() - 3_000_000
    await back.broker.publish([Delivery([late])])
    await back.publish("matches", 2)
    await trio.sleep(1)

    assert (data(member), told(member)) == ([7], [resumed(1)])


async def test_by_time_all_that_came_since_is_given(back, autojump_clock):
    """An age or a time names a place for all topics at once."""
    await back.publish("matches", 1)
    await trio.sleep(10)
    await back.publish("matches", 2)
    await back.publish("ticker", 2)
    member, _ = back.come({t: Start(after_us=wall_us() - 10_000_000) for t in (MATCH, TICK)})
    await trio.sleep(1)

    assert (data(member), told(member)[-1]) == ([2, 2], resumed(2, MATCH, TICK))
    # Nobody knows whether there was a ticker in the ten seconds before the first one.
    assert told(member)[:-1] == [gap(None, 1, "ticker")]


async def test_by_time_a_topic_that_never_spoke_is_empty(back, autojump_clock):
    """There is a gap, and it has no numbers at all."""
    member, _ = back.come({MATCH: Start(after_us=wall_us() - 5_000_000)})
    await trio.sleep(1)

    assert told(member) == [gap(None, None), resumed(0)]


async def test_older_than_all_that_is_kept(stored, autojump_clock):
    """What retention has removed is told, then comes what is left."""
    await keep(stored, 5, 6, 7)
    await stored.publish("matches", 7, 8)
    member, _ = stored.come({MATCH: Start(2)})
    await trio.sleep(5)

    assert (data(member), told(member)) == ([5, 6, 7, 8], [gap(3, 4), resumed(4)])


async def test_by_time_older_than_all_that_is_kept(stored, autojump_clock):
    """The same, without a number to begin with."""
    await trio.sleep(100)
    await keep(stored, 5, 6)
    await stored.publish("matches", 6)
    member, _ = stored.come({MATCH: Start(after_us=EPOCH_US)})
    await trio.sleep(5)

    assert (data(member), told(member)) == ([5, 6], [gap(None, 4), resumed(2)])


async def test_by_time_from_the_store_on(stored, autojump_clock):
    """A time within what is kept: nothing is missing."""
    await keep(stored, 5)
    await trio.sleep(1)
    after_us = wall_us()
    await trio.sleep(1)
    await keep(stored, 6)
    await stored.publish("matches", 7)
    stored.past.keep(make_message("matches", BTC, 7))
    member, _ = stored.come({MATCH: Start(after_us=after_us)})
    await trio.sleep(5)

    assert (data(member), told(member)) == ([6, 7], [resumed(2)])


@pytest.mark.parametrize(
    ("starts", "expected"),
    [
        ({MATCH: Start(4)}, [5, "told", 92, 8, 12, "told"]),
        ({MATCH: Start(7)}, [8, 12, "told"]),
        ({TICK: Start(4)}, [5, 9, "told"]),
    ],
)
async def test_backfilled_trades_are_given_at_the_place_of_their_gap(
    stored, autojump_clock, starts, expected
):
    """With what still is missing; a subscriber that has passed the gap is not given them."""
    await keep(stored, 5)
    await keep(stored, 5, channel="ticker")
    place = stored.past.kept[-1][0] + 1
    trade = BackfilledTrade(MATCH, "match", b"", b"{}", trade_id=92, id=place)
    trade.received_us = place - ID_OF_TIME_0
    stored.past.kept.append((place, MATCH, trade))
    stored.past.gaps.append(missing_at(MATCH, place, 91, 91))
    await keep(stored, 8, 12)
    await keep(stored, 9, channel="ticker")
    await stored.publish("matches", 12)
    await stored.publish("ticker", 9)
    member, _ = stored.come(starts)
    await trio.sleep(5)

    assert [m.sequence or m.trade_id or "told" for m in member.messages] == expected


async def test_recorded_gaps_are_told_where_they_are(stored, autojump_clock):
    """Who was there then was told as well."""
    await keep(stored, 5)
    stored.past.gaps.append(missing_at(MATCH, stored.past.kept[-1][0] + 1, 91, 92))
    await keep(stored, 8)
    await stored.publish("matches", 8)
    member, _ = stored.come({MATCH: Start(4)})
    await trio.sleep(5)
    notice = {"type": "gap", "channel": "matches", "product_id": BTC}
    notice |= {"first_trade_id": 91, "last_trade_id": 92}

    assert [m.sequence or "told" for m in member.messages] == [5, "told", 8, "told"]
    assert told(member) == [notice, resumed(2)]


async def test_a_store_that_cannot_be_read_is_as_good_as_none(stored, autojump_clock):
    """Streams go on, and what is missing is told."""
    await keep(stored, 3, 4)
    stored.past.is_down = True
    await stored.publish("matches", 5)
    member, _ = stored.come({MATCH: Start(2)})
    await trio.sleep(10)

    assert (data(member), told(member)) == ([5], [gap(3, 4), resumed(1)])


async def test_a_store_that_is_not_written_any_more_is_waited_for_and_not_for_ever(
    stored, autojump_clock
):
    """The writer hangs: another takes over in time, or what it had is lost."""
    await keep(stored, 3)
    stored.past.stopped_us = wall_us()
    await trio.sleep(5)
    await stored.publish("matches", 6)
    member, _ = stored.come({MATCH: Start(2)})
    await trio.sleep(limits.RESUME_PATIENCE_S / 2)
    assert (data(member), told(member)) == ([3], [])
    await trio.sleep(limits.RESUME_PATIENCE_S)

    assert (data(member), told(member)) == ([3, 6], [gap(4, 5), resumed(2)])


async def test_a_quiet_topic_is_taken_up_where_the_store_ends(stored, autojump_clock):
    """Nothing has come of it here; that nothing came elsewhere the store says."""
    await keep(stored, 3)
    await stored.publish("heartbeat", 3)
    member, _ = stored.come({MATCH: Start(3)})
    await trio.sleep(5)
    assert told(member) == [resumed(0)]
    await stored.publish("matches", 4)

    assert data(member) == [4]


async def test_before_the_feed_flows_nothing_is_known_to_be_quiet(stored, autojump_clock):
    """Others write while this instance hears nothing yet; what they wrote is not lost."""
    await keep(stored, 3)
    member, _ = stored.come({MATCH: Start(3)})
    await trio.sleep(4)
    await keep(stored, *range(4, 11))
    await stored.publish("matches", 10)
    await trio.sleep(5)

    assert (data(member), told(member)) == ([*range(4, 11)], [resumed(7)])


async def test_events_state_topics_that_have_not_spoken_here(stored, autojump_clock):
    """An EventSource that is cut again would come back without them, and lose in silence."""
    await keep(stored, 3)
    await keep(stored, 3, channel="ticker")
    await stored.publish("heartbeat", 3)
    first, _ = stored.come({MATCH: Start(3), TICK: Start(3)}, SSE[True])
    second, session = stored.come({MATCH: Start(3), TICK: Start(3)}, SSE[True])
    await trio.sleep(5)
    await stored.publish("ticker", 4)
    ids = [
        from_text(line[4:])
        for member in (first, second)
        for line in member.data.decode().splitlines()
        if line.startswith("id: ")
    ]

    assert ids == [{MATCH: 3, TICK: 3}, {MATCH: 3, TICK: 4}] * 2
    assert session.position(stored.pipe.tape.end) == {MATCH: 3, TICK: 4}
    await stored.publish("matches", 5)
    assert session.position(stored.pipe.tape.end - 1) == {MATCH: 3, TICK: 4}


@pytest.mark.parametrize("since", [MATCH, ALL])
async def test_a_trade_comes_once_although_one_of_its_topics_is_new(stored, autojump_clock, since):
    """It would be live on the one while the other still catches up."""
    await keep(stored, 3, channel=since.channel)
    await stored.publish("heartbeat", 3)
    member, _ = stored.come({since: Start(3)}, channels=["matches", "full"])
    await trio.sleep(0.5)
    trade = make_message("full", BTC, 4, "match", MATCH)
    stored.past.keep(trade)
    await stored.broker.publish([Delivery([trade])])
    await trio.sleep(5)

    assert data(member) == [4]


async def test_a_quiet_topic_that_speaks_before_all_others_are_there(stored, autojump_clock):
    """What it says then is given with the rest, once."""
    await keep(stored, 3)
    await keep(stored, 3, channel="ticker")
    await stored.publish("heartbeat", 3)
    member, _ = stored.come({MATCH: Start(3), TICK: Start(3)})
    await trio.sleep(1.5)
    await keep(stored, 5, channel="ticker")  # so 4 was no ticker
    await stored.publish("ticker", 5)
    await trio.sleep(1.5)
    await stored.publish("matches", 4)
    await trio.sleep(5)

    assert (data(member), told(member)) == ([5, 4], [resumed(1, MATCH, TICK)])


async def test_a_bug_ends_the_stream_that_met_it(stored, caplog, autojump_clock):
    """The others do not notice."""
    await keep(stored, 3)
    await stored.publish("matches", 5)

    async def broken(topics, after):
        raise ZeroDivisionError

    page, stored.past.page = stored.past.page, broken
    unlucky, _ = stored.come({MATCH: Start(2)})
    await trio.sleep(1)
    stored.past.page = page
    await keep(stored, 5)
    member, _ = stored.come({MATCH: Start(2)})
    await trio.sleep(5)

    assert unlucky.ends == [(1011, "bug")]
    assert data(member) == [3, 5]


async def test_who_leaves_or_unsubscribes_meanwhile_gets_no_more(stored, autojump_clock):
    """What is not wanted any more is not read any more."""
    await keep(stored, *range(3, 30))
    await stored.publish("matches", 29)
    stored.past.page_max = 1
    gone, session = stored.come({MATCH: Start(2)})
    other, keeps_ticker = stored.come({MATCH: Start(2)}, channels=["matches", "ticker"])

    def leave(chunk):
        stored.sessions.discard(session)
        drop = (ChannelRequest(MATCHES, (BTC,)),)
        keeps_ticker.apply(Command(False, drop))

    gone.on_write = leave
    await trio.sleep(10)
    await stored.publish("matches", 30)
    await stored.publish("ticker", 30)

    assert data(gone) == [3]
    assert data(other)[-1:] == [30]
    assert len(data(other)) < 5


async def test_trades_recorded_without_full_are_delivered_beside_it(stored, autojump_clock):
    """The feed held full for a while only; its events of that while are missing, no trade is."""
    for number in (2, 3):
        stored.past.keep(make_message("full", BTC, number, "match", MATCH))
    await keep(stored, 5, 7)
    stored.past.gaps.append(missing_at(ALL, stored.past.kept[-1][0] + 1, 4, 8))
    await trio.sleep(0.001)
    await keep(stored, 9, channel="full")
    await stored.broker.publish([Delivery([make_message("full", BTC, 9)])])
    member, session = stored.come({MATCH: Start(2), ALL: Start(2)})
    await trio.sleep(5)

    assert [m.sequence or "notice" for m in member.messages] == [3, 5, 7, "notice", 9, "notice"]
    assert told(member) == [gap(4, 8, "full"), resumed(4, ALL, MATCH)]
    assert session.position(stored.pipe.tape.end) == {MATCH: 7, ALL: 9}


async def test_a_trade_backfilled_beside_full_is_delivered_at_its_gap(stored, autojump_clock):
    """Full has no backfill, so it has the gap."""
    stored.past.keep(make_message("full", BTC, 3, "match", MATCH))
    place = stored.past.kept[-1][0] + 1
    trade = BackfilledTrade(MATCH, "match", b"", b"{}", trade_id=91, id=place)
    trade.received_us = trade.published_us = wall_us()
    stored.past.kept.append((place, MATCH, trade))
    stored.past.gaps.append(missing_at(ALL, place + 1, 4, 8))
    await trio.sleep(0.001)
    stored.past.keep(make_message("full", BTC, 9, "match", MATCH))
    await stored.broker.publish([Delivery([make_message("full", BTC, 9, "match", MATCH)])])
    member, _ = stored.come({MATCH: Start(2), ALL: Start(2)})
    await trio.sleep(5)

    sent = [m.sequence or m.trade_id or "notice" for m in member.messages]
    assert sent == [3, 91, "notice", 9, "notice"]
    assert told(member) == [gap(4, 8, "full"), resumed(3, ALL, MATCH)]


async def test_a_trade_that_is_stored_under_full_and_matches_comes_once(stored, autojump_clock):
    """Who has both gets it with full; who has matches alone, from there."""
    stored.past.keep(make_message("full", BTC, 3, "match", MATCH))
    await trio.sleep(3)
    await stored.broker.publish([Delivery([make_message("full", BTC, 4, "match", MATCH)])])
    await keep(stored, 4, channel="full")
    both, _ = stored.come({MATCH: Start(2), ALL: Start(2)})
    one, _ = stored.come({MATCH: Start(2)})
    other, session = stored.come({ALL: Start(2)}, SSE[True])
    await trio.sleep(5)

    assert (data(both), data(one), data(other)) == ([3, 4], [3, 4], [3, 4])
    assert session.position(stored.pipe.tape.end) == {ALL: 4}


async def test_an_event_stream_states_all_it_has_when_it_has_many_topics(
    back, monkeypatch, autojump_clock
):
    """Above eight topics an id on the last event of a write; below, on each (DESIGN §5)."""
    monkeypatch.setattr(limits, "SSE_ID_TOPICS_MAX", 1)
    monkeypatch.setattr(limits, "RESUME_WINDOW_MESSAGES_MAX", 3)
    for sequence in range(1, 5):
        await back.publish("matches", sequence)
        await back.publish("ticker", sequence)
    member, session = back.come({MATCH: Start(1), TICK: Start(1)}, SSE[True])
    await trio.sleep(1)
    ids = [line[4:] for line in member.data.decode().splitlines() if line.startswith("id: ")]

    assert len(data(member)) == 6
    assert len(ids) < 6
    assert from_text(ids[-1]) == {MATCH: 4, TICK: 4} == session.position(back.pipe.tape.end)
    assert b"event: hedgehogd\ndata: {" in member.data


async def test_what_an_event_stream_adds_meanwhile_waits_with_the_rest(stored, autojump_clock):
    """Otherwise an event of it would state a position that lacks what is still to come."""
    await keep(stored, *range(3, 9))
    await stored.publish("matches", 8)
    stored.past.page_max = 1
    member, session = stored.come({MATCH: Start(2)}, SSE[True])

    def add(chunk):
        member.on_write = lambda chunk: None
        session.apply(Command(True, (ChannelRequest(TICKER, (BTC,)),)))

    member.on_write = add
    await trio.sleep(0.001)
    await stored.publish("ticker", 9)
    await trio.sleep(5)
    await stored.publish("ticker", 10)

    assert data(member) == [3, 4, 5, 6, 7, 8, 9, 10]


async def test_the_position_of_who_catches_up_is_what_it_was_sent(back, autojump_clock):
    """Not what waits for its socket."""
    await back.publish("matches", 1, 2, 3, 4)

    class Stuck(FakeMember):
        async def wait_written(self):
            await trio.sleep_forever()

        def waiting(self):
            return self.messages[1:]

    member = Stuck()
    session = Session("1.stuck", member, WEBSOCKET, back.pipe, 100)
    member.session = session
    limits_before, limits.RESUME_WINDOW_MESSAGES_MAX = limits.RESUME_WINDOW_MESSAGES_MAX, 4
    try:
        request = (ChannelRequest(MATCHES, (BTC,)),)
        session.apply(Command(True, request, since={MATCH: Start(1)}))
        await trio.sleep(1)
    finally:
        limits.RESUME_WINDOW_MESSAGES_MAX = limits_before

    assert data(member) == [2, 3, 4]
    assert session.position(back.pipe.tape.end) == {MATCH: 2}


async def test_who_comes_back_together_gets_the_same_bytes(stored, autojump_clock):
    """A thousand after a restart: what they need is read and joined once."""
    await keep(stored, 3, 4, 5)
    await stored.publish("matches", 5)
    page, pages = stored.past.page, {}

    async def kept_page(topics, after):
        return pages.setdefault(after, await page(topics, after))

    stored.past.page = kept_page
    one, _ = stored.come({MATCH: Start(3)})
    two, _ = stored.come({MATCH: Start(3)})
    await trio.sleep(5)

    assert data(one) == data(two) == [4, 5]
    assert one.chunks[0].data is two.chunks[0].data


async def test_an_event_stream_waits_for_all_it_asks_for_at_once(stored, autojump_clock):
    """The ticker has no position: it begins now, together with the trades."""
    await keep(stored, 3, 4)
    await keep(stored, 3, 4, channel="ticker")
    await stored.publish("matches", 4)
    member, _ = stored.come({MATCH: Start(2)}, SSE[True], channels=["matches", "ticker"])
    await trio.sleep(1)
    await stored.publish("ticker", 5)
    await trio.sleep(5)

    assert (data(member), told(member)) == ([3, 4, 5], [resumed(2)])


@pytest.mark.parametrize(("form", "is_strict"), [(WEBSOCKET, True), (NDJSON_BARE[True], False)])
async def test_who_wants_all_or_cannot_be_told_is_ended_at_a_recorded_gap(
    stored, form, is_strict, autojump_clock
):
    """It gets what there is before it."""
    await keep(stored, 3, 4)
    stored.past.gaps.append(missing_at(MATCH, stored.past.kept[-1][0] + 1, 91, 92))
    await keep(stored, 8)
    await stored.publish("matches", 8)
    member, _ = stored.come({MATCH: Start(3)}, form, is_strict=is_strict)
    await trio.sleep(5)

    assert (data(member), told(member)) == ([4], [])
    assert member.ends == [(CLOSE_EXPIRED, "position_expired")]


async def test_who_leaves_within_a_page_gets_no_more_of_it(back, autojump_clock, monkeypatch):
    """A page is given in parts, and somebody may hang up between two of them."""
    monkeypatch.setattr(limits, "RESUME_CHUNK_BYTES", 1)
    monkeypatch.setattr(limits, "RESUME_WINDOW_MESSAGES_MAX", 4)
    await back.publish("matches", *range(1, 5))
    member, session = back.come({MATCH: Start(1)})
    member.on_write = lambda chunk: back.sessions.discard(session)
    await trio.sleep(1)

    assert data(member) == [2]


async def test_what_nobody_here_has_another_instance_may(back, autojump_clock):
    """This one began at 5; the subscriber has 2."""
    back.pipe.resumes.others = others = Remembering(1, 2, 3, 4, 5)
    await back.publish("matches", 5, 6)
    member, _ = back.come({MATCH: Start(2)})
    await trio.sleep(1)
    assert not others.asked  # they may be late
    await trio.sleep(2)

    assert others.asked == [{MATCH: 2}]
    assert (data(member), told(member)) == ([3, 4, 5, 6], [resumed(4)])


async def test_what_others_lack_too_is_told(back, autojump_clock):
    """They are asked for all of it at once, and once."""
    back.pipe.resumes.others = others = Remembering(3, 4)
    await back.publish("matches", 5)
    await back.publish("ticker", 5)
    member, _ = back.come({MATCH: Start(2), TICK: Start(2)})
    await trio.sleep(3)

    assert data(member) == [5, 5]
    assert told(member) == [gap(3, 4), gap(3, 4, "ticker"), resumed(2, MATCH, TICK)]
    assert others.asked == [{MATCH: 2, TICK: 2}]


async def test_by_time_nobody_else_is_asked(back, autojump_clock):
    """There is no number to ask from."""
    back.pipe.resumes.others = others = Remembering(3, 4)
    await back.publish("matches", 5)
    member, _ = back.come({MATCH: Start(after_us=EPOCH_US - 1)})
    await trio.sleep(1)

    assert (others.asked, told(member)) == ([], [gap(None, 4), resumed(1)])


async def test_who_asks_for_another_instance_is_answered_from_here(back, autojump_clock):
    """Otherwise two who know nothing would ask each other for ever."""
    back.pipe.resumes.others = others = Remembering(3, 4)
    await back.publish("matches", 5)
    member = FakeMember()
    session = Session("1.alone", member, WEBSOCKET, back.pipe, 100)
    member.session = session
    request = (ChannelRequest(MATCHES, (BTC,)),)
    session.apply(Command(True, request, since={MATCH: Start(2)}, is_alone=True))
    await trio.sleep(1)

    assert (others.asked, told(member)) == ([], [gap(3, 4), resumed(1)])


async def test_others_are_asked_before_a_store_that_is_not_written_is_given_up(
    stored, autojump_clock
):
    """The disk is full: what is missing there is on their tapes."""
    stored.pipe.resumes.others = Remembering(4, 5)
    await keep(stored, 2, 3)
    stored.past.stopped_us = wall_us()
    await trio.sleep(limits.RESUME_ASK_S + 1)
    await stored.publish("matches", 6)
    member, _ = stored.come({MATCH: Start(2)})
    await trio.sleep(limits.RESUME_MARGIN_S + 1)  # not longer: it is not about to be written

    assert (data(member), told(member)) == ([3, 4, 5, 6], [resumed(4)])


async def test_others_who_lack_it_are_asked_once_more_before_it_is_given_up(stored, autojump_clock):
    """The store may still come, and in the end it is a gap."""
    stored.pipe.resumes.others = others = Remembering(channel="none")
    await keep(stored, 3)
    stored.past.stopped_us = wall_us()
    await trio.sleep(5)
    await stored.publish("matches", 6)
    member, _ = stored.come({MATCH: Start(2)})
    await trio.sleep(limits.RESUME_PATIENCE_S / 2)
    assert (told(member), len(others.asked)) == ([], 1)
    await trio.sleep(limits.RESUME_PATIENCE_S)

    assert len(others.asked) == 2
    assert (data(member), told(member)) == ([3, 6], [gap(4, 5), resumed(2)])


async def test_trades_that_come_with_full_are_taken_once(back, autojump_clock):
    """They are of both, here and there."""

    class Both(Remembering):
        async def fetch(self, after):
            return [make_message(*ALL, n, "match", MATCH) for n in (3, 4, 5) if after[ALL] < n]

    back.pipe.resumes.others = Both()
    trade = make_message("full", BTC, 5, "match", MATCH)
    await back.broker.publish([Delivery([trade])])
    member, _ = back.come({MATCH: Start(2), ALL: Start(2)})
    await trio.sleep(3)

    assert (data(member), told(member)) == ([3, 4, 5], [resumed(3, ALL, MATCH)])


async def test_others_know_that_a_quiet_topic_is_quiet(back, autojump_clock):
    """Nothing has come of it here, and nothing is stored: the position may be the newest."""
    back.pipe.resumes.others = others = Remembering()
    await back.publish("heartbeat", 3)
    member, _ = back.come({MATCH: Start(3)})
    await trio.sleep(limits.RESUME_MARGIN_S + 0.5)
    assert told(member) == [resumed(0)]
    await back.publish("matches", 4)

    assert (data(member), others.asked) == ([4], [{MATCH: 3}])


async def test_others_have_what_a_quiet_topic_said_before(back, autojump_clock):
    """It spoke while this instance was starting, and is quiet since."""
    back.pipe.resumes.others = Remembering(2, 3, 4, 5)
    await back.publish("heartbeat", 3)
    member, _ = back.come({MATCH: Start(3)})
    await trio.sleep(limits.RESUME_MARGIN_S + 0.5)
    await back.publish("matches", 6)
    await trio.sleep(1)

    assert data(member) == [4, 5, 6]


async def test_without_a_flow_of_the_feed_no_peer_is_asked(back, autojump_clock):
    """A message after a peer's answer would not come here."""
    back.pipe.resumes.others = others = Remembering(4)
    member, _ = back.come({MATCH: Start(3)})
    await trio.sleep(limits.RESUME_AHEAD_MAX_S + 0.5)

    assert (told(member), others.asked) == ([gap(4, None), resumed(0)], [])


async def test_a_feed_that_flows_late_may_have_peers_asked_after_the_deadline(back, autojump_clock):
    """The instance had just started when its subscriber resumed."""
    back.pipe.resumes.others = others = Remembering(4)
    member, _ = back.come({MATCH: Start(3)})
    await trio.sleep(limits.RESUME_AHEAD_MAX_S - 1)
    await back.publish("heartbeat", 3)
    await trio.sleep(limits.RESUME_MARGIN_S - 0.5)
    assert (told(member), others.asked) == ([], [])
    await trio.sleep(3)

    assert (data(member), told(member), others.asked) == ([4], [resumed(1)], [{MATCH: 3}])


@pytest.mark.parametrize("is_strict", [False, True])
async def test_others_who_know_as_little_do_not_help(back, autojump_clock, is_strict):
    """Then a quiet topic is one of which nothing is known."""
    back.pipe.resumes.others = others = Remembering(channel="none")
    await back.publish("heartbeat", 3)
    member, _ = back.come({MATCH: Start(3)}, is_strict=is_strict)
    await trio.sleep(limits.RESUME_MARGIN_S * limits.RESUME_ASKS_MAX)
    assert (told(member), member.ends) == ([], [])
    await trio.sleep(1)

    assert others.asked == [{MATCH: 3}] * limits.RESUME_ASKS_MAX
    assert told(member) == ([] if is_strict else [gap(4, None), resumed(0)])
    assert [code for code, _ in member.ends] == [4002] * is_strict


@pytest.mark.parametrize(("sequence", "channel"), [(9, "ticker"), (3, "matches")])
async def test_only_topics_without_a_message_here_wait_longer_than_the_deadline(
    back, autojump_clock, sequence, channel
):
    """A position ahead of messages that have come is of another market; so is one of a peer."""
    topic = MATCH._replace(channel=channel)
    is_alone = channel == "matches"
    back.pipe.resumes.others = others = Remembering(4, channel="none")
    await back.publish("heartbeat", 3)
    await back.publish("ticker", 3)
    member = FakeMember(WEBSOCKET)
    session = Session("1.7", member, WEBSOCKET, back.pipe, 100)
    member.session = session
    back.sessions.add(session)
    request = (ChannelRequest(BY_ALIAS[channel], (BTC,)),)
    session.apply(Command(True, request, since={topic: Start(sequence)}, is_alone=is_alone))
    await trio.sleep(limits.RESUME_AHEAD_MAX_S + 0.2)

    assert told(member) == [gap(sequence + 1, None, channel), resumed(0, topic)]
    assert others.asked == []


async def test_peers_that_are_busy_are_asked_again_before_a_position_is_given_up(
    back, autojump_clock
):
    """A peer that gives no answer at first may have the messages of the topic a little later."""
    back.pipe.resumes.others = others = Remembering(4, channel="none")
    await back.publish("heartbeat", 3)
    member, _ = back.come({MATCH: Start(3)})
    await trio.sleep(limits.RESUME_MARGIN_S * 2 + 0.5)
    assert len(others.asked) == 2
    others.channel = "matches"
    await trio.sleep(limits.RESUME_MARGIN_S * 2)

    assert (data(member), told(member)) == ([4], [resumed(1)])


class Slow(Remembering):
    """A peer instance that needs some seconds to say that it has no messages."""

    def __init__(self, takes_s):
        super().__init__(channel="none")
        self._takes_s = takes_s

    async def fetch(self, after):
        await trio.sleep(self._takes_s)
        return await super().fetch(after)


@pytest.mark.parametrize("takes_s", [0.0, 0.3, 1.0])
async def test_subscribers_that_resume_together_share_an_answer_without_messages(
    back, autojump_clock, takes_s
):
    """A peer that lacks the messages takes seconds to say so, and few are asked at a time."""

    back.pipe.resumes.others = others = Slow(takes_s)
    await back.publish("heartbeat", 3)
    members = [back.come({MATCH: Start(9 - n % 3)})[0] for n in range(48)]
    await trio.sleep(limits.RESUME_PATIENCE_S * 3)

    asks = limits.RESUME_ASKS_MAX * limits.RESUMES_ASKING_MAX * 3  # of three positions
    assert limits.RESUME_ASKS_MAX <= len(others.asked) <= asks
    found = [(gap(10 - n % 3, None), resumed(0)) for n in range(48)]
    assert [tuple(told(member)) for member in members] == found


@pytest.mark.parametrize("takes_s", [0.0, 0.3, 1.0, 4.0])
async def test_each_ask_of_a_stream_reaches_the_peers(back, autojump_clock, takes_s):
    """Its own last answer is remembered no longer than its pause."""

    back.pipe.resumes.others = others = Slow(takes_s)
    await back.publish("heartbeat", 3)
    back.come({MATCH: Start(3)})
    await trio.sleep(limits.RESUME_PATIENCE_S)

    assert others.asked == [{MATCH: 3}] * limits.RESUME_ASKS_MAX


async def test_a_clock_that_is_set_back_delays_no_ask(back, autojump_clock):
    """The flow of the feed seems to begin in an hour."""
    back.pipe.resumes.others = others = Remembering(4)
    await back.publish("heartbeat", 3)
    back.pipe.resumes.wall_us = lambda: wall_us() - 3600 * 10**6
    member, _ = back.come({MATCH: Start(3)})
    await trio.sleep(limits.RESUME_MARGIN_S + 1)

    assert (data(member), others.asked) == ([4], [{MATCH: 3}])


async def test_a_wait_for_peers_has_an_end(back, autojump_clock):
    """A peer instance that never answers holds a stream back for a bounded time."""

    class Never(Remembering):
        async def fetch(self, after):
            self.asked.append(after)
            await trio.sleep_forever()

    back.pipe.resumes.others = Never()
    await back.publish("heartbeat", 3)
    member, _ = back.come({MATCH: Start(3)})
    await trio.sleep(limits.RESUME_PATIENCE_S * 2 + 5)

    assert told(member) == [gap(4, None), resumed(0)]


@pytest.mark.parametrize("has_answer", [True, False])
async def test_a_topic_that_speaks_while_peers_are_asked_is_not_given_up(
    back, autojump_clock, has_answer
):
    """The first message of the topic arrives within the wait for slow peers, past the deadline."""

    class Busy(Remembering):
        async def fetch(self, after):
            self.asked.append(after)
            await trio.sleep(limits.RESUME_FETCH_S)
            later = has_answer or len(self.asked) > 1
            return [make_message(*MATCH, n) for n in (4, 5, 6)] if later else None

    back.pipe.resumes.others = Busy()
    await back.publish("heartbeat", 3)
    member, _ = back.come({MATCH: Start(3)})
    await trio.sleep(limits.RESUME_AHEAD_MAX_S)
    await back.publish("matches", 6)
    await trio.sleep(limits.RESUME_FETCH_S * 2 + limits.RESUME_MARGIN_S)
    await back.publish("matches", 7)

    assert (data(member), told(member)) == ([4, 5, 6, 7], [resumed(3)])


async def test_a_topic_that_speaks_while_another_is_given_up_stays(back, autojump_clock):
    """The notice of the other topic waits for a slow subscriber."""

    class SlowMember(FakeMember):
        __slots__ = ()

        async def wait_written(self):
            await trio.sleep(1)

    await back.publish("ticker", 3)
    await back.publish("matches", 3)
    starts = {MATCH: Start(4), TICK: Start(4)}  # in this order
    member, _ = back.come(starts, member=SlowMember(WEBSOCKET))
    await trio.sleep(limits.RESUME_AHEAD_MAX_S + 0.5)
    assert told(member) == [gap(5, None)]
    await back.publish("ticker", 4, 5)
    await trio.sleep(3)

    assert told(member) == [gap(5, None), resumed(1, MATCH, TICK)]
    assert data(member) == [5]


async def test_a_peers_answer_may_be_ahead_of_our_feed_beyond_the_deadline(back, autojump_clock):
    """Our feed is a little late, and its first message arrives while the answer is written."""

    class Late(Remembering):
        async def fetch(self, after):
            found = await super().fetch(after)
            return found if len(self.asked) == limits.RESUME_ASKS_MAX else None

    class SlowMember(FakeMember):
        __slots__ = ()

        async def wait_written(self):
            await back.publish(
                "matches", *range(5, 6) if not back.pipe.tape.held_from(MATCH) else ()
            )

    back.pipe.resumes.others = Late(4, 5, 6)
    await back.publish("heartbeat", 3)
    member, _ = back.come({MATCH: Start(3)}, member=SlowMember(WEBSOCKET))
    await trio.sleep(limits.RESUME_MARGIN_S * limits.RESUME_ASKS_MAX + 1)
    assert (data(member), told(member)) == ([4, 5, 6], [])
    await back.publish("matches", 6, 7)
    await trio.sleep(1)

    assert (data(member), told(member)) == ([4, 5, 6, 7], [resumed(4)])


async def test_a_quiet_topic_is_asked_for_together_with_its_twin(back, autojump_clock):
    """The trade would come before the events of full that precede it, and then once more."""

    class Both(Remembering):
        async def fetch(self, after):
            self.asked.append(after)
            trade = make_message(*ALL, 4, "match", MATCH)
            rest = [make_message(*ALL, n, "open") for n in (3, 5, 6)]
            return [each for each in (rest[0], trade, *rest[1:]) if each.sequence > after[ALL]]

    back.pipe.resumes.others = others = Both()
    await back.publish("full", 6)
    member, session = back.come({MATCH: Start(1), ALL: Start(2)})
    await trio.sleep(limits.RESUME_MARGIN_S * 2 + 1)
    await back.publish("full", 7)

    assert data(member) == [3, 4, 5, 6, 7]
    assert others.asked == [{MATCH: 1, ALL: 2}]
    assert session.position(back.pipe.tape.end) == {MATCH: 4, ALL: 7}


@pytest.mark.xfail(strict=True, reason="One writer")
async def test_a_stream_cut_within_a_catch_up_resumes_there(back, autojump_clock):
    """Each event states a position, so a second resume repeats nothing wherever the cut is."""
    await back.publish("matches", *range(1, 13))
    whole, _ = back.come({MATCH: Start(2)}, SSE[True])
    await trio.sleep(1)
    events = bytes(whole.data).split(b"data: {")
    repeated = {}
    for count in range(2, len(events)):  # the first one has nothing to resume from
        cut = b"data: {".join(events[:count])
        received = re.findall(rb'"type": "match".*"sequence": (\d+)', cut)
        ids = re.findall(rb"^id: (.*)$", cut, re.MULTILINE)
        position = from_text(ids[-1].decode()) if ids else {MATCH: 2}
        again, _ = back.come({topic: Start(n) for topic, n in position.items()}, SSE[True])
        await trio.sleep(1)
        repeated[count] = sorted(set(data(again)) & set(map(int, received)))

    assert data(whole) == [*range(3, 13)]
    assert not any(repeated.values()), repeated
