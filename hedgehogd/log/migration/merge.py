"""The records of an old store in the order of their places, with the ids of the log.

The id of a message or a gap is its place, or the last id + 1 if that is larger. A backfilled trade
gets the first unused id after its gap: where no id is unused before the next record, it waits. So
the ids of messages do not depend on trades.

The old store has a message of two topics, a trade of ``full`` and ``matches`` or a snapshot of
``level2`` and ``level2_batch``, twice, at two places in succession; it becomes one record.

All of this depends on the store alone. A migration that was interrupted therefore continues with
the same records as one that was not: ``Progress`` lists the records in the archive.
"""

import heapq
from bisect import bisect_left
from collections.abc import Iterator
from itertools import groupby, islice
from operator import attrgetter, eq
from typing import NamedTuple

from hedgehogd.domain.channel import FULL, LEVEL2, LEVEL2_BATCH, MATCHES, Topic
from hedgehogd.domain.instant import NEVER_US
from hedgehogd.domain.message import BadMessage, Message, read_head
from hedgehogd.domain.record import GapKind, GapRecord, Record, TradeRecord
from hedgehogd.domain.rows import UNREADABLE, decode_exactly
from hedgehogd.log.collected_books import CHANNELS, Books
from hedgehogd.log.migration.old_block import BadBlock
from hedgehogd.log.migration.old_store import (
    BOOK_START,
    MISSING,
    DamagedStore,
    OldGap,
    OldStore,
    OldTrade,
    Source,
)
from hedgehogd.protocol.backfilled import encode_trade

_MESSAGE_BYTES = 20  # counted for a message beside its payload
_CHUNK_BYTES = 8 * 1024 * 1024  # as a block of the archive
_TWINS = {
    FULL.topic_channel: MATCHES.topic_channel,
    LEVEL2.topic_channel: LEVEL2_BATCH.topic_channel,
}
_SECOND = frozenset(_TWINS.values())
_END = 2**62  # after any place
_received_us = attrgetter("received_us")


class BookStart(NamedTuple):
    """The new start of a book; it is no record.

    Attributes:
        topic: the topic.
        received_us: its place.
    """

    topic: Topic
    received_us: int


Item = Message | GapRecord | BookStart


class Progress(NamedTuple):
    """The records in the archive of an interrupted migration.

    Attributes:
        place: the place of its last message or gap; 0 for none.
        twin: the second topic of its last message: the store has that copy at the next place.
        before_id: the id before the first of its records at that place.
        last_id: its last id.
        gaps: the ids of its gaps, by topic and place.
        trades: topic and trade id of each of its backfilled trades.
    """

    place: int = 0
    twin: Topic | None = None
    before_id: int = 0
    last_id: int = 0
    gaps: dict[tuple[Topic, int], int] = {}  # noqa: RUF012  # it is never changed
    trades: frozenset[tuple[Topic, int]] = frozenset()


