"""Log lines and counters of one read."""

import structlog

from hedgehogd.arbitration.batch import Received, Refusal
from hedgehogd.arbitration.session import UpstreamSession
from hedgehogd.engine.health import FeedHealth
from hedgehogd.feeds.accounting import account


async def test_unexpected_messages_are_all_counted_and_three_are_logged(autojump_clock):
    """Garbage at full speed must not fill the disk with log lines."""
    session, health = UpstreamSession(), FeedHealth()
    session.dropped["garbage"] = 50
    session.arbiter.gaps, session.arbiter.missing["matches"] = 1, 7
    refusal = Refusal("X-Y", "Failed to subscribe", "X-Y is not a valid product")
    received = Received()
    received.refusals += [refusal] * 5
    received.complaints += ["slow down"] * 4
    received.oddities += ["garbage: x"] * 50
    with structlog.testing.capture_logs() as logs:
        account(received, session, health)

    assert [line["log_level"] for line in logs] == ["warning"] * 3 + ["error"] * 6
    assert (health.gaps, health.missing, health.complaints) == (1, {"matches": 7}, 4)


async def test_a_refusal_is_logged_with_its_product_or_channel(autojump_clock):
    """A refused ``level2`` has a substitute and is no error; other refusals are errors."""
    received = Received()
    for channel in ("level2", "full"):
        received.refusals.append(Refusal("", "Failed to subscribe", "needs a key", channel))
    with structlog.testing.capture_logs() as logs:
        account(received, UpstreamSession(), FeedHealth())

    assert [(line["log_level"], line.get("what")) for line in logs] == [
        ("info", None),
        ("error", "full"),
    ]
