"""Reading the store, page by page, while somebody writes it.

A *page* is what stands between two places, of some topics, in the order of the feed. Pages
end where blocks end, so that readers who are after the same topics share them wherever they
began. Blocks are unpacked once and kept for the next reader.

Not for the loop: every method may wait for the disk. One call at a time.
"""

import heapq
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from operator import attrgetter
from pathlib import Path

from hedgehogd.domain import limits
from hedgehogd.domain.channel import MATCHES, Topic
from hedgehogd.domain.message import Message
from hedgehogd.history.blocks import Blocks
from hedgehogd.history.schema import connect_reader, store_errors
from hedgehogd.history.writer import WRITTEN_TO
from hedgehogd.recovery.history_port import PastExtent, PastGap, PastPage, PastStretch, message_of

_place_of = attrgetter("id")


class Reader:
    """The store in one directory, open for reading."""

    def __init__(self, directory: Path) -> None:
        """Open it.

        Raises:
            StoreError: there is none, or it cannot be opened.
        """
        self._connection = connect_reader(directory)
        self._topics: dict[Topic, int] = {}
        self._known: dict[Topic, PastExtent] | None = None  # at the first call of removed_to
        self._removed_to = 0
        self._oldest: int | None = None  # the block that retention removes next
        self._blocks = Blocks(self._connection)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def settings(self) -> dict[str, str]:
        """Return what the store names.

        Raises:
            StoreError: it cannot be read.
        """
        with store_errors():
            return dict(self._connection.execute("SELECT name, value FROM setting"))

    def written_to(self) -> int:
        """Return up to when all that was received is written, µs since the epoch; or 0.

        Raises:
            StoreError: it cannot be read.
        """
        with store_errors():
            return int(self.settings().get(WRITTEN_TO, 0))

    def extents(self) -> dict[Topic, PastExtent]:
        """Return what is kept, by topic.

        Raises:
            StoreError: it cannot be read.
        """
        with store_errors():
            return self._extents()

    def _extents(self) -> dict[Topic, PastExtent]:
        rows = self._connection.execute(
            "SELECT channel, product_id, min(first), max(last), sum(count) FROM ("
            " SELECT topic, min(first_place) first, max(last_place) last, sum(count) count"
            " FROM block GROUP BY topic UNION ALL"
            " SELECT topic, min(place), max(place), count(*) FROM open GROUP BY topic"
            ") JOIN topic ON topic.id = topic GROUP BY topic"
        )
        return {
            Topic(channel, product_id): PastExtent(first, last, first, last, count)
            for channel, product_id, first, last, count in rows
        }

    def first_place(self, topic: Topic) -> int | None:
        """Return the place of the oldest message of ``topic``; None when there is none.

        Raises:
            StoreError: it cannot be read.
        """
        with self._reading():
            return self._first(topic)

    def _first(self, topic: Topic) -> int | None:
        number, execute = self._number(topic), self._connection.execute
        oldest = "SELECT first_place FROM block WHERE topic = ? ORDER BY last_place LIMIT 1"
        row = execute(oldest, (number,)).fetchone()
        if row is None:
            oldest = "SELECT place FROM open WHERE topic = ? ORDER BY place LIMIT 1"
            row = execute(oldest, (number,)).fetchone()
        return None if row is None else int(row[0])

    def find(self, topic: Topic, sequence: int) -> tuple[int, int] | None:
        """Return place and sequence of the newest message of ``topic`` up to ``sequence``.

        None when all that is kept of it is newer, or nothing is.

        Raises:
            StoreError: it cannot be read.
        """
        number = self._number(topic)
        with self._reading() as execute:
            row = execute(
                "SELECT place, sequence FROM open WHERE topic = ? AND sequence <= ?"
                " ORDER BY place DESC LIMIT 1",
                (number, sequence),
            ).fetchone()
            if row is not None:
                return int(row[0]), int(row[1])
            block = execute(
                "SELECT id FROM block WHERE topic = ? AND first_sequence <= ?"
                " ORDER BY last_place DESC LIMIT 1",
                (number, sequence),
            ).fetchone()
            messages = [] if block is None else self._blocks.messages(topic, block[0])
        for message in reversed(messages):
            if message.sequence is not None and message.sequence <= sequence:
                return message.id, message.sequence
        return None

    def removed_to(self) -> int:
        """Return the place up to which messages were removed since the first call; or 0.

        Only topics that had messages at the first call count, and of one without messages now those
        that it had then. Retention removes the oldest block first. As long as that block is there,
        a call reads one row.

        Raises:
            StoreError: it cannot be read.
        """
        with self._reading() as execute:
            row = execute("SELECT id FROM block ORDER BY last_place LIMIT 1").fetchone()
            oldest = None if row is None else int(row[0])
            if self._known is None:
                self._known = self._extents()
            elif oldest != self._oldest:
                firsts = ((extent, self._first(topic)) for topic, extent in self._known.items())
                removed = [
                    extent.last_place if first is None else first - 1
                    for extent, first in firsts
                    if first is None or first > extent.first_place
                ]
                self._removed_to = max(removed, default=0)
            self._oldest = oldest
        return self._removed_to

    def find_time(self, received_us: int, _topics: frozenset[Topic] | None = None) -> int:
        """Return the place before ``received_us``: here places are times."""
        return received_us - 1

    def stretches(self, since_us: int, until_us: int) -> list[PastStretch]:
        """Return one stretch, up to the newest message: here places are times.

        A call reads a row of each topic, however large the store is.

        Raises:
            StoreError: it cannot be read.
        """
        with store_errors():
            newest = self._connection.execute(
                "SELECT max("
                "coalesce((SELECT max(last_place) FROM block), 0),"
                " coalesce((SELECT max((SELECT place FROM open WHERE topic = topic.id"
                " ORDER BY place DESC LIMIT 1)) FROM topic), 0))"
            ).fetchone()
        last = int(newest[0])
        stretch = PastStretch(since_us - 1, min(until_us - 1, last))
        return [stretch] if stretch.after < stretch.last else []

    def snapshot_before(self, topic: Topic, place: int) -> Message | None:
        """Return the newest snapshot of a book at or before ``place``.

        Raises:
            StoreError: it cannot be read.
        """
        number = self._number(topic)
        with self._reading() as execute:
            row = execute(
                "SELECT payload, place FROM open WHERE topic = ? AND place <= ?"
                " AND instr(substr(payload, 1, 32), ?) ORDER BY place DESC LIMIT 1",
                (number, place, b'"snapshot"'),
            ).fetchone()
            if row is not None:
                return message_of(topic, *row)
            blocks = execute(
                "SELECT id FROM block WHERE topic = ? AND first_place <= ?"
                " ORDER BY last_place DESC",
                (number, place),
            ).fetchall()
            for (block,) in blocks:
                for message in reversed(self._blocks.messages(topic, block)):
                    if message.type == "snapshot" and message.id <= place:
                        return message
        return None

    def page_before(self, topics: Iterable[Topic], before: int) -> PastPage:
        """Return the messages before the place ``before``, newest first.

        A page ends with ``HISTORY_PAGE_MESSAGES_MAX`` messages, or with the first message that
        makes it ``HISTORY_PAGE_BYTES_MAX`` bytes of payload. It reads the blocks of these messages
        and at most one more block of each topic, however large the store is.

        Raises:
            StoreError: it cannot be read.
        """
        messages: list[Message] = []
        size, end, is_last = 0, 0, True
        with self._reading() as execute:
            numbers = {topic: n for topic in topics if (n := self._number(topic))}
            each = [self._messages_before(topic, n, before) for topic, n in numbers.items()]
            for message in heapq.merge(*each, key=_place_of, reverse=True):
                messages.append(message)
                size += len(message.payload)
                is_last = (
                    len(messages) < limits.HISTORY_PAGE_MESSAGES_MAX
                    and size < limits.HISTORY_PAGE_BYTES_MAX
                )
                if not is_last:
                    end = message.id
                    break
            gaps = [
                gap
                for topic, number in numbers.items()
                for gap in self._gaps(topic, number, end - 1, before - 1)
            ]
            written_to = _written_to(execute)
        gaps.sort(key=attrgetter("place"), reverse=True)
        return PastPage(messages, gaps, end, is_last, False, written_to)

    def page(self, topics: Iterable[Topic], after: int) -> PastPage:
        """Return what follows on ``after``, up to the next end of a block.

        Raises:
            StoreError: it cannot be read.
        """
        messages: list[Message] = []
        with self._reading() as execute:
            # In here: a topic that is made meanwhile would be left out of a page that is sealed.
            numbers = {topic: n for topic in topics if (n := self._number(topic))}
            begun: list[tuple[Topic, int, int, int]] = []
            for topic, number in numbers.items():
                row = execute(
                    "SELECT id, first_place, last_place FROM block"
                    " WHERE topic = ? AND last_place > ? ORDER BY last_place LIMIT 1",
                    (number, after),
                ).fetchone()
                if row is not None:
                    begun.append((topic, *row))
            end = min((last_place for *_, last_place in begun), default=None)
            for topic, block, first_place, _ in begun:
                if end is not None and first_place <= end:
                    messages += [
                        message
                        for message in self._blocks.messages(topic, block)
                        if after < message.id <= end
                    ]
            sealed = {topic for topic, *_ in begun}
            for topic in numbers.keys() - sealed:
                messages += self._open_rows(topic, numbers[topic], after, end)
            messages.sort(key=_place_of)
            if end is None:
                del messages[limits.HISTORY_PAGE_MESSAGES_MAX :]
                end = messages[-1].id if messages else after
            gaps = [
                gap
                for topic, number in numbers.items()
                for gap in self._gaps(topic, number, after, end)
            ]
            # In here: with what is written later it would promise more than was read.
            written_to = _written_to(execute)
            is_last = not begun and len(messages) < limits.HISTORY_PAGE_MESSAGES_MAX
        gaps.sort(key=attrgetter("place"))
        return PastPage(messages, gaps, end, is_last, bool(begun), written_to)

    def trades(self, product_id: str, first: int, last: int) -> dict[int, bytes]:
        """Return the trades of ``first`` to ``last``, both included, that are kept, by trade id.

        They are messages of ``matches``, and those that were fetched afterwards.

        Raises:
            StoreError: it cannot be read.
        """
        topic = MATCHES.topic(product_id)
        number = self._number(topic)
        with self._reading() as execute:
            found: dict[int, bytes] = dict(
                execute(
                    "SELECT trade_id, payload FROM trade"
                    " WHERE topic = ? AND trade_id BETWEEN ? AND ?",
                    (number, first, last),
                )
            )
            blocks = execute(
                "SELECT id FROM block WHERE topic = ? AND last_trade_id >= ?"
                " AND first_trade_id <= ?",
                (number, first, last),
            ).fetchall()
            messages = [m for (block,) in blocks for m in self._blocks.messages(topic, block)]
            messages += self._open_rows(topic, number, 0, None)
        for message in messages:
            if message.trade_id is not None and first <= message.trade_id <= last:
                found[message.trade_id] = message.payload
        return found

    def _messages_before(self, topic: Topic, number: int, before: int) -> Iterator[Message]:
        """Yield the messages of one topic before a place, newest first; unpack no block early."""
        execute = self._connection.execute
        rows = execute(
            "SELECT place, payload FROM open WHERE topic = ? AND place < ?"
            " ORDER BY place DESC LIMIT ?",  # a page is full with these
            (number, before, limits.HISTORY_PAGE_MESSAGES_MAX),
        ).fetchall()
        for place, payload in rows:
            yield message_of(topic, payload, place)
        # The block that has messages on both sides of the place, if any; then older ones.
        row = execute(
            "SELECT id, first_place FROM block WHERE topic = ? AND last_place >= ?"
            " ORDER BY last_place LIMIT 1",
            (number, before),
        ).fetchone()
        if row is not None and row[1] < before:
            for message in reversed(self._blocks.messages(topic, row[0])):
                if message.id < before:
                    yield message
        at = before
        while (
            row := execute(
                "SELECT id, last_place FROM block WHERE topic = ? AND last_place < ?"
                " ORDER BY last_place DESC LIMIT 1",
                (number, at),
            ).fetchone()
        ) is not None:
            yield from reversed(self._blocks.messages(topic, row[0]))
            at = row[1]

    def _open_rows(self, topic: Topic, number: int, after: int, end: int | None) -> list[Message]:
        rows = self._connection.execute(
            "SELECT place, payload FROM open WHERE topic = ? AND place > ? AND place <= ?"
            " ORDER BY place LIMIT ?",
            (
                number,
                after,
                2**62 if end is None else end,
                limits.HISTORY_PAGE_MESSAGES_MAX if end is None else -1,
            ),
        )
        return [message_of(topic, payload, place) for place, payload in rows]

    def _gaps(self, topic: Topic, number: int, after: int, end: int) -> list[PastGap]:
        rows = self._connection.execute(
            "SELECT place, kind, first, last FROM gap"
            " WHERE topic = ? AND place > ? AND place <= ? ORDER BY place",
            (number, after, end),
        )
        return [
            PastGap(topic, place, kind, first, last, place) for place, kind, first, last in rows
        ]

    def _number(self, topic: Topic) -> int:
        """Return the number of ``topic`` in this store; 0 for none."""
        number = self._topics.get(topic, 0)
        if not number:
            with store_errors():
                row = self._connection.execute(
                    "SELECT id FROM topic WHERE channel = ? AND product_id = ?", topic
                ).fetchone()
            if row is not None:
                number = self._topics[topic] = int(row[0])
        return number

    @contextmanager
    def _reading(self) -> Iterator[Callable[..., sqlite3.Cursor]]:
        """See one state of the store: a block that is sealed meanwhile is open still."""
        with store_errors():
            self._connection.execute("BEGIN")
            try:
                yield self._connection.execute
            finally:
                if self._connection.in_transaction:  # an error may have ended it
                    self._connection.execute("COMMIT")


def _written_to(execute: Callable[..., sqlite3.Cursor]) -> int:
    row = execute("SELECT value FROM setting WHERE name = ?", (WRITTEN_TO,)).fetchone()
    return int(row[0]) if row else 0
