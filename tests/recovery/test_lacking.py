"""Coming back over what our feed did not give us: others may have it, or it is told."""

import json

import pytest
import trio

from hedgehogd.domain import limits
from hedgehogd.domain.channel import FULL
from hedgehogd.domain.errors import CLOSE_EXPIRED
from hedgehogd.domain.position import Start
from hedgehogd.engine.delivery import Delivery
from hedgehogd.fanout.session import Session
from hedgehogd.protocol.commands import ChannelRequest, Command
from hedgehogd.protocol.wire import NDJSON_BARE, WEBSOCKET
from tests.fakes import FakeMember, make_message
from tests.recovery.returning import (
    ALL,
    BACK,
    BTC,
    LOST,
    MATCH,
    STALE,
    TICK,
    Remembering,
    Returner,
    data,
    gap,
    holed,
    keep,
    missing_at,
    publish,
    resumed,
    texts,
    told,
)


async def test_others_may_have_it(back, autojump_clock):
    """Their feed did not stop."""
    back.pipe.resumes.others = Remembering(*range(1, 8), channel="full")
    await holed(back)
    member, _ = back.come({ALL: Start(2)})
    await trio.sleep(3)

    assert (data(member), told(member)) == ([3, 4, 5, 6, 7], [resumed(5, ALL)])


class Breaking(Remembering):
    """Another instance that has all but the newest; while it is asked our feed breaks off."""

    def __init__(self, back, times):
        super().__init__(channel="full")
        self.back, self.times = back, times
        self.last = 7

    async def fetch(self, after):
        self.sequences = range(self.last + 1)
        if len(self.asked) < self.times:
            self.last += 2
            await publish(self.back, ALL, self.last, lacks=(self.last - 1, self.last - 1))
        return await super().fetch(after)


async def test_what_breaks_off_while_others_are_asked_is_asked_for_again(back, autojump_clock):
    """They were asked for what came before."""
    back.pipe.resumes.others = others = Breaking(back, 1)
    await holed(back)
    member, _ = back.come({ALL: Start(2)})
    await trio.sleep(10)

    assert (data(member), told(member)) == ([*range(3, 10)], [resumed(7, ALL)])
    assert others.asked == [{ALL: 2}, {ALL: 7}]


async def test_what_breaks_off_each_time_is_given_up(back, autojump_clock):
    """Nobody waits for ever."""
    back.pipe.resumes.others = Breaking(back, 100)
    await holed(back)
    member, _ = back.come({ALL: Start(2)})
    await trio.sleep(20)

    assert (data(member), texts(member)[-3:]) == ([*range(3, 12), 13], ["gap", 13, "resumed"])


async def test_the_store_may_have_it(stored, autojump_clock):
    """Another instance writes it."""
    await keep(stored, *range(1, 8), channel="full")
    await holed(stored)
    member, _ = stored.come({ALL: Start(2)})
    await trio.sleep(4)

    assert (data(member), told(member)) == ([3, 4, 5, 6, 7], [resumed(5, ALL)])


async def hole_in_the_store(stored):
    await keep(stored, 1, 2, 3, channel="full")
    stored.past.gaps.append(missing_at(ALL, stored.past.kept[-1][0] + 1, 4, 5))
    await trio.sleep(0.001)
    await keep(stored, 6, 7, channel="full")
    await publish(stored, ALL, 7)


async def test_what_was_never_stored_others_may_have(stored, autojump_clock):
    """The disk was full for a while, here."""
    stored.pipe.resumes.others = Remembering(*range(1, 8), channel="full")
    await hole_in_the_store(stored)
    member, _ = stored.come({ALL: Start(2)})
    await trio.sleep(5)

    assert (data(member), told(member)) == ([3, 4, 5, 6, 7], [resumed(5, ALL)])


