"""Reading the past from the archive of the log: pages of messages, and searches.

A page has messages in the order of their ids, and the gaps that remain between them. Backfilled
trades are at the place of their gap, as far as they are known when the page is read; where they
were appended they are omitted. So a stream that has passed a gap does not receive a trade that is
appended later: it has received the gap.

Not for the loop: every method may wait for the disk. One call at a time.
"""

import time
from collections.abc import Collection, Iterable, Mapping
from operator import attrgetter
from pathlib import Path
from typing import cast

from hedgehogd.domain import limits
from hedgehogd.domain.channel import MATCHES, Topic
from hedgehogd.domain.lru import Lru
from hedgehogd.domain.message import Message
from hedgehogd.domain.record import GapRecord, TradeRecord
from hedgehogd.log.archive import reader, search
from hedgehogd.log.archive.backfill import Placement
from hedgehogd.log.archive.placing import Place
from hedgehogd.log.past_books import books_at
from hedgehogd.protocol.frames import encode_text
from hedgehogd.recovery.history_port import (
    BackfilledTrade,
    PastExtent,
    PastGap,
    PastPage,
    PastStretch,
)

_MATCHES = MATCHES.topic_channel
_SECOND_TOPIC = attrgetter("also")
_TRADES_PAGE_MESSAGES = 500  # a page of the exchange has 1,000 trades


class PastReader:
    """The archive in one directory, open for reading.

    Args:
        directory: where it is.
        page_messages: messages of one page, about: ``HISTORY_PAGE_MESSAGES_MAX`` by default.

    Raises:
        ArchiveError: there is none, or it cannot be read.
    """

    def __init__(self, directory: Path, page_messages: int | None = None) -> None:
        self._page_messages = page_messages
        self._archive = reader.Reader(directory)
        # Times whose place is found; a time after the end of the log is searched again.
        self._times: Lru[int, int] = Lru(limits.HISTORY_PLACES_MAX)
        self._first: dict[Topic, int] = {}
        self._first_for = (-1, -1)  # the oldest and the newest id then

    def close(self) -> None:
        """Close all files."""
        self._archive.close()

    def extents(self) -> dict[Topic, PastExtent]:
        """Return the extent of each topic with messages.

        Raises:
            ArchiveError: the archive cannot be read.
        """
        return {topic: PastExtent(*each) for topic, each in self._archive.extents().items()}

    def known_to(self) -> int:
        """Return the place of the newest record; 0 without records.

        Raises:
            ArchiveError: the archive cannot be read.
        """
        return self._archive.last_id()

    def written_to(self) -> int:
        """Return the receive time of the newest records, µs since the epoch; 0 without records.

        Raises:
            ArchiveError: the archive cannot be read.
        """
        self._archive.view.refresh()
        return self._written_to()

    def _written_to(self) -> int:
        for source in reversed(self._archive.view.sources):
            if source.row is not None:
                return source.row.max_us
            if source.opened is not None:
                return source.opened.contents.blocks[-1].header.max_us
        return 0

    def first_places(self) -> Mapping[Topic, int]:
        """Return the place of the oldest message of each topic that has one.

        Raises:
            ArchiveError: the archive cannot be read.
        """
        self._archive.view.refresh()
        now = (self._archive.view.catalogue.dropped_id, self._archive.view.last_id)
        if now != self._first_for:
            self._first_for = now
            self._first = {t: each.first_id for t, each in self._archive.extents().items()}
        return self._first

    def find(self, topic: Topic, sequence: int) -> tuple[int, int] | None:
        """Return place and sequence of the newest message of ``topic`` up to ``sequence``.

        None when all that is kept of it is newer, or there is nothing.

        Raises:
            ArchiveError: the archive cannot be read.
        """
        return search.find(self._archive, topic, sequence)

    def find_time(self, received_us: int, topics: frozenset[Topic] | None = None) -> int:
        """Return the place after which the first record received at that time or later is.

        With topics, only their records count.

        Raises:
            ArchiveError: the archive cannot be read.
        """
        if topics is not None:
            return search.find_time(self._archive, received_us, topics)
        place = self._times.get(received_us)
        if place is None:
            place = search.find_time(self._archive, received_us)
            if place < self._archive.view.last_id:
                self._times.put(received_us, place)
        return place

    def stretches(self, since_us: int, until_us: int) -> list[PastStretch]:
        """Return where all is that was received from ``since_us`` to before ``until_us``.

        Raises:
            ArchiveError: the archive cannot be read.
        """
        return [PastStretch(*each) for each in search.stretches(self._archive, since_us, until_us)]

    def snapshot_before(self, topic: Topic, place: int) -> Message | None:
        """Return the newest start of a book at or before ``place``; None without one.

        It is a message of ``topic`` alone, even if the log has it for two topics.

        Raises:
            ArchiveError: the archive cannot be read.
        """
        found = search.checkpoint_before(self._archive, topic, place)
        if found is not None:
            found = _of_topic(found, topic)
            found.published_us = found.received_us  # the log has no time of publication
        return found

    def books_at(self, topics: Collection[Topic], place: int) -> dict[Topic, bytes]:
        """Return the books of ``topics`` at ``place``, as payloads of ``snapshot`` messages.

        A topic whose book is not known there is left out (``past_books.books_at``).

        Raises:
            ArchiveError: the archive cannot be read.
        """
        return books_at(self._archive, topics, place)

    def page(
        self,
        topics: Iterable[Topic],
        after: int,
        limit: int | None = None,
        known_to: int | None = None,
    ) -> PastPage:
        """Return the messages after the place ``after``.

        Args:
            topics: the topics of the messages. A message of two of them is returned once.
            after: the place. If retention has removed records after it, the page has a gap of kind
                ``removed`` of each topic at the last one of them.
            limit: messages of the page, about; backfilled trades of one gap are not divided. None
                for ``page_messages``.
            known_to: backfilled trades up to this place are at their gap, later ones nowhere; None
                for all that are known now.

        Raises:
            ArchiveError: the archive cannot be read.
        """
        began = time.thread_time()
        wanted = frozenset(topics)
        placement = self._placement(known_to)
        page = self._archive.read(after, wanted, self._limit(limit), placement)
        messages, gaps = _divided(page, wanted)
        if after < page.dropped_id:
            gaps[:0] = self._removed(page, wanted)
        return self._page(messages, gaps, page, placement, began)

    def page_before(
        self,
        topics: Iterable[Topic],
        before: int,
        limit: int | None = None,
        known_to: int | None = None,
    ) -> PastPage:
        """Return the messages before the place ``before``, newest first; otherwise as ``page``.

        The next page begins before ``end``. The last page has gaps of kind ``removed`` if retention
        has removed records before it.

        Raises:
            ArchiveError: the archive cannot be read.
        """
        began = time.thread_time()
        wanted = frozenset(topics)
        placement = self._placement(known_to)
        page = self._archive.read_back(before, wanted, self._limit(limit), placement)
        messages, gaps = _divided(page, wanted)
        if page.is_last and 0 < page.dropped_id < before:
            gaps += self._removed(page, wanted)
        return self._page(messages, gaps, page, placement, began)

    def trades(self, product_id: str, first: int, last: int) -> dict[int, bytes]:
        """Return the trades of ``first`` to ``last``, both included, that are kept, by trade id.

        They are messages of ``matches``, and backfilled trades.

        Raises:
            ArchiveError: the archive cannot be read.
        """
        topic = MATCHES.topic(product_id)
        before = search.find(self._archive, topic, first - 1, is_trade_id=True)
        after = self.first_places().get(topic, 0) - 1 if before is None else before[0]
        found: dict[int, bytes] = {}
        is_over = False
        while not is_over:
            page = self.page((topic,), after, _TRADES_PAGE_MESSAGES)
            for message in page.messages:
                number = message.trade_id or 0
                if first <= number <= last:
                    found[number] = message.payload
            is_over = page.is_last or any(
                (m.trade_id or 0) > last for m in page.messages if m.sequence is not None
            )
            after = page.end
        return found

    def _limit(self, limit: int | None) -> int:
        return limit or self._page_messages or limits.HISTORY_PAGE_MESSAGES_MAX

    def _placement(self, known_to: int | None) -> Placement:
        # The same for all streams and at all times: a gap that retention has removed takes its
        # trades with it, as it takes the messages around them.
        return Placement(0, self._archive.last_id() if known_to is None else known_to)

    def _removed(self, page: reader.Page, topics: Iterable[Topic]) -> list[PastGap]:
        """Return the gaps of a reader at a place whose next records retention has removed."""
        us = 0
        for source in self._archive.view.sources[:1]:
            if source.row is not None:
                us = source.row.min_us
            elif source.opened is not None:
                us = source.opened.contents.blocks[0].header.min_us
        return [
            PastGap(topic, page.dropped_id, "removed", None, None, us) for topic in sorted(topics)
        ]

    def _page(
        self,
        messages: list[Message],
        gaps: list[PastGap],
        page: reader.Page,
        placement: Placement,
        began_s: float,
    ) -> PastPage:
        for message in messages:  # the log has no time of publication
            message.published_us = message.received_us
        # A gap of trades may be filled later; a page without one never changes.
        is_sealed = not page.is_last and all(gap.topic.channel != _MATCHES for gap in gaps)
        return PastPage(
            messages, gaps, page.end_id, page.is_last, is_sealed, self._written_to(),
            known_to=placement.to_id, read_s=time.thread_time() - began_s,
        )  # fmt: skip


