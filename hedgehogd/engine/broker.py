"""The broker: from the inbox to the tape and the hub, one batch after the other.

The only task that publishes. It ends when the last producer has closed the inbox; an
error in it ends the process, because a pipe that is broken inside must not look whole.
"""

from collections.abc import Sequence
from typing import NamedTuple

import trio

from hedgehogd.domain import limits
from hedgehogd.domain.channel import Topic
from hedgehogd.domain.message import Message
from hedgehogd.engine.session import Pipe, Sessions
from hedgehogd.protocol.upstream import Refusal, TopicNotice


class Delivery(NamedTuple):
    """What a producer puts into the inbox: things that happened together, in order.

    Attributes:
        messages: data; may be empty.
        notices: what subscribers are told beside it, before it.
        refusals: products that the exchange refused.
        forgotten: topics that flow no longer; what is remembered of them would grow old.
    """

    messages: list[Message]
    notices: Sequence[TopicNotice] = ()
    refusals: Sequence[Refusal] = ()
    forgotten: Sequence[Topic] = ()


class Broker:
    """Publish what arrives.

    Attributes:
        messages_in: messages put on the tape since start.
    """

    def __init__(self, pipe: Pipe, sessions: Sessions) -> None:
        self.messages_in = 0
        self._pipe = pipe
        self._sessions = sessions

    async def run(
        self,
        inbox: trio.MemoryReceiveChannel[Delivery],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Publish deliveries until the last producer closes the inbox.

        What has come while the last one was written out is taken together: one write per
        member instead of one for each. So a busy instance batches by itself, and a quiet
        one delays nothing.
        """
        task_status.started()
        async with inbox:
            async for first in inbox:
                deliveries = [first]
                count = len(first.messages)
                try:
                    while count < limits.MESSAGES_PER_WRITE_MAX:
                        deliveries.append(inbox.receive_nowait())
                        count += len(deliveries[-1].messages)
                except (trio.WouldBlock, trio.EndOfChannel):
                    pass
                await self.publish(deliveries)

    async def publish(self, deliveries: Sequence[Delivery]) -> None:
        """Tell, keep and write out what came. May yield, waits for no subscriber."""
        messages: list[Message] = []
        for delivery in deliveries:
            for refusal in delivery.refusals:
                await self._refuse(refusal)
            if delivery.notices or delivery.forgotten:
                await self._write_out(messages)
                messages = []
                await self._tell(delivery.notices)
                self._forget(delivery.forgotten)
            messages += delivery.messages
        await self._write_out(messages)

    async def _write_out(self, messages: list[Message]) -> None:
        """Put ``messages`` on the tape and give them to all who want them."""
        if not messages:
            return
        pipe = self._pipe
        self.messages_in += len(messages)
        for part in pipe.anteroom.parts(messages):
            if part[0].type == "snapshot":
                pipe.anteroom.admit(part[0].topic)
            pipe.tape.append(part)
            pipe.latest.keep(part)
            await pipe.hub.publish(part)

    async def _tell(self, notices: Sequence[TopicNotice]) -> None:
        for notice in notices:
            if notice.topic is not None:
                members = self._pipe.hub.listeners(notice.topic)
                tell = [member.tell for member in members]
            else:
                tell = [session.notify for session in self._sessions]
            for count, each in enumerate(tell, 1):
                each(notice.payload)
                if not count % limits.WRITES_PER_TURN_MAX:
                    await trio.lowlevel.checkpoint()

    def _forget(self, topics: Sequence[Topic]) -> None:
        for topic in topics:
            self._pipe.latest.forget(topic)
            self._pipe.tape.forget(topic)

    async def _refuse(self, refusal: Refusal) -> None:
        """Tell everybody who asked for a product that the exchange does not know it."""
        self._pipe.catalogue.refuse(refusal.product_id)
        for count, session in enumerate(self._sessions, 1):
            session.refuse(refusal)
            if not count % limits.WRITES_PER_TURN_MAX:
                await trio.lowlevel.checkpoint()
        self._pipe.demand.refuse(refusal.product_id)
