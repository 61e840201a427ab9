"""The store of ``history``, read to migrate it: one SQLite file, with messages kept per topic.

Sealed messages are in blocks, newer ones in rows. The *place* of a message or gap is when it was
received, µs since the epoch, moved up where another record has it or the clock went back. Places
rise in the order of the feed, and no two are the same, except after a fault of two writers.

This module only reads, with two exceptions: the deployment of the archive is noted in the file, so
that an interrupted migration continues its own archive and no other one; and the file is renamed.

Not for the loop: every call may wait for the disk.
"""

import fcntl
import heapq
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from hedgehogd.domain.channel import Topic
from hedgehogd.domain.errors import OperatorError
from hedgehogd.domain.instant import NEVER_US
from hedgehogd.domain.message import intern_topic
from hedgehogd.log.migration.old_block import BadBlock, Stored, unpack

FILE_NAME = "history.sqlite"
LOCK_NAME = "history.lock"
MIGRATED_SUFFIX = ".migrated"
APPLICATION_ID = 0x48454447  # "HEDG"
VERSION = 1
MISSING, BOOK_START = "missing", "seam"
"""The kinds of gaps: numbers that no instance has; the new start of a book, which is no gap."""

_DEPLOYMENT = "archive_deployment"
_NULL = type(None)
_NUMBERS = frozenset({(int,) * count for count in range(1, 5)})
_GAPS = frozenset((int, int, str, first, last) for first in (int, _NULL) for last in (int, _NULL))
_STORED, _PAYLOAD = frozenset({(int, bytes)}), frozenset({(bytes,)})
_TRADES = frozenset({(int, int, int), (int, int, _NULL)})
_BUSY_S = 2.0
_ROWS = 1_000
_MODE = 0o640


class OldStoreError(Exception):
    """The old store cannot be used now: absent, locked, read-only. The text says why."""


class LockedStore(OldStoreError):
    """Another process writes or reads the old store."""


class DamagedStore(OldStoreError):
    """The file is not a store of hedgehogd, or its bytes are damaged."""


def is_old_store(directory: Path) -> bool:
    """Say whether ``directory`` has an old store to migrate; False if it cannot be read."""
    try:
        return (directory / FILE_NAME).is_file()
    except OSError:
        return False


def refuse_old_store(directory: Path) -> None:
    """Refuse to read or write an archive where an old store is: its records may not be in there.

    Raises:
        OperatorError: ``directory`` has one (exit status 78). The text names the command that
            migrates it.
    """
    if is_old_store(directory):
        raise OperatorError(
            f"{directory / FILE_NAME} is a store of an older version of hedgehogd.\n"
            "  Expected an archive alone, with all records of that store in it.\n"
            f"  Stop all instances, then run: hedgehogd store migrate {directory}"
        )


class Source(NamedTuple):
    """Messages of one topic that are read at once: a block, or all its rows.

    Attributes:
        first_place: the place of the oldest.
        last_place: the place of the newest.
        topic: the number of the topic.
        block: the id of the block; 0 for rows.
    """

    first_place: int
    last_place: int
    topic: int
    block: int


class OldGap(NamedTuple):
    """A gap.

    Attributes:
        place: its place.
        topic: the number of the topic.
        kind: ``MISSING`` or ``BOOK_START``.
        first: the first missing number: a trade id on ``matches``, else a sequence; or None.
        last: the last one.
    """

    place: int
    topic: int
    kind: str
    first: int | None
    last: int | None


class OldTrade(NamedTuple):
    """A backfilled trade.

    Attributes:
        topic: the number of its ``matches`` topic.
        trade_id: its trade id.
        time_us: when the exchange matched it, µs since the epoch; None if that is not known.
    """

    topic: int
    trade_id: int
    time_us: int | None


@contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
            raise LockedStore(f"another process uses the store: {error}") from None
        is_damaged = code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR}
        raise (DamagedStore if is_damaged else OldStoreError)(str(error)) from None
    except (TypeError, ValueError, OverflowError) as error:
        raise DamagedStore(f"a value is damaged: {error}") from error


