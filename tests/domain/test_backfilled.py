"""Backfilled trades: kept for a limited time and number, and returned once each."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgehogd.domain.backfilled import Backfilled


def trades(*ids):
    return [{"trade_id": trade_id} for trade_id in ids]


def test_added_trades_are_returned_once_and_in_order():
    """Two gaps may overlap, and may be filled in any order."""
    kept = Backfilled()
    kept.add("BTC-USD", trades(7, 8, 9), 0)
    kept.add("ETH-USD", trades(1), 0)
    kept.add("BTC-USD", trades(2, 3, 8), 0)
    kept.add("BTC-USD", [], 0)

    assert trades(2, 3, 7, 8, 9) == kept.since("BTC-USD", 1)
    assert [] == kept.since("X-Y", 1)
    assert 7 == len(kept)


@pytest.mark.parametrize(("now", "expected"), [(9.9, [1, 2]), (10, [2]), (15, [])])
def test_trades_expire(now, expected):
    """A subscriber that resumes later can fetch the trades by REST."""
    kept = Backfilled(keep_s=10)
    kept.add("BTC-USD", trades(1), 0)
    kept.add("BTC-USD", trades(2), 5)

    assert trades(*expected) == kept.since("BTC-USD", now)
    assert len(expected) == len(kept)


@given(
    st.lists(st.tuples(st.sampled_from("AB"), st.integers(0, 7), st.integers(0, 3))),
    st.integers(1, 10),
)
def test_the_number_of_trades_is_bounded(steps, trades_max):
    """The oldest batches are dropped first; of the newest batch as much as fits is kept."""
    kept, now, last = Backfilled(trades_max, keep_s=5), 0, 0
    for product_id, count, pause in steps:
        now += pause
        kept.add(product_id, trades(*range(last, last + count)), now)
        last += count
        assert len(kept) <= trades_max
        if count:
            newest = kept.since(product_id, now)[-count:]
            assert trades(*range(last - min(count, trades_max), last)) == newest[-trades_max:]
    assert len(kept) == sum(len(kept.since(product_id, now)) for product_id in "AB")
