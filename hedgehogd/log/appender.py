"""Appending a tape to the log for one term: each message once, with the gaps between.

Changes to a book have no numbers. So each book begins in the log with a snapshot, and again with
one whenever it is not certain that no change is missing, and every ``HISTORY_SNAPSHOT_S``, so that
a reader can begin within the window. The snapshot is the book at one offset of the tape, and has
the place of that offset in the log.
"""

from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import trio

from hedgehogd.books.level2_books import HeldBook
from hedgehogd.domain import limits
from hedgehogd.domain.book import FrozenBook
from hedgehogd.domain.channel import LEVEL2, LEVEL2_BATCH, TICKER, Topic
from hedgehogd.domain.level2 import Gathering, snapshot_parts
from hedgehogd.domain.message import Message, intern_topic
from hedgehogd.domain.record import FeedRecord, GapKind, GapRecord, Record
from hedgehogd.engine.health import FeedHealth, FeedState
from hedgehogd.engine.tape import Loss, Tape
from hedgehogd.fanout.pipe import Pipe
from hedgehogd.log.continuity import BOOKS, Continuity, Ends
from hedgehogd.log.ending import begun
from hedgehogd.log.errors import LogError
from hedgehogd.log.trade_gaps import TradeGaps, WaitingTrades
from hedgehogd.log.window import Window
from hedgehogd.protocol.frames import encode_text

_FEED_STATES = {FeedState.LIVE: "live", FeedState.STALE: "stale"}


class Fresh(NamedTuple):
    """The part of a tape that is not appended yet, as of one turn of the loop.

    Attributes:
        after: the offset before it.
        messages: its messages, oldest first; the offset of each is one more than that before.
        broken: offsets of messages of tickers before which the feed missed some, with the topic.
        losses: the losses of the tape, oldest first.
    """

    after: int
    messages: deque[Message]
    broken: set[tuple[int, Topic]]
    losses: deque[Loss]


def take_fresh(tape: Tape, after: int, loss: int = 0) -> Fresh:
    """Return the part of a tape after an offset, at least the one before its oldest message.

    Args:
        tape: the tape.
        after: the offset.
        loss: only losses with a larger number are returned.
    """
    broken = {
        (at, notice.topic)
        for at, notice in tape.holes(after)
        if notice.topic.channel == TICKER.topic_channel
    }
    return Fresh(after, deque(tape.read_all(after)), broken, deque(tape.losses(loss)))


async def begin_appending(
    window: Window, pipe: Pipe, feed: FeedHealth, ends: Ends, gaps: TradeGaps, *, overlaps: bool,
    held_with: Callable[[Topic], bool], waiting: WaitingTrades,
) -> "Appender":  # fmt: skip
    """Return an appender; the tape is compared with the log in a thread.

    The messages that the tape has now stay with the appender, although some may leave the tape
    meanwhile: a full tape drops one for each that arrives.

    Args:
        window: the window; its owner closes it.
        pipe: the tape, and the books that are in step with it.
        feed: the health of the feed.
        ends: the ends of the log's topics.
        gaps: the newest gaps in trades of the log.
        overlaps: True if the process may have received messages that the last writer appended.
        held_with: says whether the feed held a topic while the last writer was alive, with messages
            on the tape; then the messages that the tape has after the log's end continue the topic.
        waiting: backfilled trades; the appender takes them.
    """
    fresh = take_fresh(pipe.tape, pipe.tape.begin - 1)
    on_tape = list(fresh.messages)
    compare = partial(
        Continuity, ends, on_tape, fresh.after + 1, overlaps=overlaps, now=trio.current_time()
    )
    continuity = await trio.to_thread.run_sync(compare)
    appender = Appender(window, pipe, feed, continuity, fresh, gaps, waiting)
    reaches = overlaps and (fresh.after == 0 or continuity.reaches)
    appender.begin(lambda topic: not (reaches and held_with(topic)), may_repeat=overlaps)
    return appender


