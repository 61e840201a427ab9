"""The archiver: follows the window in a thread, and writes the recorded topics to the archive.

A disk that is full, read-only or slow delays the archive alone. The archiver tries again, and
continues from the window; records that left the window meanwhile become a gap of each topic that
the archive has or records. A directory that was deleted, moved or replaced gets a new archive.
"""

from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

import structlog
import trio

from hedgehogd.domain import limits
from hedgehogd.domain.channel import Topic
from hedgehogd.domain.message import Message
from hedgehogd.domain.record import GapKind, GapRecord, Record, TradeRecord
from hedgehogd.log.archive.errors import ArchiveError, ArchiveFull, ArchiveLocked
from hedgehogd.log.archive.writer import Writer, sizes_for
from hedgehogd.log.checkpoint import Checkpoint
from hedgehogd.log.continuity import BOOKS
from hedgehogd.log.directory import Directory
from hedgehogd.log.ending import begun, read_topics
from hedgehogd.log.errors import LeftWindow, LogError
from hedgehogd.log.reader import Reader

log = structlog.get_logger("history")

_US = 1_000_000
_READ_RECORDS = 1_000


class Kept(NamedTuple):
    """The records that an archive keeps, and how long.

    Attributes:
        topics: the topics that are recorded.
        demanded: True if the archive keeps all other topics of the log, too.
        age_max_s: seconds for which it keeps records.
        bytes_max: bytes of all its files.
    """

    topics: frozenset[Topic]
    demanded: bool = False
    age_max_s: float = limits.HISTORY_AGE_MAX_S
    bytes_max: int = limits.HISTORY_BYTES_MAX


