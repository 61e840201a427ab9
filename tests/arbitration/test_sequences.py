"""Gaps: every number is delivered once or reported missing."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgehogd.arbitration.sequences import Numbers
from hedgehogd.domain.gap import Gap
from hedgehogd.domain.limits import ODD_NUMBERS_MAX, SET_BACK_AFTER_S, TRADE_ID_STEP_MAX

arrivals = st.lists(st.integers(min_value=0, max_value=60), min_size=1, max_size=80)


def observe(numbers):
    watch = Numbers(TRADE_ID_STEP_MAX, is_dense=True)
    return [watch.observe(number, 0.0, is_newest=False)[:2] for number in numbers]


@settings(deadline=None)
@given(arrivals)
def test_every_number_is_delivered_once_or_reported_missing(numbers):
    """From the first number to the highest, no number is lost silently."""
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
    ],
)
def test_a_gap_has_both_ends_and_a_straggler_is_dropped(numbers, expected):
    """A straggler after the report of its gap would be a number both missing and delivered."""
    assert expected == observe(numbers)


def watched(*numbers, newest=(), every_s=0.0, is_dense=True):
    """Return the delivered numbers, the gaps, and how many numbers were reported as unexpected."""
    watch = Numbers(TRADE_ID_STEP_MAX, is_dense=is_dense)
    delivered, gaps, odd = [], [], 0
    for at, number in enumerate(numbers):
        deliver, gap, oddity, _ = watch.observe(number, at * every_s, is_newest=number in newest)
        delivered += [number] * deliver
        gaps += [gap] * (gap is not None)
        odd += bool(oddity)
    return delivered, gaps, odd


ABSURD = 2**53 - 1
FAR = 5_000_000


@pytest.mark.parametrize(
    ("numbers", "delivered", "gaps", "odd"),
    [
        ((1, 2, 4, 3, 5), [1, 2, 4, 5], [Gap(3, 3)], 0),
        ((1, 2, ABSURD, 3, 4), [1, 2, ABSURD, 3, 4], [], 1),
        ((ABSURD, *range(10, 25)), [ABSURD, *range(19, 25)], [Gap(10, 18)], 1),
        ((FAR, *range(10, 25)), [FAR, *range(19, 25)], [Gap(10, 18)], 1),
        ((900, *range(10, 25)), [900], [], 0),
        ((900, 895, 896, 897, 901), [900, 901], [], 0),
        ((5, *range(9_000_000, 9_000_012)), [5, *range(9_000_000, 9_000_012)], [], 10),
        ((7, 7 + TRADE_ID_STEP_MAX), [7, 7 + TRADE_ID_STEP_MAX], [Gap(8, 6 + 10**6)], 0),
        ((7, 8 + TRADE_ID_STEP_MAX, 8), [7, 8 + TRADE_ID_STEP_MAX, 8], [], 1),
        # A gap in the run, or a plausible number between, restarts the run.
        ((FAR, *range(1, 6), *range(7, 17)), [FAR, 16], [Gap(7, 15)], 1),
        ((FAR, *range(1, 6), FAR + 1, *range(6, 16)), [FAR, FAR + 1, 15], [Gap(6, 14)], 1),
        ((FAR, *[499] * 30), [FAR], [], 0),
    ],
)
def test_only_a_whole_run_of_implausible_numbers_is_a_restart(numbers, delivered, gaps, odd):
    """One absurd number is delivered and logged; it causes no gap and hides none."""
    assert watched(*numbers) == (delivered, gaps, odd)


@pytest.mark.parametrize(
    ("every_s", "expected"), [(0.1, [900]), (SET_BACK_AFTER_S / 9, [900, *range(504, 510)])]
)
def test_slightly_lower_numbers_are_a_lag_until_they_last(every_s, expected):
    """The other line may lag; a sandbox that was reset a little stays lower."""
    numbers = (900, *range(495, 510))

    assert expected == watched(*numbers, every_s=every_s)[0]


def test_a_newest_trade_far_below_is_a_set_back():
    """Ten of them are not needed."""
    far = TRADE_ID_STEP_MAX + 10

    assert watched(far, 5, 6, 8, newest={5}) == ([far, 5, 6, 8], [Gap(7, 7)], 1)


@pytest.mark.parametrize("step_back", [0, 1, TRADE_ID_STEP_MAX])
def test_a_newest_trade_slightly_below_is_a_repeat(step_back):
    """Another server lags a few trades; only a reset is far below."""
    highest = 5 * TRADE_ID_STEP_MAX
    back = highest - step_back

    assert watched(highest, back, highest + 1, newest={back})[0] == [highest, highest + 1]


def test_sparse_numbers_have_no_gaps_and_can_be_set_back():
    """A ticker never rises by one: it would be silent for ever after a reset (COINBASE §6.3)."""
    low = range(10, 60, 3)
    delivered, gaps, odd = watched(FAR, FAR + 7, FAR + 5, *low, is_dense=False)

    assert [FAR, FAR + 7, *range(37, 60, 3)] == delivered
    assert ([], 1) == (gaps, odd)


@settings(deadline=None)
@given(arrivals)
def test_plausible_numbers_are_judged_by_the_highest_one_alone(numbers):
    """Rejecting outliers must not cost the promise: delivered once, or reported missing."""
    expected, highest = [], None
    for number in numbers:
        is_new = highest is None or number > highest
        has_gap = highest is not None and number > highest + 1
        gap = Gap(highest + 1, number - 1) if has_gap else None
        expected.append((is_new, gap, "", None))
        highest = number if is_new else highest
    watch = Numbers(TRADE_ID_STEP_MAX)

    assert expected == [watch.observe(number, 0) for number in numbers]


@settings(deadline=None)
@given(arrivals)
def test_gap_before_changes_nothing(numbers):
    """The arbiter calls it before it decides to queue."""
    watch = Numbers(20)
    for number in numbers:
        foreseen, before = watch.gap_before(number), watch.highest
        assert before == watch.highest
        verdict = watch.observe(number, 0)
        assert foreseen == verdict.gap


def interleaved(first, lag, total):
    """Return ``(line, number)`` of two lines, of which one lags by ``lag`` numbers."""
    for at in range(total + lag):
        if at < total:
            yield 0, first + at
        if at >= lag:
            yield 1, first + at - lag


@settings(deadline=None)
@given(st.integers(0, 40), st.integers(1, 60), st.sampled_from([1, 500, 3 * TRADE_ID_STEP_MAX]))
def test_two_lines_that_lag_deliver_each_number_once(lag, total, first):
    """This holds for any lag of the slower line."""
    watch = Numbers(TRADE_ID_STEP_MAX)
    verdicts = [(n, watch.observe(n, 0, line)) for line, n in interleaved(first, lag, total)]

    assert list(range(first, first + total)) == [n for n, verdict in verdicts if verdict.deliver]
    assert not any(verdict.gap or verdict.oddity for _, verdict in verdicts)


@pytest.mark.parametrize("lag", [0, 1, 3, 9, 20])
@pytest.mark.parametrize("mark", [ABSURD, FAR])
def test_two_lines_that_lag_are_set_back_together(lag, mark):
    """As one sequence they would never rise by one ten times, and be repeats for ever."""
    watch = Numbers(TRADE_ID_STEP_MAX)
    watch.observe(mark, 0)
    verdicts = [(n, watch.observe(n, 0, line)) for line, n in interleaved(1, lag, 40)]

    assert list(range(ODD_NUMBERS_MAX, 41)) == [n for n, verdict in verdicts if verdict.deliver]


def test_an_absurd_number_on_both_lines_is_delivered_once():
    """The plausible number between them must not make it new again."""
    watch = Numbers(TRADE_ID_STEP_MAX)
    came = [(11, 0), (ABSURD, 0), (12, 0), (11, 1), (ABSURD, 1), (12, 1), (13, 1)]

    assert [11, ABSURD, 12, 13] == [n for n, line in came if watch.observe(n, 0, line).deliver]


def test_numbers_far_above_on_both_lines_are_delivered_once():
    """Before the mark moves to them, and when it does."""
    watch = Numbers(TRADE_ID_STEP_MAX)
    watch.observe(5, 0)
    came = [(n, line) for n in range(FAR, FAR + 15) for line in (0, 1)]

    assert list(range(FAR, FAR + 15)) == [n for n, li in came if watch.observe(n, 0, li).deliver]


def test_a_reported_gap_is_skipped():
    """A reported gap ends at its last number."""
    watch = Numbers(TRADE_ID_STEP_MAX)
    watch.skip_to(5)
    watch.skip_to(3)

    assert 5 == watch.highest
    assert watch.observe(6, 0) == (True, None, "", None)


def made_at(second):
    """Return a message that the exchange made at ``second``; None for one without a time."""
    return b"{}" if second is None else b'{"time":"2026-11-29T12:00:%02dZ"}' % second


def marked(number, second):
    """Return numbers with the mark at ``number``, of a message made at ``second``."""
    watch = Numbers(TRADE_ID_STEP_MAX)
    watch.observe(number, 0, 0, made_at(second))
    return watch


@pytest.mark.parametrize(
    ("mark_s", "run_s", "is_set_back"),
    [(30, 29, False), (30, 30, True), (30, 31, True), (None, 30, True), (30, None, True)],
)
@pytest.mark.parametrize("way", ["message", "heartbeat"])
def test_times_distinguish_a_lagging_server_from_a_set_back(mark_s, run_s, is_set_back, way):
    """A lagging server sends messages older than the mark, however long it lags."""
    watch = marked(900, mark_s)
    first = watch.observe(500, 1, 0, made_at(run_s))
    if way == "message":
        last = watch.observe(501, 1 + SET_BACK_AFTER_S, 0, made_at(run_s))
    else:
        last = watch.confirm(500, 1 + SET_BACK_AFTER_S)

    assert (False, None, "", None) == first
    assert is_set_back == (last.restart == 501)
    assert (Gap(500, 500) if is_set_back else None) == last.gap
    assert (is_set_back and way == "message") == last.deliver
    assert (501 if is_set_back and way == "message" else 500 if is_set_back else 900) == (
        watch.highest
    )


@pytest.mark.parametrize(("back_s", "restart"), [(29, None), (30, None), (31, 500)])
def test_a_newest_trade_below_the_mark_is_a_set_back_when_it_is_newer(back_s, restart):
    """The newest trade of a lagging server is older than the mark."""
    verdict = marked(900, 30).observe(500, 1, 0, made_at(back_s), is_newest=True)

    assert restart == verdict.restart


def test_a_number_reported_missing_has_no_time_to_compare_with():
    """A late trade is newer than the last one delivered, and no set-back."""
    watch = marked(900, 30)
    watch.skip_to(902)

    assert watch.observe(901, 1, 0, made_at(31), is_newest=True).restart is None


@pytest.mark.parametrize(
    ("claimed", "at"), [(499, 9), (900, 9), (901, 9), (500, 1 + SET_BACK_AFTER_S - 0.1)]
)
def test_a_heartbeat_confirms_only_a_run_that_it_follows_and_that_lasted(claimed, at):
    """A heartbeat that states the mark, or less than the run, proves nothing."""
    watch = marked(900, 30)
    assert watch.confirm(500, 0).restart is None
    watch.observe(500, 1, 0, made_at(31))

    assert watch.confirm(claimed, at).restart is None
    assert 900 == watch.highest


def test_sparse_numbers_are_confirmed_without_a_gap():
    """It is unknown which sequences were tickers."""
    watch = Numbers(TRADE_ID_STEP_MAX, is_dense=False)
    assert watch.confirm(5, 0).restart is None
    watch.observe(900, 0)
    watch.observe(500, 1)

    assert (False, None, "restarts at 501", 501) == watch.confirm(600, 9)