class Appender:
    """Appends the messages of a tape to the window of one term; see ``begin_appending``.

    Args:
        window: the window; its owner closes it.
        pipe: the tape, and the books that are in step with it.
        feed: the health of the feed.
        continuity: compares the log's end with ``fresh``.
        fresh: the messages of the tape at the start.
        gaps: the newest gaps in trades of the log.
        waiting: backfilled trades; the appender takes them.

    Attributes:
        overruns: how often messages left the tape before they were appended.
    """

    def __init__(
        self,
        window: Window,
        pipe: Pipe,
        feed: FeedHealth,
        continuity: Continuity,
        fresh: Fresh,
        gaps: TradeGaps,
        waiting: WaitingTrades,
    ) -> None:
        self.overruns = 0
        self._window = window
        self._pipe = pipe
        self._feed = feed
        self._continuity = continuity
        self._gaps = gaps
        self._fresh = fresh
        self._offset = fresh.after  # the messages up to here are appended or pending
        self._loss = 0  # the last loss of the tape that is noted
        self._books_from = self._offset
        held = pipe.flows.topics or ()
        self._books: dict[Topic, _Begun | None] = {t: None for t in held if t.channel in BOOKS}
        self._pending: list[Record] = []
        self._pending_bytes = 0
        self._waiting = waiting
        self._feed_state = ""

    def begin(self, may_miss: Callable[[Topic], bool], *, may_repeat: bool) -> None:
        """Begin the term: its first record, and the gaps of topics at the end of the log.

        Args:
            may_miss: says whether messages of a topic may be missing after the log's end.
            may_repeat: True if the log may have snapshots that the tape has, with changes after
                them; then books begin with own snapshots.
        """
        self._add(begun(self._window.term, self._pipe.wall_us()))
        if may_repeat:
            self._books_from = self._offset + len(self._fresh.messages)
        self._lose(may_miss, GapKind.MISSING)
        self._note_tickers()

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
            snapshot = self._snapshot(topic, b"".join(parts), held)
            if len(snapshot.frame) > limits.LOG_MESSAGE_BYTES_MAX:
                of_book = {topic, snapshot.also}
                self._lose(of_book.__contains__, GapKind.UNRECORDED)
                self._books[topic] = _Begun(trio.current_time(), is_left_out=True)
            else:
                self._continuity.follow(snapshot)
                self._add(snapshot)
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
        """Append the messages that the tape has; yield after each batch, written or not."""
        self._flush()
        count = 0
        while self._has_fresh():
            fresh, now = self._fresh, trio.current_time()
            while fresh.messages:
                offset, message = self._offset + 1, fresh.messages.popleft()
                while fresh.losses and fresh.losses[0].offset <= offset:
                    self._note_loss(fresh.losses.popleft())
                self._offset = offset
                self._take(offset, message, now, may_miss=(offset, message.topic) in fresh.broken)
                count += 1
                if self._is_full():
                    self._flush()
                    yield
                elif count % limits.LOG_BATCH_RECORDS_MAX == 0:  # the log has most of them
                    yield
            while fresh.losses:
                self._note_loss(fresh.losses.popleft())
        self._flush()
        while taken := self._waiting.take():
            self._pending += self._gaps.fill(*taken, self._pipe.wall_us())
            self._flush()
            yield
        self._note_feed()

    def _has_fresh(self) -> bool:
        """Say whether messages or losses wait; if none do, look on the tape."""
        if not (self._fresh.messages or self._fresh.losses):
            tape = self._pipe.tape
            if self._offset < tape.begin - 1:
                self.overruns += 1
                self._offset = tape.begin - 1
                self._lose(lambda _: True, GapKind.UNRECORDED)
            self._fresh = take_fresh(tape, self._offset, self._loss)
        return bool(self._fresh.messages or self._fresh.losses)

    def _take(self, offset: int, message: Message, now: float, *, may_miss: bool) -> None:
        """Add the records of one message; one that is too large is a gap of each of its topics."""
        is_of_book = message.topic.channel in BOOKS
        if is_of_book and not self._has_begun(offset, message):
            return
        records = self._continuity.admit(offset, message, now, may_miss=may_miss)
        if records and len(message.frame) > limits.LOG_MESSAGE_BYTES_MAX:
            records[-1:] = self._continuity.leave_out(message)
            if is_of_book:
                self._books[message.topic] = None
        for record in records:
            self._add(record)

    def _lose(
        self, concerns: Callable[[Topic], bool], kind: GapKind, *, tickers: bool = True
    ) -> None:
        """Add the gaps of topics that may have lost messages here; their books begin again."""
        for topic in self._books:
            also = LEVEL2.topic(topic.product_id)  # a batch of the exchange is of both
            is_of_both = topic.channel == LEVEL2_BATCH.topic_channel and also not in self._books
            if concerns(topic) or (is_of_both and concerns(also)):
                self._books[topic] = None
        for gap in self._continuity.lose(concerns, kind, self._pipe.wall_us(), tickers=tickers):
            self._add(gap)

    def _note_loss(self, loss: Loss) -> None:
        """Note that the feed lost messages, or ended a topic, after the end of the log."""
        self._loss = loss.number
        if loss.offset <= self._continuity.end_offset:
            return
        # Of a ticker, the next message decides whether one is missing.
        self._lose(loss.concerns, GapKind.MISSING, tickers=loss.has_ended)
        if loss.audience is None and self._feed_state == _FEED_STATES[FeedState.LIVE]:
            is_stale = self._feed.state is FeedState.STALE
            self._note_feed_state(
                _FEED_STATES[FeedState.STALE], self._feed.reason if is_stale else ""
            )

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
        if known is None or known.is_left_out:
            return False
        if topic.channel == LEVEL2_BATCH.topic_channel:
            held = self._pipe.books.get(topic.product_id)
            if held is not None and held.is_level2 and held.gathering is not known.gathering:
                self._books[topic] = None  # no window had the changes since the last gathering
                return False
        return True

    def _note_tickers(self) -> None:
        """Note the tickers whose messages after the log's end may have left the tape."""
        for topic, last in self._continuity.tickers():
            known = self._pipe.tape.held_from(topic)
            if known is not None and known.has_left and last < known.sequence:
                self._continuity.may_miss(topic)

    def _note_feed(self) -> None:
        """Append the state of the feed if it has changed."""
        state = _FEED_STATES.get(self._feed.state, self._feed_state)
        if state != self._feed_state:
            self._note_feed_state(state, self._feed.reason)
            self._flush()

    def _note_feed_state(self, state: str, reason: str) -> None:
        self._feed_state = state
        self._add(FeedRecord(state, reason, received_us=self._pipe.wall_us()))

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
            try:
                self._window.append(self._pending)
            except LogError:  # the tape keeps the rest, as far as it is large enough
                self._fresh = Fresh(self._offset, deque(), set(), deque())
                raise
            self._gaps.note(each for each in self._pending if isinstance(each, GapRecord))
            self._pending, self._pending_bytes = [], 0


class _Begun:
    """A book that has begun in the log.

    Attributes:
        at: when its last snapshot was appended, seconds on the clock of ``trio.current_time``.
        gathering: the gathering that makes its messages; None if the exchange sends them.
        is_left_out: True if its snapshot was too large for the log, so its changes are left out.
    """

    __slots__ = ("at", "gathering", "is_left_out")

    def __init__(
        self, at: float, gathering: Gathering | None = None, *, is_left_out: bool = False
    ) -> None:
        self.at = at
        self.gathering = gathering
        self.is_left_out = is_left_out

    def due(self) -> "_Begun":
        """Return the same, as if the snapshot was appended long ago."""
        return _Begun(-float("inf"), self.gathering, is_left_out=self.is_left_out)


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
