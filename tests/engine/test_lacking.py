"""Coming back over what our feed did not give us: others may have it, or it is told."""

import json

import trio

from hedgehogd.domain import limits
from hedgehogd.domain.position import Start
from hedgehogd.engine.broker import Delivery
from hedgehogd.engine.past import PastGap
from tests.engine.returning import (
    ALL,
    BACK,
    LOST,
    STALE,
    TICK,
    Remembering,
    Returner,
    data,
    gap,
    holed,
    keep,
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
    stored.past.gaps.append(PastGap(ALL, stored.past.kept[-1][0] + 1, "missing", 4, 5))
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
    stored.past.gaps.append(PastGap(ALL, stored.past.kept[-1][0] + 1, "missing", 4, 5))
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
        stored.past.gaps.append(PastGap(ALL, stored.past.kept[-1][0] + 1, "missing", *missing))
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

    assert (texts(member), member.told) == ([11, "resumed"], [])


async def test_a_ticker_that_has_not_spoken_since_may_lack_something(back, autojump_clock):
    """Nobody can say up to where."""
    await publish(back, TICK, 10)
    await back.broker.publish([Delivery([], [STALE]), Delivery([], [BACK])])
    member, _ = back.come({TICK: Start(10)})
    await trio.sleep(1)

    assert [json.loads(payload) for payload in member.told] == [gap(11, None, "ticker")]


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


async def test_a_position_is_what_was_given_although_our_feed_has_less(stored, autojump_clock):
    """It did not come back in time; what comes late is not given again."""
    await keep(stored, 1, 2, 3, channel="full")
    await publish(stored, ALL, 1, 2)
    member, session = stored.come({ALL: Start(3)})
    await trio.sleep(limits.RESUME_PATIENCE_S * 2)

    assert told(member) == [resumed(0, ALL)]
    assert session.position(stored.pipe.tape.end) == {ALL: 3}


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
