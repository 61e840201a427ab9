"""What all who come back share; ``test_catch_up`` has what happens to each."""

import trio

from hedgehogd.domain import limits
from hedgehogd.engine.budget import Budget
from hedgehogd.engine.tape import Tape
from hedgehogd.recovery.service import Resumes
from tests.fakes import make_message
from tests.recovery.returning import MATCH, TICK, wall_us


def test_a_page_of_the_tape_is_read_once_and_not_kept_for_ever(monkeypatch):
    """It holds the bytes a second time."""
    monkeypatch.setattr(limits, "RESUME_PAGES_MAX", 2)
    monkeypatch.setattr(limits, "RESUME_WINDOW_MESSAGES_MAX", 2)
    tape = Tape()
    tape.append([make_message("matches", sequence=n) for n in range(1, 9)])
    resumes, topics = Resumes(tape, lambda: 0, Budget()), frozenset({MATCH})
    pages = [resumes.tape_page(topics, window) for window in range(4)]

    assert [[m.sequence for m in page.messages] for page in pages] == [
        [1, 2],
        [3, 4],
        [5, 6],
        [7, 8],
    ]
    assert resumes.tape_page(topics, 3) is pages[3]
    assert resumes.tape_page(topics, 0) is not pages[0]
    assert resumes.tape_page(frozenset({TICK}), 3).messages == []


async def test_whoever_begins_is_brought_back_while_others_are(nursery, autojump_clock):
    """One after the other would be a queue of those who came back to a restart."""

    class Slow:
        is_over = False

        async def run(self):
            await trio.sleep(10)
            self.is_over = True

    resumes = Resumes(Tape(), wall_us, Budget())
    nursery.start_soon(resumes.run)
    slow = [Slow(), Slow(), Slow()]
    for each in slow:
        resumes.start(each)
        await trio.sleep(1)
    await trio.sleep(9.5)

    assert [each.is_over for each in slow] == [True, True, True]


def test_kept_pages_are_counted_and_make_room_when_the_budget_is_full(monkeypatch):
    """They serve the next ones that resume; a subscriber's bytes are worth more."""
    monkeypatch.setattr(limits, "RESUME_PAGES_MAX", 2)
    monkeypatch.setattr(limits, "RESUME_WINDOW_MESSAGES_MAX", 2)
    tape, budget = Tape(), Budget()
    tape.append([make_message("matches", sequence=n) for n in range(1, 9)])
    resumes, topics = Resumes(tape, lambda: 0, budget), frozenset({MATCH})
    held = []
    for window in range(4):
        resumes.tape_page(topics, window)
        held.append(budget.bytes)
    assert held[0] > 2 * len(b'{"type":"match"}')
    assert held[1:] == [2 * held[0]] * 3
    budget.bytes_max = 1
    budget.relieve()

    assert (budget.bytes, budget.shared) == (0, {})
    assert resumes.tape_page(topics, 3).count == 2
