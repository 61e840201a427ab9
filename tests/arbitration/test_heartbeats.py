"""Heartbeats reveal trades missing at the end, and are never delivered ahead of the data."""

import pytest

from hedgehogd.arbitration.connection_state import Source
from hedgehogd.domain.channel import Topic
from tests.arbitration.exchange_model import (
    FULL,
    HEARTBEAT,
    MATCHES,
    TICKER,
    WITH_FULL,
    WITH_MATCHES,
)
from tests.arbitration.test_arbiter import Two, gap, lines, message, order, trade

BOOKS = [Topic("level2", "BTC-USD"), Topic("level2_batch", "BTC-USD")]


def beat(sequence, last_trade_id=None):
    return message("heartbeat", sequence=sequence, last_trade_id=last_trade_id)


def test_a_trade_stated_by_two_heartbeats_and_not_received_is_missing():
    """The last trade before a pause has no next one to reveal that it was lost (COINBASE §6.1)."""
    two = Two(*lines(WITH_MATCHES))
    named = beat(9, 3)

    assert [named] == two.receive(0, 0, named)
    assert [trade(1)] == two.receive(0, 0.5, trade(1))
    assert [gap(2, 3), named] == two.receive(0, 1, named)
    assert [named, trade(4)] == two.receive(0, 2, named, trade(4))
    assert 1 == two.arbiter.gaps
    assert BOOKS == two.resyncs


def test_heartbeats_of_one_read_do_not_confirm_each_other():
    """After a stall they arrive together, and the trades after them."""
    two = Two(*lines(WITH_MATCHES))
    beats = beat(9, 2), beat(10, 3)

    assert [trade(1), *beats] == two.receive(0, 0, trade(1), *beats)
    assert [*beats, trade(2), trade(3)] == two.receive(0, 0.04, *beats, trade(2), trade(3))
    assert [*beats] == two.receive(0, 1, *beats)
    assert 0 == two.arbiter.gaps


@pytest.mark.parametrize("last_trade_id", [None, 0, 1])
def test_a_heartbeat_without_a_new_number_reveals_nothing(last_trade_id):
    """A market without trades has none to miss."""
    two = Two(*lines(WITH_MATCHES))
    named = beat(9, last_trade_id)
    two.receive(0, 0, trade(1))

    assert [[named]] * 3 == [two.receive(0, now, named) for now in (1, 2, 3)]


def test_where_trades_are_not_watched_they_are_not_missing():
    """A product with nothing but a ticker has heartbeats too."""
    two = Two(*lines({TICKER, HEARTBEAT}))

    assert [[beat(9, n)] for n in (5, 9)] == [two.receive(0, n, beat(9, n)) for n in (5, 9)]


def test_a_heartbeat_waits_for_the_sequence_that_it_states():
    """Clients take an early one for a loss (COINBASE §15); the trades go on meanwhile."""
    two = Two(*lines(WITH_FULL))

    assert [order(1)] == two.receive(0, 0, order(1), beat(3))
    assert [order(2)] == two.receive(0, 0.01, order(2))
    assert [order(3), beat(3), order(4)] == two.receive(0, 0.02, order(3), order(4))
    assert [beat(4)] == two.receive(0, 1, beat(4))
    assert 0 == two.arbiter.gaps


def test_an_event_not_received_before_the_next_heartbeat_is_missing():
    """A quiet market would not reveal it otherwise."""
    two = Two(*lines(WITH_FULL))
    two.receive(0, 0, order(1), beat(3))

    assert [gap(2, 3, "full"), beat(3), beat(3)] == two.receive(0, 1, beat(3))
    assert [order(4)] == two.receive(0, 1, order(4))
    assert ({"full": 2}, BOOKS) == (two.arbiter.missing, two.resyncs)


def test_of_two_early_heartbeats_the_older_is_delivered_first():
    """The older one's event is missing; the newer one's may be on its way."""
    two = Two(*lines(WITH_FULL))
    two.receive(0, 0, order(1), beat(2))

    assert [gap(2, 2, "full"), beat(2)] == two.receive(0, 1, beat(4))
    assert [order(3)] == two.receive(0, 1.5, order(3))
    assert [order(4), beat(4)] == two.receive(0, 1.5, order(4))


def test_an_early_heartbeat_of_the_same_read_replaces_the_one_before():
    """Only the newest is of use, and one at a time is kept."""
    two = Two(*lines(WITH_FULL))

    assert [order(1)] == two.receive(0, 0, order(1), beat(2), beat(3))
    assert [order(2), order(3), beat(3)] == two.receive(0, 0, order(2), order(3))


def test_a_gap_releases_an_early_heartbeat_after_the_message_that_revealed_it():
    """A later event than the stated one has arrived."""
    two = Two(*lines(WITH_FULL))
    two.receive(0, 0, order(1), beat(3))

    assert [gap(2, 4, "full"), order(5), beat(3)] == two.receive(0, 0.5, order(5))


def test_an_early_heartbeat_is_delivered_when_full_is_released():
    """No event will arrive that it could precede."""
    two = Two(*lines(WITH_FULL))
    two.receive(0, 0, order(1), beat(3))
    two.session.forget(FULL)
    two.sources[0].held = WITH_MATCHES

    assert [beat(3), beat(3)] == two.receive(0, 1, beat(3))
    assert [trade(7)] == two.receive(0, 1, trade(7))


@pytest.mark.parametrize("fields", [{}, {"sequence": "x"}, {"sequence": 10**12}])
def test_a_heartbeat_of_no_sequence_waits_for_nothing(fields):
    """An absurd number would hold it for ever."""
    two = Two(*lines(WITH_FULL))
    odd = message("heartbeat", **fields)

    assert [order(1), odd] == two.receive(0, 0, order(1), odd)


def test_a_heartbeat_of_a_connection_without_full_waits_for_nothing():
    """While a product moves, full may arrive on the other connection."""
    old, new = Source(0, {HEARTBEAT, MATCHES}), Source(0, WITH_FULL)
    two = Two(old, new)
    two.receive(0, 0, beat(1))
    two.receive(1, 0, order(1))

    assert [beat(5)] == two.receive(0, 1, beat(5))


def test_an_early_heartbeat_ends_with_its_connection():
    """An hour later it would be old, and after the events that follow it."""
    one, again = lines(WITH_FULL, WITH_FULL)
    two = Two(one, again)
    two.receive(0, 0, order(1), beat(3))
    two.out(two.session.lost(one, 1))

    assert [gap(2, 499, "full"), order(500), beat(500)] == two.receive(
        1, 3600, order(500), beat(500)
    )


def test_a_trade_that_the_next_heartbeat_takes_back_is_not_missing():
    """One absurd heartbeat must not turn the trades that follow into repeats."""
    two = Two(*lines(WITH_MATCHES))
    two.receive(0, 0, trade(1))
    absurd, true = beat(9, 400_000), beat(9, 1)

    assert [absurd] == two.receive(0, 1, absurd)
    assert [true] == two.receive(0, 2, true)
    assert [trade(2)] == two.receive(0, 2.5, trade(2))
    assert 0 == two.arbiter.gaps


def test_an_event_that_the_next_heartbeat_takes_back_is_not_missing():
    """The heartbeat that stated it is dropped: no gap is declared for an untrue number."""
    two = Two(*lines(WITH_FULL))
    two.receive(0, 0, order(1))

    assert [] == two.receive(0, 1, beat(400_000))
    assert [beat(1)] == two.receive(0, 2, beat(1))
    assert [order(2)] == two.receive(0, 2.5, order(2))
    assert 0 == two.arbiter.gaps
