"""The simulated exchange's market: all products on one clock, which is an argument.

``advance`` lets time pass and returns what the exchange would have sent to somebody who
subscribes to everything, in time order. The same seed, start, products and rate give the
same bytes, however time is cut into steps and whoever listens.

Derived channels are made here too: ``level2_50`` gathers 50 ms of changes into one message
and ``ticker_1000`` says every 5 s what changed (FEED §5). A gathered message is what a
window came to: a level that was made and removed within it is not mentioned, so that a
removal always names a level that exists. Hence ``level2_50`` has a snapshot of its own:
the book when the last window closed.
"""

import heapq
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Protocol

from hedgehogd.domain.channel import (
    AUCTION,
    HEARTBEAT,
    LEVEL2,
    LEVEL2_BATCH,
    LEVEL3,
    MATCHES,
    STATUS,
    TICKER,
    TICKER_BATCH,
)
from hedgehogd.simulator import messages, order_messages
from hedgehogd.simulator.amounts import NS_PER_S
from hedgehogd.simulator.book import Side
from hedgehogd.simulator.messages import MarketMessage
from hedgehogd.simulator.products import Product
from hedgehogd.simulator.rfq import Rfq
from hedgehogd.simulator.trading import Trading, Wanted

# Above this the counters could outrun the start of a later run (trading.NS_PER_SEQUENCE),
# and one core could not make the messages anyway.
RATE_MAX = 100.0


class _Everything:
    def __contains__(self, topic: object) -> bool:
        return True


EVERYTHING: Wanted = _Everything()
"""Wanted by somebody who subscribes to everything."""

_HEARTBEAT_NS = NS_PER_S
_STATUS_NS = 5 * NS_PER_S
_WINDOW_NS = NS_PER_S // 20
_TICKER_BATCH_NS = 5 * NS_PER_S
_AUCTION_NS = NS_PER_S


class _Process(Protocol):
    """Something that happens again and again.

    Attributes:
        due_ns: when it happens next, ns since the epoch.
    """

    due_ns: int

    def fire(self, wanted: Wanted) -> Iterable[MarketMessage]:
        """Let it happen, and move ``due_ns`` ahead."""


class _Every:
    """A process with a fixed period: ``make`` returns what it sends, or None."""

    def __init__(
        self, period_ns: int, start_ns: int, make: Callable[[int], MarketMessage | None]
    ) -> None:
        self.due_ns = start_ns + period_ns
        self._period_ns = period_ns
        self._make = make

    def fire(self, wanted: Wanted) -> Iterable[MarketMessage]:  # noqa: ARG002
        message = self._make(self.due_ns)
        self.due_ns += self._period_ns
        return () if message is None else (message,)


class _ProductFeed:
    """One product's channels: its trading, and what is gathered from it."""

    def __init__(
        self, product: Product, seed: int, start_ns: int, rate: float, *, modifies: bool
    ) -> None:
        # Levels touched in the running window of level2_50, with their sizes before it.
        self._before: dict[tuple[Side, int], int] = {}
        self._touched_ns = self._closed_ns = start_ns
        self._batched_trade_id = 0
        self.auction_until_ns = 0
        self.trading = Trading(product, seed, start_ns, rate, self._touching, modifies=modifies)
        self._rfq = Rfq(self.trading, seed, start_ns, rate)

    def processes(self, start_ns: int) -> Iterator[_Process]:
        yield self.trading
        yield _Every(_WINDOW_NS, start_ns, self._gathered)
        yield _Every(_HEARTBEAT_NS, start_ns, self._heartbeat)
        yield _Every(_TICKER_BATCH_NS, start_ns, self._ticker_batch)
        yield _Every(_AUCTION_NS, start_ns, self._auction)
        yield self._rfq

    def greeting(self, channel: str, now_ns: int) -> bytes | None:
        trading = self.trading
        if channel in {TICKER.name, TICKER_BATCH.name}:
            return trading.ticker()
        if channel == MATCHES.name:
            return trading.last_match()
        if channel == LEVEL2.name:
            return self._snapshot({}, now_ns)
        if channel == LEVEL2_BATCH.name:
            return self._snapshot(self._before, self._closed_ns)
        return order_messages.SCHEMA if channel == LEVEL3.name else None

    def pour(self, levels: int, now_ns: int, wanted: Wanted) -> Iterator[MarketMessage]:
        told = self.trading.pour(levels, now_ns, wanted)
        self._touched_ns = now_ns
        yield from told
        # Close the window early: the next snapshot is to have it all.
        gathered = self._gathered(now_ns)
        if gathered is not None:
            yield gathered

    def _snapshot(self, instead: dict[tuple[Side, int], int], time_ns: int) -> bytes:
        """Return the book, but with the sizes of ``instead`` at their levels."""

        def rows(side: Side) -> list[tuple[int, int]]:
            sizes = dict(self.trading.engine.book.side(side).rows())
            sizes.update((tick, units) for (at, tick), units in instead.items() if at == side)
            there = (row for row in sizes.items() if row[1])
            return sorted(there, reverse=side == "buy")

        return messages.snapshot(self.trading.product, rows("sell"), rows("buy"), time_ns)

    def _message(
        self, time_ns: int, channel: str, made: bytes | Callable[[], bytes]
    ) -> MarketMessage:
        return MarketMessage(time_ns, channel, self.trading.product.id, made)

    def _touching(self, side: Side, tick: int, before: int) -> None:
        self._before.setdefault((side, tick), before)
        self._touched_ns = self.trading.due_ns

    def _gathered(self, now_ns: int) -> MarketMessage | None:
        book = self.trading.engine.book
        changes = [
            (side, tick, book.side(side)[tick])
            for (side, tick), before in self._before.items()
            if book.side(side)[tick] != before
        ]
        self._before.clear()
        self._closed_ns = now_ns
        if not changes:
            return None
        update = partial(messages.l2update, self.trading.product, changes, self._touched_ns)
        return self._message(now_ns, LEVEL2_BATCH.name, update)

    def _heartbeat(self, now_ns: int) -> MarketMessage:
        return self._message(now_ns, HEARTBEAT.name, self.trading.heartbeat(now_ns))

    def _auction(self, now_ns: int) -> MarketMessage | None:
        if now_ns > self.auction_until_ns:
            return None
        engine = self.trading.engine
        made = messages.auction(self.trading.product, engine.book, engine.sequence, now_ns)
        return self._message(now_ns, AUCTION.name, made)

    def _ticker_batch(self, now_ns: int) -> MarketMessage | None:
        trade_id = self.trading.trades[-1].trade_id
        if trade_id == self._batched_trade_id:
            return None
        self._batched_trade_id = trade_id
        return self._message(now_ns, TICKER_BATCH.name, self.trading.ticker())


