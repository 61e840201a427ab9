"""An aggregated order book of whole numbers: the simulated exchange's truth.

Prices are ticks, sizes are units (``amounts``). The two sides differ only in which way
is better, so both are a ``Ladder``.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator
from typing import Literal

Side = Literal["buy", "sell"]


class Ladder:
    """One side of a book: its levels, the best of them first.

    Keys are ticks times ``_sign``, ascending, so that the best level is always the last
    of the list and taking it away costs nothing.
    """

    __slots__ = ("_keys", "_sign", "_sizes")

    def __init__(self, side: Side) -> None:
        self._sign = 1 if side == "buy" else -1
        self._sizes: dict[int, int] = {}
        self._keys: list[int] = []

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, tick: int) -> int:
        """Return the size at ``tick`` in units; 0 where there is no level."""
        return self._sizes.get(tick, 0)

    def set(self, tick: int, units: int) -> int:
        """Make ``units`` the size at ``tick``; 0 removes the level. Return the size before."""
        before = self._sizes.get(tick, 0)
        key = tick * self._sign
        if units:
            if not before:
                insort(self._keys, key)
            self._sizes[tick] = units
        elif before:
            del self._sizes[tick]
            del self._keys[bisect_left(self._keys, key)]
        return before

    def tick(self, rank: int) -> int:
        """Return the tick of a level; rank 0 is the best. IndexError beyond the last."""
        return self._keys[-1 - rank] * self._sign

    def rows(self) -> Iterator[tuple[int, int]]:
        """Iterate over ``(tick, units)``, the best level first."""
        for key in reversed(self._keys):
            tick = key * self._sign
            yield tick, self._sizes[tick]


class Book:
    """Both sides of one product.

    Attributes:
        bids: those who would buy.
        asks: those who would sell; always above the bids.
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
        """The highest bid, in ticks."""
        return self.bids.tick(0)

    @property
    def best_ask(self) -> int:
        """The lowest ask, in ticks."""
        return self.asks.tick(0)
