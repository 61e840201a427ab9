"""An order book of single orders, in integers: the true state of the simulated exchange.

Prices are ticks, sizes are units (``amounts``). A level consists of the orders at one price,
oldest first, and its size is their sum. The two sides differ only in the direction of a better
price, so both are a ``Ladder``.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator
from typing import Literal

Side = Literal["buy", "sell"]


class Order:
    """An order that rests on the book, or did.

    Attributes:
        number: unique in its product; its UUID is made from it (``events.order_id``).
        side: ``"buy"`` or ``"sell"``.
        tick: its limit price.
        units: its remaining size; above 0 while it rests.
    """

    __slots__ = ("number", "side", "tick", "units")

    def __init__(self, number: int, side: Side, tick: int, units: int) -> None:
        self.number = number
        self.side: Side = side
        self.tick = tick
        self.units = units


class _Level:
    """The orders at one price, and the sum of their sizes."""

    __slots__ = ("orders", "units")

    def __init__(self) -> None:
        self.orders: dict[int, Order] = {}
        self.units = 0


class Ladder:
    """One side of a book: its levels, the best of them first.

    Keys are ticks times ``_sign``, ascending, so that the best level is always the last of the
    list and can be removed at no cost.

    Attributes:
        orders: number of orders on this side.
    """

    __slots__ = ("_keys", "_levels", "_sign", "orders")

    def __init__(self, side: Side) -> None:
        self.orders = 0
        self._sign = 1 if side == "buy" else -1
        self._levels: dict[int, _Level] = {}
        self._keys: list[int] = []

    def __len__(self) -> int:
        """Return the number of levels."""
        return len(self._keys)

    def __getitem__(self, tick: int) -> int:
        """Return the size at ``tick`` in units; 0 if there is no such level."""
        level = self._levels.get(tick)
        return level.units if level else 0

    def add(self, order: Order) -> None:
        """Add ``order`` at the end of the queue at its price."""
        level = self._levels.get(order.tick)
        if level is None:
            level = self._levels[order.tick] = _Level()
            insort(self._keys, order.tick * self._sign)
        level.orders[order.number] = order
        level.units += order.units
        self.orders += 1

    def append_levels(self, orders: list[Order]) -> None:
        """Add many orders beyond the worst level, each on a new level, the nearest first."""
        for order in orders:
            level = self._levels[order.tick] = _Level()
            level.orders[order.number] = order
            level.units = order.units
        self._keys[:0] = [order.tick * self._sign for order in reversed(orders)]
        self.orders += len(orders)

    def resize(self, order: Order, units: int) -> None:
        """Set the remaining size of ``order`` to ``units``; it keeps its place, and 0 removes it.

        Raises:
            KeyError: the order does not rest here.
        """
        level = self._levels[order.tick]
        if order.number not in level.orders:
            raise KeyError(order.number)
        level.units += units - order.units
        order.units = units
        if not units:
            del level.orders[order.number]
            self.orders -= 1
            if not level.orders:
                del self._levels[order.tick]
                del self._keys[bisect_left(self._keys, order.tick * self._sign)]

    def tick(self, rank: int) -> int:
        """Return the tick of a level; rank 0 is the best.

        Raises:
            IndexError: there are not so many levels.
        """
        return self._keys[-1 - rank] * self._sign

    def queue(self, tick: int) -> Iterator[Order]:
        """Iterate over the orders of one level, oldest first.

        Raises:
            KeyError: there is no level at ``tick``.
        """
        return iter(self._levels[tick].orders.values())

    def crowd(self, tick: int) -> int:
        """Return the number of orders of the level at ``tick``; 0 if there is no such level."""
        level = self._levels.get(tick)
        return len(level.orders) if level else 0

    def rows(self) -> Iterator[tuple[int, int]]:
        """Iterate over ``(tick, units)``, the best level first."""
        for key in reversed(self._keys):
            tick = key * self._sign
            yield tick, self._levels[tick].units

    def resting(self) -> Iterator[Order]:
        """Iterate over the side's orders in matching order: best price first, then oldest first."""
        for key in reversed(self._keys):
            yield from self._levels[key * self._sign].orders.values()


class Book:
    """Both sides of one product.

    Attributes:
        bids: orders to buy.
        asks: orders to sell; always at prices above the bids.
    """

    __slots__ = ("asks", "bids")

    def __init__(self) -> None:
        self.bids = Ladder("buy")
        self.asks = Ladder("sell")

    def side(self, side: Side) -> Ladder:
        """Return the bids for ``"buy"``, the asks for ``"sell"``."""
        return self.bids if side == "buy" else self.asks

    @property
    def best_bid(self) -> int:
        """The highest bid, in ticks; IndexError without bids."""
        return self.bids.tick(0)

    @property
    def best_ask(self) -> int:
        """The lowest ask, in ticks; IndexError without asks."""
        return self.asks.tick(0)
