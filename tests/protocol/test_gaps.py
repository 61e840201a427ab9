"""Gaps: every number is delivered once or reported missing."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgehogd.domain.limits import ODD_TRADE_IDS_MAX, TRADE_ID_STEP_MAX
from hedgehogd.protocol.gaps import Gap, GapDetector, TradeIds

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


def watched(*numbers, newest=()):
    """Return what was delivered, the gaps, and how many oddities were named."""
    trade_ids = TradeIds()
    delivered, gaps, odd = [], [], 0
    for number in numbers:
        deliver, gap, oddity = trade_ids.observe(number, is_newest=number in newest)
        delivered += [number] * deliver
        gaps += [gap] * (gap is not None)
        odd += bool(oddity)
    return delivered, gaps, odd


ABSURD = 2**53 - 1


@pytest.mark.parametrize(
    ("numbers", "delivered", "gaps", "odd"),
    [
        ((1, 2, 4, 3, 5), [1, 2, 4, 5], [Gap(3, 3)], 0),
        ((1, 2, ABSURD, 3, 4), [1, 2, ABSURD, 3, 4], [], 1),
        ((ABSURD, *range(10, 25)), [ABSURD, *range(19, 25)], [], 1),
        ((900, *range(10, 25)), [900, *range(19, 25)], [], 1),
        ((900, 895, 896, 897, 901), [900, 901], [], 0),
        ((5, *range(9_000_000, 9_000_012)), [5, *range(9_000_000, 9_000_012)], [], 10),
    ],
)
def test_one_absurd_number_does_not_end_a_product(numbers, delivered, gaps, odd):
    """It is relayed and named; what follows is neither a repeat nor a hole of 2^53."""
    assert watched(*numbers) == (delivered, gaps, odd)


def test_a_newest_trade_far_back_means_that_the_ids_were_set_back():
    """No need to wait for ten of them."""
    far = TRADE_ID_STEP_MAX + 10

    assert watched(far, 5, 6, 8, newest={5}) == ([far, 5, 6, 8], [Gap(7, 7)], 1)


# None ever shows as many in a row as would be a new beginning.
plausible = st.sampled_from([n for n in range(1, 70) if n % ODD_TRADE_IDS_MAX])


@settings(deadline=None)
@given(st.lists(plausible, min_size=1, max_size=80))
def test_plausible_trade_ids_are_watched_as_by_the_detector(numbers):
    """Doubt must not cost the promise: delivered once, or reported missing."""
    trade_ids, told = TradeIds(), observe(numbers)

    assert [(*each, "") for each in told] == [
        trade_ids.observe(number, is_newest=False) for number in numbers
    ]


@pytest.mark.parametrize(
    ("numbers", "delivered", "gaps", "odd"),
    [
        ((7, 7 + TRADE_ID_STEP_MAX), [7, 7 + TRADE_ID_STEP_MAX], [Gap(8, 6 + 10**6)], 0),
        ((7, 8 + TRADE_ID_STEP_MAX, 8), [7, 8 + TRADE_ID_STEP_MAX, 8], [], 1),
        # A hole in the run, or a true number between, makes the run begin again.
        ((500, *range(1, 6), *range(7, 17)), [500, 16], [], 1),
        ((500, *range(1, 6), 501, *range(6, 16)), [500, 501, 15], [], 1),
        ((500, *[499] * 30), [500], [], 0),
    ],
)
def test_only_a_whole_run_of_odd_numbers_is_a_new_beginning(numbers, delivered, gaps, odd):
    """What repeats now and then is a repeat; only a counter that counts is believed."""
    assert watched(*numbers) == (delivered, gaps, odd)


@pytest.mark.parametrize("step_back", [0, 1, TRADE_ID_STEP_MAX])
def test_a_newest_trade_a_little_back_is_a_repeat(step_back):
    """A neighbouring server is a few trades behind; only a reset is far behind."""
    highest = 5 * TRADE_ID_STEP_MAX
    back = highest - step_back

    assert watched(highest, back, highest + 1, newest={back})[0] == [highest, highest + 1]
