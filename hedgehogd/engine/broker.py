"""The broker: from the inbox to the tape and the hub, one batch after the other.

The only task that publishes. It ends when the last producer has closed the inbox; an
error in it ends the process, because a pipe that is broken inside must not look whole.
"""

from collections.abc import Sequence
from typing import NamedTuple

import trio

from hedgehogd.domain import limits
from hedgehogd.domain.channel import BY_TOPIC_CHANNEL, LEVEL2, Topic
from hedgehogd.domain.message import Message
from hedgehogd.engine.orders import FetchedOrders
from hedgehogd.engine.pipe import Pipe
from hedgehogd.engine.sessions import Sessions
from hedgehogd.protocol.deflate import DEFLATE_BYTES_MIN, deflated
from hedgehogd.protocol.received import NoticeKind, Refusal, TopicNotice, cut


class Delivery(NamedTuple):
    """What a producer puts into the inbox: things that happened together, in order.

    Attributes:
        messages: data; may be empty.
        notices: what subscribers are told beside it.
        notices_at: for each notice, how many of ``messages`` come before it; empty for none.
        refusals: products that the exchange refused.
        forgotten: topics that flow no longer; what is remembered of them would grow old.
        allowed: topic channels that were refused and may be asked for again.
        ends_window: 50 ms are over: ``level2_batch`` gets what they came to.
        order_book: a level-3 book that was fetched.
    """

    messages: list[Message]
    notices: Sequence[TopicNotice] = ()
    notices_at: Sequence[int] = ()
    refusals: Sequence[Refusal] = ()
    forgotten: Sequence[Topic] = ()
    allowed: Sequence[str] = ()
    ends_window: bool = False
    order_book: FetchedOrders | None = None


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
            for channel in delivery.allowed:
                self._pipe.catalogue.allow_channel(channel)
            if delivery.forgotten:
                await self._write_out(messages)
                messages = []
                self._forget(delivery.forgotten)
            notices_at = delivery.notices_at or (0,) * len(delivery.notices)
            for part, told in cut(delivery.messages, delivery.notices, notices_at):
                if told:
                    await self._write_out(messages)
                    messages = []
                    await self._tell(told)
                messages += part
            if delivery.ends_window or delivery.order_book:
                await self._write_out(messages)
                messages = []
                await self._end_window() if delivery.ends_window else None
                if delivery.order_book:
                    await self._pipe.orders.load(delivery.order_book, self._pipe.tape)
        await self._write_out(messages)

    async def _write_out(self, messages: list[Message]) -> None:
        """Put ``messages`` on the tape and give them to all who want them."""
        if not messages:
            return
        pipe = self._pipe
        self.messages_in += len(messages)
        for part in pipe.snapshots.parts(messages):
            first = part[0]
            if first.type == "snapshot":
                pipe.books.begin_both(first)
            await self._deflate(part)  # first: who waits needs no snapshot of ours meanwhile
            if first.type == "snapshot":
                await pipe.books.load(first)
            # From here to the tape in one turn: a book that is ahead of it falsifies snapshots.
            passed = pipe.books.follow(part)
            if first.type == "snapshot":
                pipe.snapshots.admit(first)
                pipe.snapshots.book_is_ready()
            await self._publish(passed)

    async def _publish(self, messages: list[Message]) -> None:
        """Keep ``messages`` and write them; books are what the tape says in the same turn."""
        pipe = self._pipe
        if messages:
            now_us = pipe.wall_us()
            for message in messages:
                message.received_us = now_us
            pipe.tape.append(messages)
            pipe.latest.keep(messages)
            pipe.standing.passed(messages)
            pipe.orders.follow(messages)
            await pipe.hub.publish(messages)

    async def _deflate(self, messages: list[Message]) -> None:
        """Compress the large ones, once, when somebody who wants them negotiated that."""
        for message in messages:
            if len(message.payload) >= DEFLATE_BYTES_MIN and self._pipe.deflates(message):
                message.deflated = await trio.to_thread.run_sync(deflated, message)

    async def _end_window(self) -> None:
        """Publish what the running window of each ``level2_batch`` came to."""
        await self._publish(list(self._pipe.books.gathered()))
        self._pipe.snapshots.freeze_batches()

    async def _tell(self, notices: Sequence[TopicNotice]) -> None:
        for notice in notices:
            self._pipe.standing.note(notice)
            self._pipe.tape.note(notice)
            if notice.kind is NoticeKind.WHOLE:
                continue
            audience = notice.audience
            if audience is None:
                tell = [session.notify for session in self._sessions]
            elif isinstance(audience, Topic):
                tell = [member.tell for member in self._pipe.hub.listeners(audience)]
            else:
                topics = frozenset(Topic(c, p) for c in BY_TOPIC_CHANNEL for p in audience)
                tell = [each.notify for each in self._sessions if each.has_any(topics)]
            for count, each in enumerate(tell, 1):
                each(notice.payload)
                if not count % limits.WRITES_PER_TURN_MAX:
                    await trio.lowlevel.checkpoint()

    def _forget(self, topics: Sequence[Topic]) -> None:
        for topic in topics:
            self._pipe.latest.forget(topic)
            self._pipe.standing.forget(topic)
            self._pipe.tape.forget(topic)
            self._pipe.books.forget(topic)
            self._pipe.orders.forget(topic)
            self._pipe.snapshots.forget(topic)

    async def _refuse(self, refusal: Refusal) -> None:
        """Tell everybody who asked for it what the exchange does not give us."""
        if refusal.channel == LEVEL2.topic_channel:
            return  # level2_batch serves it
        if refusal.product_id:
            self._pipe.catalogue.refuse(refusal.product_id)
        else:
            self._pipe.catalogue.refuse_channel(refusal.channel, refusal.message, refusal.reason)
        for count, session in enumerate(self._sessions, 1):
            session.refuse(refusal)
            if not count % limits.WRITES_PER_TURN_MAX:
                await trio.lowlevel.checkpoint()
        self._pipe.demand.refuse(refusal.product_id, refusal.channel)
