"""Topics are subscribed to again no more often than a doubling pause allows."""

from itertools import pairwise
from math import inf

from hypothesis import given
from hypothesis import strategies as st

from hedgehogd.arbitration.resubscribe import Renewals
from hedgehogd.domain.channel import Topic
from hedgehogd.domain.limits import RENEW_FIRST_S, RENEW_MAX_S

A, B, C = (Topic("level2", product_id) for product_id in ("A-USD", "B-USD", "C-USD"))
ALL = frozenset({A, B, C})


def test_a_topic_is_due_at_once_and_once():
    """A topic in both sets is unsubscribed first."""
    renewals = Renewals()
    renewals.ask_again([A, B])
    renewals.ask_fresh([B, C])

    assert (frozenset({A}), frozenset({B, C}), inf) == renewals.take(ALL, 0)
    assert (frozenset(), frozenset(), inf) == renewals.take(ALL, 100)


def test_a_topic_that_is_no_longer_held_is_forgotten():
    """It would be subscribed to without demand."""
    renewals = Renewals()
    renewals.ask_again([A])
    renewals.ask_fresh([B])

    assert (frozenset(), frozenset(), inf) == renewals.take(frozenset({C}), 0)
    assert (frozenset(), frozenset(), inf) == renewals.take(ALL, 0)


def test_each_time_the_pause_is_twice_as_long():
    """An exchange that never answers must not be asked for ever at the same rate."""
    renewals, now, pauses = Renewals(), 0.0, []
    for _ in range(12):
        renewals.ask_fresh([A])
        due = renewals.take(ALL, now)
        if not due.fresh:
            pauses.append(due.next_at - now)
            now = due.next_at
            assert {A} == renewals.take(ALL, now).fresh

    assert RENEW_FIRST_S == pauses[0]
    assert all(b == min(2 * a, RENEW_MAX_S) for a, b in pairwise(pauses))
    assert RENEW_MAX_S == pauses[-1]


def test_the_pause_is_reset_after_the_longest_pause_without_a_try():
    """A fault of an hour ago is not the fault of today."""
    renewals, now = Renewals(), 0.0
    for tries in range(1, 4):
        renewals.ask_fresh([A])
        assert {A} == renewals.take(ALL, now).fresh
        assert (tries, 0) == (renewals.tries(A), renewals.tries(B))
        renewals.ask_fresh([A])
        now = renewals.take(ALL, now).next_at
    assert 7 * RENEW_FIRST_S == now

    renewals.take(ALL - {A}, now)
    renewals.ask_again([A])
    now += RENEW_MAX_S + 0.1
    assert {A} == renewals.take(ALL, now).again
    assert 1 == renewals.tries(A)
    renewals.ask_again([A])
    assert now + RENEW_FIRST_S == renewals.take(ALL, now).next_at


@given(st.lists(st.tuples(st.sampled_from([A, B, C]), st.booleans(), st.integers(0, 9))))
def test_no_topic_is_renewed_more_often_than_the_first_pause(steps):
    """This holds for any sequence of requests."""
    renewals, now, last = Renewals(), 0.0, {}
    for topic, is_fresh, pause in steps:
        now += pause
        (renewals.ask_fresh if is_fresh else renewals.ask_again)([topic])
        due = renewals.take(ALL, now)
        assert not due.again & due.fresh
        assert due.next_at > now
        for each in due.again | due.fresh:
            assert now - last.get(each, -inf) >= RENEW_FIRST_S
            last[each] = now
