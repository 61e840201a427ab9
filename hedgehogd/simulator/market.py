"""The simulated exchange's market: all products on one clock, which is an argument.

``advance`` lets time pass and returns all messages that the exchange would have sent to a
subscriber of every topic, in time order. The same seed, start, products and rate give the same
bytes, for any steps of time and any subscriptions.

This module also makes the derived channels: ``level2_50`` combines 50 ms of changes into one
message, and ``ticker_1000`` reports changes every 5 s (docs/COINBASE.md §5). A combined message
states the net change of its window: a level that appeared and disappeared within it is not
mentioned, so that a removal always names a level that exists. Therefore ``level2_50`` has a
snapshot of its own: the book at the end of the last window.
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

# Above this rate the counters could outrun the start of a later run (trading.NS_PER_SEQUENCE),
# and one core could not make the messages anyway.
RATE_MAX = 100.0


class _Everything:
    def __contains__(self, topic: object) -> bool:
        return True


EVERYTHING: Wanted = _Everything()
"""All topics, as for a subscriber of everything."""

_HEARTBEAT_NS = NS_PER_S
_STATUS_NS = 5 * NS_PER_S
_WINDOW_NS = NS_PER_S // 20
_TICKER_BATCH_NS = 5 * NS_PER_S
_AUCTION_NS = NS_PER_S


class _Process(Protocol):
    """A recurring event of the market.

    Attributes:
        due_ns: time of the next one, ns since the epoch.
    """

    due_ns: int

    def fire(self, wanted: Wanted) -> Iterable[MarketMessage]:
        """Carry it out, move ``due_ns`` ahead, and return the messages to send.

        Those of topics that are not in ``wanted`` may be left out.
        """


class _Every:
    """A process with a fixed period: ``make`` returns the message to send, or None."""

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
    """One product's channels: its trading, and the channels derived from it."""

    def __init__(
        self, product: Product, seed: int, start_ns: int, rate: float, *, modifies: bool
    ) -> None:
        # Levels that changed in the current window of level2_50, with their sizes before it.
        self._before: dict[tuple[Side, int], int] = {}
        self._changed_ns = self._closed_ns = start_ns
        self._batched_trade_id = 0
        self.auction_until_ns = 0
        self.trading = Trading(
            product, seed, start_ns, rate, self._before_change, modifies=modifies
        )
        self._rfq = Rfq(self.trading, seed, start_ns, rate)

    def processes(self, start_ns: int) -> Iterator[_Process]:
        yield self.trading
        yield _Every(_WINDOW_NS, start_ns, self._level2_batch)
        yield _Every(_HEARTBEAT_NS, start_ns, self._heartbeat)
        yield _Every(_TICKER_BATCH_NS, start_ns, self._ticker_batch)
        yield _Every(_AUCTION_NS, start_ns, self._auction)
        yield self._rfq

    def initial_state(self, channel: str, now_ns: int) -> bytes | None:
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

    def add_levels(self, levels: int, now_ns: int, wanted: Wanted) -> Iterator[MarketMessage]:
        sent = self.trading.add_levels(levels, now_ns, wanted)
        self._changed_ns = now_ns
        yield from sent
        # Close the window early: the next snapshot must include the new levels.
        batch = self._level2_batch(now_ns)
        if batch is not None:
            yield batch

    def _snapshot(self, instead: dict[tuple[Side, int], int], time_ns: int) -> bytes:
        """Return a ``snapshot`` of the book, with the sizes of ``instead`` at their levels."""

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

    def _before_change(self, side: Side, tick: int, before: int) -> None:
        self._before.setdefault((side, tick), before)
        self._changed_ns = self.trading.due_ns

    def _level2_batch(self, now_ns: int) -> MarketMessage | None:
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
        update = partial(messages.l2update, self.trading.product, changes, self._changed_ns)
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
        products: by id, in listing order.
        now_ns: the market's time, ns since the epoch.
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
            seed: determines, with the other arguments, every byte that follows.
            start_ns: the market's first time, ns since the epoch. Sequences and trade ids begin
                at numbers made from it, so they rise across restarts.
            products: the products to trade; ids are unique.
            rate: activity; 1.0 is near the real exchange's, ``RATE_MAX`` the highest.
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
        """Advance to ``until_ns`` inclusive; yield the messages of that time, in order.

        The market advances as the iterator is consumed: exhaust it before calling any other
        method.

        Args:
            until_ns: ns since the epoch.
            wanted: ``(canonical channel, product id)`` pairs; messages of other topics may be
                left out. The events of the market do not depend on it.
        """
        while self._agenda[0][0] <= until_ns:
            due_ns, at = self._agenda[0]
            process = self._processes[at]
            self.now_ns = due_ns
            sent = process.fire(wanted)
            heapq.heapreplace(self._agenda, (process.due_ns, at))
            yield from sent
        self.now_ns = max(self.now_ns, until_ns)

    def add_levels(
        self, product_id: str, levels: int, wanted: Wanted = EVERYTHING
    ) -> Iterator[MarketMessage]:
        """Add ``levels`` levels to each side of a product's book; yield the messages.

        They are added as the iterator is consumed: exhaust it before calling any other method.

        Raises:
            KeyError: the product is not listed.
        """
        return self._feeds[product_id].add_levels(levels, self.now_ns, wanted)

    def hold_auction(self, product_id: str, seconds: float) -> None:
        """Send an ``auction`` of ``product_id`` on ``auctionfeed`` each second for ``seconds``.

        The auction affects only that channel and REST's ``auction_mode``: trading goes on. A later
        call replaces the end. KeyError if the product is not listed.
        """
        self._feeds[product_id].auction_until_ns = self.now_ns + int(seconds * NS_PER_S)

    def in_auction(self, product_id: str) -> bool:
        """Return whether ``product_id`` is in an auction; KeyError if it is not listed."""
        return self.now_ns < self._feeds[product_id].auction_until_ns

    def trading(self, product_id: str) -> Trading:
        """Return the market of one product, for access to its book and its trades.

        Raises:
            KeyError: the product is not listed.
        """
        return self._feeds[product_id].trading

    def initial_state(self, channel: str, product_id: str) -> bytes | None:
        """Return the first message that a new subscriber of a topic gets.

        None for a channel without an initial state, and for a product that is not listed.

        Args:
            channel: a canonical name.
            product_id: one of ``products``; empty for ``status``, and for ``rfq_matches``
                of all products.
        """
        if channel == STATUS.name:
            return self._status
        feed = self._feeds.get(product_id)
        return feed.initial_state(channel, self.now_ns) if feed else None

    def _status_message(self, now_ns: int) -> MarketMessage:
        return MarketMessage(now_ns, STATUS.name, "", self._status)
