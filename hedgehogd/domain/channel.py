"""Coinbase's channels, and the topics that subscribers choose from.

A *channel* is Coinbase's word: ticker, matches, level2. A *topic* is one channel of one
product, ``matches:BTC-USD``, and is the unit of subscription.

Two pairs of channels cannot be told apart by their messages (``ticker`` and ``ticker_batch``,
``level2`` and ``level2_batch``), so what a subscriber asks for and what is asked upstream are
different questions; each channel answers both here.

Source: FEED §4 and §5 (Coinbase Exchange WebSocket channels).
"""

from typing import NamedTuple


class Topic(NamedTuple):
    """One channel of one product.

    Attributes:
        channel: the channel's name on the tape, for example ``"matches"``.
        product_id: the market, for example ``"BTC-USD"``; empty for ``status``.
    """

    channel: str
    product_id: str

    def __str__(self) -> str:
        """Return ``channel:product``, as positions are written."""
        return f"{self.channel}:{self.product_id}"


class Channel(NamedTuple):
    """One of Coinbase's public channels.

    Attributes:
        name: the canonical name, as acknowledgements state it (FEED §4).
        aliases: every name it can be asked for by.
        topic_channel: the channel part of the topic that serves it.
        upstream: the name to ask upstream for to get that topic; None when we derive it.
        needs_products: False when it is not about a product.
        conflates: True when a newer message makes an older one worthless.
        resumes: True when a position on it means something (DESIGN §5).
        begins_with_snapshot: True when its messages are changes to a snapshot.
    """

    name: str
    aliases: tuple[str, ...]
    topic_channel: str
    upstream: str | None
    needs_products: bool = True
    conflates: bool = False
    resumes: bool = False
    begins_with_snapshot: bool = False

    def topic(self, product_id: str) -> Topic:
        """Return the topic that serves this channel for ``product_id``."""
        return Topic(self.topic_channel, product_id)


HEARTBEAT = Channel("heartbeat", ("heartbeat",), "heartbeat", "heartbeat")
STATUS = Channel("status", ("status",), "status", "status", needs_products=False)
TICKER = Channel("ticker", ("ticker",), "ticker", "ticker", conflates=True, resumes=True)
TICKER_BATCH = Channel(
    "ticker_1000", ("ticker_batch", "ticker_1000"), "ticker_batch", None, conflates=True
)
MATCHES = Channel("matches", ("matches",), "matches", "matches", resumes=True)
LEVEL2 = Channel("level2", ("level2",), "level2", "level2_batch", begins_with_snapshot=True)
LEVEL2_BATCH = Channel(
    "level2_50", ("level2_batch", "level2_50"), "level2", "level2_batch", begins_with_snapshot=True
)

CHANNELS = (HEARTBEAT, STATUS, TICKER, TICKER_BATCH, MATCHES, LEVEL2, LEVEL2_BATCH)

BY_ALIAS = {alias: channel for channel in CHANNELS for alias in channel.aliases}
BY_TOPIC_CHANNEL = {channel.topic_channel: channel for channel in reversed(CHANNELS)}

TOPIC_CHANNEL_BY_TYPE = {
    "heartbeat": "heartbeat",
    "status": "status",
    "ticker": "ticker",
    "match": "matches",
    "last_match": "matches",
    "snapshot": "level2",
    "l2update": "level2",
}
"""Which topic channel an upstream message belongs to, by its ``type``."""


def upstream_topic(topic: Topic) -> Topic:
    """Return the topic that has to flow from upstream so that ``topic`` can be served."""
    if topic.channel == TICKER_BATCH.topic_channel:
        return Topic(TICKER.topic_channel, topic.product_id)
    return topic
