"""Trades beside the book (FEED §6.5)."""

import pytest

from hedgehogd.simulator.market import Market
from tests.simulator.follower import FEW, START_NS, of, run

ONE = FEW[1].id


@pytest.fixture(scope="module")
def trades():
    """Ten minutes of them."""
    return of(run(Market(1, START_NS, FEW[1:], 12), 50, "rfq_matches"), "rfq_matches", ONE)


def test_they_are_few_a_minute(trades):
    """Rare enough that nobody may rely on them for a sign of life."""
    assert 15 < len(trades) < 50


def test_their_ids_are_their_own_and_have_no_hole(trades):
    """They are not the order book's trades."""
    ids = [trade["trade_id"] for trade in trades]

    assert ids == list(range(ids[0], ids[0] + len(ids)))
    assert ids[0] < START_NS // 10_000 // 1000


def test_they_have_no_number_and_shout_their_side(trades):
    """As seen live, whatever the documents show."""
    assert {trade["side"] for trade in trades} == {"BUY", "SELL"}
    assert all("sequence" not in trade for trade in trades)


def test_later_runs_go_on_with_higher_ids():
    """At the highest rate too."""
    first = of(run(Market(1, START_NS, FEW[1:], 100), 5, "rfq_matches"), "rfq_matches", ONE)
    later = of(run(Market(2, START_NS + 5 * 10**9, FEW[1:]), 60, "rfq_matches"), "rfq_matches", ONE)

    assert first[-1]["trade_id"] < later[0]["trade_id"]
