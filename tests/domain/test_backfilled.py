"""Backfilled trades: kept for a while, never more than so many, told once each."""

from hypothesis import given
from hypothesis import strategies as st

from hedgehogd.domain.backfilled import Backfilled


def trades(*ids):
    return [{"trade_id": trade_id} for trade_id in ids]


def test_a_product_has_its_own_trades_in_order():
    """Who resumes BTC-USD wants no other's, and the oldest first."""
    kept = Backfilled()
    kept.add("BTC-USD", trades(7, 8), now=0)
    kept.add("ETH-USD", trades(1), now=1)
    kept.add("BTC-USD", trades(3, 4), now=2)

    assert kept.since("BTC-USD", now=2) == trades(3, 4, 7, 8)
    assert kept.since("ETH-USD", now=2) == trades(1)
    assert kept.since("OLD-USD", now=2) == []
    assert len(kept) == 5


def test_a_trade_that_came_twice_is_told_once():
    """Overlapping gaps are possible after the exchange has counted anew."""
    kept = Backfilled()
    kept.add("BTC-USD", trades(3, 4), now=0)
    kept.add("BTC-USD", trades(4, 5), now=0)

    assert kept.since("BTC-USD", now=0) == trades(3, 4, 5)


def test_what_is_too_old_is_forgotten():
    """Ten minutes are longer than any reconnect; memory is not a history."""
    kept = Backfilled(keep_s=600.0)
    kept.add("BTC-USD", trades(1), now=0)
    kept.add("BTC-USD", trades(2), now=300)

    assert kept.since("BTC-USD", now=599.9) == trades(1, 2)
    assert kept.since("BTC-USD", now=600) == trades(2)
    assert kept.since("BTC-USD", now=900) == []
    assert len(kept) == 0


def test_nothing_is_nothing():
    kept = Backfilled()
    kept.add("BTC-USD", [], now=0)

    assert (len(kept), kept.since("BTC-USD", now=0)) == (0, [])


def test_of_too_many_at_once_the_newest_stay():
    """One outage of a busy product must not be kept whole at any price."""
    kept = Backfilled(trades_max=3)
    kept.add("ETH-USD", trades(1), now=0)
    kept.add("BTC-USD", trades(1, 2, 3, 4), now=0)

    assert kept.since("BTC-USD", now=0) == trades(2, 3, 4)
    assert kept.since("ETH-USD", now=0) == []


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["A-B", "C-D"]),
            st.lists(st.integers(0, 30), max_size=6, unique=True).map(sorted),
            st.floats(0, 10),
        )
    )
)
def test_the_bound_holds_and_what_is_kept_is_the_newest(adds):
    """Whatever comes in whatever order: bounded, ascending, each once, the latest add whole."""
    kept, now = Backfilled(trades_max=8, keep_s=20), 0.0
    for product_id, ids, pause in adds:
        now += pause
        kept.add(product_id, trades(*ids), now)
        told = [trade["trade_id"] for trade in kept.since(product_id, now)]

        assert len(kept) <= 8
        assert told == sorted(set(told))
        assert set(ids) <= set(told)
