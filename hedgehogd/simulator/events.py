"""Events of the simulated exchange's matching engine.

Each event has its product's next ``sequence``. ``order_messages`` makes the messages of ``full``
and ``level3`` from them, and only if a client is subscribed: most events of a real exchange are
orders that come and go without changing the book (docs/COINBASE.md §7), and a market without
subscribers to single orders must not pay for them.

For the same reason an order's UUID is a function of its number instead of a random number, and
orders that come and go are one ``Fleeting`` until a subscriber needs each of them.
"""

from collections.abc import Iterator
from typing import NamedTuple

from hedgehogd.simulator.book import Order, Side

Change = tuple[Side, int, int]
"""A level and its size after an event: side, tick, units."""

_MASK = (1 << 128) - 1
# Odd, so that multiplication is a bijection: different numbers give different UUIDs.
_FIRST = 0x9E3779B97F4A7C15F39CC0605CEDC835
_SECOND = 0xC2B2AE3D27D4EB4F165667B19E3779F9


def mixed(salt: int, number: int) -> int:
    """Return 128 bits that look random, always the same for ``salt`` and ``number``."""
    bits = (number * _FIRST + salt) & _MASK
    bits = ((bits ^ bits >> 61) * _SECOND) & _MASK
    return bits ^ bits >> 67


def order_id(salt: int, number: int) -> str:
    """Return the UUID of an order.

    >>> order_id(1, 2)
    'adbebd4b-9b03-4e5d-a7c1-a5e93ad73ea5'
    """
    text = f"{mixed(salt, number):032x}"
    return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-a{text[17:20]}-{text[20:]}"


class Received(NamedTuple):
    """The engine accepted an order; it is not on the book yet.

    Attributes:
        sequence: the product's counter; also the order's number.
        side: ``"buy"`` or ``"sell"``.
        tick: its limit; None for a market order.
        units: its size; None for a market order that states funds.
        funds: money that a market order may spend, in ticks times units; None if it states a
            size.
        changes: empty: no level changes.
    """

    sequence: int
    side: Side
    tick: int | None
    units: int | None
    funds: int | None = None
    changes: tuple[Change, ...] = ()


class Opened(NamedTuple):
    """An order, or the rest of a partly filled one, is now on the book.

    Attributes:
        sequence: the product's counter.
        number: the order's.
        side: the order's.
        tick: its price.
        units: its size on the book.
        changes: its level after it was added; empty for an order of ``AddedLevels``.
    """

    sequence: int
    number: int
    side: Side
    tick: int
    units: int
    changes: tuple[Change, ...]


class Done(NamedTuple):
    """An order has ended.

    Attributes:
        sequence: the product's counter.
        number: the order's.
        side: the order's.
        tick: its limit; None for a market order.
        units: its remaining size.
        reason: ``"filled"`` or ``"canceled"``.
        was_open: False for an order that never rested.
        changes: the level that the order left; empty after a fill, since the match reported it.
    """

    sequence: int
    number: int
    side: Side
    tick: int | None
    units: int
    reason: str
    was_open: bool
    changes: tuple[Change, ...] = ()


class Changed(NamedTuple):
    """A resting order has a new size or a new price.

    Attributes:
        sequence: the product's counter.
        number: the order's.
        side: the order's.
        reason: ``"STP"`` or ``"modify_order"``.
        old_tick: its price before.
        new_tick: its price now.
        old_units: its size before.
        new_units: its size now.
        changes: the levels that changed; two when the order moved.
    """

    sequence: int
    number: int
    side: Side
    reason: str
    old_tick: int
    new_tick: int
    old_units: int
    new_units: int
    changes: tuple[Change, ...]


class Matched(NamedTuple):
    """A trade between a resting order (the maker) and a new one (the taker).

    Attributes:
        trade_id: the product's counter of trades; rises by exactly one.
        sequence: the product's counter of engine events.
        maker: the resting order's number.
        taker: the new order's number; the same for all trades of one order.
        maker_side: ``"sell"`` when a resting ask was lifted.
        tick: the price.
        units: the size.
        time_ns: ns since the epoch.
        changes: the level after the trade.
    """

    trade_id: int
    sequence: int
    maker: int
    taker: int
    maker_side: Side
    tick: int
    units: int
    time_ns: int
    changes: tuple[Change, ...] = ()

    @property
    def taker_side(self) -> Side:
        """The side of the incoming order; a ticker reports it as ``side``."""
        return "sell" if self.maker_side == "buy" else "buy"


class Fleeting(NamedTuple):
    """Orders that could only fill at once and did not: each is received, then done.

    Attributes:
        sequence: the number of the last of the ``2 * orders`` events.
        orders: number of orders.
        salt: their sides, prices and sizes are derived from it.
        best_bid: in ticks, at their arrival.
        best_ask: in ticks, at their arrival.
        units: a typical size.
        changes: empty: no level changes.
    """

    sequence: int
    orders: int
    salt: int
    best_bid: int
    best_ask: int
    units: int
    changes: tuple[Change, ...] = ()

    def singles(self) -> Iterator["Received | Done"]:
        """Iterate over the single events of these orders."""
        for number in range(self.sequence - 2 * self.orders + 1, self.sequence, 2):
            bits = mixed(~self.salt, number)
            away = bits >> 8 & 0x7F
            units = 1 + self.units * (1 + (bits >> 16 & 0xFF)) // 128
            side: Side = "buy" if bits & 1 else "sell"
            tick = max(1, self.best_ask - 1 - away) if bits & 1 else self.best_bid + 1 + away
            yield Received(number, side, tick, units)
            yield Done(number + 1, number, side, tick, units, "canceled", False)


class AddedLevels(NamedTuple):
    """Many orders far from the market, opened in a row without a ``received``.

    Attributes:
        sequence: the number of the last of them.
        orders: the orders; each is alone on its level.
        changes: all their levels.
    """

    sequence: int
    orders: tuple[Order, ...]
    changes: tuple[Change, ...]

    def singles(self) -> Iterator[Opened]:
        """Iterate over the single events of these orders."""
        for order, change in zip(self.orders, self.changes, strict=True):
            yield Opened(order.number, order.number, order.side, order.tick, change[2], ())


Single = Received | Opened | Done | Changed | Matched
Event = Single | Fleeting | AddedLevels


def singles(event: Event) -> Iterator[Single]:
    """Iterate over the single events of ``event``: itself, unless it holds several."""
    if isinstance(event, Fleeting | AddedLevels):
        yield from event.singles()
    else:
        yield event
