"""The order book that the simulated market trades on."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgehogd.simulator.book import Book, Ladder

changes = st.lists(st.tuples(st.integers(min_value=1, max_value=30), st.integers(0, 5)))


@pytest.mark.parametrize("side", ["buy", "sell"])
@given(changes=changes)
def test_a_ladder_is_its_last_sizes_best_price_first(side, changes):
    """Whatever was placed, changed and cancelled, also what was not there: the truth is this."""
    ladder, sizes = Ladder(side), {}
    for tick, units in changes:
        assert ladder.set(tick, units) == sizes.get(tick, 0)
        sizes[tick] = units
    rows = sorted((row for row in sizes.items() if row[1]), reverse=side == "buy")

    assert list(ladder.rows()) == rows
    assert [ladder.tick(rank) for rank in range(len(ladder))] == [tick for tick, _ in rows]
    assert all(ladder[tick] == units for tick, units in sizes.items())


def test_the_best_bid_is_the_highest_and_the_best_ask_the_lowest():
    """The two prices that everybody looks at."""
    book = Book()
    for tick in (7, 9, 8):
        book.side("buy").set(tick, 1)
        book.side("sell").set(tick + 10, 1)

    assert (book.best_bid, book.best_ask) == (9, 17)
