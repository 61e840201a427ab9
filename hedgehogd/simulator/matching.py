"""The matching engine of one simulated product: orders in, numbered events out.

Pure: no clock and no randomness; ``trading`` decides which orders arrive. Every event has the
next sequence, so a subscriber to all of them sees no gap (docs/COINBASE.md §7). An incoming
order that trades is received, then matched, then done or open; a maker's done follows the
match that exhausted it; the book never crosses.
"""

from collections.abc import Callable
from itertools import takewhile
from typing import NamedTuple

from hedgehogd.simulator.book import Book, Ladder, Order, Side
from hedgehogd.simulator.events import (
    AddedLevels,
    Changed,
    Done,
    Event,
    Fleeting,
    Matched,
    Opened,
    Received,
)

MATCHES_PER_TAKER_MAX = 8
# A side with this few levels is not traded against: a market always exists.
LEVELS_MIN = 20


class TakerOrder(NamedTuple):
    """An order that trades at once.

    Attributes:
        side: ``"buy"`` trades with asks.
        units: its size.
        limit: the worst price that it accepts, at which its remainder rests; None for a market
            order.
        says_funds: True for a market order that states money instead of a size.
        is_own: True when its first counterparty is the same trader: self-trade prevention then
            reduces both orders instead (docs/COINBASE.md §6.11).
    """

    side: Side
    units: int
    limit: int | None = None
    says_funds: bool = False
    is_own: bool = False


