"""Subscribers of books wait here for a snapshot; snapshots for late joiners are made here.

A change of a book is useless without the snapshot that it changes, so a subscriber receives nothing
of a book before a snapshot of it. Two kinds of snapshot serve it, whichever comes first:

* The exchange's own snapshot: the broker lets every waiting subscriber join just before it.
* A *shared* snapshot, made from the book at one offset of the tape, in slices with a checkpoint
  after each. Each waiting subscriber receives it and then the messages of the tape after that
  offset. It is valid for ``SNAPSHOT_AGE_MAX_S``, so a thousand late joiners cost one or two. Its
  bytes are made once per wire form; those of the messages after it again when the tape has moved.

One subscriber of one book topic:

    state    event                                          next     the subscriber receives
    -------  ---------------------------------------------  -------  ------------------------------
    (new)    ``wait``: subscribe, or room after a backlog   waiting  nothing of this topic
    waiting  the exchange's snapshot is next on the tape    live     that snapshot, as a message
    waiting  a shared snapshot is valid                     live     it, and the tape after it
    waiting  the shared snapshot became invalid             waiting  nothing; a new one is made
    waiting  ``leave``, or ``wait`` without this topic      (gone)   nothing of this topic

The shared snapshot of one topic:

    state    event                                          next
    -------  ---------------------------------------------  ---------------------------------------
    none     a subscriber waits and the book is ready       making, from the book frozen now, or
                                                            (``level2_batch``) at a window's end
    making   the last slice is made                         recent
    making   the book has ended                             none
    recent   too old; ended with its book; budget exceeded  none
    recent   the exchange's snapshot is next on the tape    none
    recent   a later message has left the tape, or          replaced when the next subscriber waits
             gathering was interrupted
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


class Joiner(Protocol):
    """A session that waits for a snapshot.

    Attributes:
        form: the wire form of its stream.
    """

    form: WireForm

    def admit(self, topic: Topic, chunks: Iterable[Chunk] = ()) -> None:
        """Join ``topic``: receive ``chunks`` now, and each later message of the topic.

        ``chunks`` are empty when the next message on the tape is a snapshot.
        """


class SharedSnapshot:
    """A snapshot made at one offset of the tape, with the messages after it.

    Attributes:
        topic: the book's topic.
        offset: the snapshot includes the messages up to this offset, and none after it.
        too_old_at: when it becomes invalid, on the clock of ``trio.current_time``, seconds.
        gathering: the gathering that makes the messages after it; None when the exchange sends
            them.
        held_bytes: the memory counted on the budget for it.
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
        """Compress it in a thread, once, for streams with compression."""
        if self._message.deflated is None:
            self._message.deflated = await trio.to_thread.run_sync(
                deflate_frame, self._message.payload
            )

    def chunks(self, tape: Tape, form: WireForm) -> list[Chunk]:
        """Return the snapshot and, if there are any, the messages after it, as bytes of ``form``.

        Each is one chunk. They state no position, and their offset is that of the next message on
        the tape.
        """
        data = self._snapshots.get(form)
        if data is None:
            data = self._snapshots[form] = form.data(self._message, "")
        # The backlog of a slow joiner keeps the message, too, after this object is dropped.
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
            offsets = [tape.end + 1] * len(pieces)
            updates = self._chunks[form] = Chunk(pieces, self._updates.copy(), offsets)
        return [snapshot, updates]

    def weight(self) -> int:
        """Return how many bytes of memory it takes, in all wire forms made so far."""
        made = sum(map(len, self._snapshots.values()))
        return weight(self._message) + made + sum(c.weight() for c in self._chunks.values())

    def is_valid(self, tape: Tape, now: float) -> bool:
        """Say whether it is young enough at ``now``, and no message after it has been missed."""
        return now < self.too_old_at and tape.begin <= self._updates_end + 1