class Archiver:
    """Copies the log to the archive in one directory, while this instance is the writer.

    Args:
        directory: where the archive is.
        kept: the records that it keeps.
        wall_us: the clock, µs since the epoch; it may step.
        begin_books: called in the loop when books have to begin again in the log.

    Attributes:
        fault: why the archive is not written now, for people; empty while it is.
        archived: number of messages that are durable, since start.
        archived_us: receive time up to which the log is archived, µs since the epoch: that of its
            last record, of a recorded topic or not; 0 before it.
        hangs: True if a call for the disk had not returned when ``finish`` did: the window's
            directory must stay open.
        unarchived: how often records left the window before they were archived.
    """

    def __init__(
        self,
        directory: Path,
        kept: Kept,
        wall_us: Callable[[], int],
        begin_books: Callable[[], None] = lambda: None,
    ) -> None:
        self.fault = ""
        self.archived = 0
        self.archived_us = 0
        self.unarchived = 0
        self.hangs = False
        self._directory = directory
        self._kept = kept
        self._wall_us = wall_us
        self._begin_books = begin_books
        self._now = 0.0  # seconds of ``trio.current_time``, which no thread can read
        self._limiter = trio.CapacityLimiter(1)
        self._archive: Writer | None = None
        self._window: Reader | None = None
        self._position = 0  # id of the log up to which records are copied or left out
        self._left_id = 0  # records up to this id have left the window, and are no gap yet
        self._books = Checkpoint(None if kept.demanded else kept.topics)
        # Books with a snapshot since records left the window; None while none have left it. The
        # changes of other books are left out.
        self._begun: set[Topic] | None = None
        self._opens = 0  # in this term
        self._is_reported = False  # that the archive is written, since it was opened
        self._is_over = False  # ``finish`` copies no more
        self._wants_books = False
        self._began_books_at = -float("inf")
        self._seen: set[Topic] = set()
        self._unsynced: list[int] = [0, 0]  # messages and newest receive time
        self._retained_at = -float("inf")
        self._clock_us: int | None = None  # the wall clock at 0 s of the monotonic clock
        self._set_at: float | None = None  # when the wall clock was set
        self._set_us = 0  # its value, at 0 s of the monotonic clock
        self._locked_since: float | None = None
        self._was_ahead = False  # the archive had larger ids than the log, and has no gap for it

    async def run(self, directory: Directory) -> None:
        """Copy the log of a window until cancelled; ``finish`` must follow.

        Args:
            directory: the window's directory, which is open until ``finish`` has returned.
        """
        self._opens, self._is_over = 0, False
        while True:
            is_behind = await self._in_thread(directory)
            is_due = self._now >= self._began_books_at + limits.ARCHIVER_BOOKS_S
            if self._wants_books and is_due and not self.fault:
                self._wants_books, self._began_books_at = False, self._now
                self._begin_books()
            await trio.sleep(0 if is_behind else limits.ARCHIVER_PAUSE_S)

    async def finish(self, directory: Directory) -> None:
        """Copy the rest of the log until cancelled, and close the archive.

        A call for the disk that hangs is not waited for: the archive is closed after it.
        """
        try:
            while await self._in_thread(directory):
                await trio.lowlevel.checkpoint()
        finally:
            self._is_over = True
            with trio.move_on_after(limits.ARCHIVER_CLOSE_S, shield=True) as waiting:
                await trio.to_thread.run_sync(
                    self._close, limiter=self._limiter, abandon_on_cancel=True
                )
            self.hangs = waiting.cancelled_caught
            if self.hangs:
                log.error("the disk of the history hangs; the archive is not closed yet")

    async def _in_thread(self, directory: Directory) -> bool:
        """Do one step, which handles a bounded number of records; a slow disk may delay it.

        A cancelled call does not wait for the step. The step goes on, and the next one waits for
        it: there is one thread.
        """
        self._now = trio.current_time()
        step = partial(self._step_in_term, directory)
        return await trio.to_thread.run_sync(step, limiter=self._limiter, abandon_on_cancel=True)

    def _step_in_term(self, directory: Directory) -> bool:
        """Do one step; close the archive if ``finish`` has ended meanwhile."""
        is_behind = self._step(directory)
        if self._is_over:
            self._close()
        return is_behind

    def _step(self, directory: Directory) -> bool:
        """Copy some records and sync them; return True if there are more."""
        try:
            if self._window is None:
                self._window = Reader(directory)
            if self._archive is None:
                self._open(self._window, directory)
            archive = self._archive
            if archive is None:
                raise AssertionError("the archive is not open")
            archive.check()
            self._retain(archive)  # first: the rest may need the space
            is_behind = self._copy(self._window, archive)
            archive.sync()
            self._note_synced()
            archive.work()
        except (ArchiveError, LogError) as error:
            if isinstance(error, ArchiveLocked) and self._waits_for_lock():
                return False
            if not self.fault:
                log.error("history is not written", reason=str(error))
            self.fault = str(error)
            if not isinstance(error, ArchiveFull):  # a full disk may not have room to open it again
                self._close()
            return False
        if self.fault or not self._is_reported:
            event = "history is written again" if self.fault else "history is written"
            log.info(event, directory=str(self._directory))
        self.fault, self._is_reported = "", True
        return is_behind

    def _waits_for_lock(self) -> bool:
        """Say whether the writer before this one may still be closing the archive."""
        if self._locked_since is None:
            self._locked_since = self._now
        return self._now < self._locked_since + limits.ARCHIVE_LOCK_WAIT_S

    def _close(self) -> None:
        """Close archive and window; a later step opens them again."""
        if self._archive is not None:
            with suppress(ArchiveError):
                self._archive.close()
            self._archive = None
        if self._window is not None:
            self._window.close()
            self._window = None

    def _open(self, window: Reader, directory: Directory) -> None:
        """Open the archive, and continue after its last record.

        Until the archive was locked here, the archiver of an earlier writer may have copied the
        records of this term, too: it ends only when its instance notices the new term. So the
        archive is compared with the end that the log has with the lock held.

        Raises:
            ArchiveError: it cannot be opened.
            LogError: it has larger ids than the log.
        """
        self._books.clear()
        self._wants_books = self._opens > 0  # else all books begin with the term
        self._opens += 1
        self._is_reported = False
        archive = Writer(
            self._directory,
            window.deployment,
            checkpoint=self._books.snapshots,
            sizes=sizes_for(self._kept.bytes_max),
            clock=lambda: self._now,
        )
        self._archive = archive
        self._locked_since = None
        for problem in archive.problems:
            log.error("history is damaged", problem=problem)
        end_id = _end_id(directory)
        if archive.last_id > end_id:
            self._was_ahead = True
            raise LogError(
                f"{self._directory} has records up to id {archive.last_id}, the log up to id"
                f" {end_id}: their files are not of one log"
            )
        self._position = archive.last_id
        self._unsynced = [0, 0]
        self._begun = set() if archive.last_id == 0 else None
        self._left_id = 0
        if self._was_ahead:  # no records with smaller ids are archived
            self._note_left(archive.last_id, archive)

    def _copy(self, window: Reader, archive: Writer) -> bool:
        """Append the next records of the log; return True if there are more."""
        count = 0
        while count < limits.ARCHIVER_RECORDS_MAX:
            try:
                if self._left_id and not self._append_gap(window, archive):
                    return False
                records = window.read(self._position, _READ_RECORDS)
            except LeftWindow as error:
                self._note_left(error.oldest_id, archive)
                continue
            if not records:
                return False
            chosen = self._chosen(records)
            archive.append(chosen)
            self._position = records[-1].id
            self._unsynced[0] += sum(isinstance(each, Message) for each in chosen)
            self._unsynced[1] = records[-1].received_us
            count += len(records)
        return True

    def _chosen(self, records: Sequence[Record]) -> list[Record]:
        """Return those of ``records`` that are archived; note their effects."""
        chosen: list[Record] = []
        for record in records:
            if not self._is_kept(record):
                continue
            if isinstance(record, Message):
                if not self._follows_snapshot(record):
                    continue
                self._seen.add(record.topic)
                if record.also is not None:
                    self._seen.add(record.also)
            self._books.follow(record)
            chosen.append(record)
        return chosen

    def _follows_snapshot(self, message: Message) -> bool:
        """Say whether a message is of no book, or its book has begun in the archive."""
        topic = message.topic
        if self._begun is None or topic.channel not in BOOKS:
            return True
        if message.type == "snapshot":
            self._begun.add(topic)
        return topic in self._begun

    def _is_kept(self, record: Record) -> bool:
        if self._kept.demanded:
            return True
        topics = self._kept.topics
        if isinstance(record, Message):
            return record.topic in topics or record.also in topics
        if isinstance(record, GapRecord | TradeRecord):
            return record.topic in topics
        return True

    def _note_left(self, oldest_id: int, archive: Writer) -> None:
        """Note that records up to an id have left the window; of a new archive it is the start."""
        self._begun = set()
        self._books.clear()
        self._wants_books = True
        is_known, self._left_id = self._left_id > 0, oldest_id
        if archive.last_id == 0 or is_known:
            return
        if self._kept.demanded:
            self._seen |= read_topics(self._directory)
        self.unarchived += 1
        log.error("history has a gap: records left the window", up_to_id=oldest_id)

    def _append_gap(self, window: Reader, archive: Writer) -> bool:
        """Append a gap of each topic in place of the records that left the window.

        Before the gaps, a record names the term: its own first record may have left the window, and
        a log that begins again needs a larger term. A new archive has no gaps. Each of these
        records needs an id of its own: those of the records that left, else the ones before the
        next record. Only if these are too few, the fewest records possible are left out, too.

        Returns:
            False if the log does not have enough records yet.
        """
        topics = sorted(self._kept.topics | self._seen) if archive.last_id else []
        count = len(topics) + 1
        min_id = archive.last_id + count  # of the last of these records
        records = window.read(self._left_id, count + 1 if self._left_id < min_id else 1)
        if self._left_id < min_id:
            next_id = next((each.id for each in records if each.id > min_id), None)
            if next_id is None:
                return False
            self._left_id = next_id - 1
        at_us = self._wall_us()
        chosen: list[Record] = [begun(window.term, at_us)]
        chosen += (GapRecord(topic, GapKind.UNRECORDED, received_us=at_us) for topic in topics)
        for record_id, record in enumerate(chosen, self._left_id - count + 1):
            record.id = record_id
        archive.append(chosen)
        self._position, self._left_id = self._left_id, 0
        return True

    def _note_synced(self) -> None:
        messages, newest_us = self._unsynced
        self.archived += messages
        self.archived_us = newest_us or self.archived_us
        self._unsynced = [0, 0]
        if not self._left_id:  # the gap is durable
            self._was_ahead = False

    def _retain(self, archive: Writer) -> None:
        """Drop expired segments, now and then, one in each step."""
        if self._now < self._retained_at + limits.HISTORY_RETAIN_S and not self.fault:
            return
        now_us = self._wall_us()
        age_max_s = self._kept.age_max_s if self._is_clock_steady(now_us) else float("inf")
        dropped = archive.retain(now_us, age_max_s, self._kept.bytes_max)
        if dropped is None:
            self._retained_at = self._now
        else:
            log.info(
                "history dropped its oldest segment", file=dropped.name, newest_us=dropped.max_us
            )

    def _is_clock_steady(self, now_us: int) -> bool:
        """Say whether retention may believe the wall clock.

        A clock that was set may be wrong by years. It is believed again when it is back, or after
        ``HISTORY_CLOCK_STEADY_S``; until then only the bytes of the archive are bounded.
        """
        begun_us = now_us - int(self._now * _US)  # when the monotonic clock began
        if self._clock_us is None:
            self._clock_us = begun_us
        if abs(begun_us - self._clock_us) <= limits.HISTORY_CLOCK_STEP_S * _US:
            self._set_at = None
            self._clock_us = begun_us  # it may drift
            return True
        if self._set_at is None or abs(begun_us - self._set_us) > limits.HISTORY_CLOCK_STEP_S * _US:
            log.warning(
                "the clock was set; old history is kept until it is steady",
                step_s=round((begun_us - self._clock_us) / _US),
            )
            self._set_at, self._set_us = self._now, begun_us
        if self._now >= self._set_at + limits.HISTORY_CLOCK_STEADY_S:
            self._clock_us, self._set_at = begun_us, None
            return True
        return False


def _end_id(directory: Directory) -> int:
    """Return the last id that the log has now.

    Raises:
        LogError: there is no log.
    """
    with closing(Reader(directory)) as reader:
        return reader.after_id
