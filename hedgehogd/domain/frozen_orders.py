"""An immutable copy of a level-3 book at one moment, and the REST answers made from it.

Source: docs/COINBASE.md §13.
"""

from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple

import msgspec

from hedgehogd.domain.amount import Number, total
from hedgehogd.domain.book import LEVELS_PER_SLICE

Row = tuple[str, str, str]
"""One order, ``(price, size, order_id)``; price and size are decimal texts."""
Queue = dict[str, Row]
"""One level: its orders by id, oldest first."""

_encode = msgspec.json.encode


class FrozenOrders(NamedTuple):
    """An immutable copy of a level-3 book at one moment.

    Attributes:
        keys: by side (``"buy"``, ``"sell"``), the keys of its levels, best last.
        queues: the levels of both sides by key; shared with the live book, so read-only.
        sequence: the sequence of the last event applied.
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

        The price has the spelling of the level's oldest order. The size has the largest number
        of decimals among its orders.
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
    """Encode the answer to ``/products/<id>/book?level=…``; yield parts to be joined.

    The field ``auction_mode`` is always false.

    Args:
        book: the book to encode.
        level: 3 for single orders, 2 for all levels with their number of orders, 1 for the
            best level of each side.
        time: RFC 3339; None to omit it, as older answers do.
        rows_per_slice: rows of one part, at most.
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
