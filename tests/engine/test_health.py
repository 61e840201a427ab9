"""Health of the feed and of history."""

import pytest
import trio

from hedgehogd.arbitration.product_state import ProductState
from hedgehogd.engine.health import FeedHealth, FeedState, HistoryHealth, HistoryState


def test_a_reason_belongs_to_its_state():
    """The reason of a repaired fault must not be reported any longer."""
    health = FeedHealth()
    health.become(FeedState.STALE, "silent")
    health.become(FeedState.STALE, "refused")
    assert (health.state, health.reason) == (FeedState.STALE, "refused")

    health.become(FeedState.LIVE)
    assert (health.state, health.reason) == (FeedState.LIVE, "")


@pytest.mark.parametrize("state", FeedState)
def test_ready_means_that_a_subscriber_receives_every_message(state):
    """A load balancer sends clients elsewhere only while another instance may be better."""
    health = FeedHealth()
    health.become(state)

    assert (state not in {FeedState.CONNECTING, FeedState.STALE}) == health.is_ready


def test_history_is_off_until_an_instance_records_it():
    """A reason belongs to its state: a repaired fault must not be reported any longer."""
    health = HistoryHealth()
    assert (health.state, health.reason, health.kept, health.written_us) == ("off", "", 0, 0)
    health.become(HistoryState.FAILED, "disk is full")
    assert (health.state, health.reason) == (HistoryState.FAILED, "disk is full")
    health.become(HistoryState.WRITING)
    assert (health.state, health.reason) == (HistoryState.WRITING, "")


async def test_the_ages_of_products_are_those_of_the_moment_of_reading(autojump_clock):
    """A product with heartbeats and without data has one age; topics of all products have none."""
    health = FeedHealth()
    for product_id, data_at in (("BTC-USD", 1.0), ("ETH-USD", None), ("", 0.0)):
        state = health.products[product_id] = ProductState(product_id, 2.0)
        state.data_at = data_at
    await trio.sleep(5)

    assert health.read_products() == {"BTC-USD": (3.0, 4.0), "ETH-USD": (3.0, None)}


async def test_each_line_states_its_health_at_the_moment_of_reading(autojump_clock):
    """Without a feed there are none; the state of a line is its own."""

    class Line:
        def health(self, now):
            return ("line", now)

    health = FeedHealth()
    assert health.read_lines() == []
    health.lines += [Line(), Line()]
    await trio.sleep(5)

    assert health.read_lines() == [("line", 5.0)] * 2
