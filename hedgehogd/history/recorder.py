"""The recorder: takes what is to be kept from the tape and has it written, in a thread.

Every instance runs one; the one that holds the lock writes. The others look four times a
second whether nobody does. Who takes over fills in from its own tape what the one before
had not written, so the tape has to reach back further than a hung writer can last.

Changes to a book have no numbers. So a book begins anew, with a snapshot behind a seam,
whenever it is not certain that nothing lies between two of them.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import structlog
import trio

from hedgehogd.domain import limits
from hedgehogd.domain.channel import BY_TOPIC_CHANNEL, HEARTBEAT, TICKER, Topic
from hedgehogd.domain.message import Message
from hedgehogd.engine.chunk import Chunk
from hedgehogd.engine.health import HistoryHealth, HistoryState
from hedgehogd.fanout.pipe import Pipe
from hedgehogd.history.lock import WriterLock
from hedgehogd.history.reader import Reader
from hedgehogd.history.schema import CorruptStore, StoreError
from hedgehogd.history.writer import Entry, Hole, Writer
from hedgehogd.protocol.wire import WEBSOCKET, WireForm

log = structlog.get_logger("history")

_US = 1_000_000
_LOOKS_OF_OTHERS = 4
PAIRS, CHANNELS = "pairs", "channels"


class Retention(NamedTuple):
    """How much is kept.

    Attributes:
        age_max_s: how long, in seconds.
        bytes_max: how much of the disk, in bytes.
    """

    age_max_s: float = limits.HISTORY_AGE_MAX_S
    bytes_max: int = limits.HISTORY_BYTES_MAX


class Recorder:
    """Keep ``recorded`` topics in the store of one directory.

    Args:
        directory: where the store is.
        pipe: what is taken from.
        recorded: which topics.
        names: what the store is to name: pairs and channels.
        lock: the right to write; perhaps held already.
        health: written here, read by others.
        wall_us: the time of day, µs since the epoch.
        retention: how much is kept.
    """

    def __init__(
        self,
        directory: Path,
        pipe: Pipe,
        recorded: Iterable[Topic],
        names: dict[str, str],
        lock: WriterLock,
        health: HistoryHealth,
        wall_us: Callable[[], int],
        retention: Retention = Retention(),  # noqa: B008  # a tuple
    ) -> None:
        self._directory = directory
        self._pipe = pipe
        self._recorded = frozenset(recorded)
        self._books = {
            t: Book(self, pipe, t)
            for t in sorted(self._recorded)
            if BY_TOPIC_CHANNEL[t.channel].begins_with_snapshot
        }
        # What is looked at: heartbeats say that a product is heard, kept or not.
        self._looked_at = self._recorded.union(
            HEARTBEAT.topic(topic.product_id) for topic in self._recorded if topic.product_id
        )
        self._names = names
        self._lock = lock
        self._health = health
        self._wall_us = wall_us
        self._retention = retention
        self._writer: Writer | None = None
        self._disk = trio.CapacityLimiter(1)  # one call of the writer at a time
        self._offset = 0  # up to which the tape has been taken
        self._taken: list[Entry | Hole] = []
        self._whole_us = 0  # up to when all that came has been taken
        self._heard: dict[str, int] = {}  # when each product was heard last, µs
        self._begun_us = 0  # when writing began; what came before may be kept already
        self._tickers: dict[Topic, int] = {}  # each one's newest number, kept or taken
        self._cut: dict[Topic, int] = {}  # the same, where what followed on it is lost
        self._trades: list[tuple[str, Sequence[Mapping[str, Any]]]] = []
        self._retained_at = -float("inf")
        self._reaches_back = False  # the tape has what is not written yet
        self._is_free_since: float | None = None  # while we let others go first

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep what comes until cancelled; then keep what is left."""
        task_status.started()
        try:
            while True:
                rest_s = await self._round()
                await trio.sleep(rest_s)
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + limits.FAREWELL_S):
                if self._writer is not None:
                    await self._round()
            await self._stop()

    def keep_trades(self, product_id: str, trades: Sequence[Mapping[str, Any]]) -> None:
        """Keep trades that were fetched afterwards, if their product's are kept."""
        if self._writer is not None and Topic("matches", product_id) in self._recorded:
            self._trades.append((product_id, trades))

    def take(self, messages_max: float) -> None:
        """Take what has come from the tape; what is too much stays there for the next time."""
        tape = self._pipe.tape
        if self._offset < tape.begin - 1:  # more came than the disk takes
            self._health.overruns += 1
            self._offset = tape.begin - 1
            self._find_cuts()
            for book in self._books.values():
                book.begin_anew()
        holes = {(at, hole.topic) for at, hole in tape.holes(self._offset, self._recorded)}
        for offset, message in tape.read(self._offset, self._looked_at):
            if len(self._taken) >= messages_max:
                self._whole_us = message.published_us - 1
                break
            self._offset = offset
            self._heard[message.topic.product_id] = message.published_us
            self._take(offset, message, follows_hole=(offset, message.topic) in holes)
        else:
            self._offset = tape.end
            self._whole_us = self._heard_until()

    def _heard_until(self) -> int:
        """Return up to when all that came has been taken: of who is heard last of all products.

        When a feed stops, its time does not go on. One that has been silent for long is no
        longer waited for: the exchange may have taken it from its list.
        """
        heard = [at for product_id, at in self._heard.items() if product_id]
        late_us = self._wall_us() - int(limits.HISTORY_HEARD_S * _US)
        return min((at for at in heard if at > late_us), default=self._whole_us)

    def take_book(self, topic: Topic, messages: Iterable[Message], *, is_seam: bool) -> None:
        """Take a snapshot and what follows on it; all that is on the tape has been taken."""
        now = self._wall_us()
        if is_seam:
            self._taken.append(Hole(topic, "seam", at_us=now))
        self._taken += [Entry(topic, now, message.payload) for message in messages]

    def _take(self, offset: int, message: Message, *, follows_hole: bool) -> None:
        for topic in (message.topic, message.also):
            if topic is None or topic not in self._recorded:
                continue
            book = self._books.get(topic)
            if book is not None and not book.has_begun(offset):
                continue
            if topic.channel == TICKER.topic_channel and message.sequence is not None:
                self._take_ticker(topic, message, message.sequence, follows_hole=follows_hole)
            self._taken.append(
                Entry(
                    topic,
                    message.published_us,
                    message.payload,
                    message.sequence,
                    message.trade_id,
                )
            )

    def _take_ticker(
        self, topic: Topic, message: Message, sequence: int, *, follows_hole: bool
    ) -> None:
        """Take note of what is missing before it."""
        kept = self._tickers.get(topic)
        if kept is not None and sequence <= kept and message.published_us <= self._begun_us:
            return  # the writer before us has it
        if follows_hole and kept is not None:
            self._cut.setdefault(topic, kept)
        last = self._cut.pop(topic, sequence)
        if last < sequence - 1:
            hole = Hole(topic, "missing", last + 1, sequence - 1, message.published_us)
            self._taken.append(hole)
        self._tickers[topic] = sequence

    async def _round(self) -> float:
        """Be the writer if nobody else is, and write what has come; return how long to rest."""
        try:
            if self._writer is None and not await self._begin():
                self._health.become(HistoryState.READING)
                return limits.HISTORY_LOOK_S
            await self._write()
        except StoreError as error:
            is_corrupt = isinstance(error, CorruptStore)
            if self._health.state is not HistoryState.FAILED:
                log.error("history is not written", reason=str(error), is_corrupt=is_corrupt)
            self._health.become(HistoryState.FAILED, str(error))
            await self._stop()
            return limits.HISTORY_AGAIN_S
        self._health.become(HistoryState.WRITING)
        return limits.HISTORY_FLUSH_S

    async def _begin(self) -> bool:
        """Open the store for writing; False when another instance has it."""
        self._reaches_back = self._reaches_back or await self._in_thread(self._looks_back)
        if not await self._in_thread(self._lock.try_take):
            self._is_free_since = None
            return False
        if not self._reaches_back and self._lets_others_go_first():
            self._lock.release()
            return False
        writer = await self._in_thread(partial(Writer, self._directory, self._names))
        self._writer, self._taken = writer, []
        self._offset = self._pipe.tape.begin - 1
        newest = {topic: writer.last_sequence(topic) for topic in self._recorded}
        self._tickers = {
            topic: last
            for topic, last in newest.items()
            if topic.channel == TICKER.topic_channel and last is not None
        }
        self._begun_us = self._wall_us()
        self._find_cuts()
        for book in self._books.values():
            book.begin_anew()
        log.info("history is written", directory=str(self._directory))
        return True

    def _looks_back(self) -> bool:
        """Say whether nothing came between what is written and our tape, as far as we know.

        Who starts while the writer dies finds the lock free before the others look, and has
        not what the writer left unwritten; the others have it.
        """
        try:
            reader = Reader(self._directory)
        except StoreError:
            return True  # there is none, or nobody can write it: then nobody comes first
        try:
            written_us = reader.written_to()
        except StoreError:
            return True
        finally:
            reader.close()
        known = [self._pipe.tape.held_from(topic) for topic in self._recorded]
        now_us = self._wall_us()
        since_us = min((each.published_us for each in known if each), default=now_us)
        return since_us <= written_us or written_us < now_us - int(limits.TAPE_KEEP_S * _US)

    def _lets_others_go_first(self) -> bool:
        """Say whether there may be somebody who has not seen yet that nobody writes."""
        now = trio.current_time()
        if self._is_free_since is None:
            self._is_free_since = now
        return now < self._is_free_since + _LOOKS_OF_OTHERS * limits.HISTORY_LOOK_S

    def _find_cuts(self) -> None:
        """See which tickers may be missing; of denser channels their numbers tell."""
        self._cut.clear()
        for topic, last in self._tickers.items():
            known = self._pipe.tape.held_from(topic)
            if known is None or last < known.sequence:
                self._cut[topic] = last

    async def _write(self) -> None:
        writer = self._writer
        if writer is None:
            raise AssertionError("nobody writes")
        self.take(limits.HISTORY_BATCH_MAX)
        while True:
            taken, self._taken = self._taken, []
            whole_us = self._whole_us
            self._health.kept += await self._in_thread(partial(writer.write, taken, whole_us))
            self._health.written_us = whole_us
            if len(taken) < limits.HISTORY_BATCH_MAX:
                break
            await trio.lowlevel.checkpoint()
            self.take(limits.HISTORY_BATCH_MAX)
        while self._trades:
            await self._in_thread(partial(writer.keep_trades, *self._trades[0]))
            del self._trades[0]
        if trio.current_time() >= self._retained_at + limits.HISTORY_RETAIN_S:
            self._retained_at = trio.current_time()
            before_us = self._wall_us() - int(self._retention.age_max_s * _US)
            await self._in_thread(partial(writer.retain, before_us, self._retention.bytes_max))
            for book in self._books.values():
                book.refresh(trio.current_time())

    async def _stop(self) -> None:
        """Let another instance try."""
        for book in self._books.values():
            book.leave()
        if self._writer is not None:
            await self._in_thread(self._writer.close)
            self._writer = None
        self._lock.release()

    async def _in_thread(self, call: Callable[[], Any]) -> Any:
        """Do it, even when cancelled: what has been taken from the tape is not there again."""
        with trio.CancelScope(shield=True):
            return await trio.to_thread.run_sync(call, limiter=self._disk)