async def test_what_was_never_stored_may_be_on_the_tape(stored, autojump_clock):
    """The writer's feed stopped, ours did not: what is stored is needed up to there alone."""
    stored.pipe.resumes.others = others = Remembering(channel="none")
    await keep(stored, 1, 2, 3, channel="full")
    stored.past.gaps.append(missing_at(ALL, stored.past.kept[-1][0] + 1, 4, 5))
    await keep(stored, 6, 7, channel="full")
    await publish(stored, ALL, *range(3, 8))
    member, _ = stored.come({ALL: Start(1)})
    await trio.sleep(5)

    assert (data(member), told(member)) == ([*range(2, 8)], [resumed(6, ALL)])
    assert not others.asked


async def test_what_others_lack_too_is_not_asked_for_by_everybody(stored, autojump_clock):
    """Those who come back together meet the same; some time later others may know more."""
    stored.pipe.resumes.others = others = Remembering(channel="none")
    await hole_in_the_store(stored)
    for count in (1, 2):
        members = [stored.come({ALL: Start(2)})[0] for _ in range(10)]
        await trio.sleep(limits.RESUME_NOWHERE_S + 5)

        for member in members:
            assert texts(member) == [3, "gap", 6, 7, "resumed"]
            assert told(member) == [LOST, resumed(3, ALL)]
        assert len(others.asked) == count * limits.RESUMES_ASKING_MAX


async def test_of_what_nobody_had_only_so_much_is_remembered(stored, monkeypatch, autojump_clock):
    """It is forgotten all at once, and asked for again."""
    monkeypatch.setattr(limits, "RESUME_PAGES_MAX", 1)
    stored.pipe.resumes.others = others = Remembering(channel="none")
    await keep(stored, 3, channel="full")
    for number in (5, 7):
        missing = (number - 1, number - 1)
        stored.past.gaps.append(missing_at(ALL, stored.past.kept[-1][0] + 1, *missing))
        await trio.sleep(0.001)
        await keep(stored, number, channel="full")
    await publish(stored, ALL, 7)
    for _ in range(2):
        member, _ = stored.come({ALL: Start(3)})
        await trio.sleep(5)
        assert texts(member) == ["gap", 5, "gap", 7, "resumed"]

    assert len(others.asked) == 4


async def test_others_are_asked_for_what_was_removed(stored, autojump_clock):
    """Retention may have been stricter here."""
    stored.pipe.resumes.others = Remembering(*range(1, 8), channel="full")
    await keep(stored, 5, 6, channel="full")
    await publish(stored, ALL, 6, 7)
    member, _ = stored.come({ALL: Start(2)})
    await trio.sleep(5)

    assert (data(member), told(member)) == ([*range(3, 8)], [resumed(5, ALL)])


async def test_a_ticker_may_have_said_something_while_the_feed_was_down(back, autojump_clock):
    """Its numbers do not tell: it leaves out many."""
    await publish(back, TICK, 10, 20)
    await back.broker.publish([Delivery([], [STALE]), Delivery([], [BACK])])
    await publish(back, TICK, 30, 40)
    member, _ = back.come({TICK: Start(10)})
    await trio.sleep(1)

    assert texts(member) == [20, "gap", 30, 40, "resumed"]
    assert told(member)[0] == gap(21, 29, "ticker")


async def test_a_ticker_that_goes_on_with_the_next_number_lacks_nothing(back, autojump_clock):
    """No number is left out."""
    await publish(back, TICK, 10)
    await back.broker.publish([Delivery([], [STALE]), Delivery([], [BACK])])
    await publish(back, TICK, 11)
    member, _ = back.come({TICK: Start(10)})
    await trio.sleep(1)

    assert (texts(member), member.notices) == ([11, "resumed"], [])


async def test_a_ticker_that_has_not_spoken_since_may_lack_something(back, autojump_clock):
    """Nobody can say up to where."""
    await publish(back, TICK, 10)
    await back.broker.publish([Delivery([], [STALE]), Delivery([], [BACK])])
    member, _ = back.come({TICK: Start(10)})
    await trio.sleep(1)

    assert [json.loads(payload) for payload in member.notices] == [gap(11, None, "ticker")]


