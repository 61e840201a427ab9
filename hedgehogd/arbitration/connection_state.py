"""State of one upstream connection, as the session and the feed see it.

A connection holds the topics that it has subscribed to: ``Source.held``. None means that it holds
every topic that it receives, as the connection of a recording does.

The type of a message does not always name its channel: a ``match`` belongs to ``full`` or to
``matches``. The held topics decide, because no product changes the variant of its channels on a
live connection (``placement``). If ``held`` is None, books belong to ``level2``, and a ``match``
belongs to ``matches`` until other messages of ``full`` arrive for its product.
"""

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
from hedgehogd.domain.resync_pause import ResyncPause

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
# Types of two channels: the richer channel and the poorer one.
_EITHER_BY_TYPE = {
    "match": (FULL.topic_channel, MATCHES.topic_channel),
    "snapshot": (LEVEL2.topic_channel, LEVEL2_BATCH.topic_channel),
    "l2update": (LEVEL2.topic_channel, LEVEL2_BATCH.topic_channel),
}
DATA_TYPES = frozenset(_CHANNEL_BY_TYPE) | frozenset(_EITHER_BY_TYPE)
"""Every ``type`` of message that is data."""

# Channels that send state on subscribing, or a message each second: silence suggests that the
# subscribe had no effect.
_AT_ONCE = frozenset(
    channel.topic_channel for channel in (HEARTBEAT, STATUS, TICKER, MATCHES, LEVEL2, LEVEL2_BATCH)
)
# Channels that send messages even of a market without trades.
_ALWAYS_COMES = frozenset(c.topic_channel for c in (HEARTBEAT, LEVEL2, LEVEL2_BATCH))
_ALL_RFQ = RFQ_MATCHES.topic("")


class Route(NamedTuple):
    """The topics of the messages of one type and product on one connection.

    Attributes:
        topic: the topic of the messages.
        also: a second topic that all of them have, or None.
        is_held: False when the connection does not hold the topic: its messages are dropped.
        owner: the id of the ``ProductState`` that they belong to; empty for messages without a
            product, and for ``rfq_matches`` held for all products only.
    """

    topic: Topic
    also: Topic | None
    is_held: bool
    owner: str


