"""The catalogue: the files of an archive, and their contents.

A SQLite database that is written whole to a new file, which replaces the old one: a reader never
waits for the writer nor the writer for a reader, there is no log beside it, and a process that is
killed leaves the old catalogue or the new one. It holds a row for each segment, a few hundred, and
is written about once a minute. Everything in it is in the segments, too: a damaged catalogue is
made again from them (``inventory``), and its owner reports that.
"""

import os
import sqlite3
import zlib
from collections.abc import Iterable
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple

from hedgehogd.domain.channel import Topic
from hedgehogd.domain.message import intern_topic
from hedgehogd.log.archive import files
from hedgehogd.log.archive.errors import DamagedArchive, ForeignArchive, NewerFormat
from hedgehogd.log.archive.index import Index

APPLICATION_ID = 0x48454441  # "HEDA"
# The header of a SQLite database: its first bytes, the place of the application id, its size.
# Source: "Database File Format", section 1.3.
_SQLITE, _APPLICATION_AT, _HEAD_BYTES = b"SQLite format 3\0", 68, 100
ANY = Topic("", "")
"""The place, in a row, of the topics of a block that is damaged: it may have any."""
_TABLES = """
CREATE TABLE setting (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE topic (
    number INTEGER PRIMARY KEY, channel TEXT NOT NULL, product_id TEXT NOT NULL,
    messages INTEGER NOT NULL
);
CREATE TABLE segment (
    after_id INTEGER PRIMARY KEY, first_id INTEGER NOT NULL, last_id INTEGER NOT NULL,
    min_us INTEGER NOT NULL, max_us INTEGER NOT NULL, messages INTEGER NOT NULL,
    markers INTEGER NOT NULL, bytes INTEGER NOT NULL, topics BLOB NOT NULL
);
CREATE TABLE backfill (gap_id INTEGER NOT NULL, segment INTEGER NOT NULL);
CREATE TABLE growing (name TEXT PRIMARY KEY, contents BLOB NOT NULL);
"""
_QUERIES = (
    "SELECT name, value FROM setting WHERE name != 'crc' ORDER BY name",
    "SELECT number, channel, product_id, messages FROM topic ORDER BY number",
    "SELECT * FROM segment ORDER BY after_id",
    "SELECT gap_id, segment FROM backfill ORDER BY gap_id, segment",
    "SELECT name, contents FROM growing ORDER BY name",
)


class Identity(NamedTuple):
    """Numbers that differ between two catalogues at the same path.

    Attributes:
        device: the device.
        inode: the inode.
        mtime_ns: when it was written, ns since the epoch.
        bytes: its size.
    """

    device: int
    inode: int
    mtime_ns: int
    bytes: int


class SegmentRow(NamedTuple):
    """One sealed segment.

    Attributes:
        after_id: its name: its records have larger ids.
        first_id: the smallest id.
        last_id: the largest id.
        min_us: the earliest receive time, µs since the epoch.
        max_us: the latest one.
        messages: number of messages.
        markers: number of markers.
        bytes: size of its file.
        mask: its topics, as bits by their numbers in the catalogue.
    """

    after_id: int
    first_id: int
    last_id: int
    min_us: int
    max_us: int
    messages: int
    markers: int
    bytes: int
    mask: int

    @property
    def name(self) -> str:
        """The name of its file."""
        return str(files.FileName(self.after_id, files.SEGMENT))


