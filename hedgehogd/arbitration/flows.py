"""The topics that the feed holds now: the gate before all state in memory.

State in memory is served only while the feed keeps it up to date. When the feed no longer holds
a topic, all state of it in memory is forgotten. Messages of that topic may still be in flight then:
in the inbox, in a socket, in the exchange until the unsubscribe arrives. Each message passes this
gate before any state is kept of it, so no message creates state that nothing would update. The
session applies the gate to messages of the exchange, the broker to messages of every producer.

A feed that does not report its topics, such as a recording, holds every topic that it sends.
"""

from collections.abc import Iterable

from hedgehogd.domain.channel import LEVEL2, LEVEL2_BATCH, LEVEL3, RFQ_MATCHES, Topic

_SCHEMA, _ALL_RFQ = LEVEL3.topic(""), RFQ_MATCHES.topic("")


class Flows:
    """The topics that the feed holds.

    Attributes:
        topics: the topics, set by ``follow``. Before the first ``follow`` it is None, and every
            topic counts as held; it stays None when the feed does not report its topics.
    """

    def __init__(self) -> None:
        self.topics: frozenset[Topic] | None = None
        self._admitted: frozenset[Topic] = frozenset()

    def follow(self, topics: Iterable[Topic]) -> frozenset[Topic]:
        """Set the topics that the feed holds from now on; return those that it no longer holds.

        If one of them is of ``level3``, the topic of its schema is added: it has no product. The
        first call returns no topics.
        """
        flowing = frozenset(topics)
        if any(topic.channel == LEVEL3.topic_channel for topic in flowing):
            flowing |= {_SCHEMA}  # sent with each of them, without a product
        before = self.topics or frozenset()
        self.topics = flowing
        # While a product moves from level2 to level2_batch, its old connection delivers level2
        # until the new connection delivers: level2_batch is made from level2 meanwhile.
        batches = (t for t in flowing if t.channel == LEVEL2_BATCH.topic_channel)
        self._admitted = flowing.union(LEVEL2.topic(t.product_id) for t in batches)
        return before - flowing

    def has(self, topic: Topic) -> bool:
        """Say whether the feed holds ``topic``; True before the first ``follow``."""
        return self.topics is None or topic in self.topics

    def has_book(self, product_id: str) -> bool:
        """Say whether the feed holds ``level2`` or ``level2_batch`` of a product.

        True before the first ``follow``.
        """
        return any(self.has(channel.topic(product_id)) for channel in (LEVEL2, LEVEL2_BATCH))

    def admits(self, topic: Topic) -> bool:
        """Say whether a message of ``topic`` may be published and kept; 0.1 µs.

        True for the topics held, for ``level2`` of each product whose ``level2_batch`` is held, and
        for ``rfq_matches`` of each product if it is held for all products together. True for every
        topic before the first ``follow``.
        """
        return (
            self.topics is None
            or topic in self._admitted
            or (topic.channel == _ALL_RFQ.channel and _ALL_RFQ in self._admitted)
        )
