"""The gate: only topics that the feed holds may create state."""

import pytest

from hedgehogd.arbitration.flows import Flows
from hedgehogd.domain.channel import Topic

TICKER, MATCHES, FULL, LEVEL2, BATCH, LEVEL3, HEARTBEAT = (
    Topic(name, "BTC-USD")
    for name in ("ticker", "matches", "full", "level2", "level2_batch", "level3", "heartbeat")
)
SCHEMA = Topic("level3", "")


def test_a_feed_that_reports_no_topics_holds_every_topic():
    """A recording has no subscriptions."""
    flows = Flows()

    assert flows.has(TICKER)
    assert flows.admits(TICKER)
    assert flows.has_book("BTC-USD")


def test_a_topic_that_leaves_the_set_is_to_be_forgotten():
    """Each topic is returned once; the first report has none before it."""
    flows = Flows()

    assert flows.follow({TICKER, MATCHES}) == frozenset()
    assert flows.follow({MATCHES, FULL}) == {TICKER}
    assert flows.follow({MATCHES, FULL}) == frozenset()
    assert (flows.has(TICKER), flows.has(FULL)) == (False, True)


@pytest.mark.parametrize(
    ("held", "topic", "admitted"),
    [
        ({TICKER}, TICKER, True),
        ({TICKER}, MATCHES, False),
        ({MATCHES}, FULL, False),
        ({BATCH}, LEVEL2, True),  # the product moves from level2 to level2_batch
        ({LEVEL2}, BATCH, False),
        ({Topic("rfq_matches", "")}, Topic("rfq_matches", "BTC-USD"), True),
        ({Topic("rfq_matches", "ETH-USD")}, Topic("rfq_matches", "BTC-USD"), False),
        (set(), HEARTBEAT, False),
    ],
)
def test_a_message_passes_if_its_topic_is_held(held, topic, admitted):
    """Messages still in flight after an unsubscribe do not pass."""
    flows = Flows()
    flows.follow(held)

    assert flows.admits(topic) is admitted


def test_the_schema_is_held_with_any_level3():
    """It has no product, so no subscriber subscribes to it."""
    flows = Flows()
    flows.follow({LEVEL3})
    assert flows.admits(SCHEMA)

    assert flows.follow({TICKER}) == {LEVEL3, SCHEMA}
    assert not flows.admits(SCHEMA)


def test_a_book_is_held_with_either_of_its_channels():
    """The feed holds one of the two, and it serves both."""
    flows = Flows()
    for held, has_book in (({LEVEL2}, True), ({BATCH}, True), ({TICKER, FULL}, False)):
        flows.follow(held)
        assert flows.has_book("BTC-USD") is has_book
