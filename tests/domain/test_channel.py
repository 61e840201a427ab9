"""Channels: their names, their topics, and the upstream topics that serve them."""

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
    ("requested", "acknowledged", "topic"),
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
def test_a_channel_is_found_by_each_of_its_names(requested, acknowledged, topic):
    """Unmodified clients request one name and expect another in the answer (COINBASE §4)."""
    channel = BY_ALIAS[requested]

    assert acknowledged == channel.name
    assert topic == str(channel.topic("BTC-USD"))
    assert channel is BY_TOPIC_CHANNEL[channel.topic_channel]


@pytest.mark.parametrize("name", [*sorted(PRIVATE_CHANNELS), "Ticker", ""])
def test_a_private_or_unknown_channel_is_not_found(name):
    """Its messages would never arrive, or would be the private data of an account."""
    assert name not in BY_ALIAS


def test_no_two_channels_share_a_name():
    """The later channel would replace the earlier one in the table without an error."""
    aliases = [alias for channel in CHANNELS for alias in channel.aliases]

    assert len(aliases) == len(set(aliases))
    assert len(CHANNELS) == len(BY_TOPIC_CHANNEL)


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        # A conflated trade would be lost; a book is replaced by a new snapshot.
        ("conflates", {"ticker", "ticker_batch", "level2", "level2_batch"}),
        # A position on heartbeats would drop the repeats of an idle product (COINBASE §6.1).
        ("resumes", {"ticker", "matches", "full", "level3"}),
        ("begins_with_snapshot", {"level2", "level2_batch"}),
        ("needs_key", {"level2", "full", "level3"}),
    ],
)
def test_only_these_channels_have_the_flag(flag, expected):
    """Each flag is a statement about every message of the channel (COINBASE §5)."""
    assert expected == {c.topic_channel for c in CHANNELS if getattr(c, flag)}


def test_only_status_and_rfq_matches_may_omit_the_products():
    """Any other channel without a product is answered with an error (COINBASE §3.1)."""
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
        ("ticker_batch:A", "ticker", ""),
        ("level2:A", "level2 level2_batch", ""),
        ("level2_batch:A", "level2_batch", ""),
        ("rfq_matches:A rfq_matches:B", "", "rfq_matches:A rfq_matches:B"),
        ("rfq_matches:A rfq_matches: ticker:A", "", "rfq_matches: ticker:A"),
    ],
)
def test_the_richest_available_channel_is_requested(wanted, refused, expected):
    """The messages of two such channels on one connection could not be distinguished."""
    assert topics(expected) == upstream_topics(topics(wanted), frozenset(refused.split()))


names = st.sampled_from(sorted(BY_TOPIC_CHANNEL))
any_topics = st.frozensets(st.builds(Topic, names, st.sampled_from(["A", "B"])))


@given(any_topics, st.frozensets(names))
def test_upstream_topics_serve_all_wanted_topics_unambiguously(wanted, refused):
    """This holds for any demand and any refusals of the exchange."""
    needed = upstream_topics(wanted, refused)
    servers = {
        "matches": ["matches", "full"],
        "level2": ["level2"],
        "level2_batch": ["level2_batch", "level2"],
        "ticker_batch": ["ticker"],
    }

    for topic in wanted - {t for t in wanted if t.channel in refused}:
        richer = servers.get(topic.channel, [topic.channel])
        assert refused.issuperset(richer) or any(
            Topic(channel, topic.product_id) in needed for channel in richer
        )
    for product_id in "AB":
        channels = {t.channel for t in needed if t.product_id == product_id}
        assert not {"matches", "full"} <= channels
        assert not {"level2", "level2_batch"} <= channels
        assert "ticker_batch" not in channels
        assert not channels & refused
