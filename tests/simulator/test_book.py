"""The order book of the simulated market."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgehogd.simulator.book import Book, Ladder, Order

operations = st.lists(
    st.tuples(st.integers(min_value=1, max_value=8), st.integers(1, 5), st.booleans())
)


@pytest.mark.parametrize("side", ["buy", "sell"])
@given(operations=operations)
def test_a_ladder_orders_by_best_price_then_age(side, operations):
    """After any orders, changes and removals, a level is the sum of its orders."""
    ladder, orders = Ladder(side), []
    for number, (tick, units, adds) in enumerate(operations):
        if adds or not orders:
            orders.append(Order(number, side, tick, units))
            ladder.add(orders[-1])
        else:
            order = orders[tick % len(orders)]
            ladder.resize(order, units - 1)
            orders = [each for each in orders if each.units]
    ticks = sorted({order.tick for order in orders}, reverse=side == "buy")
    sizes = {tick: sum(o.units for o in orders if o.tick == tick) for tick in ticks}
    by_price = sorted(orders, key=lambda o: (-o.tick if side == "buy" else o.tick, o.number))

    assert list(ladder.rows()) == list(sizes.items())
    assert [ladder.tick(rank) for rank in range(len(ladder))] == ticks
    assert all(ladder[tick] == sizes.get(tick, 0) for tick in range(1, 9))
    assert list(ladder.resting()) == by_price
    assert ladder.orders == len(orders)
    for tick in ticks:
        assert list(ladder.queue(tick)) == [o for o in by_price if o.tick == tick]
        assert ladder.crowd(tick) == len(list(ladder.queue(tick)))


def test_an_order_that_does_not_rest_cannot_be_resized():
    """Otherwise a wrong size would stay wrong."""
    ladder = Ladder("buy")
    ladder.add(Order(1, "buy", 5, 5))
    with pytest.raises(KeyError):
        ladder.resize(Order(2, "buy", 5, 5), 1)

    assert (ladder[5], ladder.crowd(6)) == (5, 0)


@pytest.mark.parametrize(("side", "step"), [("buy", -1), ("sell", 1)])
def test_many_orders_can_be_added_beyond_the_worst_level(side, step):
    """Adding them one by one, a book of megabytes would take minutes."""
    one_by_one, at_once = Ladder(side), Ladder(side)
    orders = [Order(number, side, 500 + step * number, 3) for number in range(2, 9)]
    for ladder in (one_by_one, at_once):
        ladder.add(Order(1, side, 500, 1))
    for order in orders:
        one_by_one.add(order)
    at_once.append_levels(orders)

    assert list(at_once.rows()) == list(one_by_one.rows())
    assert at_once.orders == one_by_one.orders


def test_the_best_bid_is_the_highest_and_the_best_ask_the_lowest():
    """Most clients read only these two prices."""
    book = Book()
    for number, tick in enumerate((7, 9, 8)):
        book.side("buy").add(Order(number, "buy", tick, 1))
        book.side("sell").add(Order(number, "sell", tick + 10, 1))

    assert (book.best_bid, book.best_ask) == (9, 17)
