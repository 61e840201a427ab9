"""Migrate an old store: write its records into an archive in the same directory, verify, rename.

Killed at any instant, a migration continues from the last durable record of the archive. The old
file is renamed only after the archive is complete and verified; it is never removed.

Not for the loop: it takes minutes to hours.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import NamedTuple, TypeGuard

from hedgehogd.domain.channel import Topic
from hedgehogd.domain.message import Message
from hedgehogd.domain.record import GapKind, GapRecord, Record, TradeRecord
from hedgehogd.log.archive import files
from hedgehogd.log.archive.check import Totals, check
from hedgehogd.log.archive.errors import ArchiveError
from hedgehogd.log.archive.markers import Marker
from hedgehogd.log.archive.reader import Reader
from hedgehogd.log.archive.writer import Sizes, Writer
from hedgehogd.log.collected_books import CHANNELS, Books
from hedgehogd.log.lease import new_deployment
from hedgehogd.log.migration.merge import BookStart, Merge, Progress, restore
from hedgehogd.log.migration.old_store import MISSING, DamagedStore, OldStore, OldStoreError

_US = 1_000_000
_PAGE_RECORDS = 1_000
_PARTS_AHEAD_MAX = 2  # parts that wait for the thread that writes: some 20 MB each


Show = Callable[[float, int], None]
"""Receives the part of the store that is read, 0 to 1, and the number of records written."""


class Result(NamedTuple):
    """A migration that is complete.

    Attributes:
        messages: messages of the archive; one with two topics counts twice.
        gaps: gaps of the archive.
        trades: its backfilled trades.
        kept: the old file, under its new name.
        damages: number of blocks of the old store that are unreadable: the archive has a gap for
            each.
    """

    messages: int
    gaps: int
    trades: int
    kept: Path
    damages: int


def migrate(directory: Path, show: Show, warn: Callable[[str], None]) -> Result:
    """Migrate the old store in ``directory``; return when the old file is renamed.

    Args:
        directory: it has the old store, and gets the archive.
        show: called after each part.
        warn: called with a text for the operator for each problem that is found.

    Raises:
        LockedStore: another process uses the old store.
        DamagedStore: the old store cannot be read any further, or the archive does not agree with
            it. The old file keeps its name.
        OldStoreError: there is no old store, or it cannot be used; or the directory has an archive
            of other records.
        ArchiveError: the archive cannot be written.
    """
    store = OldStore(directory)
    try:
        result = Result(0, 0, 0, store.path, 0)
        if not store.is_empty:
            deployment = _deployment(store, directory)
            _write(store, directory, deployment, show, warn)
            result = _verified(store, directory, deployment)
    except BaseException:
        store.close()
        raise
    return result._replace(kept=store.retire())


def _deployment(store: OldStore, directory: Path) -> str:
    """Return the deployment of the archive; a new one is noted in the store before it is used."""
    deployment = store.deployment
    if not deployment:
        others = [each.name for each in directory.iterdir() if files.read_name(each.name)]
        if others or (directory / files.CATALOGUE).exists():
            raise OldStoreError(f"{directory} has an archive with other records already")
        deployment = new_deployment()
        store.note_deployment(deployment)
    return deployment


class _Target:
    """The archive, and the books of the records in it. One thread uses it at a time."""

    def __init__(self, directory: Path, deployment: str, books: Books, begin_us: int) -> None:
        self.books = books
        self.records = 0
        self._clock_s = begin_us / _US
        # Segments are of an hour of the log, as those of a writer that was never interrupted.
        self.writer = Writer(
            directory,
            deployment,
            checkpoint=lambda: list(self.books.snapshots()),
            sizes=Sizes(tail_age_s=math.inf),
            clock=lambda: self._clock_s,
        )

    def write(self, part: list[Record | BookStart]) -> None:
        """Write one part, durably; records that the archive has are left out.

        Raises:
            ArchiveError: it cannot be written.
        """
        follow = self.books.follow
        records: list[Record] = []
        for record in part:
            if isinstance(record, Message):
                if record.topic.channel in CHANNELS:
                    follow(record.topic, record)
                    if record.also is not None:
                        follow(record.also, record)
            elif isinstance(record, BookStart):
                self.books.end(record.topic)
                continue
            records.append(record)
        self.records += len(records)
        if records:
            self._clock_s = max(self._clock_s, records[-1].received_us / _US)
        self.writer.append(records)
        self.writer.sync()
        while self.writer.work():
            pass


def _write(
    store: OldStore,
    directory: Path,
    deployment: str,
    show: Show,
    warn: Callable[[str], None],
) -> None:
    """Write all records that the archive does not have, and seal it."""
    progress = _progress(directory, deployment, warn)
    merge = Merge(store, progress)
    parts = merge.parts()
    first = next(parts, [])
    books = Books()
    restore(books, store, progress)
    target = _Target(directory, deployment, books, first[0].received_us if first else 0)
    try:
        warned = 0
        with ThreadPoolExecutor(1) as thread:
            waiting: deque[Future[None]] = deque()
            for part in chain([first], parts):
                waiting.append(thread.submit(target.write, part))
                if len(waiting) > _PARTS_AHEAD_MAX:
                    waiting.popleft().result()
                for text in merge.damages[warned:]:
                    warn(text)
                warned = len(merge.damages)
                show(merge.sources / max(1, merge.of_sources), target.records)
            for each in waiting:
                each.result()
        target.writer.seal()
    except BaseException:
        with suppress(ArchiveError):
            target.writer.close()
        raise
    target.writer.close()


def _progress(directory: Path, deployment: str, warn: Callable[[str], None]) -> Progress:
    """Return the records in the archive, after the repairs of a writer's start."""
    writer = Writer(directory, deployment)
    for problem in writer.problems:
        warn(problem)
    writer.close()
    if not writer.last_id:
        return Progress()
    reader = Reader(directory, deployment)
    try:
        place, twin, before_id = _last_place(reader)
        found = list(_markers(reader))
    finally:
        reader.close()
    gaps = {(g.topic, g.received_us): g.id for g in found if _is_missing(g)}
    trades = frozenset((t.topic, t.trade_id) for t in found if isinstance(t, TradeRecord))
    return Progress(place, twin, before_id, writer.last_id, gaps, trades)