async def test_while_our_feed_is_down_what_others_write_is_followed(stored, autojump_clock):
    """And when it is back there is no seam."""
    await keep(stored, *range(1, 8), channel="full")
    await publish(stored, ALL, 1, 2, 3)
    await stored.broker.publish([Delivery([], [STALE])])
    member, session = stored.come({ALL: Start(7)})  # others have brought it there
    await trio.sleep(1)
    await keep(stored, *range(8, 15), channel="full")
    await trio.sleep(1)
    assert session.position(stored.pipe.tape.end) == {ALL: 14}
    assert told(member) == []
    await keep(stored, 15, channel="full")
    await publish(stored, ALL, 15, lacks=(4, 14))
    await trio.sleep(5)
    await publish(stored, ALL, 16)

    assert (data(member), told(member)) == ([*range(8, 17)], [resumed(8, ALL)])


async def test_who_has_more_than_has_come_here_is_not_given_it_again(stored, autojump_clock):
    """However long our feed was down: it begins where it had stopped, or later."""
    await keep(stored, 1, 2, 3, channel="full")
    await publish(stored, ALL, 1, 2)
    member, session = stored.come({ALL: Start(3)})
    await trio.sleep(limits.RESUME_PATIENCE_S * 2)
    assert session.position(stored.pipe.tape.end) == {ALL: 3}
    await publish(stored, ALL, 3, 4)
    await trio.sleep(1)

    assert (data(member), told(member)) == ([4], [resumed(1, ALL)])


async def test_a_feed_that_is_late_all_the_time_is_waited_for(stored, autojump_clock):
    """What is written meanwhile is not read: it would be ahead for ever."""

    async def say():
        for number in range(4, 1000):
            await keep(stored, number, channel="full")
            await trio.sleep(0.05)

    async def hear():
        await trio.sleep(1)
        for number in range(4, 1000):
            await publish(stored, ALL, number)
            await trio.sleep(0.051)

    await keep(stored, 1, 2, 3, channel="full")
    await publish(stored, ALL, 1, 2, 3)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(say)
        nursery.start_soon(hear)
        await trio.sleep(5)
        member, _ = stored.come({ALL: Start(2)})
        await trio.sleep(5)
        nursery.cancel_scope.cancel()

    assert data(member) == [*range(3, data(member)[-1] + 1)]
    assert [notice["type"] for notice in told(member)] == ["resumed"]


async def test_numbers_that_begin_anew_are_told_and_followed(stored, autojump_clock):
    """Nobody waits for ever for what will not come."""
    await keep(stored, 1001, 1002, channel="full")
    await publish(stored, ALL, 1)
    member, _ = stored.come({ALL: Start(1001)})
    for number in range(2, 80):
        await trio.sleep(0.5)
        await publish(stored, ALL, number)

    assert told(member)[0] == gap(1003, None, "full")
    assert data(member) == [1002, *range(2, 80)]


async def test_what_a_topic_says_first_is_not_given_twice(stored, autojump_clock):
    """It was stored before it came here."""
    await keep(stored, 3, 4, 5, channel="full")
    await publish(stored, TICK, 1)
    await stored.publish("heartbeat", 1)
    await trio.sleep(3)
    member, _ = stored.come({ALL: Start(3)})
    await trio.sleep(0.05)
    await publish(stored, ALL, 5, 6)
    await trio.sleep(3)

    assert (data(member), told(member)) == ([4, 5, 6], [resumed(3, ALL)])


async def test_a_store_that_fails_while_it_is_followed_is_waited_for(stored, autojump_clock):
    """It may come back before our feed does."""
    await keep(stored, 1, 2, 3, channel="full")
    await publish(stored, ALL, 1, 2)
    member, _ = stored.come({ALL: Start(3)})
    await trio.sleep(1)
    stored.past.is_down = True
    await keep(stored, 4, channel="full")
    await trio.sleep(1)
    stored.past.is_down = False
    await trio.sleep(1)
    await publish(stored, ALL, 3, 4)
    await trio.sleep(1)

    assert (data(member), told(member)) == ([4], [resumed(1, ALL)])


