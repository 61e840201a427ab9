"""What every feed does with what its session read."""

import structlog

from hedgehogd.engine.health import FeedHealth
from hedgehogd.feeds.intake import account
from hedgehogd.protocol.upstream import Received, Refusal, UpstreamSession


async def test_a_read_full_of_oddities_is_counted_whole_and_logged_in_three_lines(autojump_clock):
    """Garbage at full speed must not fill the disk with words about it."""
    session, health = UpstreamSession(), FeedHealth()
    session.dropped["garbage"] = 50
    session.gaps, session.trades_missing = 1, 7
    refusal = Refusal("X-Y", "Failed to subscribe", "X-Y is not a valid product")
    received = Received([], [], [], [refusal] * 5, ["slow down"] * 4, ["garbage: x"] * 50)
    with structlog.testing.capture_logs() as logs:
        account(received, session, health)

    assert [line["log_level"] for line in logs] == ["warning"] * 3 + ["error"] * 6
    assert health.dropped == {"garbage": 50}
    assert (health.gaps, health.trades_missing, health.complaints) == (1, 7, 4)
    assert health.heard_at == 0.0
