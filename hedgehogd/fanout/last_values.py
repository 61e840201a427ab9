"""The newest message of each topic of state, sent to a subscriber that joins late.

Coinbase sends a new subscriber the last ticker, the last match (as ``last_match``) and the status.
For a late joiner of hedgehogd no request goes upstream, so hedgehogd keeps them (COINBASE §15.7).
"""

from hedgehogd.domain.channel import LEVEL3, MATCHES, STATUS, TICKER, TICKER_BATCH, Topic
from hedgehogd.domain.limits import TOPICS_MAX
from hedgehogd.domain.message import Message
from hedgehogd.protocol.coinbase import last_match
from hedgehogd.protocol.frames import encode_text

_STATE_CHANNELS = frozenset(c.topic_channel for c in (TICKER, MATCHES, STATUS))
_SCHEMA = LEVEL3.topic("")  # the names of the fields in level3's arrays


class LastValues:
    """The newest ticker and match of each product, the newest status and level-3 schema."""

    def __init__(self) -> None:
        self._by_topic: dict[Topic, Message] = {}

    def keep(self, messages: list[Message]) -> None:
        """Keep the newest of ``messages`` for each topic of state, up to ``TOPICS_MAX`` topics."""
        newest = self._by_topic
        for message in messages:
            topic = message.topic
            if message.also is not None and message.also.channel in _STATE_CHANNELS:
                topic = message.also
            is_state = topic.channel in _STATE_CHANNELS or topic == _SCHEMA
            if is_state and (len(newest) < TOPICS_MAX or topic in newest):
                newest[topic] = message

    def forget(self, topic: Topic) -> None:
        """Drop the message of ``topic``, which the feed no longer updates."""
        self._by_topic.pop(topic, None)

    def ticker(self, product_id: str) -> Message | None:
        """Return the newest ticker of a product; None if none is kept."""
        return self._by_topic.get(Topic("ticker", product_id))

    def greeting(self, topic: Topic) -> Message | None:
        """Return the message of state for a new subscriber of ``topic``; None if there is none.

        A ``match`` becomes a ``last_match``; a subscriber of ``ticker_batch`` gets the ticker, one
        of ``level3`` the schema.
        """
        if topic.channel == TICKER_BATCH.topic_channel:
            return self.ticker(topic.product_id)
        newest = self._by_topic.get(_SCHEMA if topic.channel == LEVEL3.topic_channel else topic)
        if newest is None:
            return None
        if newest.type == "match":
            payload = last_match(newest.payload)
            newest = Message(
                topic,
                "last_match",
                encode_text(payload),
                payload,
                newest.sequence,
                newest.trade_id,
                received_us=newest.received_us,
            )
            self._by_topic[topic] = newest  # shared by all joiners until the next match
        return newest
