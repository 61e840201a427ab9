"""Producer of ``ticker_batch``: each product's newest ticker, every five seconds if it changed.

On one connection the messages of Coinbase's ``ticker`` and ``ticker_batch`` are indistinguishable.
So hedgehogd subscribes to ``ticker`` alone, and this producer sends ``ticker_batch`` from it.
The bytes are those of the ticker; only the time of delivery differs.
"""

import trio

from hedgehogd.domain.channel import TICKER_BATCH, Topic
from hedgehogd.domain.limits import TICKER_BATCH_S
from hedgehogd.domain.message import Message
from hedgehogd.engine.delivery import Delivery
from hedgehogd.fanout.hub import Hub
from hedgehogd.fanout.last_values import LastValues


class TickerBatch:
    """Selects the tickers to send, and keeps the one sent last for each product."""

    def __init__(self, hub: Hub, latest: LastValues) -> None:
        self._hub = hub
        self._latest = latest
        self._sent: dict[Topic, bytes] = {}

    def due(self) -> list[Message]:
        """Return the tickers that changed since the last call, and record them as sent.

        Only for topics that have subscribers; a topic without subscribers at one call starts again.
        """
        found: list[Message] = []
        sent: dict[Topic, bytes] = {}
        for topic in self._hub.topics(TICKER_BATCH.topic_channel):
            newest = self._latest.ticker(topic.product_id)
            if newest is None:
                continue
            if self._sent.get(topic) != newest.payload:
                message = Message(topic, newest.type, newest.frame, newest.payload, newest.sequence)
                message.received_us = newest.received_us
                found.append(message)
            sent[topic] = newest.payload
        self._sent = sent
        return found

    async def run(self, inbox: trio.MemorySendChannel[Delivery]) -> None:
        """Send the due tickers to the inbox every ``TICKER_BATCH_S``; never return.

        It waits while the inbox is full, and closes its end of the inbox when it is cancelled.
        """
        async with inbox:
            while True:
                await trio.sleep(TICKER_BATCH_S)
                messages = self.due()
                if messages:
                    await inbox.send(Delivery(messages))
