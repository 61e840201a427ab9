"""Where a stream is in what is stored; ``test_catch_up`` has what comes of it."""

import pytest
import trio

from hedgehogd.domain.position import Start
from hedgehogd.recovery.history_cursor import Reading
from hedgehogd.recovery.progress import Progress
from tests.fakes import make_message
from tests.recovery.returning import ALL, MATCH, TICK, keep, wall_us


@pytest.fixture
def reading(stored):
    return Reading(stored.pipe.resumes)


def progresses(**starts):
    topics = {"match": MATCH, "tick": TICK, "full": ALL}
    return {topics[name]: Progress(start) for name, start in starts.items()}


async def test_it_begins_at_the_earliest_of_the_positions(stored, reading, autojump_clock):
    """Who is further is not given again what it has."""
    await keep(stored, 1, 2, 3)
    await keep(stored, 4, 5, channel="ticker")
    asked = progresses(match=Start(2), tick=Start(5))
    await reading.locate(asked, wall_us())
    page = await reading.page([MATCH, TICK])

    assert [message.sequence for message in page.messages] == [3, 4, 5]
    assert reading.kept == {MATCH, TICK}
    assert not any(progress.is_cut for progress in asked.values())


async def test_what_is_new_is_read_and_moves_the_beginning_not(stored, reading, autojump_clock):
    """It waits for the others, and may be among what they are given."""
    await keep(stored, 1, 2)
    await reading.locate(progresses(match=Start(is_new=True)), wall_us())

    assert (reading.cursor, reading.kept) == (stored.past.kept[-1][0], {MATCH})


async def test_a_position_before_all_that_is_kept_is_cut(stored, reading, autojump_clock):
    """By number, or by time."""
    await keep(stored, 7, 8)
    first, _, message = stored.past.kept[0]
    for start in (Start(3), Start(after_us=message.received_us - 5)):
        asked = progresses(match=start)
        await reading.locate(asked, wall_us())
        assert (reading.cursor, asked[MATCH].is_cut) == (first - 1, True)


async def test_a_time_is_translated_to_a_place(stored, reading, autojump_clock):
    """Places are no times; and where the past cannot be read, all of it is read later."""
    await keep(stored, 7, 8, 9)
    _, second, third = (message for _, _, message in stored.past.kept)
    asked = progresses(match=Start(after_us=second.received_us))
    await reading.locate(asked, wall_us())
    assert (reading.cursor, asked[MATCH].is_cut) == (third.id - 1, False)

    stored.past.is_down = True
    await reading.locate(progresses(match=Start(after_us=second.received_us)), wall_us())
    assert reading.cursor == 0


async def test_trades_are_read_with_full(stored, reading, autojump_clock):
    """A record of full may be of both; a past that keeps full alone has the trades there."""
    for number in (5, 6):
        stored.past.keep(make_message("full", sequence=number, kind="match", also=MATCH))
    await trio.sleep(0.001)
    asked = progresses(match=Start(5), full=Start(5))
    await reading.locate(asked, wall_us())
    page = await reading.page([MATCH, ALL])

    assert [(m.topic, m.also, m.sequence) for m in page.messages] == [(ALL, MATCH, 6)]
    assert (reading.kept, reading.has(TICK), asked[MATCH].is_cut) == ({MATCH, ALL}, False, False)
    stored.past.keeps = lambda topic: topic == ALL
    reading.kept.clear()
    await reading.locate(asked, wall_us())
    assert (reading.kept, reading.has(MATCH), reading.has(TICK)) == ({ALL}, True, False)


async def test_of_what_cannot_be_read_nothing_is_known(stored, reading, autojump_clock):
    """The disk fails, or there is none."""
    await keep(stored, 5)
    stored.past.is_down = True
    await reading.locate(progresses(match=Start(5)), wall_us())
    assert (await reading.page([MATCH]), await reading.find(MATCH, 5)) == (None, None)
    stored.past.is_down = False
    assert await reading.page([TICK]) is None
    stored.pipe.resumes.past = None

    assert (await reading.page([MATCH]), await reading.find(MATCH, 5)) == (None, None)