class Merge:
    """The records of ``store``, after those of ``progress``.

    Args:
        store: the old store.
        progress: the records in the archive.

    Attributes:
        sources: number of sources that were read.
        of_sources: number of all sources that have to be read.
        damages: a text for each block that is damaged, for the operator.
    """

    def __init__(self, store: OldStore, progress: Progress) -> None:
        self.sources = 0
        self.of_sources = store.count_sources(progress.place)
        self.damages: list[str] = []
        self._store = store
        self._progress = progress
        self._last_id = progress.before_id
        self._trades = _Trades(store, progress)

    def parts(self) -> Iterator[list[Record | BookStart]]:
        """Iterate over the records in parts, in the order of their ids.

        A part may begin with records that the archive has: their ids are the same.

        Raises:
            OldStoreError: the store cannot be read.
        """
        for items in self._items():
            yield self._records(items)
        last_id = max(self._last_id, self._progress.last_id)
        rest: list[Record | BookStart] = list(self._trades.rest(last_id))
        if rest:
            yield rest

    def _items(self) -> Iterator[list[Item]]:
        """Iterate over messages, gaps and starts of books in parts, by place.

        Twins are in one part.
        """
        from_place = self._progress.place
        gaps, sources = self._store.gaps(from_place), self._store.sources(from_place)
        gap, source = next(gaps, None), next(sources, None)
        items: list[Item] = []
        size = 0
        while source is not None:
            size += self._read(source, items)
            source = next(sources, None)
            if source is None or size >= _CHUNK_BYTES:
                end = _END if source is None else source.first_place
                while gap is not None and gap.place < end:
                    items.append(self._gap(gap))
                    gap = next(gaps, None)
                ready, items = _divided(_ordered(items), end)
                size = 0
                yield (
                    [each for each in ready if each.received_us >= from_place]
                    if from_place
                    else ready
                )
        while gap is not None:  # a store without messages
            items.append(self._gap(gap))
            gap = next(gaps, None)
        yield items

    def _read(self, source: Source, items: list[Item]) -> int:
        """Add the messages of a source to ``items``, or a gap if it is damaged; return its size."""
        self.sources += 1
        topic = self._store.topic_of(source)
        try:
            stored = self._store.read(source)
        except BadBlock as error:
            self.damages.append(f"block {source.block} of {topic} is damaged: {error}")
            place = source.last_place
            items.append(GapRecord(topic, GapKind.UNREADABLE, received_us=place))
            return _MESSAGE_BYTES
        items += [_message(topic, place, payload) for place, payload in stored]
        return sum([len(payload) for _, payload in stored]) + _MESSAGE_BYTES * len(stored)

    def _gap(self, gap: OldGap) -> Item:
        topic = self._store.topic_of(gap)
        if gap.kind not in {MISSING, BOOK_START} or not 0 <= gap.place < NEVER_US:
            raise DamagedStore(f"a gap has damaged values: {gap!r:.200}")
        if gap.kind == BOOK_START:
            return BookStart(topic, gap.place)
        return GapRecord(topic, GapKind.MISSING, gap.first, gap.last, received_us=gap.place)

    def _records(self, items: list[Item]) -> list[Record | BookStart]:
        """Give ids to ``items``; join twins, and add the trades that have room."""
        records: list[Record | BookStart] = []
        trades, last_id = self._trades, self._last_id
        before: Message | None = None
        for item in items:
            place = item.received_us
            if isinstance(item, Message):
                if before is not None and item.topic.channel in _SECOND and _is_twin(before, item):
                    before.also, before = item.topic, None
                    continue
                before = item
            else:
                before = None
                if isinstance(item, BookStart):
                    records.append(item)
                    continue
            if last_id and trades.is_waiting(place):
                for trade in trades.up_to(max(last_id, self._progress.last_id), place):
                    records.append(trade)
                    last_id = trade.id
            last_id = item.id = place if place > last_id else last_id + 1
            if isinstance(item, GapRecord):
                trades.found(item)
            records.append(item)
        self._last_id = last_id
        return records


def restore(books: Books, store: OldStore, progress: Progress) -> None:
    """Bring ``books``, which are empty, to their state after the records of ``progress``.

    Raises:
        OldStoreError: the store cannot be read.
    """
    for number, topic in store.topics.items():
        if topic.channel not in CHANNELS or not progress.place:
            continue
        to_place = progress.place + (topic == progress.twin)
        messages: list[Message] = []
        seam = store.last_book_start(number, to_place)
        for source in store.sources_back(number, to_place):
            try:
                stored = store.read(source)
            except BadBlock:
                break
            read = [_message(topic, *each) for each in stored if seam < each[0] <= to_place]
            messages += reversed(read)
            if source.first_place <= seam or any(each.type == "snapshot" for each in read):
                break
        for message in reversed(messages):
            books.follow(topic, message)


class _Trades:
    """The backfilled trades, in the order of the places of their gaps."""

    def __init__(self, store: OldStore, progress: Progress) -> None:
        self._store = store
        self._waiting: list[tuple[int, Topic, int, int, OldTrade]] = []  # a heap
        self._of_gap: dict[tuple[Topic, int], list[OldTrade]] = {}
        self._loose: list[OldTrade] = []
        for gap_place, trade in _with_gaps(store):
            topic = store.topic_of(trade)
            if (topic, trade.trade_id) in progress.trades:
                continue
            if gap_place is None:
                self._loose.append(trade)
                continue
            gap_id = progress.gaps.get((topic, gap_place))
            if gap_id is None:
                self._of_gap.setdefault((topic, gap_place), []).append(trade)
            else:
                self._wait(gap_place, topic, gap_id, trade)
        self._loose.sort(key=_time_of, reverse=True)

    def found(self, gap: GapRecord) -> None:
        """The record of ``gap`` precedes: its trades may follow."""
        for trade in self._of_gap.pop((gap.topic, gap.received_us), ()):
            self._wait(gap.received_us, gap.topic, gap.id, trade)

    def is_waiting(self, place: int) -> bool:
        """Say whether trades may be placed before ``place``."""
        while self._loose and _time_of(self._loose[-1])[0] < place:
            trade = self._loose.pop()
            self._wait(_time_of(trade)[0], self._store.topic_of(trade), 0, trade)
        return bool(self._waiting)

    def up_to(self, last_id: int, place: int) -> Iterator[TradeRecord]:
        """Iterate over those for which ids between ``last_id`` and ``place`` are unused."""
        while self._waiting:
            at_us, topic, _, gap_id, trade = self._waiting[0]
            last_id = max(last_id + 1, at_us)
            if last_id >= place:
                break
            heapq.heappop(self._waiting)
            payload = _text_of(topic.product_id, self._store.payload_of(trade))
            yield TradeRecord(topic, trade.trade_id, payload, gap_id, last_id, at_us)

    def rest(self, last_id: int) -> Iterator[TradeRecord]:
        """Iterate over all other ones; they follow the last record."""
        if self.is_waiting(_END):
            yield from self.up_to(last_id, _END)

    def _wait(self, at_us: int, topic: Topic, gap_id: int, trade: OldTrade) -> None:
        heapq.heappush(self._waiting, (at_us, topic, trade.trade_id, gap_id, trade))