def _last_place(reader: Reader) -> tuple[int, Topic | None, int]:
    """Return the last place, the twin, and the id before the first record (``Progress``)."""
    place, twin, before_id = 0, None, 0
    end_id, is_last = reader.last_id() + 1, False
    while not is_last:
        page = reader.read_back(end_id, None, _PAGE_RECORDS)
        for record in page.records:
            if isinstance(record, Message | GapRecord):
                if place and record.received_us != place:
                    return place, twin, before_id
                place, before_id = record.received_us, record.id - 1
                if twin is None and isinstance(record, Message):
                    twin = record.also
        end_id, is_last = page.end_id, page.is_last
    return place, twin, before_id


def _markers(reader: Reader) -> Iterator[Marker]:
    """Iterate over all records of the archive that are no messages."""
    for source in reader.view.sources_after(0):
        opened = reader.view.open(source)
        for block in opened.contents.blocks:
            if block.header.markers:
                yield from opened.file.markers(block)


def _is_missing(record: Marker) -> TypeGuard[GapRecord]:
    return isinstance(record, GapRecord) and record.kind is GapKind.MISSING


def _verified(store: OldStore, directory: Path, deployment: str) -> Result:
    """Verify every checksum of the archive, and its counts against those of the store.

    Raises:
        DamagedStore: they differ.
    """
    for finding in check(directory, Totals()):
        if finding.is_damage:
            raise DamagedStore(f"the new archive is damaged: {finding.text}")
    reader = Reader(directory, deployment)
    try:
        found = {topic: extent.messages for topic, extent in reader.extents().items()}
        markers = list(_markers(reader))
    finally:
        reader.close()
    expected = store.counts()
    numbers = {topic: number for number, topic in store.topics.items()}
    unreadable = [
        each for each in markers if isinstance(each, GapRecord) and each.kind is GapKind.UNREADABLE
    ]
    for gap in unreadable:
        expected[gap.topic] -= store.lost_messages(numbers[gap.topic], gap.received_us)
    expected = {topic: count for topic, count in expected.items() if count}
    for topic in sorted(expected.keys() | found.keys()):
        if found.get(topic, 0) != expected.get(topic, 0):
            raise DamagedStore(
                f"the new archive has {found.get(topic, 0)} messages of {topic}, "
                f"the store has {expected.get(topic, 0)}"
            )
    gaps = sum(map(_is_missing, markers))
    trades = sum(isinstance(each, TradeRecord) for each in markers)
    if (gaps, trades) != (in_store := (_count(store.gaps(kind=MISSING)), _count(store.trades()))):
        raise DamagedStore(
            f"the new archive has {gaps} gaps and {trades} backfilled trades, "
            f"the store has {in_store[0]} and {in_store[1]}"
        )
    return Result(sum(found.values()), gaps + len(unreadable), trades, store.path, len(unreadable))


def _count(rows: Iterable[object]) -> int:
    return sum(1 for _ in rows)
