"""Request-for-quote trades, outside the book (docs/COINBASE.md §6.5)."""

import pytest

from hedgehogd.simulator.market import Market
from tests.simulator.follower import FEW, START_NS, of, run

ONE = FEW[1].id


@pytest.fixture(scope="module")
def trades():
    """Return the trades of ten minutes."""
    return of(run(Market(1, START_NS, FEW[1:], 12), 50, "rfq_matches"), "rfq_matches", ONE)


def test_rfq_trades_are_rare(trades):
    """Too rare to serve as a heartbeat."""
    assert 15 < len(trades) < 50


def test_rfq_trades_have_ids_of_their_own_without_a_gap(trades):
    """They are separate from the order book's trades."""
    ids = [trade["trade_id"] for trade in trades]

    assert ids == list(range(ids[0], ids[0] + len(ids)))
    assert ids[0] < START_NS // 10_000 // 1000


def test_rfq_trades_have_no_sequence_and_their_side_in_capitals(trades):
    """As on the real feed, although the documents show another form."""
    assert {trade["side"] for trade in trades} == {"BUY", "SELL"}
    assert all("sequence" not in trade for trade in trades)


def test_later_runs_continue_with_higher_ids():
    """Also at the highest rate."""
    first = of(run(Market(1, START_NS, FEW[1:], 100), 5, "rfq_matches"), "rfq_matches", ONE)
    later = of(run(Market(2, START_NS + 5 * 10**9, FEW[1:]), 60, "rfq_matches"), "rfq_matches", ONE)

    assert first[-1]["trade_id"] < later[0]["trade_id"]
