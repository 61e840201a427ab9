"""Coinbase's channels, and the topics that subscribers choose from.

A *channel* is Coinbase's word: ticker, matches, level2. A *topic* is one channel of one
product, ``matches:BTC-USD``, and is the unit of subscription.

The messages of three pairs of channels cannot be distinguished: ``ticker`` and ``ticker_batch``,
``level2`` and ``level2_batch``, ``full`` and ``matches``. So for each product the feed subscribes
to one channel of a pair only, the richer one in demand (always ``ticker`` for ``ticker_batch``),
and derives the poorer one from it (``upstream_topics``).

Source: docs/COINBASE.md §4 and §5 (Coinbase Exchange WebSocket channels).
"""

from collections.abc import Iterable
from typing import NamedTuple


class Topic(NamedTuple):
    """One channel of one product.

    Attributes:
        channel: the topic channel (``Channel.topic_channel``), for example ``"matches"``.
        product_id: the market, for example ``"BTC-USD"``; empty for ``status``, for
            ``rfq_matches`` of all products together, and for the schema message of ``level3``.
    """

    channel: str
    product_id: str

    def __str__(self) -> str:
        """Return ``channel:product``, the form used in positions."""
        return f"{self.channel}:{self.product_id}"


class Channel(NamedTuple):
    """One of Coinbase's public channels.

    Attributes:
        name: the canonical name, as in acknowledgements (COINBASE §4).
        aliases: all names that a subscribe may use; the feed uses the first one upstream.
        topic_channel: its name in topics: ``"ticker_batch"`` for the channel that Coinbase
            acknowledges as ``"ticker_1000"``; for most channels the same as ``name``.
        needs_products: False if a subscribe may omit the products.
        takes_products: False if the channel is not about products.
        conflates: True if conflation is possible: the newest message, or a new snapshot if the
            channel begins with one, may replace the messages that wait in a backlog.
        resumes: True if subscribers can resume it from a position.
        begins_with_snapshot: True if its messages are changes to a snapshot.
        needs_key: True if the exchange requires a signed subscribe.
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
        """Return this channel's topic of ``product_id``."""
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
"""Channels about one account: never relayed, for any upstream key."""

BY_ALIAS = {alias: channel for channel in CHANNELS for alias in channel.aliases}
BY_TOPIC_CHANNEL = {channel.topic_channel: channel for channel in CHANNELS}

_RICHER = ((FULL, MATCHES), (LEVEL2, LEVEL2_BATCH))


def upstream_topics(
    wanted: Iterable[Topic], refused: frozenset[str] = frozenset()
) -> frozenset[Topic]:
    """Return the topics that the feed needs upstream to serve ``wanted``.

    For each product the richer of two channels that share message types serves both, and
    ``rfq_matches`` of all products replaces that of single products.

    Args:
        wanted: topics in demand.
        refused: topic channels that the exchange refuses us. ``level2`` is then served from
            ``level2_batch``; the topics of other refused channels are left out.
    """
    needed: set[Topic] = set()
    for topic in wanted:
        channel, product_id = topic
        if channel == TICKER_BATCH.topic_channel:
            channel = TICKER.topic_channel
        elif channel == LEVEL2.topic_channel and channel in refused:
            channel = LEVEL2_BATCH.topic_channel
        if channel not in refused:
            needed.add(Topic(channel, product_id))
    for rich, poor in _RICHER:
        needed -= {poor.topic(t.product_id) for t in needed if t.channel == rich.topic_channel}
    if RFQ_MATCHES.topic("") in needed:
        needed = {t for t in needed if t.channel != RFQ_MATCHES.topic_channel or not t.product_id}
    return frozenset(needed)
