"""Health of the feed and of history."""

import pytest

from hedgehogd.engine.health import FeedHealth, FeedState, HistoryHealth, HistoryState


def test_the_time_of_a_change_is_the_time_of_the_state():
    """ "Stale since" must not restart with each failed dial."""
    health = FeedHealth()
    health.become(FeedState.STALE, 5.0, "silent")
    health.become(FeedState.STALE, 9.0, "refused")

    assert (health.state, health.reason, health.changed_at) == (FeedState.STALE, "refused", 5.0)

    health.become(FeedState.LIVE, 11.0)
    assert (health.state, health.reason, health.changed_at) == (FeedState.LIVE, "", 11.0)


@pytest.mark.parametrize("state", FeedState)
def test_ready_means_that_a_subscriber_receives_every_message(state):
    """A load balancer sends clients elsewhere only while another instance may be better."""
    health = FeedHealth()
    health.become(state, 0.0)

    assert (state not in {FeedState.CONNECTING, FeedState.STALE}) == health.is_ready


def test_history_is_off_until_an_instance_records_it():
    """A reason belongs to its state: a repaired fault must not be reported any longer."""
    health = HistoryHealth()
    assert (health.state, health.reason, health.kept, health.written_us) == ("off", "", 0, 0)
    health.become(HistoryState.FAILED, "disk is full")
    assert (health.state, health.reason) == (HistoryState.FAILED, "disk is full")
    health.become(HistoryState.WRITING)
    assert (health.state, health.reason) == (HistoryState.WRITING, "")
