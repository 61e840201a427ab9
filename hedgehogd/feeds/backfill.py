"""Backfill: trades that the feed missed, fetched by REST.

``after=X`` returns the page just below X; ``before=X`` returns the *newest* trades above X, not
the next ones (COINBASE §13). So pages are requested downwards from the gap's end, and the trades
found are delivered in ascending order after the last page. REST may not list the newest trades
yet: then the same page is requested again, for at most ``BACKFILL_PATIENCE_S`` per gap.

Every trade of every gap is delivered once or counted in ``given_up``.
"""

from collections import Counter, deque
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any, NamedTuple

import msgspec
import structlog
import trio

from hedgehogd.domain import limits
from hedgehogd.domain.amount import BadAmount, text_of
from hedgehogd.domain.product import is_product_id
from hedgehogd.domain.rows import decode_exactly, read_list
from hedgehogd.feeds.rest_cache import Answer
from hedgehogd.feeds.rest_client import RestClient
from hedgehogd.protocol.backoff import Backoff

log = structlog.get_logger("backfill")

Deliver = Callable[[str, list[dict[str, Any]]], Awaitable[None]]

_PAGE_TRADES_MAX = 1000
_PAUSE_FIRST_S = 1.0
_PAUSE_MAX_S = 8.0
_FOR_GOOD = {400, 404}


class _Missing(NamedTuple):
    product_id: str
    first: int
    last: int


class _Trade(msgspec.Struct, gc=False):
    trade_id: int
    side: str
    size: str
    price: str
    time: str


_decode_trade = msgspec.json.Decoder(_Trade).decode


class _BadPage(Exception):
    """The answer is an error, or its body is not a page of trades."""


class _Walk:
    """Progress of filling one gap, from its end down. Pure.

    Attributes:
        cursor: all ids from this one to the gap's end are settled: found or abandoned.
        given_up: number of abandoned ids.
    """

    def __init__(self, first: int, last: int) -> None:
        self._first = first
        self.cursor = last + 1
        self.given_up = 0
        self._found: dict[int, _Trade] = {}

    @property
    def is_done(self) -> bool:
        """True when all of the gap is settled."""
        return self.cursor <= self._first

    def take(self, page: dict[int, _Trade]) -> bool:
        """Add the gap's trades that are on ``page``; return whether ``cursor`` has moved."""
        at = self.cursor
        for trade_id, trade in page.items():
            if self._first <= trade_id < at:
                self._found[trade_id] = trade
        while self.cursor - 1 in self._found:
            self.cursor -= 1
        return self.cursor < at

    def settle(self) -> None:
        """Move ``cursor`` to the lowest trade found below it; abandon the missing ids above that.

        Without such a trade, abandon all ids below ``cursor``.
        """
        below = [trade_id for trade_id in self._found if trade_id < self.cursor]
        lowest = min(below, default=self._first)
        self.given_up += self.cursor - lowest - len(below)
        self.cursor = lowest

    def end(self) -> int:
        """Abandon the unsettled ids that were not found; return the total of abandoned ids."""
        below = sum(trade_id < self.cursor for trade_id in self._found)
        self.given_up += self.cursor - self._first - below
        self.cursor = self._first
        return self.given_up

    def found(self) -> list[_Trade]:
        """Return the trades found, ascending."""
        return [self._found[trade_id] for trade_id in sorted(self._found)]


