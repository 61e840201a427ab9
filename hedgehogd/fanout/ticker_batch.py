"""ticker_batch: each product's newest ticker, at most once in five seconds, if it changed.

Coinbase's ``ticker`` and ``ticker_batch`` cannot be told apart on one connection, so only
``ticker`` is ever asked upstream, and this producer makes the other from it (DESIGN §5).
The bytes are the ticker's own; only the rhythm is ours.
"""

import trio

from hedgehogd.domain.channel import TICKER_BATCH, Topic
from hedgehogd.domain.limits import TICKER_BATCH_S
from hedgehogd.domain.message import Message
from hedgehogd.engine.delivery import Delivery
from hedgehogd.fanout.hub import Hub
from hedgehogd.fanout.last_values import Latest


class TickerBatch:
    """Remembers which ticker of each product was sent last."""

    def __init__(self, hub: Hub, latest: Latest) -> None:
        self._hub = hub
        self._latest = latest
        self._sent: dict[Topic, bytes] = {}

    def due(self) -> list[Message]:
        """Return the tickers that changed since the last call, for the topics in demand."""
        found: list[Message] = []
        sent: dict[Topic, bytes] = {}
        for topic in self._hub.topics(TICKER_BATCH.topic_channel):
            newest = self._latest.ticker(topic.product_id)
            if newest is None:
                continue
            if self._sent.get(topic) != newest.payload:
                found.append(
                    Message(topic, newest.type, newest.frame, newest.payload, newest.sequence)
                )
            sent[topic] = newest.payload
        self._sent = sent
        return found

    async def run(self, inbox: trio.MemorySendChannel[Delivery]) -> None:
        """Put what is due into the inbox every ``TICKER_BATCH_S``, for ever."""
        async with inbox:
            while True:
                await trio.sleep(TICKER_BATCH_S)
                messages = self.due()
                if messages:
                    await inbox.send(Delivery(messages))