class Engine:
    """One product's book and counters.

    Attributes:
        book: all resting orders.
        sequence: the number of the latest event.
        trade_id: the number of the latest trade.
        events: events not collected yet, oldest first.
    """

    def __init__(
        self,
        sequence: int,
        trade_id: int,
        funds_step: int,
        before_change: Callable[[Side, int, int], None],
    ) -> None:
        """Open an empty book.

        Args:
            sequence: the number before the first event's.
            trade_id: the number before the first trade's.
            funds_step: money in an order is a multiple of this, in ticks times units.
            before_change: called with ``(side, tick, units)`` before every change to a level.
        """
        self.book = Book()
        self.sequence = sequence
        self.trade_id = trade_id
        self.events: list[Event] = []
        self._funds_step = funds_step
        self._before_change = before_change

    def collect(self) -> list[Event]:
        """Return the events since the last call."""
        events, self.events = self.events, []
        return events

    def rest(self, side: Side, tick: int, units: int) -> None:
        """Accept an order that does not trade at once; its price must not cross."""
        number = self._next()
        self.events.append(Received(number, side, tick, units))
        self._open(Order(number, side, tick, units))

    def cancel(self, order: Order) -> None:
        """Remove ``order``, which rests, from the book."""
        left = order.units
        changes = (self._resize(order, 0),)
        done = Done(
            self._next(), order.number, order.side, order.tick, left, "canceled", True, changes
        )
        self.events.append(done)

    def shrink(self, order: Order, units: int, reason: str = "modify_order") -> None:
        """Reduce ``order`` to ``units``, above 0 and below its size; it keeps its place."""
        before = order.units
        changes = (self._resize(order, units),)
        changed = Changed(
            self._next(), order.number, order.side, reason,
            order.tick, order.tick, before, units, changes,
        )  # fmt: skip
        self.events.append(changed)

    def move(self, order: Order, tick: int) -> None:
        """Move ``order`` to a new price, at the end of the queue there; it must not cross."""
        ladder, units, before = self.book.side(order.side), order.units, order.tick
        left = self._resize(order, 0)
        order.tick, order.units = tick, units
        self._before_change(order.side, tick, ladder[tick])
        ladder.add(order)
        changed = Changed(
            self._next(), order.number, order.side, "modify_order", before, tick, units, units,
            (left, (order.side, tick, ladder[tick])),
        )  # fmt: skip
        self.events.append(changed)

    def add_fleeting(self, count: int, salt: int, units: int) -> None:
        """Accept ``count`` orders, at least one, that end at once without changing the book."""
        self.sequence += 2 * count
        book = self.book
        fleeting = Fleeting(self.sequence, count, salt, book.best_bid, book.best_ask, units)
        self.events.append(fleeting)

    def add_levels(self, side: Side, rows: list[tuple[int, int]]) -> None:
        """Open an order at each ``(tick, units)``: new levels beyond the worst one of a side.

        Args:
            side: ``"buy"`` or ``"sell"``.
            rows: the nearest first; at least one.
        """
        orders = []
        for tick, units in rows:
            orders.append(Order(self._next(), side, tick, units))
            self._before_change(side, tick, 0)
        self.book.side(side).append_levels(orders)
        changes = tuple((side, tick, units) for tick, units in rows)
        self.events.append(AddedLevels(self.sequence, tuple(orders), changes))

    def take(self, incoming: TakerOrder, time_ns: int) -> list[Matched]:
        """Match ``incoming`` with the resting orders; return the trades, if any.

        It has at most ``MATCHES_PER_TAKER_MAX`` trades, and leaves at least ``LEVELS_MIN`` levels.
        The remainder rests at its limit, if it has one and all orders up to that price are filled;
        otherwise it is canceled. If self-trade prevention ends it, there is no trade.
        """
        ladder = self.book.side("sell" if incoming.side == "buy" else "buy")
        fills, may_rest = _fills(ladder, incoming)
        taker = self._next()
        self.events.append(self._received(taker, incoming, fills))
        if incoming.is_own and fills and fills[0][0].units > incoming.units:
            self.shrink(fills[0][0], fills[0][0].units - incoming.units, "STP")
            self._finish(taker, incoming, incoming.units, "canceled")
            return []
        matches = [self._match(taker, maker, units, time_ns) for maker, units in fills]
        left = incoming.units - sum(units for _, units in fills)
        if not left:
            self._finish(taker, incoming, 0, "filled")
        elif may_rest and incoming.limit is not None:
            self._open(Order(taker, incoming.side, incoming.limit, left))
        else:
            self._finish(taker, incoming, left, "canceled")
        return matches

    def _received(
        self, taker: int, incoming: TakerOrder, fills: list[tuple[Order, int]]
    ) -> Received:
        if not incoming.says_funds:
            return Received(taker, incoming.side, incoming.limit, incoming.units)
        money = sum(order.tick * units for order, units in fills)
        steps = -(-money // self._funds_step)
        return Received(taker, incoming.side, None, None, steps * self._funds_step)

    def _match(self, taker: int, maker: Order, units: int, time_ns: int) -> Matched:
        self.trade_id += 1
        change = self._resize(maker, maker.units - units)
        matched = Matched(
            self.trade_id, self._next(), maker.number, taker, maker.side, maker.tick, units,
            time_ns, (change,),
        )  # fmt: skip
        self.events.append(matched)
        if not maker.units:
            done = Done(self._next(), maker.number, maker.side, maker.tick, 0, "filled", True)
            self.events.append(done)
        return matched

    def _finish(self, taker: int, incoming: TakerOrder, left: int, reason: str) -> None:
        done = Done(self._next(), taker, incoming.side, incoming.limit, left, reason, False)
        self.events.append(done)

    def _open(self, order: Order) -> None:
        ladder = self.book.side(order.side)
        self._before_change(order.side, order.tick, ladder[order.tick])
        ladder.add(order)
        change = (order.side, order.tick, ladder[order.tick])
        opened = Opened(self._next(), order.number, order.side, order.tick, order.units, (change,))
        self.events.append(opened)

    def _resize(self, order: Order, units: int) -> tuple[Side, int, int]:
        """Set the size of ``order`` to ``units``; return its level afterwards."""
        ladder = self.book.side(order.side)
        self._before_change(order.side, order.tick, ladder[order.tick])
        ladder.resize(order, units)
        return order.side, order.tick, ladder[order.tick]

    def _next(self) -> int:
        self.sequence += 1
        return self.sequence


def _fills(ladder: Ladder, incoming: TakerOrder) -> tuple[list[tuple[Order, int]], bool]:
    """Return the fills of ``incoming`` as (order, units), and whether its remainder may rest."""
    fills: list[tuple[Order, int]] = []
    left, levels_left, tick = incoming.units, len(ladder) - LEVELS_MIN, None

    def is_acceptable(order: Order) -> bool:
        limit = incoming.limit
        if limit is None:
            return True
        return order.tick <= limit if incoming.side == "buy" else order.tick >= limit

    for order in takewhile(is_acceptable, ladder.resting()):
        levels_left -= order.tick != tick
        tick = order.tick
        if not left or len(fills) == MATCHES_PER_TAKER_MAX or levels_left < 0:
            return fills, False
        fills.append((order, min(left, order.units)))
        left -= fills[-1][1]
    return fills, True
