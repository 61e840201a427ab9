"""Channels: what may be asked for, what answers it, and what flows upstream for it."""

import pytest

from hedgehogd.domain.channel import (
    BY_ALIAS,
    BY_TOPIC_CHANNEL,
    CHANNELS,
    LEVEL2,
    LEVEL2_BATCH,
    TOPIC_CHANNEL_BY_TYPE,
    Topic,
    upstream_topic,
)


@pytest.mark.parametrize(
    ("asked", "acknowledged", "topic", "upstream"),
    [
        ("heartbeat", "heartbeat", "heartbeat:BTC-USD", "heartbeat"),
        ("status", "status", "status:BTC-USD", "status"),
        ("ticker", "ticker", "ticker:BTC-USD", "ticker"),
        ("ticker_batch", "ticker_1000", "ticker_batch:BTC-USD", None),
        ("ticker_1000", "ticker_1000", "ticker_batch:BTC-USD", None),
        ("matches", "matches", "matches:BTC-USD", "matches"),
        ("level2", "level2", "level2:BTC-USD", "level2_batch"),
        ("level2_batch", "level2_50", "level2:BTC-USD", "level2_batch"),
        ("level2_50", "level2_50", "level2:BTC-USD", "level2_batch"),
    ],
)
def test_a_channel_is_found_by_every_name_coinbase_gives_it(asked, acknowledged, topic, upstream):
    """Unmodified clients ask by one name and look for the other in the answer (FEED §4)."""
    channel = BY_ALIAS[asked]

    assert acknowledged == channel.name
    assert topic == str(channel.topic("BTC-USD"))
    assert upstream == channel.upstream


@pytest.mark.parametrize("name", ["full", "level3", "user", "balance", "rfq_matches", "Ticker", ""])
def test_a_channel_that_needs_keys_or_does_not_exist_is_none(name):
    """Accepting it would promise messages that never come."""
    assert name not in BY_ALIAS


def test_no_name_means_two_channels():
    """The table would let the later one win in silence."""
    aliases = [alias for channel in CHANNELS for alias in channel.aliases]

    assert len(aliases) == len(set(aliases))


def test_both_level2_channels_are_served_by_one_topic():
    """Their messages cannot be told apart, so holding both would double every update."""
    assert LEVEL2.topic("BTC-USD") == LEVEL2_BATCH.topic("BTC-USD")
    assert LEVEL2 is BY_TOPIC_CHANNEL["level2"]


def test_every_message_type_leads_to_a_channel():
    """A topic without a channel could be published and never be subscribed to."""
    assert set(TOPIC_CHANNEL_BY_TYPE.values()) <= set(BY_TOPIC_CHANNEL)


@pytest.mark.parametrize("channel", CHANNELS, ids=lambda channel: channel.name)
def test_what_is_derived_flows_as_what_it_is_derived_from(channel):
    """A ticker_batch subscriber alone must still make the ticker flow."""
    expected = "ticker" if channel.upstream is None else channel.topic_channel
    needed = upstream_topic(channel.topic("BTC-USD"))

    assert Topic(expected, "BTC-USD") == needed
    assert BY_TOPIC_CHANNEL[needed.channel].upstream is not None


def topic_channels(flag):
    return {channel.topic_channel for channel in CHANNELS if getattr(channel, flag)}


def test_only_tickers_are_worth_less_than_newer_ones():
    """A conflated trade is a lost trade; a conflated book update corrupts the book."""
    assert topic_channels("conflates") == {"ticker", "ticker_batch"}


def test_only_what_the_exchange_numbers_resumes():
    """A position on heartbeats would drop the repeats that an idle product sends (FEED §6.1)."""
    assert topic_channels("resumes") == {"ticker", "matches"}


def test_only_books_begin_with_a_snapshot():
    """Waiting for one on any other channel would be waiting for ever."""
    assert topic_channels("begins_with_snapshot") == {"level2"}


def test_only_status_is_about_no_product():
    """Everything else without a product is answered with an error (FEED §3.1)."""
    assert set(BY_TOPIC_CHANNEL) - topic_channels("needs_products") == {"status"}