class Source:
    """One connection, from its handshake to its end.

    All times are on the caller's clock, in seconds.

    Attributes:
        line: the number of the line that the connection is part of.
        products: ids of the products received on it, without those of which it holds no topic any
            more; ``""`` for messages without an owner (``Route``).
        heard_heartbeat: True when it has received a heartbeat of a topic that it holds.
        heard_at: when it last received a message that has an owner (``Route``) and is of a topic
            that it holds, heartbeats included, delivered or not; None before the first.
        told_stale: True while a relay at its other end reports that its whole feed is stale.
        received: the topics that it has received messages of since it last subscribed to them;
            a book counts with its snapshot.
        asked_at: by topic: when the connection last subscribed to it; without topics dropped since.
        acks_due: number of requests not yet answered by an acknowledgement or an error about our
            key.
        unacknowledged: held topics that the last acknowledgement omits; it is not compared while
            another one is due.
        is_lost: True after its end.
        unreadable_at: when the last unreadable update arrived; minus infinity before the first.
        unreadable_pause: the pause between requests of snapshots of its books because of them.
        is_resync_withheld: True if an unreadable update waits for the end of that pause.
    """

    __slots__ = (
        "_full",
        "_held",
        "_routes",
        "acks_due",
        "asked_at",
        "heard_at",
        "heard_heartbeat",
        "is_lost",
        "is_resync_withheld",
        "line",
        "products",
        "received",
        "told_stale",
        "unacknowledged",
        "unreadable_at",
        "unreadable_pause",
    )

    def __init__(self, line: int = 0, held: Iterable[Topic] | None = ()) -> None:
        self.line = line
        self.products: set[str] = set()
        self.heard_heartbeat = False
        self.heard_at: float | None = None
        self.told_stale = False
        self.received: set[Topic] = set()
        self.asked_at: dict[Topic, float] = {}
        self.acks_due = 0
        self.unacknowledged: frozenset[Topic] = frozenset()
        self.is_lost = False
        self.unreadable_at = -math.inf
        self.unreadable_pause = ResyncPause()
        self.is_resync_withheld = False
        self._held = None if held is None else frozenset(held)
        self._full: set[str] = set()  # products received on full, when held is None
        self._routes: dict[tuple[str, str], Route] = {}

    @property
    def held(self) -> frozenset[Topic] | None:
        """The topics that the connection holds; None if it holds every topic that it receives."""
        return self._held

    @held.setter
    def held(self, topics: frozenset[Topic] | None) -> None:
        self._held = topics
        self._routes.clear()

    def route(self, head: Head) -> Route | None:
        """Return the route of a message with ``head``; None for a type that is not data.

        A topic that is not held has a route too, with ``is_held`` False. The first message of a
        topic after its subscribe adds the topic to ``received``; for a book, the first snapshot
        does. If ``held`` is None, a message of ``full`` makes later ``match`` messages of its
        product ``full`` too.
        """
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
            # A book counts as received with its snapshot; only topics of ``ask`` are recorded.
            if head.type != "l2update" and topic in self.asked_at:
                self.received.add(topic)
        return route

    def ask(self, topics: Iterable[Topic], now: float) -> None:
        """Record a subscribe to ``topics``, the first or another one: they are held from now on.

        They leave ``received`` until their next message; a book, until its next snapshot.
        """
        asked = frozenset(topics)
        self.held = (self._held or frozenset()) | asked
        self.received -= asked
        self.asked_at.update(dict.fromkeys(asked, now))

    def drop(self, topics: Iterable[Topic]) -> None:
        """Record an unsubscribe from ``topics``, which are no longer held.

        Their messages still in flight are dropped. If ``held`` is None, it stays None.
        """
        dropped = frozenset(topics)
        if self._held is not None:
            self.held = self._held - dropped
        for topic in dropped:
            self.asked_at.pop(topic, None)
            self.received.discard(topic)

    def unheard(self, now: float, patience_s: float) -> list[Topic]:
        """Return the topics without a message since a subscribe ``patience_s`` ago or earlier.

        A book needs a snapshot. Only topics of channels that send state on subscribing, or a
        message each second, are returned. The time of a topic's last subscribe counts.
        """
        return [
            topic
            for topic, at in self.asked_at.items()
            if now - at >= patience_s and topic.channel in _AT_ONCE and topic not in self.received
        ]

    def holds_any(self, channels: Iterable[str], product_id: str) -> bool:
        """Say whether it holds one of ``channels`` of ``product_id``; True if ``held`` is None."""
        held = self._held
        return held is None or any(Topic(channel, product_id) in held for channel in channels)

    def expects_data(self, silent: Container[str]) -> bool:
        """Say whether it holds the heartbeat of a product that is not among ``silent``.

        False if ``held`` is None.
        """
        return any(
            topic.channel == HEARTBEAT.topic_channel and topic.product_id not in silent
            for topic in self._held or ()
        )

    def flows(self, now: float) -> bool:
        """Say whether no held topic is unacknowledged, and each heartbeat and book has arrived.

        A heartbeat or book has to arrive after the last subscribe to it, a book with its snapshot.
        Until the connection receives its first heartbeat, none is required: the feed may send none.
        """
        missing = {topic.channel for topic in self.unheard(now, 0)}
        if not self.heard_heartbeat:  # a feed without heartbeats
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
        # The schema message of level3 names no product.
        is_schema = topic.channel == LEVEL3.topic_channel and not topic.product_id
        return is_schema or self._is_of_all(topic)

    def _is_of_all(self, topic: Topic) -> bool:
        """Say whether ``topic`` is held only because all products of its channel are held.

        Only ``rfq_matches`` can be held so. False when ``topic`` itself is held, and if ``held`` is
        None.
        """
        held = self._held
        return (
            topic.channel == RFQ_MATCHES.topic_channel
            and held is not None
            and topic not in held
            and _ALL_RFQ in held
        )


def _also(topic: Topic) -> Topic | None:
    """Return the second topic that all messages of ``topic`` have, or None.

    ``level2_batch`` has ``level2`` of the same product, ``rfq_matches`` of a product that of all
    products. The second topic of a trade on ``full`` is the decision of ``arbiter``.
    """
    if topic.channel == LEVEL2_BATCH.topic_channel:  # serves level2 where the exchange refuses it
        return intern_topic(LEVEL2.topic_channel, topic.product_id)
    if topic.channel == RFQ_MATCHES.topic_channel and topic.product_id:
        return _ALL_RFQ
    return None