def _text_of(product_id: str, payload: bytes) -> bytes:
    """Return a trade, which the store has as REST returned it, in the form of a ``match``."""
    try:
        trade = decode_exactly(payload)
    except UNREADABLE:
        return payload
    return encode_trade(product_id, trade) if isinstance(trade, dict) else payload


def _time_of(trade: OldTrade) -> tuple[int, int, int]:
    return min(max(0, trade.time_us or 0), NEVER_US - 1), trade.topic, trade.trade_id


def _message(topic: Topic, place: int, payload: bytes) -> Message:
    try:
        head = read_head(payload)
    except BadMessage:  # it was delivered once, so it is a record
        message = Message(topic, "", b"", payload)
    else:
        message = Message(topic, head.type, b"", payload, head.sequence, head.trade_id)
    message.received_us = place
    return message


def _ordered(items: list[Item]) -> list[Item]:
    """Sort ``items`` by place; at one place, where only a fault has put several, by topic."""
    items.sort(key=_received_us)
    places = list(map(_received_us, items))
    if any(map(eq, places, islice(places, 1, None))):
        items.sort(key=_full_order)
    return items


def _full_order(item: Item) -> tuple[int, Topic, str]:
    return item.received_us, item.topic, type(item).__name__


def _divided(items: list[Item], end: int) -> tuple[list[Item], list[Item]]:
    """Divide ordered ``items`` into those before ``end``, and the rest.

    A message that may have a twin at the next place is in the rest, unless there are no more.
    """
    at = bisect_left(items, end, key=_received_us)
    if at and end < _END and items[at - 1].topic.channel in _TWINS:
        place = items[at - 1].received_us
        while at and items[at - 1].received_us == place:
            at -= 1
    return items[:at], items[at:]


def _with_gaps(store: OldStore) -> Iterator[tuple[int | None, OldTrade]]:
    """Iterate over the trades, each with the place of its gap; None without a gap.

    Numbers may begin again, so several gaps may have the number: then it is the one that is nearest
    to the time of the trade.
    """
    of_topic = {number: list(rows) for number, rows in groupby(store.trades(), key=_topic_of)}
    gaps: dict[int, list[OldGap]] = {}
    for gap in store.gaps(kind=MISSING) if of_topic else ():
        if gap.topic in of_topic and gap.first is not None and gap.last is not None:
            gaps.setdefault(gap.topic, []).append(gap)
    for number, trades in of_topic.items():
        coming = sorted(gaps.get(number, ()), key=_first_of, reverse=True)
        open_gaps: list[OldGap] = []
        for trade in trades:
            while coming and _first_of(coming[-1]) <= trade.trade_id:
                open_gaps.append(coming.pop())
            open_gaps = [gap for gap in open_gaps if (gap.last or 0) >= trade.trade_id]
            places = [gap.place for gap in open_gaps]
            yield _nearest(places, _time_of(trade)[0]), trade


def _nearest(places: list[int], at_us: int) -> int | None:
    return min(places, key=lambda place: abs(place - at_us), default=None)


def _topic_of(trade: OldTrade) -> int:
    return trade.topic


def _first_of(gap: OldGap) -> int:
    return gap.first or 0


def _is_twin(first: Message, second: Message) -> bool:
    channel, product_id = first.topic
    return (
        _TWINS.get(channel) == second.topic.channel
        and product_id == second.topic.product_id
        and first.payload == second.payload
    )
