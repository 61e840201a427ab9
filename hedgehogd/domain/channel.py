"""Coinbase's channels, and the topics that subscribers choose from.

A *channel* is Coinbase's word: ticker, matches, level2. A *topic* is one channel of one
product, ``matches:BTC-USD``, and is the unit of subscription.

Three pairs of channels cannot be told apart by their messages: ``ticker`` and
``ticker_batch``, ``level2`` and ``level2_batch``, ``full`` and ``matches``. Of each pair only
the richer wanted one flows from upstream for a product, and the poorer is made from it
(``upstream_topics``).

Source: FEED §4 and §5 (Coinbase Exchange WebSocket channels).
"""

from collections.abc import Iterable
from typing import NamedTuple


class Topic(NamedTuple):
    """One channel of one product.

    Attributes:
        channel: the channel's name on the tape, for example ``"matches"``.
        product_id: the market, for example ``"BTC-USD"``; empty for ``status``, and for
            ``rfq_matches`` of all products together.
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
        aliases: every name it can be asked for by; the first is the one to ask upstream by.
        topic_channel: the channel part of the topic that serves it.
        needs_products: False when it can be asked for without a product.
        takes_products: False when it is not about products at all.
        conflates: True when waiting messages may be replaced: by the newest one, or by a
            fresh snapshot where it begins with one.
        resumes: True when a position on it means something (DESIGN §5).
        begins_with_snapshot: True when its messages are changes to a snapshot.
        needs_key: True when the exchange gives it only to those who sign.
    """

    name: str
    aliases: tuple[str, ...]
    topic_channel: str
    needs_products: bool = True
    takes_products: bool = True
    conflates: bool = False
    resumes: bool = False
    begins_with_snapshot: bool = False
    needs_key: bool = False

    def topic(self, product_id: str) -> Topic:
        """Return the topic that serves this channel for ``product_id``."""
        return Topic(self.topic_channel, product_id)


HEARTBEAT = Channel("heartbeat", ("heartbeat",), "heartbeat")
STATUS = Channel("status", ("status",), "status", needs_products=False, takes_products=False)
TICKER = Channel("ticker", ("ticker",), "ticker", conflates=True, resumes=True)
TICKER_BATCH = Channel(
    "ticker_1000", ("ticker_batch", "ticker_1000"), "ticker_batch", conflates=True
)
MATCHES = Channel("matches", ("matches",), "matches", resumes=True)
LEVEL2 = Channel(
    "level2", ("level2",), "level2", conflates=True, begins_with_snapshot=True, needs_key=True
)
LEVEL2_BATCH = Channel(
    "level2_50",
    ("level2_batch", "level2_50"),
    "level2_batch",
    conflates=True,
    begins_with_snapshot=True,
)
FULL = Channel("full", ("full",), "full", resumes=True, needs_key=True)
LEVEL3 = Channel("level3", ("level3",), "level3", resumes=True, needs_key=True)
RFQ_MATCHES = Channel("rfq_matches", ("rfq_matches",), "rfq_matches", needs_products=False)
AUCTION = Channel("auctionfeed", ("auctionfeed",), "auctionfeed")

CHANNELS = (
    HEARTBEAT, STATUS, TICKER, TICKER_BATCH, MATCHES, LEVEL2, LEVEL2_BATCH, FULL, LEVEL3,
    RFQ_MATCHES, AUCTION,
)  # fmt: skip
PRIVATE_CHANNELS = frozenset({"user", "balance"})
"""Channels about one account: never relayed, whoever's key is used upstream."""

BY_ALIAS = {alias: channel for channel in CHANNELS for alias in channel.aliases}
BY_TOPIC_CHANNEL = {channel.topic_channel: channel for channel in CHANNELS}

_RICHER = ((FULL, MATCHES), (LEVEL2, LEVEL2_BATCH))


def upstream_topics(
    wanted: Iterable[Topic], refused: frozenset[str] = frozenset()
) -> frozenset[Topic]:
    """Return the topics to ask upstream for, so that all of ``wanted`` can be served.

    Per product the richer of two channels that share message types serves both.

    Args:
        wanted: what subscribers want.
        refused: topic channels that the exchange does not give us. ``level2`` is then
            served from ``level2_batch``; nothing stands in for ``full`` and ``level3``.
    """
    asked: set[Topic] = set()
    for topic in wanted:
        channel, product_id = topic
        if channel == TICKER_BATCH.topic_channel:
            asked.add(TICKER.topic(product_id))
        elif channel not in refused:
            asked.add(topic)
        elif channel == LEVEL2.topic_channel:
            asked.add(LEVEL2_BATCH.topic(product_id))
    for rich, poor in _RICHER:
        asked -= {poor.topic(t.product_id) for t in asked if t.channel == rich.topic_channel}
    if RFQ_MATCHES.topic("") in asked:
        asked = {t for t in asked if t.channel != RFQ_MATCHES.topic_channel or not t.product_id}
    return frozenset(asked)
