"""Backfilled trades of one page at the place of their gap, also if the gap cannot be read.

A stream omits a moved trade where it was appended (``backfill.Placement``), so each one must be
delivered before: at its gap record, or, if that is unreadable or was dropped, with the gap record
or the step of the position that covers its id.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from hedgehogd.domain.channel import Topic
from hedgehogd.domain.record import GapKind, GapRecord, Record, TradeRecord
from hedgehogd.log.archive.backfill import Placement, fill
from hedgehogd.log.archive.errors import DamagedArchive
from hedgehogd.log.archive.merge import Merged, Topics
from hedgehogd.log.archive.view import Opened, View


def trades_of(view: View, gap_id: int, to_id: int) -> list[TradeRecord]:
    """Return the backfilled trades of the gap with ``gap_id``, oldest first.

    Args:
        view: the files.
        gap_id: the id of the gap.
        to_id: the largest id of the trades.

    Raises:
        ArchiveError: the archive cannot be read.
    """
    segments = set(view.catalogue.backfills.get(gap_id, ()))
    found: list[TradeRecord] = []
    for source in view.sources:
        if source.row is not None and source.row.after_id not in segments:
            continue
        try:
            opened = view.open(source)
        except (FileNotFoundError, DamagedArchive):
            continue  # the read that reaches it reports it
        for number in opened.contents.backfills.get(gap_id, ()):
            try:
                markers = opened.file.markers(opened.contents.blocks[number])
            except DamagedArchive:
                continue
            found += [
                each
                for each in markers
                if isinstance(each, TradeRecord) and each.gap_id == gap_id and each.id <= to_id
            ]
    return found


class Place(NamedTuple):
    """The place of a moved trade: that of its gap, or of the record that is there instead.

    Attributes:
        id: the id of that record, or the position that the page reaches there.
        received_us: its receive time, µs since the epoch; 0 if no record is there.
    """

    id: int
    received_us: int


class Placing:
    """The backfilled trades of one page.

    Args:
        view: the files.
        topics: the topics of the page; None for all.
        placement: which trades are moved; None for none.

    Attributes:
        places: the place of each moved trade, by the id of the trade.
    """

    def __init__(self, view: View, topics: Topics, placement: Placement | None) -> None:
        self._view = view
        self._topics = topics
        self._placement = placement
        self.places: dict[int, Place] = {}

    def placed(
        self, opened: Opened, number: int, merged: Merged, stretch: range, room: int
    ) -> tuple[list[Record], int]:
        """Return records of a block with the trades that belong there, and how many it visited.

        Args:
            opened: the file.
            number: the number of the block.
            merged: its records of the topics.
            stretch: the records, in the order in which they are returned.
            room: the number of records, trades included, after which no further one is visited,
                unless it has the same id as the one before.

        Raises:
            ArchiveError: the archive cannot be read.
        """
        is_back = stretch.step < 0
        records = merged.records(min(stretch), max(stretch) + 1) if stretch else []
        if is_back:
            records.reverse()
        placement = self._placement
        if placement is None or not merged.has_markers:
            return records, len(records)
        placed: list[Record] = []
        for index, record in enumerate(records):
            if len(placed) >= room and record.id != records[index - 1].id:
                return placed, index
            there = self._at(record, placement, opened, number, merged)
            placed += reversed(there) if is_back else there
        return placed, len(records)

    def _at(
        self, record: Record, placement: Placement, opened: Opened, number: int, merged: Merged
    ) -> Sequence[Record]:
        """Return the records delivered at the place of ``record``, in the order of the log."""
        if isinstance(record, TradeRecord):
            return () if placement.moves(record) else (record,)
        if not isinstance(record, GapRecord) or record.id <= placement.after_id:
            return (record,)
        place = Place(record.id, record.received_us)
        if record.kind is GapKind.UNREADABLE:
            ids = merged.unreadable_before(record, _position_before(opened, number)), record.id
            topics = frozenset({record.topic})
            return [record, *self._without_record(ids, place, topics, (opened, number))]
        trades = trades_of(self._view, record.id, placement.to_id)
        trades = [each for each in trades if each.topic == record.topic]
        self._note(trades, place)
        return fill(record, trades)

    def missing(self, after_id: int, to_id: int, place: Place) -> list[TradeRecord]:
        """Return the moved trades of gaps with ids that the page passes without their records.

        Args:
            after_id: the position before these ids.
            to_id: the last of these ids.
            place: the place of these trades.

        Raises:
            ArchiveError: the archive cannot be read.
        """
        return self._without_record((after_id, to_id), place, self._topics, None)

    def _without_record(
        self,
        ids: tuple[int, int],
        place: Place,
        topics: Topics,
        block: tuple[Opened, int] | None,
    ) -> list[TradeRecord]:
        placement = self._placement
        if placement is None:
            return []
        after_id, to_id = ids
        gap_ids = self._view.backfilled(max(after_id, placement.after_id), to_id)
        if not gap_ids:
            return []
        readable = _gaps(*block) if block else set()
        found: list[TradeRecord] = []
        for gap_id in gap_ids:
            by_number = {
                (each.topic, each.trade_id): each
                for each in trades_of(self._view, gap_id, placement.to_id)
                if (topics is None or each.topic in topics)
                and (each.gap_id, each.topic) not in readable
            }
            found += by_number.values()
        found.sort(key=_number_of)
        self._note(found, place)
        return found

    def _note(self, trades: Iterable[TradeRecord], place: Place) -> None:
        self.places.update((each.id, place) for each in trades)


def _position_before(opened: Opened, number: int) -> int:
    """Return the last id before a block: also ids between it and the block may be unreadable."""
    if number == 0:
        return opened.key[0]
    return opened.contents.blocks[number - 1].header.last_id


def _number_of(trade: TradeRecord) -> tuple[Topic, int, int]:
    return trade.topic, trade.trade_id, trade.gap_id


def _gaps(opened: Opened, number: int) -> set[tuple[int, Topic]]:
    """Return id and topic of the gap records of a block that can be read and take trades."""
    try:
        markers = opened.file.markers(opened.contents.blocks[number])
    except DamagedArchive:
        return set()
    return {
        (each.id, each.topic)
        for each in markers
        if isinstance(each, GapRecord) and each.kind is not GapKind.UNREADABLE
    }
