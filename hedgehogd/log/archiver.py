"""The archiver: follows the window in a thread, and writes the recorded topics to the archive.

A disk that is full, read-only or slow delays the archive alone. The archiver tries again, and
continues from the window; records that left the window meanwhile become a gap of each recorded
topic. A directory that was deleted, moved or replaced gets a new archive.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

import structlog
import trio

from hedgehogd.domain import limits
from hedgehogd.domain.channel import Topic
from hedgehogd.domain.message import Message
from hedgehogd.domain.record import GapKind, GapRecord, Record, RefusalRecord, TradeRecord
from hedgehogd.log.archive.errors import ArchiveError
from hedgehogd.log.archive.writer import Writer, sizes_for
from hedgehogd.log.checkpoint import Checkpoint
from hedgehogd.log.continuity import BOOKS
from hedgehogd.log.directory import Directory
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
        leaps: how often records left the window before they were archived.
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
        self.leaps = 0
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
        self._wants_books = False
        self._began_books_at = -float("inf")
        self._seen: set[Topic] = set()
        self._unsynced: list[int] = [0, 0]  # messages and newest receive time
        self._retained_at = -float("inf")

    async def run(self, directory: Directory) -> None:
        """Copy the log of a window until cancelled; ``finish`` must follow.

        Args:
            directory: the window's directory, which is open until ``finish`` has returned.
        """
        self._opens = 0
        while True:
            is_behind = await self._in_thread(directory)
            is_due = self._now >= self._began_books_at + limits.ARCHIVER_BOOKS_S
            if self._wants_books and is_due and not self.fault:
                self._wants_books, self._began_books_at = False, self._now
                self._begin_books()
            await trio.sleep(0 if is_behind else limits.ARCHIVER_PAUSE_S)

    async def finish(self, directory: Directory) -> None:
        """Copy the rest of the log until cancelled, and close the archive."""
        try:
            while await self._in_thread(directory):
                await trio.lowlevel.checkpoint()
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(self._close, limiter=self._limiter)

    async def _in_thread(self, directory: Directory) -> bool:
        """Do one step; it is not interrupted, and its length is bounded."""
        steps: list[bool] = []
        self._now = trio.current_time()
        with trio.CancelScope(shield=True):
            step = partial(self._step, directory)
            steps.append(await trio.to_thread.run_sync(step, limiter=self._limiter))
        return any(steps)

    def _step(self, directory: Directory) -> bool:
        """Copy some records and sync them; return True if there are more."""
        try:
            if self._window is None:
                self._window = Reader(directory)
            if self._archive is None:
                self._open(self._window)
            archive = self._archive
            if archive is None:
                raise AssertionError("the archive is not open")
            archive.check()
            is_behind = self._copy(self._window, archive)
            archive.sync()
            self._note_synced()
            archive.work()
            self._retain(archive)
        except (ArchiveError, LogError) as error:
            if not self.fault:
                log.error("history is not written", reason=str(error))
            self.fault = str(error)
            self._close()
            return False
        if self.fault:
            log.info("history is written again", directory=str(self._directory))
        self.fault = ""
        return is_behind

    def _close(self) -> None:
        """Close archive and window; a later step opens them again."""
        if self._archive is not None:
            with suppress(ArchiveError):
                self._archive.close()
            self._archive = None
        if self._window is not None:
            self._window.close()
            self._window = None

    def _open(self, window: Reader) -> None:
        """Open the archive, and continue after its last record.

        Raises:
            ArchiveError: it cannot be opened.
        """
        self._books.clear()
        self._wants_books = self._opens > 0  # else all books begin with the term
        self._opens += 1
        archive = Writer(
            self._directory,
            window.deployment,
            checkpoint=self._books.snapshots,
            sizes=sizes_for(self._kept.bytes_max),
            clock=lambda: self._now,
        )
        for problem in archive.problems:
            log.error("history is damaged", problem=problem)
        self._archive = archive
        self._position = archive.last_id
        self._unsynced = [0, 0]
        self._begun = set() if archive.last_id == 0 else None
        self._left_id = 0
        log.info("history is written", directory=str(self._directory))

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
            archive.append(self._chosen(records))
            self._position = records[-1].id
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
                self._books.follow(record)
                self._unsynced[0] += 1
                self._seen.add(record.topic)
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
        if isinstance(record, RefusalRecord):
            return any(_concerns(record.topic, topic) for topic in topics)
        return True

    def _note_left(self, oldest_id: int, archive: Writer) -> None:
        """Note that records up to an id have left the window; of a new archive it is the start."""
        self._begun = set()
        self._books.clear()
        self._wants_books = True
        if archive.last_id == 0:
            self._position = oldest_id
            return
        self.leaps += 1
        log.error("history has a gap: records left the window", up_to_id=oldest_id)
        self._left_id = oldest_id

    def _append_gap(self, window: Reader, archive: Writer) -> bool:
        """Append a gap of each topic in place of the records that left the window.

        The gaps have the last ids of these records. If the records were fewer than the topics, some
        records after them are left out, too: no topic has a gap without a record.

        Returns:
            False if the log does not have enough records yet.
        """
        topics = sorted(self._kept.topics | self._seen)
        room = self._left_id - max(archive.last_id, 0)
        if room < len(topics):
            records = window.read(self._left_id, len(topics) - room)
            if records:
                self._left_id = records[-1].id
            if self._left_id - archive.last_id < len(topics):
                return False
        first_id = self._left_id - len(topics) + 1
        at_us = self._wall_us()
        archive.append(
            GapRecord(topic, GapKind.UNRECORDED, id=record_id, received_us=at_us)
            for record_id, topic in enumerate(topics, first_id)
        )
        self._position, self._left_id = self._left_id, 0
        return True

    def _note_synced(self) -> None:
        messages, newest_us = self._unsynced
        self.archived += messages
        self.archived_us = newest_us or self.archived_us
        self._unsynced = [0, 0]

    def _retain(self, archive: Writer) -> None:
        """Drop expired segments, now and then, one in each step."""
        if self._now >= self._retained_at + limits.HISTORY_RETAIN_S:
            dropped = archive.retain(self._wall_us(), self._kept.age_max_s, self._kept.bytes_max)
            if dropped is None:
                self._retained_at = self._now


def _concerns(refused: Topic, topic: Topic) -> bool:
    """Say whether a refusal of a topic, a channel or a product concerns ``topic``."""
    return refused.channel in {"", topic.channel} and refused.product_id in {"", topic.product_id}
