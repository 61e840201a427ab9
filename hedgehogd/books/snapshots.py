"""Where subscribers of a book wait for a snapshot, and where snapshots are made.

Changes mean nothing without the snapshot they change. Who joins late is let in by the first
of two things:

* the exchange's own snapshot passes: the broker lets in exactly before it;
* a snapshot is made from our book, at one place of the tape, in slices that leave the loop
  to others; it is shared by all who wait, each of whom then gets the tape from that place on.

A made snapshot serves for a second, so a thousand late joiners cost one or two. Its bytes,
and those of the updates behind it, are made once for all of them.
"""

import math
from collections.abc import Collection, Iterable, Iterator
from typing import Protocol

import trio

from hedgehogd.books.level2_books import Books
from hedgehogd.domain.book import FrozenBook
from hedgehogd.domain.channel import LEVEL2_BATCH, Topic
from hedgehogd.domain.level2 import Gathering, snapshot_parts
from hedgehogd.domain.limits import ADMISSIONS_PER_TURN_MAX, SNAPSHOT_AGE_MAX_S
from hedgehogd.domain.message import Message
from hedgehogd.engine.budget import Budget
from hedgehogd.engine.chunk import Chunk
from hedgehogd.engine.memory import weight
from hedgehogd.engine.tape import Tape
from hedgehogd.protocol.deflate import deflate_frame
from hedgehogd.protocol.frames import encode_text
from hedgehogd.protocol.wire import WireForm


class Waiting(Protocol):
    """Someone who waits: a session.

    Attributes:
        form: how messages look on its stream.
    """

    form: WireForm

    def admit(self, topic: Topic, chunks: Iterable[Chunk] = ()) -> None:
        """Let it in: give it ``chunks``; the next message of ``topic`` follows on them."""


class SharedSnapshot:
    """A snapshot made at one place of the tape.

    Attributes:
        topic: of which book.
        offset: the place: all up to it is in the snapshot, nothing after it.
        too_old_at: until then it may be given, on the clock of ``trio.current_time``, seconds.
        gathering: what gathers the messages that follow it; None when they are the exchange's.
        held_bytes: the memory that is on the budget for it.
    """

    def __init__(
        self,
        topic: Topic,
        offset: int,
        too_old_at: float,
        message: Message,
        gathering: Gathering | None = None,
    ) -> None:
        self.topic = topic
        self.offset = offset
        self.too_old_at = too_old_at
        self.gathering = gathering
        self.held_bytes = 0
        self._message = message
        self._snapshots: dict[WireForm, bytes] = {}
        self._updates: list[Message] = []
        self._updates_end = offset
        self._chunks: dict[WireForm, Chunk] = {}

    async def deflate(self) -> None:
        """Compress it, in a thread, for those who negotiated that."""
        if self._message.deflated is None:
            self._message.deflated = await trio.to_thread.run_sync(
                deflate_frame, self._message.payload
            )

    def chunks(self, tape: Tape, form: WireForm) -> list[Chunk]:
        """Return the snapshot and what has followed it, as bytes of ``form``.

        They carry no position, so they stand on the tape where the next message will.
        """
        data = self._snapshots.get(form)
        if data is None:
            data = self._snapshots[form] = form.data(self._message, "")
        # Every slow joiner keeps the message with its bytes, when this object has gone.
        snapshot = Chunk([data], [self._message], [tape.end + 1], weight(self._message))
        if tape.end > self._updates_end:
            found = tape.read(self._updates_end, frozenset({self.topic}))
            self._updates += [message for _, message in found]
            self._updates_end = tape.end
            self._chunks.clear()
        if not self._updates:
            return [snapshot]
        updates = self._chunks.get(form)
        if updates is None:
            pieces = [form.data(message, "") for message in self._updates]
            places = [tape.end + 1] * len(pieces)
            updates = self._chunks[form] = Chunk(pieces, self._updates.copy(), places)
        return [snapshot, updates]

    def weight(self) -> int:
        """Return how many bytes of memory it takes, in all forms made so far."""
        made = sum(map(len, self._snapshots.values()))
        return weight(self._message) + made + sum(c.weight() for c in self._chunks.values())

    def is_good(self, tape: Tape, now: float) -> bool:
        """Say whether it may still be given: young enough, and all after it is on the tape."""
        return now < self.too_old_at and tape.begin <= self._updates_end + 1


