"""Channels: what may be asked for, what answers it, and what flows upstream for it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgehogd.domain.channel import (
    BY_ALIAS,
    BY_TOPIC_CHANNEL,
    CHANNELS,
    PRIVATE_CHANNELS,
    Topic,
    upstream_topics,
)


@pytest.mark.parametrize(
    ("asked", "acknowledged", "topic"),
    [
        ("heartbeat", "heartbeat", "heartbeat:BTC-USD"),
        ("status", "status", "status:BTC-USD"),
        ("ticker", "ticker", "ticker:BTC-USD"),
        ("ticker_batch", "ticker_1000", "ticker_batch:BTC-USD"),
        ("ticker_1000", "ticker_1000", "ticker_batch:BTC-USD"),
        ("matches", "matches", "matches:BTC-USD"),
        ("level2", "level2", "level2:BTC-USD"),
        ("level2_batch", "level2_50", "level2_batch:BTC-USD"),
        ("level2_50", "level2_50", "level2_batch:BTC-USD"),
        ("full", "full", "full:BTC-USD"),
        ("level3", "level3", "level3:BTC-USD"),
        ("rfq_matches", "rfq_matches", "rfq_matches:BTC-USD"),
        ("auctionfeed", "auctionfeed", "auctionfeed:BTC-USD"),
    ],
)
def test_a_channel_is_found_by_every_name_coinbase_gives_it(asked, acknowledged, topic):
    """Unmodified clients ask by one name and look for the other in the answer (FEED §4)."""
    channel = BY_ALIAS[asked]

    assert acknowledged == channel.name
    assert topic == str(channel.topic("BTC-USD"))
    assert channel is BY_TOPIC_CHANNEL[channel.topic_channel]


@pytest.mark.parametrize("name", [*PRIVATE_CHANNELS, "Ticker", ""])
def test_a_channel_that_is_private_or_does_not_exist_is_none(name):
    """Accepting it would promise messages that never come, or somebody's own."""
    assert name not in BY_ALIAS


def test_no_name_means_two_channels():
    """The table would let the later one win in silence."""
    aliases = [alias for channel in CHANNELS for alias in channel.aliases]

    assert len(aliases) == len(set(aliases))
    assert len(CHANNELS) == len(BY_TOPIC_CHANNEL)


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        # A conflated trade is a lost trade; a book is replaced by a fresh snapshot.
        ("conflates", {"ticker", "ticker_batch", "level2", "level2_batch"}),
        # A position on heartbeats would drop the repeats of an idle product (FEED §6.1).
        ("resumes", {"ticker", "matches", "full", "level3"}),
        ("begins_with_snapshot", {"level2", "level2_batch"}),
        ("needs_key", {"level2", "full", "level3"}),
    ],
)
def test_only_these_channels(flag, expected):
    """Each of these words is a promise about every message of the channel (FEED §5)."""
    assert expected == {c.topic_channel for c in CHANNELS if getattr(c, flag)}


def test_only_status_and_rfqs_may_be_asked_for_without_products():
    """Everything else without a product is answered with an error (FEED §3.1)."""
    assert {"status", "rfq_matches"} == {c.name for c in CHANNELS if not c.needs_products}
    assert {"status"} == {c.name for c in CHANNELS if not c.takes_products}


def topics(text):
    return frozenset(Topic(*name.split(":")) for name in text.split())


@pytest.mark.parametrize(
    ("wanted", "refused", "expected"),
    [
        ("", "", ""),
        ("ticker:A matches:B status:", "", "ticker:A matches:B status:"),
        ("ticker_batch:A", "", "ticker:A"),
        ("ticker_batch:A ticker:A", "", "ticker:A"),
        ("full:A matches:A matches:B", "", "full:A matches:B"),
        ("level2:A level2_batch:A level2_batch:B", "", "level2:A level2_batch:B"),
        ("level3:A matches:A", "", "level3:A matches:A"),
        ("level2:A level2:B", "level2", "level2_batch:A level2_batch:B"),
        ("level2:A level2_batch:A", "level2", "level2_batch:A"),
        ("full:A matches:A level3:A", "full level3", "matches:A"),
        ("full:A", "full", ""),
        ("level2_batch:A", "level2_batch", ""),
        ("rfq_matches:A rfq_matches:B", "", "rfq_matches:A rfq_matches:B"),
        ("rfq_matches:A rfq_matches: ticker:A", "", "rfq_matches: ticker:A"),
    ],
)
def test_the_richest_that_is_to_be_had_is_asked_for(wanted, refused, expected):
    """Two channels of one message type on one connection could not be told apart."""
    assert topics(expected) == upstream_topics(topics(wanted), frozenset(refused.split()))


names = st.sampled_from(sorted(BY_TOPIC_CHANNEL))
any_topics = st.frozensets(st.builds(Topic, names, st.sampled_from(["A", "B"])))


@given(any_topics, st.frozensets(names))
def test_what_is_asked_for_serves_all_that_is_wanted_and_can_be_told_apart(wanted, refused):
    """Whatever subscribers want, and whatever the exchange refuses."""
    asked = upstream_topics(wanted, refused)
    stand_ins = {
        "matches": ["matches", "full"],
        "level2": ["level2"],
        "level2_batch": ["level2_batch", "level2"],
        "ticker_batch": ["ticker"],
    }

    for topic in wanted - {t for t in wanted if t.channel in refused}:
        richer = stand_ins.get(topic.channel, [topic.channel])
        assert any(Topic(channel, topic.product_id) in asked for channel in richer)
    for product_id in "AB":
        channels = {t.channel for t in asked if t.product_id == product_id}
        assert not {"matches", "full"} <= channels
        assert not {"level2", "level2_batch"} <= channels
        assert "ticker_batch" not in channels
