"""Appending a tape to the log for one term: each message once, with the gaps between.

Changes to a book have no numbers. So each book begins in the log with a snapshot, and again with
one whenever it is not certain that no change is missing, and every ``HISTORY_SNAPSHOT_S``, so that
a reader can begin within the window. The snapshot is the book at one offset of the tape, and has
the place of that offset in the log.
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import trio

from hedgehogd.books.level2_books import HeldBook
from hedgehogd.domain import limits
from hedgehogd.domain.book import FrozenBook
from hedgehogd.domain.channel import LEVEL2, LEVEL2_BATCH, TICKER, Topic
from hedgehogd.domain.level2 import Gathering, snapshot_parts
from hedgehogd.domain.message import Message, intern_topic
from hedgehogd.domain.record import FeedRecord, GapKind, GapRecord, Record
from hedgehogd.engine.health import FeedHealth, FeedState
from hedgehogd.fanout.pipe import Pipe
from hedgehogd.log.continuity import BOOKS, Continuity, Ends
from hedgehogd.log.ending import begun
from hedgehogd.log.trade_gaps import TradeGaps
from hedgehogd.log.window import Window
from hedgehogd.protocol.frames import encode_text

_FEED_STATES = {FeedState.LIVE: "live", FeedState.STALE: "stale"}


class Appender:
    """Appends the messages of a tape to the window of one term.

    Args:
        window: the window; its owner closes it.
        pipe: the tape, and the books that are in step with it.
        feed: the health of the feed.
        ends: the ends of the log's topics.
        gaps: the newest gaps in trades of the log.
        overlaps: True if the process may have received messages that the last writer appended.

    Attributes:
        overruns: how often messages left the tape before they were appended.
    """

    def __init__(
        self,
        window: Window,
        pipe: Pipe,
        feed: FeedHealth,
        ends: Ends,
        gaps: TradeGaps,
        *,
        overlaps: bool,
    ) -> None:
        self.overruns = 0
        self._window = window
        self._pipe = pipe
        self._feed = feed
        self._gaps = gaps
        self._offset = pipe.tape.begin - 1  # the messages up to here are appended or pending
        self._continuity = Continuity(
            ends, pipe.tape.read_all(self._offset), overlaps=overlaps, now=trio.current_time()
        )
        self._note_uncertain()
        # Snapshots on the tape up to here may be in the log already, with changes after them.
        self._books_from = pipe.tape.end if overlaps else self._offset
        held = pipe.flows.topics or ()
        self._books: dict[Topic, _Begun | None] = {t: None for t in held if t.channel in BOOKS}
        self._pending: list[Record] = [begun(window.term, pipe.wall_us())]
        self._pending_bytes = 0
        self._trades: deque[tuple[str, Sequence[Mapping[str, Any]]]] = deque()
        self._trades_waiting = 0
        self._feed_state = ""

    def keep_trades(self, product_id: str, trades: Sequence[Mapping[str, Any]]) -> None:
        """Record backfilled trades with the next append; too many of them drop the oldest."""
        self._trades.append((product_id, trades))
        self._trades_waiting += len(trades)
        while self._trades_waiting > limits.LOG_TRADES_WAITING_MAX:
            self._trades_waiting -= len(self._trades.popleft()[1])

    def begin_books(self) -> None:
        """Begin each book again with a snapshot, at the next ``append_books``."""
        for topic, each in self._books.items():
            if each is not None:
                self._books[topic] = each.due()

    async def append(self) -> None:
        """Append all that the tape has, with a checkpoint after each batch.

        Raises:
            Fenced: the lease is lost.
            LogError: the window does not accept the records; the next call tries again.
        """
        for _ in self._batches():
            await trio.lowlevel.checkpoint()

    def append_nowait(self) -> None:
        """Append all that the tape has, in one turn; raises as ``append`` does."""
        for _ in self._batches():
            pass

    async def append_books(self) -> None:
        """Append a snapshot of each book that waits for one; raises as ``append`` does."""
        due_before = trio.current_time() - limits.HISTORY_SNAPSHOT_S
        for topic, each in list(self._books.items()):
            if each is not None and each.at > due_before:
                continue
            held = self._pipe.books.get(topic.product_id)
            if held is None or not _has_messages(topic, held):
                continue
            self.append_nowait()  # from here to the frozen book in one turn
            frozen, gathering = _frozen(topic, held)
            parts = []
            for part in snapshot_parts(topic.product_id, frozen, time=held.time or None):
                parts.append(part)
                await trio.lowlevel.checkpoint()
            self._books[topic] = _Begun(trio.current_time(), gathering)
            self._add(self._snapshot(topic, b"".join(parts), held))
            self._flush()

    def _snapshot(self, topic: Topic, payload: bytes, held: HeldBook) -> Message:
        """Return a snapshot of a topic as a message; of the other topic too that its changes have.

        The exchange's own ``level2_batch`` serves ``level2`` where that is refused.
        """
        also = None
        if topic.channel == LEVEL2_BATCH.topic_channel and not held.is_level2:
            also = intern_topic(LEVEL2.topic_channel, topic.product_id)
        at_us = self._pipe.wall_us()
        return Message(
            topic, "snapshot", encode_text(payload), payload, also=also, received_us=at_us
        )

    def _batches(self) -> Iterator[None]:
        """Append the messages that the tape has; yield after each batch."""
        self._flush()
        tape = self._pipe.tape
        if self._offset < tape.begin - 1:
            self.overruns += 1
            self._offset = tape.begin - 1
            self._continuity.lose()
            self._note_uncertain()
            self._books = dict.fromkeys(self._books)
        fresh = tape.read_all(self._offset)
        tickers = frozenset(m.topic for _, m in fresh if m.topic.channel == TICKER.topic_channel)
        broken = {(at, notice.topic) for at, notice in tape.holes(self._offset, tickers)}
        now = trio.current_time()
        for offset, message in fresh:
            self._offset = offset
            if (offset, message.topic) in broken:
                self._continuity.may_miss(message.topic)
            self._take(offset, message, now)
            if self._is_full():
                self._flush()
                yield
        self._flush()
        while self._trades:
            product_id, trades = self._trades.popleft()
            self._trades_waiting -= len(trades)
            self._pending += self._gaps.fill(product_id, trades, self._pipe.wall_us())
            self._flush()
            yield
        self._note_feed()

    def _take(self, offset: int, message: Message, now: float) -> None:
        """Add the records of one message."""
        if len(message.frame) > limits.LOG_MESSAGE_BYTES_MAX:
            self._pending.append(
                GapRecord(message.topic, GapKind.UNRECORDED, received_us=message.received_us)
            )
            self._books.pop(message.topic, None)
        elif message.topic.channel not in BOOKS or self._has_begun(offset, message):
            for record in self._continuity.admit(offset, message, now):
                self._add(record)

    def _has_begun(self, offset: int, message: Message) -> bool:
        """Say whether a message of a book is a snapshot, or follows one in the log."""
        topic = message.topic
        if offset <= self._books_from:
            self._books.setdefault(topic, None)
            return False
        if message.type == "snapshot":
            self._books[topic] = _Begun(trio.current_time())
            return True
        known = self._books.setdefault(topic, None)
        if known is None:
            return False
        if topic.channel == LEVEL2_BATCH.topic_channel:
            held = self._pipe.books.get(topic.product_id)
            if held is not None and held.is_level2 and held.gathering is not known.gathering:
                self._books[topic] = None  # no window had the changes since the last gathering
                return False
        return True

    def _note_uncertain(self) -> None:
        """Note the tickers whose messages after the log's end may have left the tape."""
        for topic, last in self._continuity.tickers():
            known = self._pipe.tape.held_from(topic)
            if known is None or last < known.sequence:
                self._continuity.may_miss(topic)

    def _note_feed(self) -> None:
        """Append the state of the feed if it has changed."""
        state = _FEED_STATES.get(self._feed.state, self._feed_state)
        if state != self._feed_state:
            self._feed_state = state
            at_us = self._pipe.wall_us()
            self._add(FeedRecord(state, self._feed.reason, received_us=at_us))
            self._flush()

    def _add(self, record: Record) -> None:
        self._pending.append(record)
        if isinstance(record, Message):
            self._pending_bytes += len(record.frame)

    def _is_full(self) -> bool:
        return (
            len(self._pending) >= limits.LOG_BATCH_RECORDS_MAX
            or self._pending_bytes >= limits.LOG_BATCH_BYTES_MAX
        )

    def _flush(self) -> None:
        """Append the pending records as one batch; if that fails, they are still pending.

        A gap and the message after it are in one batch, so the log never has one without the other.
        """
        if self._pending:
            self._window.append(self._pending)
            self._gaps.note(self._pending)
            self._pending, self._pending_bytes = [], 0


class _Begun:
    """A book that has begun in the log.

    Attributes:
        at: when its last snapshot was appended, seconds on the clock of ``trio.current_time``.
        gathering: the gathering that makes its messages; None if the exchange sends them.
    """

    __slots__ = ("at", "gathering")

    def __init__(self, at: float, gathering: Gathering | None = None) -> None:
        self.at = at
        self.gathering = gathering

    def due(self) -> "_Begun":
        """Return the same, as if the snapshot was appended long ago."""
        return _Begun(-float("inf"), self.gathering)


def _frozen(topic: Topic, held: HeldBook) -> tuple[FrozenBook, Gathering | None]:
    """Return a book as the messages of ``topic`` on the tape make it, and their gathering.

    Within a window, ``level2_batch`` does not have the changes of the window yet.
    """
    if topic.channel == LEVEL2_BATCH.topic_channel and held.gathering is not None:
        return held.gathering.before(held.book), held.gathering
    return held.book.freeze(), None


def _has_messages(topic: Topic, held: HeldBook) -> bool:
    """Say whether the tape has changes of ``topic`` now, one of the book's two topics."""
    if topic.channel == LEVEL2_BATCH.topic_channel:
        return not held.is_level2 or held.gathering is not None
    return held.is_level2
