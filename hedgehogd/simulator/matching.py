"""The matching engine of one simulated product: orders in, numbered events out.

Pure: no clock and no chance; who trades what is ``trading``'s part. Every event has the
next sequence, so whoever is told all of them sees no hole (FEED §7). An order that trades
at once is received, matched and then done or open; a maker's done follows the match that
exhausted it; a book never crosses.
"""

from collections.abc import Callable
from itertools import takewhile
from typing import NamedTuple

from hedgehogd.simulator.book import Book, Ladder, Order, Side
from hedgehogd.simulator.events import (
    Changed,
    Done,
    Event,
    Fleeting,
    Matched,
    Opened,
    Poured,
    Received,
)

MATCHES_PER_TAKER_MAX = 8
# A side with this few levels is not taken from: there is always a market.
LEVELS_MIN = 20


class Wish(NamedTuple):
    """An order that would trade at once.

    Attributes:
        side: ``"buy"`` takes asks.
        units: how much.
        limit: the worst price it takes, and where its rest will wait; None for a market order.
        says_funds: True for a market order that states money instead of a size.
        is_own: True when the order it would meet first is the same trader's: self-trade
            prevention then takes from both instead (FEED §6.11).
    """

    side: Side
    units: int
    limit: int | None = None
    says_funds: bool = False
    is_own: bool = False


