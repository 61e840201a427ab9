"""The engine's events and their parts."""

import re

from hypothesis import given
from hypothesis import strategies as st

from hedgehogd.simulator.events import Done, Fleeting, Matched, Received, order_id, singles

numbers = st.integers(min_value=0, max_value=2**53)


@given(st.integers(min_value=0, max_value=2**128), st.sets(numbers, max_size=20))
def test_each_order_has_one_unique_uuid(salt, numbers):
    """Books of orders use it as the key."""
    ids = {order_id(salt, number) for number in numbers}

    assert len(ids) == len(numbers)
    for each in ids:
        assert re.fullmatch("[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-a[0-9a-f]{3}-[0-9a-f]{12}", each)


@given(
    salt=st.integers(min_value=0, max_value=2**128),
    orders=st.integers(min_value=1, max_value=9),
    best_bid=st.integers(min_value=1, max_value=300),
)
def test_orders_that_come_and_go_do_not_cross_and_skip_no_number(salt, orders, best_bid):
    """They are received and done, each at a price that does not trade."""
    event = Fleeting(1000, orders, salt, best_bid, best_bid + 1, 50)
    made = list(singles(event))

    assert [one.sequence for one in made] == list(range(1001 - 2 * orders, 1001))
    assert list(singles(event)) == made
    for received, done in zip(made[::2], made[1::2], strict=True):
        assert (type(received), type(done)) == (Received, Done)
        assert (done.number, done.units, done.was_open) == (
            received.sequence,
            received.units,
            False,
        )
        assert 0 < received.units <= 101
        if received.side == "buy":
            assert 1 <= received.tick <= max(1, best_bid)
        else:
            assert received.tick > best_bid


def test_a_single_event_yields_itself():
    """Its taker is on the opposite side."""
    match = Matched(1, 2, 3, 4, "buy", 5, 6, 7)

    assert list(singles(match)) == [match]
    assert (match.taker_side, match._replace(maker_side="sell").taker_side) == ("sell", "buy")