class Backfill:
    """Fill gaps one after the other, a page at a time.

    Args:
        rest: the REST client; it is running.
        deliver: receives at most ``BACKFILL_CHUNK_TRADES_MAX`` trades of a product, ascending;
            each has ``trade_id``, ``side`` (the maker's), ``size``, ``price``, ``time``.
        random: source of the jitter of pauses.

    Attributes:
        gaps: calls of ``ask`` since start.
        delivered: trades delivered since start.
        given_up: trades not delivered, by reason: ``too_many`` in one gap, ``queue_full`` (too
            many gaps), ``not_listed`` by the exchange, ``refused`` (status 400 or 404, or an
            invalid product id), or ``unavailable`` (``BACKFILL_TRIES_MAX`` failures in a row).
    """

    def __init__(self, rest: RestClient, deliver: Deliver, random: Random) -> None:
        self.gaps = 0
        self.delivered = 0
        self.given_up: Counter[str] = Counter()
        self._rest = rest
        self._deliver = deliver
        self._random = random
        self._waiting: deque[_Missing] = deque()
        self._wake = trio.Event()

    def ask(self, product_id: str, first_trade_id: int, last_trade_id: int) -> None:
        """Queue a gap for ``run``, both ends included; never waits.

        If the queue is full or the product id is invalid, the whole gap is counted in ``given_up``
        at once. Of a gap longer than ``BACKFILL_TRADES_MAX`` only the newest trades are requested.
        """
        self.gaps += 1
        first = max(first_trade_id, last_trade_id - limits.BACKFILL_TRADES_MAX + 1)
        is_invalid = not is_product_id(product_id)  # it becomes part of a path
        if is_invalid or len(self._waiting) >= limits.BACKFILL_GAPS_MAX:
            reason = "refused" if is_invalid else "queue_full"
            self.given_up[reason] += last_trade_id - first_trade_id + 1
            return
        if first > first_trade_id:
            self.given_up["too_many"] += first - first_trade_id
        self._waiting.append(_Missing(product_id, first, last_trade_id))
        self._wake.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Fill the queued gaps, oldest first, until cancelled."""
        task_status.started()
        while True:
            while not self._waiting:
                self._wake = trio.Event()
                await self._wake.wait()
            await self._fill(self._waiting.popleft())

    async def _fill(self, missing: _Missing) -> None:
        walk = _Walk(missing.first, missing.last)
        reason = await self._walk_down(missing.product_id, walk)
        given_up = walk.end()
        if given_up:
            self.given_up[reason] += given_up
            log.warning(
                "trades stay missing",
                product_id=missing.product_id,
                trades=given_up,
                of=missing.last - missing.first + 1,
                reason=reason,
            )
        found = walk.found()
        for at in range(0, len(found), limits.BACKFILL_CHUNK_TRADES_MAX):
            chunk = found[at : at + limits.BACKFILL_CHUNK_TRADES_MAX]
            await self._deliver(missing.product_id, msgspec.to_builtins(chunk))
            self.delivered += len(chunk)

    async def _walk_down(self, product_id: str, walk: _Walk) -> str:
        """Request pages until the gap is settled or requests fail permanently.

        Returns:
            The reason in ``given_up`` for the ids that were not found, if there are any.
        """
        patience_ends: float | None = None
        pauses = Backoff(_PAUSE_FIRST_S, _PAUSE_MAX_S, self._random)
        failures = 0
        while not walk.is_done:
            query = (("limit", str(_PAGE_TRADES_MAX)), ("after", str(walk.cursor)))
            answer = await self._rest.get_later(f"/products/{product_id}/trades", query)
            try:
                progress = walk.take(_read_page(answer))
            except _BadPage as error:
                failures += 1
                if answer.status in _FOR_GOOD or failures >= limits.BACKFILL_TRIES_MAX:
                    log.error("no backfill", product_id=product_id, reason=str(error))
                    return "refused" if answer.status in _FOR_GOOD else "unavailable"
                await trio.sleep(max(pauses.next_s(), answer.retry_after_s))
                continue
            failures = 0
            if progress:
                pauses.reset()
                continue
            now = trio.current_time()
            if patience_ends is None:
                patience_ends = now + limits.BACKFILL_PATIENCE_S
            if now >= patience_ends:
                walk.settle()
            else:
                await trio.sleep_until(min(now + pauses.next_s(), patience_ends))
        return "not_listed"


def _read_page(answer: Answer) -> dict[int, _Trade]:
    """Return the trades of a page by their ids, without the entries that cannot be read.

    Raises:
        _BadPage: the status is not 200, the body is not a list, or no entry can be read.
    """
    if answer.status != 200:
        raise _BadPage(answer.message)
    try:
        trades, unreadable = read_list(answer.body, _read_trade)
    except msgspec.DecodeError as error:
        raise _BadPage(f"not a page of trades: {error}") from None
    if unreadable and not trades:
        raise _BadPage("no trade on the page can be read")
    return {trade.trade_id: trade for trade in trades}


def _read_trade(raw: msgspec.Raw) -> _Trade:
    """Read one trade; size and price may be JSON numbers; their text is kept unchanged.

    Raises:
        msgspec.DecodeError: a field cannot be read.
    """
    try:
        return _decode_trade(raw)
    except msgspec.ValidationError as error:
        fields = decode_exactly(raw)
        try:
            fields = {**fields, "size": text_of(fields["size"]), "price": text_of(fields["price"])}
        except (BadAmount, TypeError, LookupError):
            raise error from None
        return msgspec.convert(fields, _Trade)