class Catalogue:
    """The files of one archive.

    Attributes:
        deployment: the deployment whose log it is.
        dropped_id: retention has removed the records up to this id; 0 for none.
        segments: the sealed segments, in the order of their ids.
        messages: number of messages of each topic in the sealed segments.
        backfills: by gap, the ``after_id`` of the segments with backfilled trades.
        growing: names of the open segment and of the tails; the index of the open segment, packed.
    """

    def __init__(self, deployment: str) -> None:
        self.deployment = deployment
        self.dropped_id = 0
        self.segments: list[SegmentRow] = []
        self.messages: dict[Topic, int] = {}
        self.backfills: dict[int, list[int]] = {}
        self.growing: dict[str, bytes] = {}
        self._numbers: dict[Topic, int] = {}

    def mask(self, topics: Iterable[Topic]) -> int:
        """Return those of ``topics`` that a segment may have, as bits by their numbers."""
        return self._bits({*topics, ANY} & self._numbers.keys())

    def topics(self, mask: int) -> list[Topic]:
        """Return the topics of ``mask``, as it is in a row: all if it may have any."""
        has_any = bool(mask & self._bits({ANY} & self._numbers.keys()))
        known = ((topic, number) for topic, number in self._numbers.items() if topic != ANY)
        return [topic for topic, number in known if has_any or mask >> number & 1]

    def _bits(self, topics: Iterable[Topic]) -> int:
        return sum(1 << self._numbers[topic] for topic in topics)

    def add(self, after_id: int, index: Index, size: int) -> None:
        """Add a sealed segment with larger ids; one without records is left out."""
        if not index.blocks:
            return
        headers = [block.header for block in index.blocks]
        topics = {*index.known_topics, *([ANY] if index.has_unknown else [])}
        for topic in sorted(topics):
            self._numbers.setdefault(topic, len(self._numbers))
        for topic, each in index.summaries.items():
            self.messages[topic] = self.messages.get(topic, 0) + each.messages
        for gap_id in index.backfills:
            self.backfills.setdefault(gap_id, []).append(after_id)
        self.segments.append(
            SegmentRow(
                after_id,
                headers[0].first_id,
                headers[-1].last_id,
                min(header.min_us for header in headers),
                max(header.max_us for header in headers),
                sum(header.messages for header in headers),
                sum(header.markers for header in headers),
                size,
                self._bits(topics),
            )
        )

    def drop(self, index: Index | None) -> SegmentRow:
        """Remove the oldest segment, whose index is ``index``; return its row.

        Without an index, because it is unreadable, the counts of messages become estimates.
        """
        row = self.segments.pop(0)
        self.dropped_id = row.last_id
        for topic, each in index.summaries.items() if index else ():
            self.messages[topic] = max(0, self.messages.get(topic, 0) - each.messages)
        kept = {
            gap_id: [each for each in segments if each != row.after_id]
            for gap_id, segments in self.backfills.items()
        }
        # Also of gaps that were dropped: a stream may have begun before them.
        self.backfills = {gap_id: segments for gap_id, segments in kept.items() if segments}
        return row

    def write(self, directory: Path) -> Identity:
        """Write it to a new file, which replaces the old one; return the identity of that file.

        Its name is durable after ``files.sync_directory``. After an error the old file is as it
        was.

        Raises:
            ArchiveError: it cannot be written.
        """
        path = directory / files.CATALOGUE
        part = files.part_of(path)
        data = self._serialized()
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
            descriptor = os.open(part, flags, files.FILE_MODE)
            try:
                os.fchmod(descriptor, files.FILE_MODE)
                files.write_all(descriptor, data)
                os.fsync(descriptor)
                written = _identity(os.fstat(descriptor))
                part.replace(path)
            except OSError:
                with suppress(OSError):  # else the next start removes it
                    part.unlink()
                raise
            finally:
                os.close(descriptor)
        except OSError as error:
            raise files.failed(path, error) from None
        return written

    def _serialized(self) -> bytes:
        rows = self._rows()
        with closing(sqlite3.connect(":memory:", isolation_level=None)) as database:
            database.executescript(
                f"BEGIN;{_TABLES}PRAGMA application_id = {APPLICATION_ID};"
                f"PRAGMA user_version = {files.VERSION};"
            )
            for table, of_table in zip(
                ("setting", "topic", "segment", "backfill", "growing"), rows, strict=True
            ):
                if of_table:
                    marks = ", ".join("?" * len(of_table[0]))
                    query = f"INSERT INTO {table} VALUES ({marks})"  # noqa: S608  # our own names
                    database.executemany(query, of_table)
            database.execute("INSERT INTO setting VALUES ('crc', ?)", (_crc(rows),))
            database.execute("COMMIT")
            return database.serialize()

    def _rows(self) -> list[list[tuple[object, ...]]]:
        """Return the rows of the tables, in the order of ``_QUERIES``."""
        size = len(self._numbers) // 8 + 1
        return [
            [("deployment", self.deployment), ("dropped_id", str(self.dropped_id))],
            [
                (number, topic.channel, topic.product_id, self.messages.get(topic, 0))
                for topic, number in self._numbers.items()
            ],
            [(*row[:-1], row.mask.to_bytes(size, "little")) for row in self.segments],
            sorted((gap_id, each) for gap_id, found in self.backfills.items() for each in found),
            sorted(self.growing.items()),
        ]