class Market:
    """A seeded market of many products.

    Attributes:
        products: by id, in the order they are listed.
        now_ns: how far time has come, ns since the epoch.
    """

    def __init__(
        self,
        seed: int,
        start_ns: int,
        products: Iterable[Product],
        rate: float = 1.0,
        *,
        modifies: bool = True,
    ) -> None:
        """Open the market.

        Args:
            seed: decides, with the other arguments, every byte that follows.
            start_ns: the market's first moment, ns since the epoch. Sequences and trade
                ids begin at numbers made from it, so they rise across restarts.
            products: what is traded; ids are unique.
            rate: liveliness; 1.0 is near the real exchange's, ``RATE_MAX`` the most.
            modifies: whether orders are modified; see ``Simulation``.
        """
        if not 0 < rate <= RATE_MAX:
            raise AssertionError(f"a rate of {rate:g}")
        self.products = {product.id: product for product in products}
        self.now_ns = start_ns
        self._feeds = {
            product.id: _ProductFeed(product, seed, start_ns, rate, modifies=modifies)
            for product in self.products.values()
        }
        self._status = messages.status(self.products.values())
        self._processes: list[_Process] = [_Every(_STATUS_NS, start_ns, self._status_message)]
        for feed in self._feeds.values():
            self._processes += feed.processes(start_ns)
        self._agenda = [(process.due_ns, at) for at, process in enumerate(self._processes)]
        heapq.heapify(self._agenda)

    def advance(self, until_ns: int, wanted: Wanted = EVERYTHING) -> Iterator[MarketMessage]:
        """Let time pass up to and including ``until_ns``; yield what is sent, in order.

        The market moves as the iterator is consumed: use it up before asking for
        anything else.

        Args:
            until_ns: ns since the epoch.
            wanted: ``(canonical channel, product id)`` pairs; of others nothing need be
                made. What happens does not depend on it.
        """
        while self._agenda[0][0] <= until_ns:
            due_ns, at = self._agenda[0]
            process = self._processes[at]
            self.now_ns = due_ns
            happened = process.fire(wanted)
            heapq.heapreplace(self._agenda, (process.due_ns, at))
            yield from happened
        self.now_ns = max(self.now_ns, until_ns)

    def pour(
        self, product_id: str, levels: int, wanted: Wanted = EVERYTHING
    ) -> Iterator[MarketMessage]:
        """Make the book of one product deeper by ``levels`` a side; return what is told."""
        return self._feeds[product_id].pour(levels, self.now_ns, wanted)

    def hold_auction(self, product_id: str, seconds: float) -> None:
        """Say on ``auctionfeed``, once a second, that ``product_id`` is in auction.

        Only the channel and REST's ``auction_mode`` know of it: trading goes on.
        """
        self._feeds[product_id].auction_until_ns = self.now_ns + int(seconds * NS_PER_S)

    def in_auction(self, product_id: str) -> bool:
        """Say whether ``product_id`` is in auction."""
        return self.now_ns < self._feeds[product_id].auction_until_ns

    def trading(self, product_id: str) -> Trading:
        """Return the market of one product, for those who read its book or its trades."""
        return self._feeds[product_id].trading

    def greeting(self, channel: str, product_id: str) -> bytes | None:
        """Return what a new subscriber of ``channel`` is sent at once, or None.

        Args:
            channel: a canonical name.
            product_id: one of ``products``; empty for ``status``, and for ``rfq_matches``
                of all products.
        """
        if channel == STATUS.name:
            return self._status
        feed = self._feeds.get(product_id)
        return feed.greeting(channel, self.now_ns) if feed else None

    def _status_message(self, now_ns: int) -> MarketMessage:
        return MarketMessage(now_ns, STATUS.name, "", self._status)
