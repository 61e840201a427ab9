"""The newest message of each topic that is state: what a late joiner is greeted with.

Coinbase greets a new subscriber with the last ticker, the last match (as ``last_match``)
and the status. A late joiner of ours asks nobody upstream, so we keep them (FEED §15.7).
"""

from hedgehogd.domain.channel import LEVEL3, MATCHES, STATUS, TICKER, TICKER_BATCH, Topic
from hedgehogd.domain.limits import TOPICS_MAX
from hedgehogd.domain.message import Message
from hedgehogd.protocol.coinbase import last_match
from hedgehogd.protocol.frames import encode_text

_STATE_CHANNELS = frozenset(c.topic_channel for c in (TICKER, MATCHES, STATUS))
_SCHEMA = LEVEL3.topic("")  # what the fields of level3's arrays mean


class Latest:
    """The newest ticker, match and status of what flows from upstream."""

    def __init__(self) -> None:
        self._by_topic: dict[Topic, Message] = {}

    def keep(self, messages: list[Message]) -> None:
        """Remember the newest of ``messages``, of no more than ``TOPICS_MAX`` topics."""
        newest = self._by_topic
        for message in messages:
            topic = message.topic
            if message.also is not None and message.also.channel in _STATE_CHANNELS:
                topic = message.also
            is_state = topic.channel in _STATE_CHANNELS or topic == _SCHEMA
            if is_state and (len(newest) < TOPICS_MAX or topic in newest):
                newest[topic] = message

    def forget(self, topic: Topic) -> None:
        """Drop what is known of ``topic``: it no longer flows, so it would grow old."""
        self._by_topic.pop(topic, None)

    def ticker(self, product_id: str) -> Message | None:
        """Return the newest ticker of a product."""
        return self._by_topic.get(Topic("ticker", product_id))

    def greeting(self, topic: Topic) -> Message | None:
        """Return what a new subscriber of ``topic`` is greeted with, if there is anything."""
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
            )
            self._by_topic[topic] = newest  # made once, shared by all who join before the next
        return newest