def _crc(rows: list[list[tuple[object, ...]]]) -> str:
    return f"{zlib.crc32(repr(rows).encode()):08x}"


def load(directory: Path, deployment: str | None = None) -> Catalogue:
    """Read the catalogue.

    Raises:
        FileNotFoundError: there is none.
        DamagedArchive: it is damaged.
        NewerFormat: it is of a newer version.
        ForeignArchive: it is of another deployment, or another program's file.
        ArchiveError: it cannot be read.
    """
    path = directory / files.CATALOGUE
    try:
        with path.open("rb") as file:
            data = file.read(_HEAD_BYTES)
            if not _is_ours(data):
                raise ForeignArchive(
                    f"{path} is a file of another program, or its first {_HEAD_BYTES} bytes are "
                    "damaged. It is not overwritten: move it away, and the next start makes the "
                    "catalogue again from the segments"
                )
            data += file.read()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise files.failed(path, error) from None
    try:
        return _read(data, deployment)
    except (sqlite3.Error, ValueError, TypeError, KeyError, OverflowError) as error:
        raise DamagedArchive(f"{path}: {error}") from None


def _is_ours(head: bytes) -> bool:
    """Say whether a file that begins with ``head`` is a catalogue, perhaps a damaged one.

    It is one if it has the application id, or if it ends within its header or has zeros in place
    of it, as after a loss of power: no database of another program can be read then either.
    """
    if head[_APPLICATION_AT : _APPLICATION_AT + 4] == APPLICATION_ID.to_bytes(4, "big"):
        return True
    is_torn = len(head) < _HEAD_BYTES and head.startswith(_SQLITE[: len(head)])
    return is_torn or not any(head)


def _read(data: bytes, deployment: str | None) -> Catalogue:
    if not data:
        raise DamagedArchive(f"{files.CATALOGUE} is empty")  # SQLite would report no memory
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as database:
        database.deserialize(data)
        version = database.execute("PRAGMA user_version").fetchone()[0]
        if version > files.VERSION:
            raise NewerFormat(
                f"{files.CATALOGUE} has version {version}, "
                f"this hedgehogd reads up to {files.VERSION}"
            )
        crc = database.execute("SELECT value FROM setting WHERE name = 'crc'").fetchone()
        rows = [database.execute(query).fetchall() for query in _QUERIES]
    if crc != (_crc(rows),):
        raise DamagedArchive(f"the checksum of {files.CATALOGUE} is wrong")
    settings, topics, segments, backfills, growing = rows
    found = dict(settings)
    catalogue = Catalogue(found["deployment"])
    if deployment not in {None, catalogue.deployment}:
        raise ForeignArchive(
            f"the archive is of deployment {catalogue.deployment}, this one is {deployment}"
        )
    catalogue.dropped_id = int(found["dropped_id"])
    for number, channel, product_id, messages in topics:
        topic = intern_topic(channel, product_id)
        catalogue._numbers[topic] = number  # noqa: SLF001  # the same module
        if topic != ANY:
            catalogue.messages[topic] = messages
    for row in segments:
        mask = int.from_bytes(row[-1], "little")
        catalogue.segments.append(SegmentRow._make([*row[:-1], mask]))
    for gap_id, segment in backfills:
        catalogue.backfills.setdefault(gap_id, []).append(segment)
    catalogue.growing = dict(growing)
    return catalogue


def identity(directory: Path) -> Identity | None:
    """Return the identity of the catalogue in ``directory``; None without one."""
    try:
        return _identity((directory / files.CATALOGUE).stat())
    except OSError:
        return None


def _identity(found: os.stat_result) -> Identity:
    return Identity(found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size)
