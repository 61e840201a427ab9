"""Whether the tape has all that follows on a position."""

import pytest

from hedgehogd.domain.position import Start
from hedgehogd.engine.tape import Known
from hedgehogd.recovery.progress import Progress

HERE, LEFT = Known(10, 500), Known(10, 500, has_left=True)


@pytest.mark.parametrize(
    ("start", "known", "expected"),
    [
        (Start(10), HERE, True),
        (Start(9), HERE, True),  # nothing can be between 9 and 10
        (Start(8), HERE, False),
        (Start(10), LEFT, True),
        (Start(9), LEFT, False),  # 10 itself is gone
        (Start(9), None, False),
        (Start(after_us=500), HERE, True),
        (Start(after_us=499), HERE, False),  # who knows what came at 499.5
        (Start(is_new=True), None, True),
        (Start(is_new=True), LEFT, True),
    ],
)
def test_what_is_covered(start, known, expected):
    """A position that is taken for covered and is not loses in silence."""
    assert Progress(start).is_covered(known) is expected


@pytest.mark.parametrize(
    ("known", "expected"), [(None, True), (HERE, True), (LEFT, False), (Known(10, 300), False)]
)
def test_what_was_quiet_is_covered_by_what_came_later(known, expected):
    """Up to 300 nothing had come, here or elsewhere."""
    progress = Progress(Start(3))
    progress.quiet_us = 300

    assert progress.is_covered(known) is expected


def test_what_is_wanted_is_behind_what_was_reached():
    """By number as soon as there is one."""
    by_number, by_time = Progress(Start(3)), Progress(Start(after_us=300))

    assert [by_number.wants(n, 0) for n in (2, 3, 4)] == [False, False, True]
    assert [by_time.wants(1, us) for us in (299, 300, 301)] == [False, False, True]
