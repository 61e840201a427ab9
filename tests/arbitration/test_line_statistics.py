"""Which of two lines delivers first, and by how much, in bounded memory."""

import pytest

from hedgehogd.arbitration import line_statistics as race
from hedgehogd.arbitration.line_statistics import Race


def test_the_line_that_delivers_a_number_first_wins():
    """Each number has one winner; its lead is the time until the other line delivers it."""
    found = Race()
    for number in range(10):
        found.observe("BTC-USD", "matches", number, 0, number)
        found.observe("BTC-USD", "matches", number, 1, number + 0.25)

    assert {0: 10} == found.wins
    assert 0.25 == found.lead_s(0)
    assert found.lead_s(1) is None


def test_one_number_at_a_time_is_timed():
    """This is independent of the distance of the lines; a line's own repeat does not count."""
    found = Race()
    for number in range(100):
        found.observe("BTC-USD", "full", number, 1, number / 10)
    found.observe("BTC-USD", "full", 0, 1, 10)
    found.observe("BTC-USD", "matches", 0, 0, 10)
    assert found.lead_s(1) is None
    found.observe("BTC-USD", "full", 0, 0, 7)

    assert {1: 100, 0: 1} == found.wins
    assert 7 == found.lead_s(1)


def test_a_number_that_the_other_line_never_delivers_is_replaced():
    """One lost message must not end the measurement."""
    found = Race()
    found.observe("BTC-USD", "full", 1, 0, 0)
    found.observe("BTC-USD", "full", 2, 0, 61)
    found.observe("BTC-USD", "full", 2, 1, 63)

    assert 2 == found.lead_s(0)


def test_the_lead_is_the_median_of_the_last_ones(monkeypatch):
    """One stall is not the line's usual lead."""
    monkeypatch.setattr(race, "_LEADS_KEPT", 3)
    found = Race()
    for number, lead in enumerate([50, 1, 3, 30]):
        found.observe("BTC-USD", "full", number, 0, 100 * number)
        found.observe("BTC-USD", "full", number, 1, 100 * number + lead)

    assert 3 == found.lead_s(0)


def test_lower_numbers_after_a_reset_are_counted():
    """The old highest number may not be reached again for days."""
    found = Race()
    found.reset("BTC-USD", "full", 900)
    found.observe("BTC-USD", "full", 1_000, 0, 0)
    found.reset("BTC-USD", "full", 3)
    found.observe("BTC-USD", "full", 3, 1, 1)
    found.observe("BTC-USD", "full", 4, 1, 2)
    found.observe("BTC-USD", "full", 4, 0, 2.5)

    assert {0: 1, 1: 1} == found.wins
    assert 0.5 == found.lead_s(1)


@pytest.mark.parametrize(("channel", "lead_s"), [("full", 1), ("matches", 2)])
def test_a_reset_ends_the_measurement_of_its_channel_alone(channel, lead_s):
    """The same number after a reset is another message."""
    found = Race()
    found.observe("BTC-USD", channel, 7, 0, 0)
    found.reset("BTC-USD", "full", 3)
    found.observe("BTC-USD", channel, 7, 0, 1)
    found.observe("BTC-USD", channel, 7, 1, 2)

    assert lead_s == found.lead_s(0)


@pytest.mark.parametrize("product_id", ["BTC-USD", "ETH-USD"])
def test_a_released_product_is_forgotten(product_id):
    """Its numbers may be lower when it is held again."""
    found = Race()
    found.observe("BTC-USD", "full", 10, 0, 0)
    found.forget(product_id)
    found.observe("BTC-USD", "full", 5, 1, 0)

    assert found.wins[1] == (product_id == "BTC-USD")