class Snapshots:
    """Who waits for the snapshot of which topic, and the snapshots that serve them.

    Attributes:
        made: snapshots made since start.
        shared: joiners let in by them.
    """

    def __init__(self, books: Books, tape: Tape, budget: Budget) -> None:
        self.made = 0
        self.shared = 0
        self._account = budget.account(self._forget_recent)
        self._books = books
        self._tape = tape
        self._waiting: dict[Topic, dict[Waiting, None]] = {}
        self._recent: dict[Topic, SharedSnapshot] = {}
        self._frozen: dict[Topic, tuple[FrozenBook, int, Gathering]] = {}
        self._asked = trio.Event()

    def wait(self, who: Waiting, topics: Iterable[Topic]) -> None:
        """``who`` waits for each of ``topics`` and, from now on, for nothing else."""
        self.leave(who)
        for topic in topics:
            self._waiting.setdefault(topic, {})[who] = None
            self._asked.set()

    def leave(self, who: Waiting) -> None:
        """``who`` waits no longer."""
        for topic in [topic for topic, waiting in self._waiting.items() if who in waiting]:
            del self._waiting[topic][who]
            if not self._waiting[topic]:
                del self._waiting[topic]

    def deflates(self, topic: Topic) -> bool:
        """Say whether someone who waits for ``topic`` gets large messages compressed."""
        return any(who.form.deflates for who in self._waiting.get(topic, ()))

    def parts(self, messages: list[Message]) -> Iterator[list[Message]]:
        """Cut ``messages`` before each snapshot; parts are never empty."""
        begin = 0
        for index, message in enumerate(messages):
            if index > begin and message.type == "snapshot":
                yield messages[begin:index]
                begin = index
        yield messages[begin:]

    def admit(self, snapshot: Message) -> None:
        """The next message on the tape is ``snapshot``: let in who waits for it."""
        for topic in (snapshot.topic, snapshot.also):
            if topic is not None:
                self._drop_recent(topic)
                for who in self._waiting.pop(topic, {}):
                    who.admit(topic)

    def book_is_ready(self) -> None:
        """A book has been loaded, or a window of ``level2_batch`` has ended."""
        if self._waiting:
            self._asked.set()

    def freeze_batches(self) -> None:
        """A window of every ``level2_batch`` has just ended: keep the books as they are.

        A snapshot of what is gathered is right at a window's end alone: within one it would
        know of changes that the window's message tells again.
        """
        self._frozen.clear()  # what nobody has come for
        for topic in self._waiting:
            held = self._books.get(topic.product_id)
            if topic.channel == LEVEL2_BATCH.topic_channel and held and held.gathering is not None:
                self._frozen[topic] = (held.book.freeze(), self._tape.end, held.gathering)
                self._asked.set()

    async def run(self) -> None:
        """Make snapshots for those who wait, for ever."""
        while True:
            oldest = next(iter(self._recent.values()), None)
            with trio.move_on_at(math.inf if oldest is None else oldest.too_old_at) as in_time:
                await self._asked.wait()
            if in_time.cancelled_caught:
                self._drop_old()
                continue
            self._asked = trio.Event()
            for topic in list(self._waiting):
                if topic not in self._waiting:
                    continue  # let in, or gone, while another one was made
                shared = await self._snapshot_of(topic)
                if shared is not None:
                    await self._let_in(topic, shared)

    def forget(self, product_ids: Collection[str] | None) -> None:
        """The books of these products, of all for None, have ended: so do their snapshots."""
        for topic in {*self._recent, *self._frozen}:
            if product_ids is None or topic.product_id in product_ids:
                self._drop_recent(topic)
                self._frozen.pop(topic, None)

    def _may_give(self, shared: SharedSnapshot) -> bool:
        """Say whether what follows on ``shared`` is whole, and it is young enough."""
        held = self._books.get(shared.topic.product_id)
        if held is None:
            return False
        is_gathered = shared.topic.channel == LEVEL2_BATCH.topic_channel and held.is_fine
        gathering = held.gathering if is_gathered else None
        # Gathering ends when nobody wants it: what happened until it began anew is in no window.
        return gathering is shared.gathering and shared.is_good(self._tape, trio.current_time())

    async def _let_in(self, topic: Topic, shared: SharedSnapshot) -> None:
        """Give ``shared`` to all who wait for ``topic``, a few in each turn."""
        for count, who in enumerate(list(self._waiting.get(topic, ())), 1):
            if who.form.deflates:
                await shared.deflate()
            if not self._may_give(shared):
                self._asked.set()  # a new one for the rest
                return
            waiting = self._waiting.get(topic, {})
            if who not in waiting:
                continue
            del waiting[who]
            if not waiting:
                del self._waiting[topic]
            self.shared += 1
            who.admit(topic, shared.chunks(self._tape, who.form))
            self._weigh(shared)
            if not count % ADMISSIONS_PER_TURN_MAX:
                await trio.lowlevel.checkpoint()

    async def _snapshot_of(self, topic: Topic) -> SharedSnapshot | None:
        """Return a snapshot of ``topic`` that may be given, made now if need be; or None."""
        recent = self._recent.get(topic)
        if recent is not None and self._may_give(recent):
            return recent
        held = self._books.get(topic.product_id)
        if held is None:
            return None
        gathering = None
        if topic.channel == LEVEL2_BATCH.topic_channel and held.is_fine:
            frozen = self._frozen.pop(topic, None)
            if frozen is None:
                return None  # the end of the running window brings one
            book, offset, gathering = frozen
        else:
            book, offset = held.book.freeze(), self._tape.end
        parts = []
        for part in snapshot_parts(topic.product_id, book, time=held.time or None):
            parts.append(part)
            await trio.lowlevel.checkpoint()
        if self._books.get(topic.product_id) is not held:
            return None  # the book has ended meanwhile
        payload = b"".join(parts)
        message = Message(topic, "snapshot", encode_text(payload), payload)
        too_old_at = trio.current_time() + SNAPSHOT_AGE_MAX_S
        shared = SharedSnapshot(topic, offset, too_old_at, message, gathering)
        self.made += 1
        self._drop_recent(topic)
        self._recent[topic] = shared
        self._weigh(shared)
        return shared

    def _weigh(self, shared: SharedSnapshot) -> None:
        """Put on our account what ``shared`` holds, while it is kept for the next joiners."""
        if self._recent.get(shared.topic) is shared:
            change, shared.held_bytes = shared.weight() - shared.held_bytes, shared.weight()
            self._account.take(change)
            self._account.relieve()

    def _drop_recent(self, topic: Topic) -> None:
        shared = self._recent.pop(topic, None)
        if shared is not None:
            self._account.take(-shared.held_bytes)

    def _drop_old(self) -> None:
        """Drop the snapshots that are too old to be given: the next joiner needs a new one."""
        now = trio.current_time()
        for topic in [t for t, shared in self._recent.items() if shared.too_old_at <= now]:
            self._drop_recent(topic)

    def _forget_recent(self) -> None:
        for topic in list(self._recent):
            self._drop_recent(topic)
