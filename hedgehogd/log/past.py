"""The past that is in the archive: the adapter of ``recovery.history_port`` to ``past_reader``.

One thread reads. Each address (``CALLER``) reads one thing at a time, so the resumes of one address
do not delay those of another. A page with later records after it never changes, unless a gap in it
may be filled, so it is kept for the next reader: a thousand subscribers that resume at once read it
once.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TypeVar

import structlog
import trio

from hedgehogd.domain import limits
from hedgehogd.domain.channel import Topic
from hedgehogd.domain.lru import Lru
from hedgehogd.domain.message import Message
from hedgehogd.fanout.turns import CALLER, Queues
from hedgehogd.log.archive.errors import ArchiveError
from hedgehogd.log.past_reader import PastReader
from hedgehogd.recovery.history_port import PastPage, PastStretches, PastUnavailable

log = structlog.get_logger("history")

Result = TypeVar("Result")
_Key = tuple[frozenset[Topic], int]
_HANGS = "the disk of the history does not answer"


class ArchivePast:
    """The archive in one directory; it is opened when it is read first.

    Args:
        directory: where it is.
        recorded: the topics that are recorded; None for those that subscribers demand, too.
    """

    def __init__(self, directory: Path, recorded: frozenset[Topic] | None = frozenset()) -> None:
        self._directory = directory
        self._recorded = recorded
        self._reader: PastReader | None = None
        self._reader_of_kept: PastReader | None = None  # pages and places are of its archive
        self._entry = trio.Lock()
        self._turn = trio.CapacityLimiter(1)  # a thread that hangs keeps it
        self._hangs = False  # the last call did not return in time
        self._paging = trio.Lock()
        self._queues = Queues()
        self._found: Lru[tuple[Topic, int], tuple[int, int]] = Lru(limits.HISTORY_PLACES_MAX)
        self._first: Mapping[Topic, int] = {}  # a stream asks for all its topics at once
        self._first_at = -math.inf
        self._pages: Lru[_Key, PastPage] = Lru(
            limits.HISTORY_PAGES_MAX, limits.HISTORY_PAGES_BYTES_MAX
        )

    def keeps(self, topic: Topic) -> bool:
        """See ``recovery.history_port.Past``."""
        return self._recorded is None or topic in self._recorded

    async def find(self, topic: Topic, sequence: int) -> tuple[int, int] | None:
        """See ``recovery.history_port.Past``."""
        key = (topic, sequence)
        found = self._found.get(key)
        if found is None:
            async with self._queues.turn(CALLER.get()), self._paging:
                found = self._found.get(key)
                if found is None:
                    found = await self.read(lambda reader: reader.find(topic, sequence))
                if found is not None and found[1] == sequence:  # where it is, it stays
                    self._found.put(key, found)
        return found

    async def first_place(self, topic: Topic) -> int | None:
        """See ``recovery.history_port.Past``."""
        if trio.current_time() >= self._first_at + limits.HISTORY_FLUSH_S:
            self._first = await self._in_turn(lambda reader: reader.first_places())
            self._first_at = trio.current_time()
        return self._first.get(topic)

    async def find_time(self, received_us: int) -> int:
        """See ``recovery.history_port.Past``."""
        return await self._in_turn(lambda reader: reader.find_time(received_us))

    async def stretches(self, since_us: int, until_us: int) -> PastStretches:
        """See ``recovery.history_port.Past``."""
        return await self._in_turn(
            lambda reader: PastStretches(reader.stretches(since_us, until_us), reader.known_to())
        )

    async def snapshot_before(self, topic: Topic, place: int) -> Message | None:
        """See ``recovery.history_port.Past``."""
        return await self._in_turn(lambda reader: reader.snapshot_before(topic, place))

    async def trades(self, product_id: str, first: int, last: int) -> dict[int, bytes]:
        """See ``recovery.history_port.Past``."""
        return await self._in_turn(lambda reader: reader.trades(product_id, first, last))

    async def page(
        self,
        topics: Iterable[Topic],
        after: int,
        known_to: int | None = None,
        limit: int | None = None,
    ) -> PastPage:
        """See ``recovery.history_port.Past``."""
        key = (frozenset(topics), after)
        page = self._kept(key, known_to)
        if page is None and limit is not None and limit < limits.HISTORY_PAGE_MESSAGES_MAX // 2:
            return await self._in_turn(lambda reader: reader.page(key[0], after, limit, known_to))
        if page is None:
            async with (
                self._queues.turn(CALLER.get()),
                self._paging,
            ):  # a reader that waits here finds the page that the one before has read
                page = self._kept(key, known_to)
                if page is None:
                    page = await self.read(
                        lambda reader: aligned(reader.page(key[0], after, known_to=known_to), after)
                    )
                if page.is_sealed:
                    # A message has its text twice: alone, and in its frame.
                    weight = 2 * sum([len(message.payload) for message in page.messages])
                    self._pages.put(key, page, weight)
        return page

    def _kept(self, key: _Key, known_to: int | None) -> PastPage | None:
        """Return a page that is kept; no gap is left in it that a trade known later may fill."""
        page = self._pages.get(key)
        return page if page is None or known_to is None or known_to >= page.known_to else None

    async def page_before(
        self,
        topics: Iterable[Topic],
        before: int,
        known_to: int | None = None,
        limit: int | None = None,
    ) -> PastPage:
        """See ``recovery.history_port.Past``."""
        wanted = frozenset(topics)
        most = min(limit or limits.HISTORY_PAGE_MESSAGES_MAX, limits.HISTORY_PAGE_MESSAGES_MAX)
        return await self._in_turn(
            lambda reader: reader.page_before(wanted, before, most, known_to)
        )

    async def _in_turn(self, ask: Callable[[PastReader], Result]) -> Result:
        async with self._queues.turn(CALLER.get()):
            return await self.read(ask)

    async def read(self, ask: Callable[[PastReader], Result]) -> Result:
        """Ask the reader, in a thread, for at most ``HISTORY_READ_MAX_S``.

        A call that does not return in time is not waited for; until it returns, all further reads
        are refused at once.

        Raises:
            PastUnavailable: the archive cannot be read, or its disk hangs.
        """
        async with self._entry:
            if self._hangs:
                if self._turn.borrowed_tokens:
                    raise PastUnavailable(_HANGS)
                self._hangs = False
                log.info("the disk of the history answers again")
            try:
                with trio.move_on_after(limits.HISTORY_READ_MAX_S):
                    return await self._in_thread(partial(self._ask, ask))
            except ArchiveError as error:
                raise PastUnavailable(str(error)) from None
            finally:
                if self._reader is not self._reader_of_kept:  # its ids may be of another log
                    self._reader_of_kept = self._reader
                    self._found.clear()
                    self._pages.clear()
                    self._first_at = -math.inf
            self._hangs = True
            log.error("the disk of the history hangs; queries are refused")
            raise PastUnavailable(_HANGS)

    async def close(self) -> None:
        """Close the files; a cancelled call leaves them to a thread that hangs."""
        if self._reader is not None:
            await self._in_thread(self._close)

    async def _in_thread(self, call: Callable[[], Result]) -> Result:
        return await trio.to_thread.run_sync(call, limiter=self._turn, abandon_on_cancel=True)

    def _close(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _ask(self, ask: Callable[[PastReader], Result]) -> Result:
        if self._reader is not None:
            try:
                return ask(self._reader)
            except ArchiveError:  # another archive may be in its place
                self._close()
        reader = self._reader = PastReader(self._directory)
        try:
            return ask(reader)
        except ArchiveError:
            reader.close()
            self._reader = None
            raise


def aligned(page: PastPage, after: int) -> PastPage:
    """Return ``page``, which begins after ``after``, ended at a place with a large power of two.

    Readers that began at different places end their pages at a few common places, and share them
    from there on. More than half of its stretch is left; the rest is read again with the next
    page. The last page is returned unchanged.
    """
    if page.is_last or page.end <= after:
        return page
    after = max([after, *(gap.place for gap in page.gaps if gap.kind == "removed")])
    bits = max(0, (page.end - after).bit_length() - 2)
    end = page.end >> bits << bits
    page.messages = [message for message in page.messages if message.id <= end]
    page.gaps = [gap for gap in page.gaps if gap.place <= end]
    page.end = end
    return page