async def test_a_position_that_has_left_the_tape_is_not_claimed(nursery, autojump_clock):
    """More was given since than what somebody came with; how much nobody knows any more."""
    back = Returner(bytes_max=1)
    nursery.start_soon(back.pipe.resumes.run)
    await publish(back, ALL, 1)
    _, session = back.come({ALL: Start(1)})
    await trio.sleep(1)
    assert session.position(0) == {ALL: 1}
    await publish(back, ALL, 2)
    await publish(back, ALL, 3)

    assert [session.position(at) for at in (0, 3)] == [{}, {ALL: 3}]


async def test_a_store_that_fails_for_good_while_it_is_followed_is_not_waited_for(
    stored, autojump_clock
):
    """Nothing comes, from anywhere."""
    await keep(stored, 1, 2, 3, channel="full")
    await publish(stored, ALL, 1, 2)
    member, _ = stored.come({ALL: Start(3)})
    await trio.sleep(1)
    stored.past.is_down = True
    await trio.sleep(limits.RESUME_PATIENCE_S + 1)

    assert told(member) == [gap(4, None, "full"), resumed(0, ALL)]


async def test_of_who_has_full_no_trade_is_waited_for(stored, autojump_clock):
    """The last one was not said here; it is behind the position of full."""
    trade = make_message(*ALL, 3, "match", MATCH, trade_id=3)
    for message in (make_message(*ALL, 1, "match", MATCH, trade_id=1), trade):
        stored.past.keep(message)
    await stored.broker.publish([Delivery([make_message(*ALL, 1, "match", MATCH, trade_id=1)])])
    await publish(stored, ALL, 4, lacks=(2, 3))
    member, _ = stored.come({ALL: Start(4), MATCH: Start(3)})
    await trio.sleep(1)

    assert told(member) == [resumed(0, ALL, MATCH)]


@pytest.mark.parametrize(
    ("is_strict", "form"), [(False, WEBSOCKET), (True, WEBSOCKET), (False, NDJSON_BARE[True])]
)
async def test_what_the_writer_did_not_hear_either_is_not_taken_for_whole(
    stored, is_strict, form, autojump_clock
):
    """It goes on saying that all is written: of what has come to it."""
    await keep(stored, 1, 2, 3, channel="full")
    await holed(stored)
    member, _ = stored.come({ALL: Start(2)}, form, is_strict=is_strict)
    await trio.sleep(limits.RESUME_PATIENCE_S * 2)

    if is_strict or not form.has_notices:
        assert (texts(member), [code for code, _ in member.ends]) == ([3], [CLOSE_EXPIRED])
    else:
        assert texts(member) == [3, "gap", 6, 7, "resumed"]


async def test_others_whose_feed_is_down_do_not_have_all(back, autojump_clock):
    """They have what came before, and say no more than that."""
    back.pipe.resumes.others = Remembering(1, 2, 3, channel="full")
    await holed(back)
    member, _ = back.come({ALL: Start(2)})
    await trio.sleep(20)

    assert texts(member) == [3, "gap", 6, 7, "resumed"]


ETH_ALL = FULL.topic("ETH-USD")


def store(stored, *messages):
    for message in messages:
        stored.past.keep(message)


def come_to_both(stored, starts):
    member = FakeMember(WEBSOCKET)
    session = Session("1.both", member, WEBSOCKET, stored.pipe, 100)
    member.session = session
    stored.sessions.add(session)
    request = ChannelRequest(FULL, (BTC, "ETH-USD"))
    session.apply(Command(True, (request,), since=starts))
    return member


def got(member, product_id):
    return [m.sequence or m.type for m in member.messages if m.topic.product_id == product_id]


