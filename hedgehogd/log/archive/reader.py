"""Reading the archive: pages of records in the order of their ids, forwards and backwards.

A reader works in any process, beside the writer and without its help. The cost of a
page depends on its records, not on its place. Damaged bytes become gap records; a fault of the
whole archive is an ``ArchiveError``.

Not for the loop: every method may wait for the disk. One call at a time.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from hedgehogd.domain import limits
from hedgehogd.domain.channel import Topic
from hedgehogd.domain.message import Message
from hedgehogd.domain.record import GapKind, GapRecord, Record, TradeRecord
from hedgehogd.log.archive.backfill import Placement, fill
from hedgehogd.log.archive.catalogue import SegmentRow
from hedgehogd.log.archive.errors import ArchiveError, DamagedArchive
from hedgehogd.log.archive.merge import Blocks, Topics
from hedgehogd.log.archive.placing import Place, Placing, trades_of
from hedgehogd.log.archive.view import Opened, Source, View

_WITH_PAYLOAD = (Message, TradeRecord)  # a tuple: isinstance needs three times as long for a union


class Page(NamedTuple):
    """Some of the records, in the order of their delivery.

    Attributes:
        records: the records. A backfilled trade at the place of its gap has a larger id than the
            records around it.
        end_id: the position after the page: the next page begins after it, or before it when
            reading backwards.
        is_last: nothing follows at this moment.
        dropped_id: retention has removed the records up to this id; 0 for none.
        places: the place of each backfilled trade that is moved, by the id of the trade; the places
            of the records rise with them.
    """

    records: list[Record]
    end_id: int
    is_last: bool
    dropped_id: int
    places: Mapping[int, Place]


class Extent(NamedTuple):
    """The messages of one topic that are kept.

    Attributes:
        first_id: the id of its oldest message.
        last_id: the id of its newest message.
        first_us: the receive time of the oldest one, µs since the epoch.
        last_us: the receive time of the newest one.
        messages: how many there are.
    """

    first_id: int
    last_id: int
    first_us: int
    last_us: int
    messages: int


class _Changed(Exception):
    """The files are not those that the view has; the read begins again."""


class Reader:
    """The archive in one directory, open for reading.

    Args:
        directory: where it is.
        deployment: the deployment that it must be of; None for any.

    Raises:
        NewerFormat: a newer version wrote it.
        ForeignArchive: it is of another deployment.
        ArchiveError: there is none, or it cannot be read.
    """

    def __init__(self, directory: Path, deployment: str | None = None) -> None:
        self.view = View(directory, deployment)
        self.blocks = Blocks(self.view.topics)
        self._missing: set[int] = set()
        try:
            self.view.refresh()
        except BaseException:
            self.view.close()
            raise

    def close(self) -> None:
        """Close all files."""
        self.view.close()

    def last_id(self) -> int:
        """Return the largest id that is in the archive now; 0 for none.

        Raises:
            ArchiveError: the archive cannot be read.
        """
        self.view.refresh()
        return self.view.last_id

    def placement(self, after_id: int = 0) -> Placement:
        """Return the placement of backfilled trades for a stream that begins after ``after_id``.

        Raises:
            ArchiveError: the archive cannot be read.
        """
        self.view.refresh()
        return Placement(max(after_id, self.view.catalogue.dropped_id), self.view.last_id)

    def read(
        self,
        after_id: int,
        topics: Topics = None,
        limit: int = limits.ARCHIVE_PAGE_RECORDS_MAX,
        placement: Placement | None = None,
    ) -> Page:
        """Return the records that follow ``after_id``.

        Args:
            after_id: the position.
            topics: the topics of the records; None for all records.
            limit: most records; a gap with its backfilled trades is not divided, so the page
                may have those of one gap beyond it. A page with
                ``ARCHIVE_PAGE_BYTES_MAX`` ends with its block, too.
            placement: delivers backfilled trades at the place of their gap, as it says; None
                delivers them where they were appended.

        Raises:
            ArchiveError: the archive cannot be read.
        """
        return self._retried(lambda: self._read(after_id, topics, limit, placement))

    def _read(self, after_id: int, topics: Topics, limit: int, placement: Placement | None) -> Page:
        placing = Placing(self.view, topics, placement)
        end_id, visited, size = max(after_id, self.view.catalogue.dropped_id), 0, 0
        records: list[Record] = [*placing.missing(after_id, end_id, Place(end_id, 0))]
        if len(records) >= limit:
            return self._page(placing, records, end_id)
        for source in self.view.sources_after(end_id):
            opened, numbers = self._visit(source, topics, records)
            if opened is None:
                records += placing.missing(end_id, source.last_id, self._place_of(source))
                end_id = source.last_id
                if len(records) >= limit:
                    return self._page(placing, records, end_id)
                continue
            blocks = opened.contents.blocks
            begin = bisect_right(blocks, end_id, key=lambda block: block.header.last_id)
            for number in numbers:
                if number < begin:
                    continue
                if visited >= limits.ARCHIVE_PAGE_BLOCKS_MAX:
                    end_id = max(end_id, blocks[number].header.first_id - 1)
                    return self._page(placing, records, end_id)
                visited += 1
                merged = self.blocks.merged(opened, number, topics)
                start = merged.after(end_id)
                stop = min(start + limit - len(records), len(merged.ids))
                while start < stop < len(merged.ids) and merged.ids[stop] == merged.ids[stop - 1]:
                    stop += 1
                room = limit - len(records)
                placed, count = placing.placed(opened, number, merged, range(start, stop), room)
                stop = start + count
                records += placed
                size += _bytes_of(placed)
                is_full = len(records) >= limit or size >= limits.ARCHIVE_PAGE_BYTES_MAX
                if stop < len(merged.ids) or is_full:
                    last = stop == len(merged.ids)
                    end_id = blocks[number].header.last_id if last else merged.ids[stop - 1]
                    return self._page(placing, records, end_id)
            end_id = max(end_id, source.last_id)
        return self._page(placing, records, max(end_id, self.view.last_id))

    def read_back(
        self,
        before_id: int,
        topics: Topics = None,
        limit: int = limits.ARCHIVE_PAGE_RECORDS_MAX,
        placement: Placement | None = None,
    ) -> Page:
        """Return the records that precede ``before_id``, newest first; otherwise as ``read``.

        Raises:
            ArchiveError: the archive cannot be read.
        """
        return self._retried(lambda: self._read_back(before_id, topics, limit, placement))

    def _read_back(
        self, before_id: int, topics: Topics, limit: int, placement: Placement | None
    ) -> Page:
        placing = Placing(self.view, topics, placement)
        records: list[Record] = []
        end_id, visited, size = before_id, 0, 0

        def page(end_id: int) -> Page:
            found = self._back(placing, records, end_id)
            if found.is_last:
                last_id = min(found.dropped_id, before_id - 1)
                dropped = placing.missing(0, last_id, Place(last_id, 0))
                found.records.extend(reversed(dropped))
            return found

        for source in self.view.sources_before(before_id):
            missing: list[Record] = []
            opened, numbers = self._visit(source, topics, missing)
            if opened is None:
                last_id = min(source.last_id, end_id - 1)
                missing += placing.missing(source.after_id, last_id, self._place_of(source))
                records += reversed(missing)
                end_id = source.first_id
                if len(records) >= limit:
                    return page(end_id)
                continue
            blocks = opened.contents.blocks
            end = bisect_left(blocks, end_id, key=lambda block: block.header.first_id)
            for number in reversed(numbers):
                if number >= end:
                    continue
                if visited >= limits.ARCHIVE_PAGE_BLOCKS_MAX:
                    return page(blocks[number].header.last_id + 1)
                visited += 1
                merged = self.blocks.merged(opened, number, topics)
                stop = merged.before(end_id)
                start = max(0, stop - (limit - len(records)))
                while 0 < start < stop and merged.ids[start] == merged.ids[start - 1]:
                    start -= 1
                room, stretch = limit - len(records), range(stop - 1, start - 1, -1)
                placed, count = placing.placed(opened, number, merged, stretch, room)
                start = stop - count
                records += placed
                size += _bytes_of(placed)
                if start or len(records) >= limit or size >= limits.ARCHIVE_PAGE_BYTES_MAX:
                    end_id = merged.ids[start] if start else blocks[number].header.first_id
                    return page(end_id)
            end_id = min(end_id, source.first_id)
        return page(min(end_id, self.view.catalogue.dropped_id + 1))

    def _page(self, placing: Placing, records: list[Record], end_id: int) -> Page:
        is_last = end_id >= self.view.last_id
        return Page(records, end_id, is_last, self.view.catalogue.dropped_id, placing.places)

    def _back(self, placing: Placing, records: list[Record], end_id: int) -> Page:
        sources = self.view.sources
        is_last = not sources or end_id <= sources[0].first_id
        return Page(records, end_id, is_last, self.view.catalogue.dropped_id, placing.places)

    def _retried(self, read: Callable[[], Page]) -> Page:
        """Return the page of ``read``, of one state of the archive."""
        for _ in range(limits.ARCHIVE_VIEW_TRIES_MAX):
            self.view.refresh()
            try:
                return read()
            except _Changed:
                continue
        raise ArchiveError("the archive changes faster than it can be read")

    def _visit(
        self, source: Source, topics: Topics, records: list[Record]
    ) -> tuple[Opened | None, list[int]]:
        """Open ``source``; return it and the numbers of the blocks that concern ``topics``.

        None if no record of it does, or if its file is missing: then ``records`` gets a gap record
        of each topic that it had.
        """
        row = source.row
        mask = -1 if topics is None else self.view.catalogue.mask(topics)
        if row is not None and not row.mask & mask and not row.markers:
            return None, []
        if source.is_gap or (row is not None and row.after_id in self._missing):
            records += self._gaps_of(source, topics)
            return None, []
        try:
            opened = self.view.open(source)
        except (FileNotFoundError, DamagedArchive) as error:
            if row is not None:
                self._note_missing(row)
            raise _Changed from error
        index = opened.contents
        every = range(len(index.blocks))
        if topics is None:
            return opened, list(every)
        mask = index.mask(topics)
        return opened, [n for n in every if index.has(n, mask) or index.blocks[n].header.markers]

    @staticmethod
    def _place_of(source: Source) -> Place:
        """Return the place of the gaps that a missing file leaves."""
        us = source.max_us if source.row is None else source.row.max_us
        return Place(source.last_id, us)

    def _note_missing(self, row: SegmentRow) -> None:
        """Remember that a segment is not readable, unless retention has just removed it."""
        self.view.refresh()
        if row in self.view.catalogue.segments:
            self._missing.add(row.after_id)

    def _gaps_of(self, source: Source, topics: Topics) -> list[GapRecord]:
        """Return the gaps that a missing file leaves."""
        row, place = source.row, self._place_of(source)
        found = self.view.topics() if row is None else set(self.view.catalogue.topics(row.mask))
        return [
            GapRecord(topic, GapKind.UNREADABLE, id=place.id, received_us=place.received_us)
            for topic in sorted(found if topics is None else topics.intersection(found))
        ]

    def backfilled(self, gap: GapRecord, to_id: int) -> list[TradeRecord]:
        """Return the backfilled trades of ``gap`` with ids up to ``to_id``, oldest first.

        Raises:
            ArchiveError: the archive cannot be read.
        """
        return [each for each in trades_of(self.view, gap.id, to_id) if each.topic == gap.topic]

    def extents(self) -> dict[Topic, Extent]:
        """Return the extent of each topic.

        Raises:
            ArchiveError: the archive cannot be read.
        """
        self.view.refresh()
        messages = dict(self.view.catalogue.messages)
        oldest: dict[Topic, tuple[int, int]] = {}
        newest: dict[Topic, tuple[int, int]] = {}
        for source in self.view.sources:
            if source.opened is not None:
                for topic, each in source.opened.contents.summaries.items():
                    messages[topic] = messages.get(topic, 0) + each.messages
        self._ends(self.view.sources, lambda s: (s.first_id, s.first_us), oldest)
        self._ends(reversed(self.view.sources), lambda s: (s.last_id, s.last_us), newest)
        return {
            topic: Extent(
                oldest[topic][0], newest[topic][0], oldest[topic][1], newest[topic][1],
                messages.get(topic, 0),
            )
            for topic in oldest.keys() & newest.keys()
        }  # fmt: skip

    def _ends(
        self,
        sources: Iterable[Source],
        end: Callable[..., tuple[int, int]],
        found: dict[Topic, tuple[int, int]],
    ) -> None:
        """Add to ``found`` the ``end`` of each topic in the first of ``sources`` that has it."""
        seen = 0
        for source in sources:
            if source.row is not None and not source.row.mask & ~seen:
                continue
            try:
                opened = self.view.open(source)
            except (FileNotFoundError, DamagedArchive):
                continue
            for topic, each in opened.contents.summaries.items():
                found.setdefault(topic, end(each))
            seen = self.view.catalogue.mask(found)

    def gaps(
        self, topics: Topics = None, after_id: int = 0, to_id: int | None = None
    ) -> Iterator[GapRecord]:
        """Iterate over the gaps that are recorded and remain, without their backfilled trades.

        Args:
            topics: the topics; None for all.
            after_id: the position from which on.
            to_id: the last id; None for the end of the log.

        Raises:
            ArchiveError: the archive cannot be read.
        """
        placement = self.placement()
        end = placement.to_id if to_id is None else to_id
        for source in self.view.sources_after(after_id):
            if source.row is not None and not source.row.markers:
                continue
            try:
                opened = self.view.open(source)
            except (FileNotFoundError, DamagedArchive):
                continue
            for block in opened.contents.blocks:
                if not block.header.markers:
                    continue
                try:
                    markers = opened.file.markers(block)
                except DamagedArchive:
                    continue
                for marker in markers:
                    if (
                        isinstance(marker, GapRecord)
                        and after_id < marker.id <= end
                        and (topics is None or marker.topic in topics)
                    ):
                        if marker.kind is GapKind.UNREADABLE:
                            yield marker
                            continue
                        filled = fill(marker, self.backfilled(marker, placement.to_id))
                        yield from (part for part in filled if isinstance(part, GapRecord))


def _bytes_of(records: list[Record]) -> int:
    return sum([len(each.payload) for each in records if isinstance(each, _WITH_PAYLOAD)])
