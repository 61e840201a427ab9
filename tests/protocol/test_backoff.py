"""Pauses between dials, and the rate limit."""

from itertools import pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgehogd.protocol.backoff import Backoff, TokenBucket

durations = st.floats(min_value=0, max_value=100)


def pauses(count, first_s=0.5, max_s=30.0, seed=1):
    backoff = Backoff(first_s, max_s, Random(seed))
    return [backoff.next_s() for _ in range(count)]


@settings(deadline=None)
@given(
    st.floats(min_value=0.01, max_value=10), st.floats(min_value=0.01, max_value=100), st.integers()
)
def test_a_pause_is_in_the_upper_half_of_a_doubling_range(first_s, max_s, seed):
    """For any random value the pause is not close to zero, and not above the maximum."""
    for failures, pause_s in enumerate(pauses(12, first_s, max_s, seed)):
        ceiling = min(max_s, first_s * 2**failures)

        assert ceiling / 2 <= pause_s <= ceiling


def test_years_of_failures_do_not_overflow():
    """2.0**1100 raises an error; after a week of failures the daemon must still dial."""
    assert all(15 <= pause_s <= 30 for pause_s in pauses(1200)[6:])


def test_instances_do_not_dial_simultaneously():
    """Instances that lost their feed at the same moment must reconnect at different moments."""
    third_pauses = {pauses(3, seed=seed)[-1] for seed in range(20)}

    assert len(third_pauses) == 20


def test_a_good_connection_makes_the_next_pause_the_first_again():
    """One disconnect a day must not cause a pause of half a minute."""
    backoff = Backoff(0.5, 30.0, Random(1))
    before = [backoff.next_s() for _ in range(8)]
    backoff.reset()

    assert before[-1] >= 15
    assert backoff.next_s() <= 0.5


@pytest.mark.parametrize(
    ("arrivals", "expected"),
    [
        ([0, 0, 0], [0, 0, 0]),  # the burst
        ([0, 0, 0, 0, 0], [0, 0, 0, 0.5, 1]),  # then a negative balance, at the rate
        ([0, 0, 0, 0, 0.5], [0, 0, 0, 0.5, 0.5]),
        ([0, 0, 0, 0.5, 0.5], [0, 0, 0, 0, 0.5]),  # one token was added
        ([0, 0, 0, 1000, 1000, 1000, 1000], [0, 0, 0, 0, 0, 0, 0.5]),  # never above the burst
        ([1e9, 1e9, 1e9, 1e9], [0, 0, 0, 0.5]),  # any origin of the clock
    ],
)
def test_a_bucket_of_three_tokens_refills_two_a_second(arrivals, expected):
    """Coinbase limits our requests (COINBASE §10), and we limit those of a client."""
    bucket = TokenBucket(per_s=2.0, burst=3)

    assert expected == [bucket.take(now) for now in arrivals]


@settings(deadline=None)
@given(
    st.lists(durations, min_size=1, max_size=30),
    st.floats(min_value=0.1, max_value=50),
    st.integers(min_value=1, max_value=10),
    st.booleans(),
)
def test_no_interval_has_more_actions_than_burst_and_rate_allow(
    pauses_s, per_s, burst, waits_in_line
):
    """This holds for one caller that waits, and for many callers that arrive at any time."""
    bucket = TokenBucket(per_s, burst)
    now, acted_at = 1000.0, []
    for pause_s in pauses_s:
        now += pause_s
        acted_at.append(now + bucket.take(now))
        if waits_in_line:
            now = acted_at[-1]

    assert all(earlier <= later + 1e-6 for earlier, later in pairwise(acted_at))
    for first, began in enumerate(acted_at):
        for count, ended in enumerate(acted_at[first:], start=1):
            assert count <= burst + per_s * (ended - began) + 1e-6


def test_a_refused_action_consumes_no_token():
    """Excess requests are refused; after a pause the next request is accepted again."""
    bucket = TokenBucket(per_s=1.0, burst=2)
    accepted = [bucket.try_take(0.0) for _ in range(100)]

    assert accepted == [True, True] + [False] * 98
    assert [bucket.try_take(0.5), bucket.try_take(1.0), bucket.try_take(1.0)] == [
        False,
        True,
        False,
    ]


def test_shares_of_a_bucket_together_allow_what_the_whole_allows():
    """The exchange limits by address, for all our processes together."""
    buckets = [TokenBucket(per_s=8.0, burst=12) for _ in range(4)]
    for bucket in buckets:
        bucket.share(4)
    done = sum(bucket.take(0.0) == 0.0 for bucket in buckets for _ in range(12))
    assert done == 12  # the burst; and in the next ten seconds the rate
    waits = [bucket.take(0.0) for bucket in buckets for _ in range(11)]
    assert sum(wait <= 10.0 for wait in waits) <= 8 * 10

    buckets[0].share(1)
    assert buckets[0].take(1000.0) == 0.0
    assert [buckets[0].take(1000.0) for _ in range(12)][-1] == pytest.approx(1 / 8)


def test_a_share_allows_at_least_one_action():
    """With more instances than tokens in the burst, each instance may still act."""
    bucket = TokenBucket(per_s=4.0, burst=8)
    bucket.share(64)

    assert bucket.take(0.0) == 0.0
    assert bucket.take(0.0) == pytest.approx(16.0)


def test_several_tokens_are_consumed_together_or_not_at_all():
    """A command of a thousand topics costs a thousand tokens."""
    bucket = TokenBucket(per_s=1.0, burst=10)

    assert [bucket.try_take(0.0, 6.0), bucket.try_take(0.0, 6.0)] == [True, False]
    assert bucket.try_take(2.0, 6.0)
    assert bucket.take(2.0, 5.0) == 5.0


def test_a_bucket_is_full_when_it_allows_as_much_as_a_new_one():
    """A full bucket can be forgotten without an effect."""
    bucket = TokenBucket(per_s=2.0, burst=4)
    assert bucket.is_full(0.0)
    bucket.take(0.0, 6.0)

    assert [bucket.is_full(at) for at in (0.0, 2.9, 3.0)] == [False, False, True]


def test_tokens_of_an_action_that_did_not_happen_are_returned():
    """The bucket has the same balance as before, and never more than its burst."""
    bucket = TokenBucket(per_s=1.0, burst=10)
    bucket.take(0.0, 15.0)
    bucket.give_back(15.0)
    assert bucket.try_take(0.0, 10.0)
    bucket.give_back(99.0)

    assert [bucket.try_take(0.0, 10.0), bucket.try_take(0.0)] == [True, False]
