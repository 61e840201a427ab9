"""The broker: from the inbox to the tape and the hub, one batch after the other.

The only task that publishes. It ends when the last producer has closed the inbox; an
error in it ends the process, because a pipe that is broken inside must not look whole.
"""

from collections.abc import Sequence
from typing import NamedTuple

import trio

from hedgehogd.domain.message import Message
from hedgehogd.engine.session import Pipe, Sessions
from hedgehogd.protocol.upstream import Refusal, TopicNotice


class Delivery(NamedTuple):
    """What a producer puts into the inbox: things that happened together, in order.

    Attributes:
        messages: data; may be empty.
        notices: what subscribers are told beside it, before it.
        refusals: products that the exchange refused.
        received_ns: wall time of the socket read that completed it, ns since the epoch.
    """

    messages: list[Message]
    notices: Sequence[TopicNotice] = ()
    refusals: Sequence[Refusal] = ()
    received_ns: int = 0


class Broker:
    """Publish what arrives.

    Attributes:
        messages_in: messages put on the tape since start.
        received_ns: when the newest of them was read from its socket.
    """

    def __init__(self, pipe: Pipe, sessions: Sessions) -> None:
        self.messages_in = 0
        self.received_ns = 0
        self._pipe = pipe
        self._sessions = sessions

    async def run(
        self,
        inbox: trio.MemoryReceiveChannel[Delivery],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Publish deliveries until the last producer closes the inbox."""
        task_status.started()
        async with inbox:
            async for delivery in inbox:
                await self.publish(delivery)

    async def publish(self, delivery: Delivery) -> None:
        """Tell, keep and write out one delivery. May yield, waits for no subscriber."""
        pipe = self._pipe
        for refusal in delivery.refusals:
            self._refuse(refusal)
        for notice in delivery.notices:
            pipe.hub.notify(notice.topic, notice.payload)
        if not delivery.messages:
            return
        self.messages_in += len(delivery.messages)
        self.received_ns = delivery.received_ns
        for messages in pipe.anteroom.parts(delivery.messages):
            if messages[0].type == "snapshot":
                pipe.anteroom.admit(messages[0].topic)
            pipe.tape.append(messages)
            pipe.latest.keep(messages)
            await pipe.hub.publish(messages)

    def _refuse(self, refusal: Refusal) -> None:
        """Tell everybody who asked for a product that the exchange does not know it."""
        self._pipe.catalogue.refuse(refusal.product_id)
        for session in self._sessions:
            session.refuse(refusal)
        self._pipe.demand.refuse(refusal.product_id)
