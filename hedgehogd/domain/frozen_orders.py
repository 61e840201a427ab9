"""A book of orders as it was at one moment, and the answers of REST that are made from it.

Source: FEED §13.
"""

from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple

import msgspec

from hedgehogd.domain.amount import Number, total
from hedgehogd.domain.book import LEVELS_PER_SLICE

Row = tuple[str, str, str]
"""``(price, size, order_id)``, prices and sizes as decimal texts."""
Queue = dict[str, Row]
"""One level: its orders by id, the oldest first."""

_encode = msgspec.json.encode


class FrozenOrders(NamedTuple):
    """A book of orders as it was at one moment.

    Attributes:
        keys: by side (``"buy"``, ``"sell"``), its levels' numbers, best last.
        queues: the levels of both sides by number; not to be changed.
        sequence: of the last event in it.
    """

    keys: dict[str, list[Number]]
    queues: dict[Number, Queue]
    sequence: int

    def rows(self, side: str) -> Iterator[Row]:
        """Yield a side's orders, best price first, then oldest first."""
        for key in reversed(self.keys[side]):
            yield from self.queues[key].values()

    def levels(self, side: str) -> Iterator[tuple[str, str, int]]:
        """Yield a side's levels ``(price, size, num_orders)``, best first.

        The price is spelled as the level's oldest order spells it, the size has as many
        decimals as the longest of the orders'.
        """
        for key in reversed(self.keys[side]):
            rows = list(self.queues[key].values())
            size = rows[0][1] if len(rows) == 1 else total([row[1] for row in rows])
            yield rows[0][0], size, len(rows)


def book_parts(
    book: FrozenOrders,
    *,
    level: int = 3,
    time: str | None = None,
    rows_per_slice: int = LEVELS_PER_SLICE,
) -> Iterator[bytes]:
    """Write REST's answer to ``/products/<id>/book?level=…`` in pieces, to be joined.

    Args:
        book: what to write.
        level: 3 for single orders, 2 for all levels with the number of their orders, 1 for
            the best of them only.
        time: RFC 3339; None to leave it out, as older answers do.
        rows_per_slice: rows of a piece.
    """
    yield b'{"bids":['
    yield from _side_parts(book, "buy", level, rows_per_slice)
    yield b'],"asks":['
    yield from _side_parts(book, "sell", level, rows_per_slice)
    end = b'],"sequence":%d,"auction_mode":false,"auction":null' % book.sequence
    yield end + (b"}" if time is None else b',"time":' + _encode(time) + b"}")


def _side_parts(book: FrozenOrders, side: str, level: int, rows_per_slice: int) -> Iterator[bytes]:
    rows: Iterator[Any] = book.rows(side) if level == 3 else book.levels(side)
    if level == 1:
        rows = islice(rows, 1)
    comma = b""
    while part := list(islice(rows, rows_per_slice)):
        yield comma + _encode(part)[1:-1]
        comma = b","