class Book:
    """Where the record of one book begins: it waits for a snapshot as a subscriber does."""

    form: WireForm = WEBSOCKET

    def __init__(self, recorder: Recorder, pipe: Pipe, topic: Topic) -> None:
        self._recorder = recorder
        self._pipe = pipe
        self._topic = topic
        self._from: int | None = None  # the offset of its first message; None while it waits
        self._begun_at = -float("inf")

    def has_begun(self, offset: int) -> bool:
        """Say whether the change at ``offset`` follows on a snapshot that is kept."""
        return self._from is not None and offset >= self._from

    def begin_anew(self) -> None:
        """Ask for a snapshot; nothing is kept until it is there."""
        self._from = None
        self._pipe.snapshots.wait(self, [self._topic])

    def refresh(self, now: float) -> None:
        """Ask for another snapshot now and then, so that nobody has to read from the start."""
        if self._from is not None and now >= self._begun_at + limits.HISTORY_SNAPSHOT_S:
            self._pipe.snapshots.wait(self, [self._topic])

    def leave(self) -> None:
        """Wait no longer."""
        self._from = None
        self._pipe.snapshots.leave(self)

    def admit(self, topic: Topic, chunks: Iterable[Chunk] = ()) -> None:
        """A snapshot is there: in ``chunks``, or as the next message on the tape."""
        messages = [message for chunk in chunks for message in chunk.messages]
        self._recorder.take(float("inf"))
        self._recorder.take_book(topic, messages, is_seam=self._from is None)
        self._pipe.snapshots.leave(self)  # what has been lost meanwhile lies before the snapshot
        self._from = self._pipe.tape.end + 1
        self._begun_at = trio.current_time()