@pytest.mark.parametrize("is_behind", [True, False])
async def test_a_hole_in_the_store_is_none_where_the_tape_has_it(stored, is_behind, autojump_clock):
    """Whether another topic is needed from the store, or our feed is behind of one."""
    store(stored, make_message(*ALL, 1), make_message(*ALL, 2), make_message(*ETH_ALL, 50))
    await trio.sleep(0.01)
    await publish(stored, ALL, 2, 3)
    if not is_behind:
        await publish(stored, ETH_ALL, 50)
    store(stored, make_message(*ALL, 3))
    await trio.sleep(0.01)
    await publish(stored, ALL, 4, 5, 6)
    stored.past.gaps.append(missing_at(ALL, stored.past.kept[-1][0] + 1, 4, 5))
    await trio.sleep(0.01)
    store(stored, make_message(*ALL, 6), make_message(*ETH_ALL, 51))
    member = come_to_both(stored, {ALL: Start(1), ETH_ALL: Start(50 if is_behind else 51)})
    await trio.sleep(2)
    await publish(stored, ETH_ALL, 51, 52)
    await trio.sleep(40)

    assert got(member, BTC) == [2, 3, 4, 5, 6]
    assert got(member, "ETH-USD") == ([51, 52] if is_behind else [52])


async def test_trades_come_from_the_store_where_full_is_left_to_the_tape(stored, autojump_clock):
    """They were to come with it."""
    events = [make_message(*ALL, n, "open") for n in range(7)]
    for number in (1, 4, 5, 6):
        events[number] = make_message(*ALL, number, "match", MATCH, trade_id=number)
    store(stored, *events[1:4])
    await stored.broker.publish([Delivery(events[2:])])
    stored.past.gaps.append(missing_at(ALL, stored.past.kept[-1][0] + 1, 4, 5))
    await trio.sleep(0.01)
    store(stored, events[6])
    member, _ = stored.come({ALL: Start(1), MATCH: Start(1)})
    await trio.sleep(40)

    assert data(member) == [2, 3, 4, 5, 6]


async def test_what_others_lack_of_one_product_takes_no_other_with_it(stored, autojump_clock):
    """Nor is it remembered of who asks for less."""

    class Peer(Remembering):
        async def fetch(self, after):
            self.asked.append(after)
            return None if TICK in after else await super().fetch(after)

    stored.pipe.resumes.others = Peer(*range(1, 8), channel="full")
    await keep(stored, 3, channel="ticker")
    await hole_in_the_store(stored)
    await keep(stored, 7, channel="ticker")
    await publish(stored, TICK, 7)
    stored.come({ALL: Start(2), TICK: Start(3)})
    await trio.sleep(5)
    member, _ = stored.come({ALL: Start(2)})
    await trio.sleep(5)

    assert texts(member) == [3, 4, 5, 6, 7, "resumed"]


@pytest.mark.parametrize(("form", "is_strict"), [(WEBSOCKET, True), (NDJSON_BARE[True], False)])
async def test_who_wants_all_or_cannot_be_told_is_ended_while_it_is_not_known(
    back, form, is_strict, autojump_clock
):
    """The ticker may have said something while the feed was down."""
    await publish(back, TICK, 10)
    await back.broker.publish([Delivery([], [STALE]), Delivery([], [BACK])])
    member, _ = back.come({TICK: Start(9)}, form, is_strict=is_strict)
    await trio.sleep(1)

    assert (data(member), member.ends) == ([], [(CLOSE_EXPIRED, "position_expired")])


async def test_what_others_had_first_is_not_given_twice(back, nursery, autojump_clock):
    """A topic that had never spoken here does so just now."""

    class Soon(Remembering):
        async def fetch(self, after):
            nursery.start_soon(self.here)
            return await super().fetch(after)

        async def here(self):
            await trio.sleep(0.05)
            await publish(back, ALL, 5)

    back.pipe.resumes.others = Soon(4, 5, channel="full")
    await publish(back, TICK, 1)
    await trio.sleep(5)
    member, _ = back.come({ALL: Start(3)})
    await trio.sleep(10)

    assert texts(member) == [4, 5, "resumed"]
