"""The past that is in a store: the adapter of ``recovery.history_port`` to ``reader``.

One thread reads. Each address (``CALLER``) reads one thing at a time, so the resumes of one address
do not delay those of another. A page that ends with blocks never changes, so it is kept for the
next reader: a thousand subscribers that resume at once read it once.
"""

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TypeVar

import trio

from hedgehogd.domain import limits
from hedgehogd.domain.channel import Topic
from hedgehogd.domain.lru import Lru
from hedgehogd.domain.message import Message
from hedgehogd.fanout.turns import CALLER, Queues
from hedgehogd.history.reader import Reader
from hedgehogd.history.schema import BadQuery, StoreError
from hedgehogd.recovery.history_port import PastPage, PastStretch, PastUnavailable

Result = TypeVar("Result")


class StoredPast:
    """What is kept in the store of one directory; opened when it is read first.

    Args:
        directory: where the store is.
        recorded: the topics that are kept there.
    """

    def __init__(self, directory: Path, recorded: frozenset[Topic] = frozenset()) -> None:
        self._directory = directory
        self._recorded = recorded
        self._reader: Reader | None = None
        self._turn = trio.CapacityLimiter(1)
        self._paging = trio.Lock()
        self._queues = Queues()
        self._found: Lru[tuple[Topic, int], tuple[int, int]] = Lru(limits.HISTORY_PLACES_MAX)
        self._pages: Lru[tuple[frozenset[Topic], int], PastPage] = Lru(limits.HISTORY_PAGES_MAX)

    def keeps(self, topic: Topic) -> bool:
        """See ``recovery.history_port.Past``."""
        return topic in self._recorded

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
        async with self._queues.turn(CALLER.get()):
            return await self.read(lambda reader: reader.first_place(topic))

    async def known_to(self) -> int:
        """See ``recovery.history_port.Past``; backfilled trades have no place here."""
        await trio.lowlevel.checkpoint()
        return 0

    async def find_time(self, received_us: int) -> int:
        """See ``recovery.history_port.Past``."""
        async with self._queues.turn(CALLER.get()):
            return await self.read(lambda reader: reader.find_time(received_us))

    async def stretches(self, since_us: int, until_us: int) -> list[PastStretch]:
        """See ``recovery.history_port.Past``."""
        async with self._queues.turn(CALLER.get()):
            return await self.read(lambda reader: reader.stretches(since_us, until_us))

    async def snapshot_before(self, topic: Topic, place: int) -> Message | None:
        """See ``recovery.history_port.Past``."""
        async with self._queues.turn(CALLER.get()):
            return await self.read(lambda reader: reader.snapshot_before(topic, place))

    async def trades(self, product_id: str, first: int, last: int) -> dict[int, bytes]:
        """See ``recovery.history_port.Past``."""
        async with self._queues.turn(CALLER.get()):
            return await self.read(lambda reader: reader.trades(product_id, first, last))

    async def page_before(
        self,
        topics: Iterable[Topic],
        before: int,
        known_to: int | None = None,  # noqa: ARG002
    ) -> PastPage:
        """See ``recovery.history_port.Past``."""
        wanted = frozenset(topics)
        async with self._queues.turn(CALLER.get()):
            return await self.read(lambda reader: reader.page_before(wanted, before))

    async def page(
        self,
        topics: Iterable[Topic],
        after: int,
        known_to: int | None = None,  # noqa: ARG002  # backfilled trades have no place here
    ) -> PastPage:
        """See ``recovery.history_port.Past``."""
        key = (frozenset(topics), after)
        page = self._pages.get(key)
        if page is None:
            async with (
                self._queues.turn(CALLER.get()),
                self._paging,
            ):  # who waits here finds what the one before has read
                page = self._pages.get(key)
                if page is None:
                    page = await self.read(lambda reader: reader.page(key[0], after))
                if page.is_sealed:
                    self._pages.put(key, page)
        return page

    async def read(self, ask: Callable[[Reader], Result]) -> Result:
        """Ask the reader, in a thread.

        Raises:
            PastUnavailable: the store cannot be read.
        """
        try:
            return await trio.to_thread.run_sync(partial(self._ask, ask), limiter=self._turn)
        except StoreError as error:
            raise PastUnavailable(str(error)) from None

    async def close(self) -> None:
        """Close the file."""
        if self._reader is not None:
            await trio.to_thread.run_sync(self._reader.close, limiter=self._turn)
            self._reader = None

    def _ask(self, ask: Callable[[Reader], Result]) -> Result:
        if self._reader is None:
            self._reader = Reader(self._directory)
        try:
            return ask(self._reader)
        except BadQuery:
            raise  # the reader serves other subscribers, and is as good as before
        except StoreError:
            self._reader.close()
            self._reader = None
            raise
