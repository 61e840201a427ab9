"""The matching engine: orders in, numbered events out (docs/COINBASE.md §6.7 to §6.11)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgehogd.simulator.book import Order
from hedgehogd.simulator.events import (
    AddedLevels,
    Changed,
    Done,
    Matched,
    Opened,
    Received,
    singles,
)
from hedgehogd.simulator.matching import LEVELS_MIN, MATCHES_PER_TAKER_MAX, Engine, TakerOrder


def engine_with(*asks):
    """Return an engine with ``asks`` of ``(tick, units)``, and enough levels beyond them."""
    engine = Engine(100, 7, 10, lambda *level: None)
    for tick, units in (*asks, *((1000 + n, 1) for n in range(LEVELS_MIN))):
        engine.rest("sell", tick, units)
        engine.rest("buy", 50 - engine.sequence % 40, 1)
    engine.collect()
    return engine


def event_types(engine):
    return [type(event) for event in engine.collect()]


def test_a_filled_maker_is_done_right_after_its_match():
    """So a book of orders never keeps an empty order for long."""
    engine = engine_with((60, 5), (61, 5))
    trades = engine.take(TakerOrder("buy", 7, limit=61), 1)

    assert [(trade.tick, trade.units) for trade in trades] == [(60, 5), (61, 2)]
    assert event_types(engine) == [Received, Matched, Done, Matched, Done]
    assert engine.book.asks[61] == 3


def test_the_remainder_of_a_limit_order_rests_at_its_limit():
    """All orders up to that price are filled, so it cannot cross."""
    engine = engine_with((60, 5))
    engine.take(TakerOrder("buy", 7, limit=60), 1)
    events = engine.collect()

    assert [type(event) for event in events] == [Received, Matched, Done, Opened]
    assert (events[-1].number, events[-1].units) == (events[0].sequence, 2)
    assert engine.book.bids[60] == 2


@pytest.mark.parametrize("incoming", [TakerOrder("buy", 99), TakerOrder("buy", 99, limit=69)])
def test_a_taker_is_canceled_rather_than_crossing_the_book(incoming):
    """The number of matches is limited, and the remainder must not rest among the asks."""
    engine = engine_with(*((60 + n, 1) for n in range(10)))
    trades = engine.take(incoming, 1)
    last = engine.collect()[-1]

    assert len(trades) == MATCHES_PER_TAKER_MAX
    assert (last.reason, last.units) == ("canceled", 99 - MATCHES_PER_TAKER_MAX)
    assert engine.book.best_bid < engine.book.best_ask


def test_a_side_with_few_levels_is_not_traded_against():
    """A market always exists."""
    engine = engine_with()
    assert engine.take(TakerOrder("buy", 5), 1) == []
    assert [(type(e), getattr(e, "reason", "")) for e in engine.collect()] == [
        (Received, ""),
        (Done, "canceled"),
    ]


def test_an_order_by_funds_states_the_funds_it_needs():
    """In steps of the quote increment, never too little."""
    engine = engine_with((63, 5))
    engine.take(TakerOrder("buy", 3, says_funds=True), 1)
    received = engine.collect()[0]

    assert (received.tick, received.units, received.funds) == (None, None, 190)


def test_an_order_does_not_trade_with_its_own_traders_order():
    """Self-trade prevention removes the smaller order and reduces the larger (COINBASE §6.11)."""
    engine = engine_with((60, 5))
    assert engine.take(TakerOrder("buy", 2, limit=60, is_own=True), 1) == []
    received, changed, done = engine.collect()

    assert (changed.reason, changed.old_units, changed.new_units) == ("STP", 5, 3)
    assert (done.number, done.reason, done.units) == (received.sequence, "canceled", 2)


def test_a_moved_order_joins_the_end_of_the_queue():
    """A new price means a new place in the queue."""
    engine = engine_with((60, 5), (61, 4))
    order = next(engine.book.asks.queue(60))
    engine.move(order, 61)
    (changed,) = engine.collect()

    assert isinstance(changed, Changed)
    assert changed.changes == (("sell", 60, 0), ("sell", 61, 9))
    assert [each.units for each in engine.book.asks.queue(61)] == [4, 5]


def test_a_cancel_reports_the_remaining_size():
    """It also reports the new size of the level."""
    engine = engine_with((60, 5))
    engine.cancel(next(engine.book.asks.queue(60)))
    (done,) = engine.collect()

    assert (done.units, done.was_open, done.changes) == (5, True, (("sell", 60, 0),))


@given(st.lists(st.sampled_from(["rest", "pass", "take", "shrink", "pour"]), max_size=30))
def test_every_event_has_the_next_number(operations):
    """Also when one object holds several events (docs/COINBASE.md §7)."""
    engine = engine_with(*((60 + n, 9) for n in range(30)))
    for n, operation in enumerate(operations):
        if operation == "rest":
            engine.rest("buy", 2 + n, 1)
        elif operation == "pass":
            engine.add_fleeting(1 + n, 5, 10)
        elif operation == "take":
            engine.take(TakerOrder("buy", 1 + 3 * n), 1)
        elif operation == "shrink":
            order = next(engine.book.asks.resting())
            if order.units > 1:
                engine.shrink(order, 1)
        else:
            engine.add_levels("sell", [(2000 + 10 * n, 1), (2001 + 10 * n, 1)])
    before = Engine(0, 0, 1, lambda *level: None)
    numbers = [one.sequence for event in engine.events for one in singles(event)]

    assert before.collect() == []
    assert numbers == list(range(engine.sequence - len(numbers) + 1, engine.sequence + 1))


def test_levels_are_reported_before_they_change():
    """A batch of changes needs the size before the first of them."""
    seen = []
    engine = Engine(0, 0, 1, lambda *level: seen.append(level))
    engine.rest("buy", 5, 3)
    engine.rest("buy", 5, 4)
    engine.cancel(next(engine.book.bids.queue(5)))
    engine.add_levels("buy", [(4, 1)])

    assert seen == [("buy", 5, 0), ("buy", 5, 3), ("buy", 5, 7), ("buy", 4, 0)]
    assert isinstance(engine.collect()[-1], AddedLevels)
    assert isinstance(next(engine.book.bids.queue(4)), Order)
