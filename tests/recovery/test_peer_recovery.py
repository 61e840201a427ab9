"""What other instances are asked for, and when."""

import pytest
import trio

from hedgehogd.domain import limits
from hedgehogd.engine.gap_marker import in_band
from hedgehogd.recovery.peer_recovery import Neighbours
from tests.recovery.returning import ALL, MATCH, TICK, Remembering, publish, wall_us


@pytest.fixture
def others(back):
    back.pipe.resumes.others = others = Remembering(*range(1, 10), channel="full")
    return others


@pytest.fixture
def neighbours(back):
    return Neighbours(back.pipe.resumes, is_alone=False)


async def test_they_are_asked_once_they_have_what_came_before_our_record(
    back, others, neighbours, autojump_clock
):
    """What is on our tape is not wanted a second time."""
    await publish(back, ALL, 5)
    begin = trio.current_time()
    found = await neighbours.fetch({ALL: 2})

    assert trio.current_time() == pytest.approx(begin + limits.RESUME_MARGIN_S)
    assert [message.sequence for message in found.messages] == [3, 4]
    assert found.records == {ALL: back.pipe.tape.known_from(ALL)}
    assert (others.asked, neighbours.were_asked([ALL])) == ([{ALL: 2}], True)


async def test_they_are_asked_once_they_have_what_follows_on_a_hole(
    others, neighbours, autojump_clock
):
    """The writer may have been quicker than they are."""
    begin = trio.current_time()
    await neighbours.fetch({ALL: 2}, in_band(ALL, b"{}", 3, wall_us()))

    assert trio.current_time() == pytest.approx(begin + limits.RESUME_MARGIN_S)


async def test_a_clock_that_steps_back_delays_nobody_for_long(
    back, others, neighbours, autojump_clock
):
    """Our record seems to begin tomorrow."""
    await publish(back, ALL, 5)
    back.pipe.resumes.wall_us = lambda: wall_us() - 86_400_000_000
    begin = trio.current_time()
    await neighbours.fetch({ALL: 2})

    assert trio.current_time() == pytest.approx(begin + limits.RESUME_MARGIN_S)


async def test_who_has_not_what_our_record_begins_with_may_lack_what_is_before(
    back, others, neighbours, autojump_clock
):
    """Its feed is later than ours, or down."""
    await publish(back, ALL, 10)
    found = await neighbours.fetch({ALL: 7})

    assert ([message.sequence for message in found.messages], found.records) == ([8, 9], {})


async def test_of_what_we_never_had_all_is_taken(others, neighbours, autojump_clock):
    """At once: there is no record that they could be behind."""
    found = await neighbours.fetch({ALL: 7})

    assert [message.sequence for message in found.messages] == [8, 9]


async def test_they_are_asked_for_a_topic_once(others, neighbours, autojump_clock):
    """For a hole in what is stored each time, and again when they may know more."""
    assert await neighbours.fetch({ALL: 2})
    assert await neighbours.fetch({ALL: 2}) is None
    assert not neighbours.were_asked([ALL, TICK])
    hole = in_band(ALL, b"{}", 3, 5)
    assert await neighbours.fetch({ALL: 2}, hole)
    neighbours.ask_again()
    assert await neighbours.fetch({ALL: 2})

    assert len(others.asked) == 3


async def test_without_numbers_or_others_nobody_is_asked(back, others, neighbours):
    """Nor when another instance asks us: two would ask each other for ever."""
    assert await neighbours.fetch({ALL: 2, MATCH: None}) is None
    assert await Neighbours(back.pipe.resumes, is_alone=True).fetch({ALL: 2}) is None
    back.pipe.resumes.others = None
    assert await neighbours.fetch({TICK: 2}) is None

    assert others.asked == []


async def test_when_too_many_wait_the_last_ones_go_on_without(back, neighbours, autojump_clock):
    """A few are asked for at a time, and they may be slow."""

    class Slow(Remembering):
        async def fetch(self, after):
            await trio.sleep(limits.RESUME_FETCH_S)
            return await super().fetch(after)

    back.pipe.resumes.others = others = Slow(1, 2, 3, channel="full")
    rounds = int(limits.RESUME_PATIENCE_S // limits.RESUME_FETCH_S)
    found = []

    async def ask():
        asking = Neighbours(back.pipe.resumes, is_alone=False)
        found.append(await asking.fetch({ALL: 2}))

    async with trio.open_nursery() as nursery:
        for _ in range(limits.RESUMES_ASKING_MAX * rounds * 2):
            nursery.start_soon(ask)

    answered = [each for each in found if each is not None]
    assert len(answered) >= limits.RESUMES_ASKING_MAX * (rounds - 1)
    assert len(answered) < len(found)
    assert len(others.asked) <= limits.RESUMES_ASKING_MAX * (rounds + 1)