def _divided(page: reader.Page, topics: frozenset[Topic]) -> tuple[list[Message], list[PastGap]]:
    """Return the messages and gaps of a page."""
    records = page.records
    if {*map(type, records)} <= {Message} and not any(map(_SECOND_TOPIC, records)):
        return cast("list[Message]", records), []
    messages: list[Message] = []
    gaps: list[PastGap] = []
    for record in records:
        if isinstance(record, Message):
            is_own = record.topic in topics
            messages.append(record if is_own else _of_topic(record, record.also or record.topic))
        elif isinstance(record, GapRecord):
            gaps.append(
                PastGap(record.topic, record.id, record.kind.name.lower(), record.first,
                        record.last, record.received_us)
            )  # fmt: skip
        elif isinstance(record, TradeRecord):
            place = page.places.get(record.id)
            if place is not None:
                messages.append(_trade(record, place))
            elif not record.gap_id:
                messages.append(_trade(record, Place(record.id, record.received_us)))
    return messages, gaps


def _trade(record: TradeRecord, place: Place) -> BackfilledTrade:
    """Return a backfilled trade as a message at ``place``."""
    return BackfilledTrade(
        record.topic, "match", encode_text(record.payload), record.payload,
        trade_id=record.trade_id, received_us=place.received_us, id=place.id,
    )  # fmt: skip


def _of_topic(message: Message, topic: Topic) -> Message:
    """Return ``message`` as one of ``topic`` alone, one of its two topics."""
    return Message(
        topic, message.type, message.frame, message.payload,
        message.sequence, message.trade_id, received_us=message.received_us, id=message.id,
    )  # fmt: skip
