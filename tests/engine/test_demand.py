"""The topics that the feed has to hold, and when they change."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgehogd.domain.channel import TICKER_BATCH, Topic
from hedgehogd.engine.demand import Demand

TICKER, MATCHES, BEAT, BOOK = (
    Topic(channel, "BTC-USD") for channel in ("ticker", "matches", "heartbeat", "level2")
)
STATUS = Topic("status", "")
TOPICS = [TICKER, MATCHES, BOOK, STATUS, TICKER_BATCH.topic("BTC-USD"), Topic("ticker", "ETH-USD")]


class Changes(list):
    """Replaces the ``Wakeup`` of a demand; grows by one with each call of ``set``."""

    def set(self):
        self.append(None)


def watched(*held, linger_s=30.0):
    """Return a demand, and a list that grows by one with each change."""
    changes = Changes()
    return Demand(held, linger_s, changes), changes


def test_a_topic_is_wanted_from_its_first_subscriber_to_its_last():
    """A thousand subscribers are one upstream subscription."""
    demand, changes = watched(linger_s=0)
    demand.want([TICKER])
    demand.want([TICKER])
    demand.release([TICKER], 1.0)
    assert demand.wanted(1.0) == {TICKER, BEAT}
    assert len(changes) == 1

    demand.release([TICKER], 2.0)
    assert demand.wanted(2.0) == frozenset()
    assert len(changes) == 2


def test_a_topic_lingers_after_its_last_subscriber():
    """A client that reconnects, or a fleet that restarts, changes nothing upstream."""
    demand, changes = watched(linger_s=30)
    demand.want([TICKER])
    demand.release([TICKER], 10.0)
    assert demand.next_change_at() == 40.0
    assert demand.wanted(39.9) == {TICKER, BEAT}

    demand.want([TICKER])
    assert len(changes) == 2  # the new subscriber is no change
    assert demand.next_change_at() is None
    assert demand.wanted(99.0) == {TICKER, BEAT}

    demand.release([TICKER], 100.0)
    assert demand.wanted(130.0) == frozenset()


def test_every_product_includes_its_heartbeat_and_status_has_none():
    """It distinguishes a silent line from a quiet market; status has no product."""
    demand, _ = watched()
    demand.want([MATCHES, STATUS])

    assert demand.wanted(0.0) == {MATCHES, BEAT, STATUS}


def test_each_channel_is_counted_by_itself():
    """Of two channels that share messages the feed chooses one."""
    batch = TICKER_BATCH.topic("BTC-USD")
    demand, changes = watched(linger_s=0)
    demand.want([batch, TICKER])
    assert demand.wanted(0.0) == {batch, TICKER, BEAT}

    demand.release([TICKER], 1.0)
    assert demand.wanted(1.0) == {batch, BEAT}
    assert len(changes) == 2


def test_a_lingering_topic_is_not_wanted():
    """Producers work for subscribers only; a topic that the feed still holds keeps its state."""
    demand, _ = watched(MATCHES)
    demand.want([TICKER])
    assert [demand.is_wanted(topic) for topic in (TICKER, MATCHES, BOOK)] == [True, True, False]

    demand.release([TICKER], 0.0)
    assert not demand.is_wanted(TICKER)


def test_a_configured_topic_does_not_change_with_its_subscribers():
    """The feed is not woken for a topic that it holds anyway."""
    demand, changes = watched(TICKER)
    demand.want([TICKER])
    demand.release([TICKER], 1.0)

    assert changes == []
    assert demand.next_change_at() is None
    assert demand.wanted(99.0) == {TICKER, BEAT}


def test_a_refused_product_does_not_linger():
    """The exchange would refuse it again with each connection."""
    demand, changes = watched()
    demand.want([TICKER, STATUS])
    demand.refuse("BTC-USD")
    assert demand.wanted(0.0) == {TICKER, BEAT, STATUS}  # it still has a subscriber

    demand.release([TICKER, STATUS], 0.0)
    assert len(changes) == 2
    demand.refuse("BTC-USD")
    assert demand.wanted(0.0) == {STATUS}
    assert len(changes) == 3


def test_a_refused_channel_does_not_linger():
    """It would be requested, and refused, with each connection."""
    demand, changes = watched()
    demand.want([BOOK, TICKER])
    demand.release([BOOK, TICKER], 0.0)
    demand.refuse("", "level2")
    assert demand.wanted(0.0) == {TICKER, BEAT}
    demand.refuse("", "full")
    assert len(changes) == 3


def test_configured_products_and_channels_are_known():
    """When the exchange refuses one of them, the operator has to act."""
    demand, _ = watched(TICKER)

    assert demand.holds("BTC-USD", "")
    assert demand.holds("", "ticker")
    assert not demand.holds("ETH-USD", "")
    assert not demand.holds("", "matches")


def test_a_snapshot_is_requested_once_until_it_is_fetched():
    """A book's snapshot is megabytes, and every subscriber of the topic receives it."""
    demand, changes = watched()
    demand.ask_snapshot(BOOK)
    demand.ask_snapshot(BOOK)
    assert len(changes) == 1
    assert demand.take_snapshots() == {BOOK}
    assert demand.take_snapshots() == frozenset()

    demand.ask_snapshot(BOOK)
    assert len(changes) == 2


