"""The broker: publish the deliveries of the inbox to the tape and the hub, in order.

The broker is the only task that publishes. It ends when the last producer has closed the inbox. An
error in it ends the process: an instance that no longer publishes must not look healthy.
"""

from collections.abc import Iterable, Sequence

import trio

from hedgehogd.arbitration.batch import NoticeKind, Refusal, TopicNotice, split_at_notices
from hedgehogd.domain import limits
from hedgehogd.domain.channel import BY_TOPIC_CHANNEL, HEARTBEAT, LEVEL2, Topic
from hedgehogd.domain.errors import CLOSE_EXPIRED
from hedgehogd.domain.message import Message
from hedgehogd.engine.delivery import Delivery
from hedgehogd.fanout.pipe import Pipe
from hedgehogd.fanout.sessions import Sessions
from hedgehogd.protocol.deflate import DEFLATE_BYTES_MIN, deflated


class Broker:
    """Publishes the deliveries of the inbox.

    Attributes:
        messages_in: messages of the inbox published since start; those of ``level2_batch`` made
            from ``level2`` are not counted.
        late: messages dropped since start because the feed no longer held their topics.
    """

    def __init__(self, pipe: Pipe, sessions: Sessions) -> None:
        self.messages_in = 0
        self.late = 0
        self._pipe = pipe
        self._sessions = sessions

    async def run(
        self,
        inbox: trio.MemoryReceiveChannel[Delivery],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Publish deliveries until the last producer closes the inbox.

        Deliveries that arrive during a publish are published together: one write per member
        instead of one per delivery, up to ``MESSAGES_PER_WRITE_MAX`` messages. So a busy instance
        batches by itself, and a quiet one delays no message.
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
        """Publish ``deliveries`` in order.

        It waits for books to be loaded and for compression in a thread, but for no subscriber.
        """
        messages: list[Message] = []
        for delivery in deliveries:
            for refusal in delivery.refusals:
                await self._refuse(refusal)
            for channel in delivery.allowed:
                self._pipe.catalogue.allow_channel(channel)
            if delivery.flows is not None:
                await self._write_out(messages)
                messages = []
                self._forget(self._pipe.flows.follow(delivery.flows))
            notices_at = delivery.notices_at or (0,) * len(delivery.notices)
            for part, before in split_at_notices(delivery.messages, delivery.notices, notices_at):
                if before:
                    await self._write_out(messages)
                    messages = []
                    await self._notify(before)
                messages += self._admitted(part)
            if delivery.ends_window or delivery.order_book:
                await self._write_out(messages)
                messages = []
                await self._end_window() if delivery.ends_window else None
                if delivery.order_book:
                    await self._pipe.orders.load(delivery.order_book, self._pipe.tape)
        await self._write_out(messages)

    async def _write_out(self, messages: list[Message]) -> None:
        """Update the books, let waiting subscribers of books join, and publish ``messages``."""
        if not messages:
            return
        pipe = self._pipe
        self.messages_in += len(messages)
        for part in pipe.snapshots.parts(messages):
            first = part[0]
            if first.type == "snapshot":
                pipe.books.begin_both(first)
            # Compressed before the book is loaded: once it is, ``snapshots`` would make a snapshot.
            await self._deflate(part)
            if first.type == "snapshot":
                await pipe.books.load(first)
            # From here to the tape in one turn: a book ahead of the tape makes wrong snapshots.
            to_publish = pipe.books.follow(part)
            if first.type == "snapshot":
                pipe.snapshots.admit(first)
                pipe.snapshots.book_is_ready()
            await self._publish(to_publish)

    async def _publish(self, messages: list[Message]) -> None:
        """Append ``messages`` to the tape and update the state in one turn, then write them.

        State is the last values, the notices in force and the level-3 books; the caller has updated
        the level-2 books in the same turn.

        They get their ``published_us`` here, one time for all; those without a receive time get it
        as ``received_us``, too.
        """
        pipe = self._pipe
        if messages:
            now_us = pipe.wall_us()
            for message in messages:
                message.published_us = now_us
                if not message.received_us:
                    message.received_us = now_us
            pipe.tape.append(messages)
            pipe.latest.keep(messages)
            pipe.standing.delivered(messages)
            pipe.orders.follow(messages)
            await pipe.hub.publish(messages)

    async def _deflate(self, messages: list[Message]) -> None:
        """Compress each large message once if a subscriber of it has negotiated compression."""
        for message in messages:
            if len(message.payload) >= DEFLATE_BYTES_MIN and self._pipe.deflates(message):
                message.deflated = await trio.to_thread.run_sync(deflated, message)

    async def _end_window(self) -> None:
        """End the running window of each ``level2_batch`` and publish its net changes."""
        await self._publish(list(self._pipe.books.gathered()))
        self._pipe.snapshots.freeze_batches()

    async def _notify(self, notices: Sequence[TopicNotice]) -> None:
        """Record ``notices``, send them to their audiences, and end the streams that a gap ends."""
        for notice in notices:
            self._note(notice)
            if notice.kind is NoticeKind.WHOLE:
                continue
            audience = notice.audience
            if audience is None:
                senders = [session.notify for session in self._sessions]
            elif isinstance(audience, Topic):
                senders = [member.tell for member in self._pipe.hub.listeners(audience)]
                if notice.kind is NoticeKind.GAP:
                    for member in self._pipe.hub.ended_by_gaps(audience):
                        member.end(CLOSE_EXPIRED, "gap", "messages are missing")
            else:
                topics = frozenset(Topic(c, p) for c in BY_TOPIC_CHANNEL for p in audience)
                senders = [each.notify for each in self._sessions if each.has_any(topics)]
            for count, send in enumerate(senders, 1):
                send(notice.payload)
                if not count % limits.WRITES_PER_TURN_MAX:
                    await trio.lowlevel.checkpoint()

    def _note(self, notice: TopicNotice) -> None:
        """Record ``notice`` for those of its topics that the feed holds; no effect for the rest.

        It has no effect for topics that the feed does not hold.
        ``STALE`` of products ends all their books, ``GAP`` the level-3 book that follows the topic;
        no other kind ends a book. Later messages start an ended book again.
        """
        pipe, audience = self._pipe, notice.audience
        if isinstance(audience, Topic):
            if not pipe.flows.has(audience):
                return
            if notice.kind is NoticeKind.GAP:
                pipe.orders.interrupt(audience)
        elif audience is not None:
            audience = frozenset(p for p in audience if pipe.flows.has(HEARTBEAT.topic(p)))
            notice = notice._replace(audience=audience)
        if notice.kind is NoticeKind.STALE and not isinstance(audience, Topic):
            pipe.books.end(audience)
            pipe.orders.end(audience)
            pipe.snapshots.forget(audience)
        pipe.standing.note(notice)
        pipe.tape.note(notice)

    def _admitted(self, messages: list[Message]) -> list[Message]:
        """Return the ``messages`` of topics that the feed still holds; count the dropped ones."""
        admits = self._pipe.flows.admits
        admitted = [message for message in messages if admits(message.topic)]
        self.late += len(messages) - len(admitted)
        return admitted

    def _forget(self, topics: Iterable[Topic]) -> None:
        pipe = self._pipe
        for topic in topics:
            pipe.latest.forget(topic)
            pipe.standing.forget(topic)
            pipe.tape.forget(topic)
            pipe.orders.forget(topic)
            if not pipe.flows.has_book(topic.product_id):
                pipe.books.end({topic.product_id})
                pipe.snapshots.forget({topic.product_id})

    async def _refuse(self, refusal: Refusal) -> None:
        """Record a refusal of the exchange, and report it to each subscriber that it concerns.

        A refused product or channel stops lingering. A refusal of ``level2`` is ignored.
        """
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
