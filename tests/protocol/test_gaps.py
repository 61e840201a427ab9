"""Gaps: every number is delivered once or reported missing."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgehogd.protocol.gaps import Gap, GapDetector

arrivals = st.lists(st.integers(min_value=0, max_value=60), min_size=1, max_size=80)


def observe(numbers):
    detector = GapDetector()
    return [detector.observe(number) for number in numbers]


@settings(deadline=None)
@given(arrivals)
def test_every_number_is_delivered_once_or_reported_missing(numbers):
    """From the first number to the highest, nothing is lost in silence."""
    delivered, missing = [], []
    for number, (deliver, gap) in zip(numbers, observe(numbers), strict=True):
        if deliver:
            delivered.append(number)
        if gap is not None:
            assert deliver
            missing.extend(range(gap.first, gap.last + 1))

    assert sorted(set(delivered)) == delivered  # in order, never twice
    assert list(range(numbers[0], delivered[-1] + 1)) == sorted(delivered + missing)


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ([7], [(True, None)]),
        ([7, 8, 9], [(True, None)] * 3),
        ([7, 7], [(True, None), (False, None)]),
        ([7, 6, 8], [(True, None), (False, None), (True, None)]),
        ([7, 9], [(True, None), (True, Gap(8, 8))]),
        ([7, 10, 8, 9, 11], [(True, None), (True, Gap(8, 9)), *[(False, None)] * 2, (True, None)]),
        ([0, 2**53 - 1], [(True, None), (True, Gap(1, 2**53 - 2))]),
    ],
)
def test_holes_are_named_by_both_ends_and_stragglers_stay_out(numbers, expected):
    """A straggler after its gap was reported would be one number told two ways."""
    assert expected == observe(numbers)