def test_the_next_change_is_the_first_of_all():
    """The feed sleeps until then, and must not oversleep."""
    demand, _ = watched(linger_s=5)
    assert demand.next_change_at() is None

    demand.want([TICKER, MATCHES])
    demand.release([TICKER], -4.5)
    demand.release([MATCHES], -1.0)
    assert demand.next_change_at() == 0.5


SUBSCRIBERS = st.integers(min_value=0, max_value=3)
STEPS = st.lists(st.tuples(SUBSCRIBERS, st.sets(st.sampled_from(TOPICS)), st.integers(0, 20)))


@given(STEPS, st.sets(st.sampled_from(TOPICS), max_size=2))
def test_demand_is_the_topics_of_subscribers_and_those_left_lately(steps, held):
    """Too little is a silent market, too much is a subscription for ever."""
    demand, changes = watched(*held, linger_s=30)
    topics = dict.fromkeys(range(4), frozenset())
    left_at, now = {}, 0
    for subscriber, new, pause in steps:
        now += pause
        before, calls = demand.wanted(now), len(changes)
        old, topics[subscriber] = topics[subscriber], frozenset(new)
        demand.want(new - old)
        demand.release(old - new, now)
        flowing = {topic for one in topics.values() for topic in one}
        left_at |= dict.fromkeys(old - new, now)

        flowing |= {topic for topic, at in left_at.items() if now < at + 30}
        flowing |= held
        beats = {Topic("heartbeat", topic.product_id) for topic in flowing if topic.product_id}
        assert demand.wanted(now) == flowing | beats
        assert before == demand.wanted(now) or len(changes) > calls


def test_without_a_feed_a_change_has_no_effect():
    """A recording is played for any demand."""
    demand = Demand()
    demand.want([TICKER])

    assert demand.wanted(0.0) == {TICKER, BEAT}


@pytest.mark.parametrize("count", [1, 5])
def test_counts_end_at_zero(count):
    """A topic left over would be held for ever."""
    demand, _ = watched(linger_s=0)
    for _ in range(count):
        demand.want(TOPICS)
    for _ in range(count):
        demand.release(TOPICS, 0.0)

    assert demand.wanted(0.0) == frozenset()


def test_configured_topics_may_change_while_subscribers_join_and_leave():
    """A reload adds a pair at once, and drops one without a break for its subscribers."""
    demand, changes = watched(TICKER, BOOK, linger_s=30)
    demand.want([BOOK])
    demand.hold([MATCHES, TICKER], 10.0)

    assert len(changes) == 1
    assert demand.wanted(99.0) == {TICKER, MATCHES, BOOK, BEAT}
    demand.release([BOOK], 100.0)
    assert demand.wanted(129.9) == {TICKER, MATCHES, BOOK, BEAT}
    assert demand.wanted(130.0) == {TICKER, MATCHES, BEAT}


def test_a_topic_no_longer_configured_lingers_and_may_be_configured_again():
    """Two reloads in a row, because of a typing mistake, change nothing upstream."""
    demand, changes = watched(TICKER, linger_s=30)
    demand.hold([], 10.0)
    assert demand.wanted(39.9) == {TICKER, BEAT}
    demand.hold([TICKER], 20.0)
    assert demand.wanted(1000.0) == {TICKER, BEAT}
    before = len(changes)
    demand.hold([TICKER], 30.0)

    assert len(changes) == before  # nothing to do