class OldStore:
    """The old store in one directory, held for reading: no daemon writes it meanwhile.

    Args:
        directory: where it is.

    Raises:
        LockedStore: a daemon writes it, or another process reads it.
        DamagedStore: the file is not such a store.
        OldStoreError: it cannot be opened.

    Attributes:
        path: its file.
        is_empty: it has no tables, and so no records.
        topics: its topics, by number.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / FILE_NAME
        self._lock = _take_lock(directory / LOCK_NAME)
        try:
            if not self.path.is_file():
                raise OldStoreError(f"{self.path} does not exist")
            with _errors():
                self._connection = sqlite3.connect(
                    self.path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False
                )
        except BaseException:
            os.close(self._lock)
            raise
        try:
            with _errors():
                self.topics = self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> dict[int, Topic]:
        execute = self._connection.execute
        tables = execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
        application = execute("PRAGMA application_id").fetchone()[0]
        version = execute("PRAGMA user_version").fetchone()[0]
        self.is_empty = not tables and not application
        if not self.is_empty and application != APPLICATION_ID:
            raise DamagedStore(f"{self.path} is not a store of hedgehogd")
        if not self.is_empty and version != VERSION:
            raise OldStoreError(f"{self.path} has version {version}; only {VERSION} is migrated")
        # One file, without a journal of readers beside it: it fails while another process reads.
        execute("PRAGMA journal_mode = DELETE")
        if self.is_empty:
            return {}
        topics: dict[int, Topic] = {}
        for row in execute("SELECT id, channel, product_id FROM topic").fetchall():
            if tuple(map(type, row)) != (int, str, str):
                raise DamagedStore(f"a topic has damaged values: {row!r:.200}")
            number, channel, product_id = row
            topics[number] = intern_topic(channel, product_id)
        return topics

    def topic_of(self, row: Source | OldGap | OldTrade) -> Topic:
        """Return the topic of a row.

        Raises:
            DamagedStore: the store has no topic of its number.
        """
        topic = self.topics.get(row.topic)
        if topic is None:
            raise DamagedStore(f"no topic has the number of {row!r:.200}")
        return topic

    def close(self) -> None:
        """Close the file, and release the lock."""
        self._connection.close()
        os.close(self._lock)

    def retire(self) -> Path:
        """Close the file, and rename it: it is no store any more. Return its new path.

        An existing file is not replaced: the name gets a number.

        Raises:
            OldStoreError: it cannot be renamed.
        """
        number = 1
        path = self.path.with_name(FILE_NAME + MIGRATED_SUFFIX)
        while path.exists():
            number += 1
            path = self.path.with_name(f"{FILE_NAME}{MIGRATED_SUFFIX}-{number}")
        self._connection.close()
        try:
            self.path.rename(path)
            descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise OldStoreError(f"{self.path}: {error.strerror}") from None
        finally:
            os.close(self._lock)
        return path

    @property
    def deployment(self) -> str:
        """The deployment of the archive into which a migration has begun; empty for none."""
        rows = self._rows("SELECT value FROM setting WHERE name = ?", None, _DEPLOYMENT)
        return str(next(rows, ("",))[0])

    def note_deployment(self, deployment: str) -> None:
        """Note, durably, that the store is migrated into an archive of ``deployment``.

        Raises:
            OldStoreError: it cannot be written.
        """
        if self.is_empty:
            return
        with _errors():
            self._connection.execute("PRAGMA synchronous = FULL")
            self._connection.execute(
                "INSERT OR REPLACE INTO setting VALUES (?, ?)", (_DEPLOYMENT, deployment)
            )

    def counts(self) -> dict[Topic, int]:
        """Return the number of messages of each topic."""
        query = (
            "SELECT topic, sum(count) FROM"
            " (SELECT topic, sum(count) count FROM block GROUP BY topic"
            " UNION ALL SELECT topic, count(*) FROM open GROUP BY topic) GROUP BY topic"
        )
        counts: dict[Topic, int] = {}
        for number, count in self._rows(query, _NUMBERS):
            topic = self.topics.get(number)
            if topic is None:
                raise DamagedStore(f"{count} messages have the number {number}: no topic has it")
            counts[topic] = count
        return counts

    def sources(self, from_place: int) -> Iterator[Source]:
        """Iterate over the sources with messages at or after ``from_place``.

        The order is that of ``first_place``. SQLite sorts the index of blocks, without their data.
        """
        blocks = self._rows(
            "SELECT first_place, last_place, topic, id FROM block WHERE last_place >= ?"
            " ORDER BY first_place, id",
            _NUMBERS,
            from_place,
        )
        rows = self._rows(
            "SELECT min(place), max(place), topic, 0 FROM open GROUP BY topic"
            " HAVING max(place) >= ? ORDER BY min(place)",
            _NUMBERS,
            from_place,
        )
        return map(Source._make, heapq.merge(blocks, rows))

    def count_sources(self, from_place: int) -> int:
        """Return the number of ``sources``."""
        query = (
            "SELECT (SELECT count(*) FROM block WHERE last_place >= ?1)"
            " + (SELECT count(DISTINCT topic) FROM open WHERE place >= ?1)"
        )
        return int(next(self._rows(query, _NUMBERS, from_place), (0,))[0])

    def read(self, source: Source) -> list[Stored]:
        """Return the messages of ``source``, oldest first.

        Raises:
            BadBlock: its bytes are damaged.
        """
        topic = self.topic_of(source)
        if not source.block:
            query = "SELECT place, payload FROM open WHERE topic = ? ORDER BY place"
            rows = list(self._rows(query, _STORED, source.topic))
            if rows and not 0 <= rows[0][0] <= rows[-1][0] < NEVER_US:
                raise DamagedStore(f"a message of {topic} has a damaged place")
            return rows
        query = "SELECT count, data FROM block WHERE id = ?"
        for count, data in self._rows(query, None, source.block):
            messages = unpack(topic, data)
            if len(messages) != count:
                raise BadBlock(f"it has {len(messages)} messages instead of {count}")
            return messages
        raise BadBlock("it is absent")

    def sources_back(self, topic: int, to_place: int) -> Iterator[Source]:
        """Iterate over the sources of a topic with messages up to ``to_place``, newest first."""
        rows = (
            "SELECT min(place), max(place), topic, 0 FROM open WHERE topic = ? AND place <= ?"
            " GROUP BY topic"
        )
        blocks = (
            "SELECT first_place, last_place, topic, id FROM block"
            " WHERE topic = ? AND first_place <= ? ORDER BY last_place DESC"
        )
        for query in (rows, blocks):
            yield from map(Source._make, self._rows(query, _NUMBERS, topic, to_place))

    def gaps(self, from_place: int = 0, kind: str = "") -> Iterator[OldGap]:
        """Iterate over the gaps at or after ``from_place``, of one kind or of all, by place."""
        query = (
            "SELECT place, topic, kind, first, last FROM gap"
            " WHERE (?1 = 0 OR place >= ?1) AND (?2 = '' OR kind = ?2) ORDER BY place, topic"
        )
        return map(OldGap._make, self._rows(query, _GAPS, from_place, kind))

    def last_book_start(self, topic: int, to_place: int) -> int:
        """Return the place of the newest start of a book up to ``to_place``; 0 for none."""
        query = "SELECT max(place) FROM gap WHERE topic = ? AND place <= ? AND kind = ?"
        return next(self._rows(query, None, topic, to_place, BOOK_START), (0,))[0] or 0

    def trades(self) -> Iterator[OldTrade]:
        """Iterate over the backfilled trades, by topic and trade id."""
        query = "SELECT topic, trade_id, time_us FROM trade ORDER BY topic, trade_id"
        return map(OldTrade._make, self._rows(query, _TRADES))

    def payload_of(self, trade: OldTrade) -> bytes:
        """Return the JSON text of a backfilled trade."""
        query = "SELECT payload FROM trade WHERE topic = ? AND trade_id = ?"
        return bytes(next(self._rows(query, _PAYLOAD, trade.topic, trade.trade_id), (b"",))[0])

    def lost_messages(self, topic: int, last_place: int) -> int:
        """Return the number of messages of the blocks of a topic that end at ``last_place``."""
        query = "SELECT sum(count) FROM block WHERE topic = ? AND last_place = ?"
        return int(next(self._rows(query, None, topic, last_place), (0,))[0] or 0)

    def _rows(
        self, query: str, types: frozenset[tuple[type, ...]] | None, *values: object
    ) -> Iterator[Any]:
        """Iterate over the rows of a query; none if the store is empty.

        SQLite keeps values of any type in a column. ``types`` has the types that the values of a
        row can have; None if the caller accepts all.

        Raises:
            DamagedStore: the values of a row have other types.
            OldStoreError: the file cannot be read.
        """
        if self.is_empty:
            return
        with _errors():
            cursor = self._connection.execute(query, values)
        while True:
            with _errors():
                rows = cursor.fetchmany(_ROWS)
            if not rows:
                return
            for row in rows:
                if types is not None and tuple(map(type, row)) not in types:
                    raise DamagedStore(f"a row has damaged values: {row!r:.200}")
                yield row


def _take_lock(path: Path) -> int:
    """Lock out daemons that would write the store; return the descriptor.

    Raises:
        LockedStore: a daemon writes it.
        OldStoreError: the lock file cannot be opened.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _MODE)
    except OSError as error:
        raise OldStoreError(f"{path}: {error.strerror}") from None
    with suppress(PermissionError):  # the file of another user
        os.fchmod(descriptor, _MODE)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            raise LockedStore("a daemon writes the store: stop all instances first") from None
        raise OldStoreError(f"{path}: {error.strerror}") from None
    return descriptor
