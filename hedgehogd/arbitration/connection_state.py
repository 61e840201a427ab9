"""One upstream connection, as those see it who read what it brings."""

import math
from collections.abc import Container, Iterable
from typing import NamedTuple

from hedgehogd.domain.channel import (
    AUCTION,
    FULL,
    HEARTBEAT,
    LEVEL2,
    LEVEL2_BATCH,
    LEVEL3,
    MATCHES,
    RFQ_MATCHES,
    STATUS,
    TICKER,
    Topic,
)
from hedgehogd.domain.limits import TOPICS_MAX
from hedgehogd.domain.message import Head, intern_topic

_CHANNEL_BY_TYPE = {
    "heartbeat": HEARTBEAT.topic_channel,
    "status": STATUS.topic_channel,
    "ticker": TICKER.topic_channel,
    "received": FULL.topic_channel,
    "open": FULL.topic_channel,
    "done": FULL.topic_channel,
    "change": FULL.topic_channel,
    "activate": FULL.topic_channel,
    "level3": LEVEL3.topic_channel,
    "rfq_match": RFQ_MATCHES.topic_channel,
    "auction": AUCTION.topic_channel,
    "last_match": MATCHES.topic_channel,
}
# The richer channel that the type may belong to instead, and the poorer one.
_EITHER_BY_TYPE = {
    "match": (FULL.topic_channel, MATCHES.topic_channel),
    "snapshot": (LEVEL2.topic_channel, LEVEL2_BATCH.topic_channel),
    "l2update": (LEVEL2.topic_channel, LEVEL2_BATCH.topic_channel),
}
DATA_TYPES = frozenset(_CHANNEL_BY_TYPE) | frozenset(_EITHER_BY_TYPE)
"""Every ``type`` of message that is data."""

# What is greeted with state, or speaks each second: silence means that nobody subscribed us.
_AT_ONCE = frozenset(
    channel.topic_channel for channel in (HEARTBEAT, STATUS, TICKER, MATCHES, LEVEL2, LEVEL2_BATCH)
)
# What comes also from a market without trades.
_ALWAYS_COMES = frozenset(c.topic_channel for c in (HEARTBEAT, LEVEL2, LEVEL2_BATCH))
_ALL_RFQ = RFQ_MATCHES.topic("")


class Route(NamedTuple):
    """Where the messages of one type and product go.

    Attributes:
        topic: what they belong to.
        also: a second topic that they belong to, or None.
        is_held: whether that was asked for on this connection.
        owner: the product whose state they are part of; of none when they were asked for
            without products.
    """

    topic: Topic
    also: Topic | None
    is_held: bool
    owner: str