class Snapshots:
    """Subscribers that wait for a snapshot, by topic, and the shared snapshots that serve them.

    Attributes:
        made: shared snapshots made since start.
        shared: subscribers that joined with them.
    """

    def __init__(self, books: Books, tape: Tape, budget: Budget) -> None:
        self.made = 0
        self.shared = 0
        self._account = budget.account(self._forget_recent)
        self._books = books
        self._tape = tape
        self._waiting: dict[Topic, dict[Joiner, None]] = {}
        self._recent: dict[Topic, SharedSnapshot] = {}
        self._frozen: dict[Topic, tuple[FrozenBook, int, Gathering]] = {}
        self._asked = trio.Event()

    def wait(self, joiner: Joiner, topics: Iterable[Topic]) -> None:
        """Let ``joiner`` wait for each of ``topics`` and no other topic; wake ``run`` for them."""
        self.leave(joiner)
        for topic in topics:
            self._waiting.setdefault(topic, {})[joiner] = None
            self._asked.set()

    def leave(self, joiner: Joiner) -> None:
        """Let ``joiner`` wait for no topic any more."""
        for topic in [topic for topic, waiting in self._waiting.items() if joiner in waiting]:
            del self._waiting[topic][joiner]
            if not self._waiting[topic]:
                del self._waiting[topic]

    def deflates(self, topic: Topic) -> bool:
        """Say whether a waiting subscriber of ``topic`` gets large messages compressed."""
        return any(joiner.form.deflates for joiner in self._waiting.get(topic, ()))

    def parts(self, messages: list[Message]) -> Iterator[list[Message]]:
        """Split ``messages``, at least one, before each snapshot; parts are never empty."""
        begin = 0
        for index, message in enumerate(messages):
            if index > begin and message.type == "snapshot":
                yield messages[begin:index]
                begin = index
        yield messages[begin:]

    def admit(self, snapshot: Message) -> None:
        """Let the subscribers that wait for its topics join before ``snapshot``.

        It is the next message on the tape. The shared snapshots of its topics are dropped.
        """
        for topic in (snapshot.topic, snapshot.also):
            if topic is not None:
                self._drop_recent(topic)
                for joiner in self._waiting.pop(topic, {}):
                    joiner.admit(topic)

    def book_is_ready(self) -> None:
        """Wake ``run`` if subscribers wait: a book has been loaded."""
        if self._waiting:
            self._asked.set()

    def freeze_batches(self) -> None:
        """Freeze each book with subscribers that wait for its ``level2_batch``; wake ``run``.

        The caller has just ended the window of every ``level2_batch``.
        A snapshot of ``level2_batch`` is correct at the end of a window only: within a window it
        would include changes that the window's message repeats.
        """
        self._frozen.clear()  # frozen books that no snapshot was made of
        for topic in self._waiting:
            held = self._books.get(topic.product_id)
            if topic.channel == LEVEL2_BATCH.topic_channel and held and held.gathering is not None:
                self._frozen[topic] = (held.book.freeze(), self._tape.end, held.gathering)
                self._asked.set()

    async def run(self) -> None:
        """Make snapshots, join waiting subscribers with them, drop old ones; never return."""
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
                    continue  # its subscribers joined or left while another snapshot was made
                shared = await self._snapshot_of(topic)
                if shared is not None:
                    await self._admit_waiting(topic, shared)

    def forget(self, product_ids: Collection[str] | None) -> None:
        """Drop the snapshots of ``product_ids``, of all for None: their books have ended."""
        for topic in {*self._recent, *self._frozen}:
            if product_ids is None or topic.product_id in product_ids:
                self._drop_recent(topic)
                self._frozen.pop(topic, None)

    def _is_valid(self, shared: SharedSnapshot) -> bool:
        """Say whether subscribers may join with ``shared`` now.

        Its book is ready, it is young enough, and no message after it is missing.
        """
        held = self._books.get(shared.topic.product_id)
        if held is None:
            return False
        is_gathered = shared.topic.channel == LEVEL2_BATCH.topic_channel and held.is_level2
        gathering = held.gathering if is_gathered else None
        # Gathering ends without demand: changes before it restarts are in no window.
        return gathering is shared.gathering and shared.is_valid(self._tape, trio.current_time())

    async def _admit_waiting(self, topic: Topic, shared: SharedSnapshot) -> None:
        """Let the waiting subscribers of ``topic`` join with ``shared``, a few in each turn.

        When ``shared`` becomes invalid, the remaining ones wait on and ``run`` is woken.
        """
        for count, joiner in enumerate(list(self._waiting.get(topic, ())), 1):
            if joiner.form.deflates:
                await shared.deflate()
            if not self._is_valid(shared):
                self._asked.set()  # the other subscribers need a new one
                return
            waiting = self._waiting.get(topic, {})
            if joiner not in waiting:
                continue
            del waiting[joiner]
            if not waiting:
                del self._waiting[topic]
            self.shared += 1
            joiner.admit(topic, shared.chunks(self._tape, joiner.form))
            self._weigh(shared)
            if not count % ADMISSIONS_PER_TURN_MAX:
                await trio.lowlevel.checkpoint()

    async def _snapshot_of(self, topic: Topic) -> SharedSnapshot | None:
        """Return a valid shared snapshot of ``topic``, made now if necessary.

        None without a ready book, when the book ended meanwhile, or when a snapshot of
        ``level2_batch`` has to wait for the end of the window.
        """
        recent = self._recent.get(topic)
        if recent is not None and self._is_valid(recent):
            return recent
        held = self._books.get(topic.product_id)
        if held is None:
            return None
        gathering = None
        if topic.channel == LEVEL2_BATCH.topic_channel and held.is_level2:
            frozen = self._frozen.pop(topic, None)
            if frozen is None:
                return None  # the book is frozen at the end of the running window
            book, offset, gathering = frozen
        else:
            book, offset = held.book.freeze(), self._tape.end
        parts = []
        for part in snapshot_parts(topic.product_id, book, time=held.time or None):
            parts.append(part)
            await trio.lowlevel.checkpoint()
        if self._books.get(topic.product_id) is not held:
            return None  # the book has ended
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
        """Update the memory that the budget counts for ``shared``; the budget may drop it at once.

        A snapshot that is no longer kept for later subscribers is not counted.
        """
        if self._recent.get(shared.topic) is shared:
            change, shared.held_bytes = shared.weight() - shared.held_bytes, shared.weight()
            self._account.take(change)
            self._account.relieve()

    def _drop_recent(self, topic: Topic) -> None:
        shared = self._recent.pop(topic, None)
        if shared is not None:
            self._account.take(-shared.held_bytes)

    def _drop_old(self) -> None:
        """Drop the snapshots that are too old."""
        now = trio.current_time()
        for topic in [t for t, shared in self._recent.items() if shared.too_old_at <= now]:
            self._drop_recent(topic)

    def _forget_recent(self) -> None:
        for topic in list(self._recent):
            self._drop_recent(topic)
