"""Which topics the feed keeps up to date now: the gate before everything that is remembered.

State in memory is served only while the feed keeps it up to date (DESIGN, invariant 10). A
topic that the feed no longer holds is forgotten by every store. Messages of it are still in
flight then: in the inbox, in a socket, in the exchange until the unsubscribe has arrived. Each
message passes this gate before anything is remembered of it, so none of them creates state that
nothing would update. The session asks for what comes from the exchange, the broker for what any
producer puts into the inbox.

A feed that does not report its topics, a recording, holds whatever it brings.
"""

from collections.abc import Iterable

from hedgehogd.domain.channel import LEVEL2, LEVEL2_BATCH, LEVEL3, RFQ_MATCHES, Topic

_SCHEMA, _ALL_RFQ = LEVEL3.topic(""), RFQ_MATCHES.topic("")


class Flows:
    """The topics that the feed holds.

    Attributes:
        topics: what the feed holds; None when the feed does not report it.
    """

    def __init__(self) -> None:
        self.topics: frozenset[Topic] | None = None
        self._admitted: frozenset[Topic] = frozenset()

    def follow(self, topics: Iterable[Topic]) -> frozenset[Topic]:
        """Set the topics that flow from now on; return those that have to be forgotten."""
        flowing = frozenset(topics)
        if any(topic.channel == LEVEL3.topic_channel for topic in flowing):
            flowing |= {_SCHEMA}  # it comes with each of them, and is about no product
        before = self.topics or frozenset()
        self.topics = flowing
        # While a product moves from level2 to level2_batch, its old connection brings level2
        # until the new one has begun: level2_batch is made from that.
        batches = (t for t in flowing if t.channel == LEVEL2_BATCH.topic_channel)
        self._admitted = flowing.union(LEVEL2.topic(t.product_id) for t in batches)
        return before - flowing

    def has(self, topic: Topic) -> bool:
        """Say whether the feed holds ``topic``."""
        return self.topics is None or topic in self.topics

    def has_book(self, product_id: str) -> bool:
        """Say whether one of the two channels of a product's level-2 book flows."""
        return any(self.has(channel.topic(product_id)) for channel in (LEVEL2, LEVEL2_BATCH))

    def admits(self, topic: Topic) -> bool:
        """Say whether a message of ``topic`` may be published and remembered; 0.1 µs."""
        return (
            self.topics is None
            or topic in self._admitted
            or (topic.channel == _ALL_RFQ.channel and _ALL_RFQ in self._admitted)
        )