class Source:
    """One connection, from its handshake to its end.

    Which channel a message belongs to cannot always be told from its type; it can be told
    from what was asked for, because no product changes the richest of its channels on a
    live connection (DESIGN §5).

    Attributes:
        line: the number of the line that it is part of.
        products: ids of the products received on it.
        heard_heartbeat: True when it has carried a heartbeat.
        heard_at: when data of a product that was asked for arrived last, delivered or not;
            None before.
        told_stale: another hedgehogd at its other end says that its own feed is stale.
        heard: the topics that messages have come of since they were asked for.
        asked_at: when each topic that is held was asked for last, on the caller's clock, seconds.
        acks_due: requests sent that have not been acknowledged.
        unacknowledged: topics that the newest acknowledgement of all requests left out.
        is_lost: it has ended.
        garbled_at: when its books had to begin again last, for an update that cannot be read.
    """

    __slots__ = (
        "_full",
        "_held",
        "_routes",
        "acks_due",
        "asked_at",
        "garbled_at",
        "heard",
        "heard_at",
        "heard_heartbeat",
        "is_lost",
        "line",
        "products",
        "told_stale",
        "unacknowledged",
    )

    def __init__(self, line: int = 0, held: Iterable[Topic] | None = ()) -> None:
        self.line = line
        self.products: set[str] = set()
        self.heard_heartbeat = False
        self.heard_at: float | None = None
        self.told_stale = False
        self.heard: set[Topic] = set()
        self.asked_at: dict[Topic, float] = {}
        self.acks_due = 0
        self.unacknowledged: frozenset[Topic] = frozenset()
        self.is_lost = False
        self.garbled_at = -math.inf
        self._held = None if held is None else frozenset(held)
        self._full: set[str] = set()  # products seen on full, when nobody says what was asked
        self._routes: dict[tuple[str, str], Route] = {}

    @property
    def held(self) -> frozenset[Topic] | None:
        """The topics asked for on it; None when all that comes was asked for."""
        return self._held

    @held.setter
    def held(self, topics: frozenset[Topic] | None) -> None:
        self._held = topics
        self._routes.clear()

    def route(self, head: Head) -> Route | None:
        """Return where a message with ``head`` goes; None for a type that is not data."""
        key = (head.type, head.product_id)
        route = self._routes.get(key)
        if route is None:
            topic = self._topic_of(*key)
            if topic is None:
                return None
            if len(self._routes) >= TOPICS_MAX:
                self._routes.clear()
            owner = "" if self._is_of_all(topic) else topic.product_id
            route = self._routes[key] = Route(topic, _also(topic), self._holds(topic), owner)
            # A book is heard with its snapshot; of what was not asked for nothing is remembered.
            if head.type != "l2update" and topic in self.asked_at:
                self.heard.add(topic)
        return route

    def ask(self, topics: Iterable[Topic], now: float) -> None:
        """``topics`` are being asked for, for the first time or once more."""
        asked = frozenset(topics)
        self.held = (self._held or frozenset()) | asked
        self.heard -= asked
        self.asked_at.update(dict.fromkeys(asked, now))

    def drop(self, topics: Iterable[Topic]) -> None:
        """``topics`` are no longer asked for: what still comes of them is not wanted."""
        dropped = frozenset(topics)
        if self._held is not None:
            self.held = self._held - dropped
        for topic in dropped:
            self.asked_at.pop(topic, None)
            self.heard.discard(topic)

    def unheard(self, now: float, patience_s: float) -> list[Topic]:
        """Return topics asked for ``patience_s`` ago that should have said something at once."""
        return [
            topic
            for topic, at in self.asked_at.items()
            if now - at >= patience_s and topic.channel in _AT_ONCE and topic not in self.heard
        ]

    def holds_any(self, channels: Iterable[str], product_id: str) -> bool:
        """Say whether one of ``channels`` was asked for ``product_id``."""
        held = self._held
        return held is None or any(Topic(channel, product_id) in held for channel in channels)

    def expects_data(self, silent: Container[str]) -> bool:
        """Say whether something must arrive: heartbeats of a product that is not ``silent``."""
        return any(
            topic.channel == HEARTBEAT.topic_channel and topic.product_id not in silent
            for topic in self._held or ()
        )

    def flows(self, now: float) -> bool:
        """Say whether all requests are acknowledged and all heartbeats and books have arrived."""
        missing = {topic.channel for topic in self.unheard(now, 0)}
        if not self.heard_heartbeat:  # it has none
            missing.discard(HEARTBEAT.topic_channel)
        is_acknowledged = self.unacknowledged.isdisjoint(self._held or ())
        return is_acknowledged and missing.isdisjoint(_ALWAYS_COMES)

    def _topic_of(self, kind: str, product_id: str) -> Topic | None:
        either = _EITHER_BY_TYPE.get(kind)
        if either is None:
            channel = _CHANNEL_BY_TYPE.get(kind)
            if channel is None:
                return None
            if self._held is None and channel == FULL.topic_channel:
                if len(self._full) >= TOPICS_MAX:
                    self._full.clear()
                self._full.add(product_id)
                self._routes.pop(("match", product_id), None)
            return intern_topic(channel, product_id)
        rich, poor = either
        if self._held is None:
            is_rich = product_id in self._full if kind == "match" else True
        else:
            is_rich = intern_topic(rich, product_id) in self._held
        return intern_topic(rich if is_rich else poor, product_id)

    def _holds(self, topic: Topic) -> bool:
        held = self._held
        if held is None or topic in held:
            return True
        # The schema of level3 is about no product.
        is_schema = topic.channel == LEVEL3.topic_channel and not topic.product_id
        return is_schema or self._is_of_all(topic)

    def _is_of_all(self, topic: Topic) -> bool:
        """Say whether ``topic`` comes because all products were asked for."""
        held = self._held
        return (
            topic.channel == RFQ_MATCHES.topic_channel
            and held is not None
            and topic not in held
            and _ALL_RFQ in held
        )


def _also(topic: Topic) -> Topic | None:
    """Return the second topic of what came on ``level2_batch`` or ``rfq_matches``."""
    if topic.channel == LEVEL2_BATCH.topic_channel:  # the exchange does not give us level2
        return intern_topic(LEVEL2.topic_channel, topic.product_id)
    if topic.channel == RFQ_MATCHES.topic_channel and topic.product_id:
        return _ALL_RFQ
    return None
