"""What happens inside the simulated exchange's engine, event by event.

Each event has its product's next ``sequence``. The texts that ``full`` and ``level3`` make
of them are ``order_messages``' knowledge, and are made only when somebody listens: most
events of a real exchange are orders that come and go without a trace in the book
(FEED §7), so a market that nobody watches order by order must not pay for them.

That is also why an order's UUID is a function of its number instead of a draw, and why
orders that come and go are one ``Fleeting`` until somebody wants to see each.
"""

from collections.abc import Iterator
from typing import NamedTuple

from hedgehogd.simulator.book import Order, Side

Change = tuple[Side, int, int]
"""A level and its size after an event: side, tick, units."""

_MASK = (1 << 128) - 1
# Odd, so that multiplying by them loses nothing: different numbers, different UUIDs.
_FIRST = 0x9E3779B97F4A7C15F39CC0605CEDC835
_SECOND = 0xC2B2AE3D27D4EB4F165667B19E3779F9


def mixed(salt: int, number: int) -> int:
    """Return 128 bits that look drawn, always the same ones for ``salt`` and ``number``."""
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
    """The engine has taken an order; it is not on the book yet.

    Attributes:
        sequence: the product's counter; also the order's number.
        side: ``"buy"`` or ``"sell"``.
        tick: its limit; None for a market order.
        units: its size; None for a market order that says what to spend.
        funds: what a market order may spend, in ticks times units; None if it says a size.
    """

    sequence: int
    side: Side
    tick: int | None
    units: int | None
    funds: int | None = None
    changes: tuple[Change, ...] = ()


class Opened(NamedTuple):
    """An order, or what is left of it, rests on the book."""

    sequence: int
    number: int
    side: Side
    tick: int
    units: int
    changes: tuple[Change, ...]


class Done(NamedTuple):
    """An order is gone.

    Attributes:
        sequence: the product's counter.
        number: the order's.
        side: the order's.
        tick: its limit; None for a market order.
        units: what was left of it.
        reason: ``"filled"`` or ``"canceled"``.
        was_open: False for an order that never rested.
        changes: the level it leaves behind; none after a fill, the match told already.
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
    """A resting order has another size, or another price.

    Attributes:
        sequence: the product's counter.
        number: the order's.
        side: the order's.
        reason: ``"STP"`` or ``"modify_order"``.
        old_tick: its price before.
        new_tick: its price now.
        old_units: its size before.
        new_units: its size now.
        changes: the levels touched; two when the order moved.
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
    """A resting order (the maker) met a new one (the taker); a trade.

    Attributes:
        trade_id: the product's counter of trades; rises by exactly one.
        sequence: the product's counter of engine events.
        maker: the resting order's number.
        taker: the new order's number; the same for all trades of one order.
        maker_side: ``"sell"`` when a resting ask was lifted.
        tick: the price.
        units: the size.
        time_ns: when, in ns since the epoch.
        changes: what is left of the level.
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
        """The side of the order that came second; what a ticker calls ``side``."""
        return "sell" if self.maker_side == "buy" else "buy"


class Fleeting(NamedTuple):
    """Orders that had to trade at once and could not: received, and done.

    Attributes:
        sequence: the number of the last of the ``2 * orders`` events.
        orders: how many.
        salt: what their sides, prices and sizes are made from.
        best_bid: in ticks, when they came.
        best_ask: in ticks, when they came.
        units: a usual size.
    """

    sequence: int
    orders: int
    salt: int
    best_bid: int
    best_ask: int
    units: int
    changes: tuple[Change, ...] = ()

    def apart(self) -> Iterator["Received | Done"]:
        """Iterate over the events that these orders are made of."""
        for number in range(self.sequence - 2 * self.orders + 1, self.sequence, 2):
            bits = mixed(~self.salt, number)
            away = bits >> 8 & 0x7F
            units = 1 + self.units * (1 + (bits >> 16 & 0xFF)) // 128
            side: Side = "buy" if bits & 1 else "sell"
            tick = max(1, self.best_ask - 1 - away) if bits & 1 else self.best_bid + 1 + away
            yield Received(number, side, tick, units)
            yield Done(number + 1, number, side, tick, units, "canceled", False)


class Poured(NamedTuple):
    """Many orders far from the market, opened one after the other without a ``received``.

    Attributes:
        sequence: the number of the last of them.
        orders: the orders; each is alone on its level.
        changes: all their levels.
    """

    sequence: int
    orders: tuple[Order, ...]
    changes: tuple[Change, ...]

    def apart(self) -> Iterator[Opened]:
        """Iterate over the events that this is made of."""
        for order, change in zip(self.orders, self.changes, strict=True):
            yield Opened(order.number, order.number, order.side, order.tick, change[2], ())


Single = Received | Opened | Done | Changed | Matched
Event = Single | Fleeting | Poured


def singles(event: Event) -> Iterator[Single]:
    """Iterate over what ``event`` is made of: itself, unless it stands for several."""
    if isinstance(event, Fleeting | Poured):
        yield from event.apart()
    else:
        yield event
