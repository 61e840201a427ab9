"""The order of commands, by weight, and of reads of history, by address.

The weight of a command is the number of topics that it names or that its session holds, whichever
is greater: the answer states the whole subscription, and the session moves to another cohort.
Small commands are executed in the order of arrival, several in each turn of the loop. Large
ones are executed one per turn, and together at a rate that leaves the loop to the feed. Each
address has an allowance that the largest valid first subscribe fits into. A command beyond the
allowance of its address queues with those of other addresses beyond theirs, and only one of these
competes with the commands within their allowances.

A session submits its next command after the last one was executed, so each queue takes turns
between sessions. No command is refused here: meanwhile the subscriber's bytes are not read.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import islice

import trio

from hedgehogd.domain import limits
from hedgehogd.domain.errors import SubscriberError
from hedgehogd.domain.lru import Lru
from hedgehogd.protocol.backoff import TokenBucket
from hedgehogd.recovery.history_port import CALLER

__all__ = ["CALLER", "TOO_MANY_QUERIES", "Queues", "Readings", "Turns"]

TOO_MANY_QUERIES = "too_many_queries"
_FORGOTTEN_AT_ONCE = 4  # allowances forgotten per command: a bounded cost


class Queues:
    """A queue for each address: one of its waiting tasks at a time has the turn."""

    def __init__(self) -> None:
        self._queues: dict[str, tuple[trio.Lock, int]] = {}

    def waiting(self, share: str) -> int:
        """Return how many tasks of ``share`` wait or have the turn."""
        return self._queues[share][1] if share in self._queues else 0

    @asynccontextmanager
    async def turn(self, share: str) -> AsyncIterator[None]:
        """Wait until no other task of ``share`` has the turn; the body has it."""
        lock, count = self._queues.get(share, (trio.Lock(), 0))
        self._queues[share] = lock, count + 1
        try:
            async with lock:
                yield
        finally:
            lock, count = self._queues[share]
            if count > 1:
                self._queues[share] = lock, count - 1
            else:
                del self._queues[share]


class Turns:
    """Divides the event loop among the addresses that send commands.

    Attributes:
        small: limits the commands that are executed in one turn of the loop.
        delayed: commands since start that waited because their address had used its allowance.
    """

    def __init__(self) -> None:
        self.delayed = 0
        self.small = trio.CapacityLimiter(limits.COMMANDS_PER_TURN_MAX)
        self._large = trio.Lock()
        self._beyond = trio.Lock()
        self._beyond_by_share = Queues()  # one command of each address waits for _beyond
        self._all = TokenBucket(limits.COMMAND_TOPICS_PER_S, limits.COMMAND_TOPICS_BURST)
        self._allowances: Lru[str, TokenBucket] = Lru(limits.ALLOWANCES_MAX)

    @asynccontextmanager
    async def turn(self, share: str, weight: int) -> AsyncIterator[None]:
        """Wait until a command of ``weight`` topics of the address ``share`` may be executed.

        The body must not wait; the next turn begins after a checkpoint. A command with more topics
        than the allowance costs the whole allowance.
        """
        weight = min(weight, limits.COMMAND_TOPICS_BURST)
        now = trio.current_time()
        self._forget(now)
        is_within = self._allowance(share).try_take(now, weight)
        if not is_within:
            self.delayed += 1
            async with self._beyond_by_share.turn(share), self._beyond:
                await self._large_turn(weight)
        elif weight > limits.COMMAND_TOPICS_SMALL_MAX:
            await self._large_turn(weight)
        async with self.small:
            yield
            await trio.lowlevel.checkpoint()

    async def _large_turn(self, weight: int) -> None:
        """Wait until all large commands together are within their rate, one per turn."""
        async with self._large:
            wait_s = self._all.take(trio.current_time(), weight)
            try:
                await trio.sleep(wait_s)
            except trio.Cancelled:
                self._all.give_back(weight)  # the command is not executed
                raise

    def _forget(self, now: float) -> None:
        """Forget a few addresses with a full allowance: a new address has the same one."""
        for share, bucket in list(islice(self._allowances.items(), _FORGOTTEN_AT_ONCE)):
            if not bucket.is_full(now):
                return  # later allowances were used more recently
            self._allowances.pop(share)

    def _allowance(self, share: str) -> TokenBucket:
        bucket = self._allowances.get(share)
        if bucket is None:
            bucket = TokenBucket(limits.ADDRESS_TOPICS_PER_S, limits.COMMAND_TOPICS_BURST)
            self._allowances.put(share, bucket)
        return bucket


class Readings(Queues):
    """Divides history among the addresses that query it: each reads one page at a time.

    A hundred queries of one address wait for each other to read, and no other address waits for
    them. To encode their answers in the loop, all queries wait for each other, and so do those
    that encode a large message in a thread, among themselves.

    Attributes:
        threads: the tasks of each address that encode a large message, or pause after it.
        encoding: its owner encodes a large message.
    """

    def __init__(self) -> None:
        super().__init__()
        self.threads = Queues()
        self.encoding = trio.Lock()
        self._writers = Queues()
        self._writing = trio.Lock()

    @asynccontextmanager
    async def writing_turn(self, share: str) -> AsyncIterator[None]:
        """Wait until a query of ``share`` may encode a part of its answer.

        Of all addresses together, one query at a time has this turn.
        """
        async with self._writers.turn(share), self._writing:
            yield

    def check(self, share: str) -> None:
        """Refuse another query of an address with ``HISTORY_WAITING_MAX`` queries in ``turn``.

        Raises:
            SubscriberError: 429; the client may retry later.
        """
        if self.waiting(share) >= limits.HISTORY_WAITING_MAX:
            raise SubscriberError(
                TOO_MANY_QUERIES,
                f"{limits.HISTORY_WAITING_MAX} queries of your address wait for their turn",
                429,
            )