class Engine:
    """One product's book and counters.

    Attributes:
        book: all orders that rest.
        sequence: the number of the latest event.
        trade_id: the number of the latest trade.
        happened: events that nobody has collected yet, oldest first.
    """

    def __init__(
        self,
        sequence: int,
        trade_id: int,
        funds_step: int,
        touching: Callable[[Side, int, int], None],
    ) -> None:
        """Open an empty book.

        Args:
            sequence: the number before the first event's.
            trade_id: the number before the first trade's.
            funds_step: stated money is a multiple of this, in ticks times units.
            touching: called with ``(side, tick, units)`` before every change to a level.
        """
        self.book = Book()
        self.sequence = sequence
        self.trade_id = trade_id
        self.happened: list[Event] = []
        self._funds_step = funds_step
        self._touching = touching

    def collect(self) -> list[Event]:
        """Return what happened since the last call."""
        happened, self.happened = self.happened, []
        return happened

    def rest(self, side: Side, tick: int, units: int) -> None:
        """Take an order that does not trade at once; its price must not cross."""
        number = self._next()
        self.happened.append(Received(number, side, tick, units))
        self._open(Order(number, side, tick, units))

    def cancel(self, order: Order) -> None:
        """Take ``order``, which rests, off the book."""
        left = order.units
        changes = (self._resize(order, 0),)
        done = Done(
            self._next(), order.number, order.side, order.tick, left, "canceled", True, changes
        )
        self.happened.append(done)

    def shrink(self, order: Order, units: int, reason: str = "modify_order") -> None:
        """Leave ``units`` of ``order``, above 0 and fewer than it has, where it is."""
        before = order.units
        changes = (self._resize(order, units),)
        changed = Changed(
            self._next(), order.number, order.side, reason,
            order.tick, order.tick, before, units, changes,
        )  # fmt: skip
        self.happened.append(changed)

    def move(self, order: Order, tick: int) -> None:
        """Give ``order`` another price, behind all who wait there; it must not cross."""
        ladder, units, before = self.book.side(order.side), order.units, order.tick
        left = self._resize(order, 0)
        order.tick, order.units = tick, units
        self._touching(order.side, tick, ladder[tick])
        ladder.add(order)
        changed = Changed(
            self._next(), order.number, order.side, "modify_order", before, tick, units, units,
            (left, (order.side, tick, ladder[tick])),
        )  # fmt: skip
        self.happened.append(changed)

    def pass_by(self, count: int, salt: int, units: int) -> None:
        """Take ``count`` orders, at least one, that leave again without a trace in the book."""
        self.sequence += 2 * count
        book = self.book
        fleeting = Fleeting(self.sequence, count, salt, book.best_bid, book.best_ask, units)
        self.happened.append(fleeting)

    def pour(self, side: Side, rows: list[tuple[int, int]]) -> None:
        """Open an order at each ``(tick, units)``: new levels behind the last one of a side.

        Args:
            side: which side.
            rows: the nearest first; at least one.
        """
        orders = []
        for tick, units in rows:
            orders.append(Order(self._next(), side, tick, units))
            self._touching(side, tick, 0)
        self.book.side(side).add_behind(orders)
        changes = tuple((side, tick, units) for tick, units in rows)
        self.happened.append(Poured(self.sequence, tuple(orders), changes))

    def take(self, wish: Wish, time_ns: int) -> list[Matched]:
        """Let ``wish`` trade with what rests; return the trades.

        What is left of it waits at its limit, if it has one and everything up to there
        is taken; otherwise it is canceled.
        """
        ladder = self.book.side("sell" if wish.side == "buy" else "buy")
        fills, may_rest = _fills(ladder, wish)
        taker = self._next()
        self.happened.append(self._received(taker, wish, fills))
        if wish.is_own and fills and fills[0][0].units > wish.units:
            self.shrink(fills[0][0], fills[0][0].units - wish.units, "STP")
            self._finish(taker, wish, wish.units, "canceled")
            return []
        matches = [self._match(taker, maker, units, time_ns) for maker, units in fills]
        left = wish.units - sum(units for _, units in fills)
        if not left:
            self._finish(taker, wish, 0, "filled")
        elif may_rest and wish.limit is not None:
            self._open(Order(taker, wish.side, wish.limit, left))
        else:
            self._finish(taker, wish, left, "canceled")
        return matches

    def _received(self, taker: int, wish: Wish, fills: list[tuple[Order, int]]) -> Received:
        if not wish.says_funds:
            return Received(taker, wish.side, wish.limit, wish.units)
        money = sum(order.tick * units for order, units in fills)
        steps = -(-money // self._funds_step)
        return Received(taker, wish.side, None, None, steps * self._funds_step)

    def _match(self, taker: int, maker: Order, units: int, time_ns: int) -> Matched:
        self.trade_id += 1
        change = self._resize(maker, maker.units - units)
        matched = Matched(
            self.trade_id, self._next(), maker.number, taker, maker.side, maker.tick, units,
            time_ns, (change,),
        )  # fmt: skip
        self.happened.append(matched)
        if not maker.units:
            done = Done(self._next(), maker.number, maker.side, maker.tick, 0, "filled", True)
            self.happened.append(done)
        return matched

    def _finish(self, taker: int, wish: Wish, left: int, reason: str) -> None:
        done = Done(self._next(), taker, wish.side, wish.limit, left, reason, False)
        self.happened.append(done)

    def _open(self, order: Order) -> None:
        ladder = self.book.side(order.side)
        self._touching(order.side, order.tick, ladder[order.tick])
        ladder.add(order)
        change = (order.side, order.tick, ladder[order.tick])
        opened = Opened(self._next(), order.number, order.side, order.tick, order.units, (change,))
        self.happened.append(opened)

    def _resize(self, order: Order, units: int) -> tuple[Side, int, int]:
        """Leave ``units`` of ``order``; return its level as it is then."""
        ladder = self.book.side(order.side)
        self._touching(order.side, order.tick, ladder[order.tick])
        ladder.resize(order, units)
        return order.side, order.tick, ladder[order.tick]

    def _next(self) -> int:
        self.sequence += 1
        return self.sequence


def _fills(ladder: Ladder, wish: Wish) -> tuple[list[tuple[Order, int]], bool]:
    """Return whom ``wish`` would trade with, for how much, and whether its rest may wait."""
    fills: list[tuple[Order, int]] = []
    left, levels_left, tick = wish.units, len(ladder) - LEVELS_MIN, None

    def is_good(order: Order) -> bool:
        limit = wish.limit
        if limit is None:
            return True
        return order.tick <= limit if wish.side == "buy" else order.tick >= limit

    for order in takewhile(is_good, ladder.resting()):
        levels_left -= order.tick != tick
        tick = order.tick
        if not left or len(fills) == MATCHES_PER_TAKER_MAX or levels_left < 0:
            return fills, False
        fills.append((order, min(left, order.units)))
        left -= fills[-1][1]
    return fills, True
