"""One product's level-3 book, from a REST level-3 book and ``full`` or ``level3`` events.

A level is a dictionary from order ids to rows ``(price, size, order_id)``. Dictionaries keep
insertion order, so a level is the queue of its orders: a new order is appended, a reduced order
keeps its place. The key of a level is a whole number, as in ``book``: positive for bids, negative
for asks, so that the key also determines the side.

``freeze`` copies the table of levels only. A level is copied before its first change after that
(copy on write).

Source: docs/COINBASE.md §6.7–§6.13, §9, §13.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from typing import Any

from hedgehogd.domain.amount import BadAmount, Number, is_zero, minus, scaled, text_of
from hedgehogd.domain.book import LEVELS_PER_SLICE, BookNotReady
from hedgehogd.domain.frozen_orders import FrozenOrders, Queue, Row
from hedgehogd.domain.order_event import OrderEvent

ORDERS_MAX = 2_000_000
"""Orders of one book: ten times the largest expected book, BTC-USD. A feed that opens more attacks
memory."""
# Only events are refused at this limit: a REST book is bounded by the bytes of its answer.
ORDER_ID_CHARACTERS_MAX = 100
"""Characters of an order id: the exchange's ids are UUIDs of 36."""

_SIGNS = {"buy": 1, "sell": -1}


class SequenceGap(Exception):
    """Events are missing before this one, which was not applied: the book must be loaded again.

    The book itself is unchanged, and its ``is_ready`` stays True.

    Attributes:
        expected: the next sequence of the book.
        found: the sequence of the event.
    """

    def __init__(self, expected: int, found: int) -> None:
        super().__init__(f"expected sequence {expected}, found {found}")
        self.expected = expected
        self.found = found


def _key(side: str, price: str) -> Number:
    sign = _SIGNS.get(side)
    key = scaled(price)
    if sign is None or not key:
        raise BadAmount(f"{side[:40]!r} {price!r} is not a side and price of an order")
    return key * sign


class OrderBook:
    """One product's orders in price-time order.

    Attributes:
        is_ready: True once a REST book is loaded completely, until the next load or clear.
        sequence: the sequence of the REST book, then of the last event applied; 0 while no REST
            book is loaded.
        skipped: malformed rows of the last REST book; their orders are not in the book.
    """

    __slots__ = ("_keys", "_level_of", "_queues", "_unshared", "is_ready", "sequence", "skipped")

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Remove all orders; the book is no longer ready.

        A running ``load_parts`` ends at its next step, without an error.
        """
        self._keys: dict[str, list[Number]] = {"buy": [], "sell": []}
        self._queues: dict[Number, Queue] = {}
        self._level_of: dict[str, Number] = {}
        # Keys of levels not shared with a frozen book; None until the next freeze.
        self._unshared: set[Number] | None = None
        self.is_ready = False
        self.sequence = 0
        self.skipped = 0

    def load(self, bids: Sequence[Any], asks: Sequence[Any], sequence: int) -> None:
        """Replace the book by a REST book in one turn, at 1 µs per order; see ``load_parts``."""
        for _ in self.load_parts(bids, asks, sequence):
            pass

    def load_parts(
        self,
        bids: Sequence[Any],
        asks: Sequence[Any],
        sequence: int,
        rows_per_slice: int = LEVELS_PER_SLICE,
    ) -> Iterator[int]:
        """Replace the book by a REST level-3 book in slices; yield the number of rows read so far.

        Args:
            bids: rows ``[price, size, order_id]``, within a price oldest first. Further
                elements are ignored. Malformed rows are skipped and counted, sizes of zero
                are ignored; the last of several rows of one order wins.
            asks: likewise.
            sequence: the sequence of the REST book; later events follow it.
            rows_per_slice: rows read in one turn.

        The first step clears the book, and only the end of the iterator makes it ready. The
        caller keeps the events that arrive in between, and applies them afterwards. Another
        load, or ``clear``, ends this iterator at its next step, without an error.
        """
        self.clear()
        queues, read = self._queues, 0
        for side, rows in (("buy", bids), ("sell", asks)):
            for begin in range(0, len(rows), rows_per_slice):
                part = rows[begin : begin + rows_per_slice]
                for row in part:
                    self._load_row(side, row)
                read += len(part)
                yield read
                if self._queues is not queues:
                    return
        self._keys["buy"] = sorted(key for key in queues if key > 0)
        self._keys["sell"] = sorted(key for key in queues if key < 0)
        self.sequence = sequence
        self.is_ready = True

    def _load_row(self, side: str, row: Any) -> None:
        try:
            order_id = row[2]
            if (
                type(order_id) is not str
                or len(order_id) > ORDER_ID_CHARACTERS_MAX
                or type(row) is str
            ):
                raise BadAmount("an invalid order id or row")
            price, size = text_of(row[0]), text_of(row[1])
            key = _key(side, price)
            if is_zero(size):
                return
            before = self._level_of.get(order_id)
            self._level_of[order_id] = key
        except (BadAmount, TypeError, LookupError):
            self.skipped += 1
            return
        if before is not None:
            del self._queues[before][order_id]
            if not self._queues[before]:
                del self._queues[before]
        self._queues.setdefault(key, {})[order_id] = (price, size, order_id)

    def apply(self, event: OrderEvent) -> bool:
        """Apply the next event of the product.

        An event may refer to an order that is not in the book, such as a taker's or one that was
        filled at once. It counts as applied.

        Returns:
            True if the event was applied; False for an event up to the book's sequence, which
            the book already contains.

        Raises:
            SequenceGap: events before this one are missing; the book must be loaded again.
            BookNotReady: no REST book is loaded.
            BadAmount: a price, size or side is invalid, an order id is too long, or the order
                exceeds ``ORDERS_MAX``. No order was changed, but the sequence was advanced, so
                the next event can be applied.

        Cost: 1 to 2 µs; the first change of a level after ``freeze`` also copies it.
        """
        if not self.is_ready:
            raise BookNotReady
        if event.sequence != self.sequence + 1:
            if event.sequence <= self.sequence:
                return False
            raise SequenceGap(self.sequence + 1, event.sequence)
        self.sequence = event.sequence
        kind, order_id = event.kind, event.order_id
        if kind == "open":
            self._open(order_id, event.side, event.price, event.size)
        elif kind == "done":
            key = self._level_of.get(order_id)
            if key is not None:
                self._remove(order_id, key)
        elif kind == "match":
            self._match(order_id, event.size)
        elif kind == "change":
            self._change(order_id, event.price, event.size)
        return True

    def _open(self, order_id: str, side: str, price: str, size: str) -> None:
        key = _key(side, price)
        has_size = not is_zero(size)
        before = self._level_of.get(order_id)
        if before is not None:
            self._remove(order_id, before)
        elif len(self._level_of) >= ORDERS_MAX or len(order_id) > ORDER_ID_CHARACTERS_MAX:
            raise BadAmount(f"order {order_id[:40]!r} exceeds a limit of the book")
        if has_size:
            self._add((price, size, order_id), key)

    def _match(self, order_id: str, size: str) -> None:
        key = self._level_of.get(order_id)
        if key is None:
            return
        price, before, _ = self._queues[key][order_id]
        left = minus(before, size)
        if left == "0":
            self._remove(order_id, key)
        else:
            self._queue(key)[order_id] = (price, left, order_id)

    def _change(self, order_id: str, price: str, size: str) -> None:
        key = self._level_of.get(order_id)
        if key is None:
            return
        is_gone = is_zero(size)
        new_key = _key("buy" if key > 0 else "sell", price) if price else key
        if is_gone:
            self._remove(order_id, key)
        elif new_key == key:
            self._queue(key)[order_id] = (self._queues[key][order_id][0], size, order_id)
        else:
            self._remove(order_id, key)
            self._add((price, size, order_id), new_key)

    def _queue(self, key: Number) -> Queue:
        """Return the level of ``key`` for a change; if a frozen book shares it, copy it first."""
        unshared = self._unshared
        if unshared is not None and key not in unshared:
            unshared.add(key)
            self._queues[key] = self._queues[key].copy()
        return self._queues[key]

    def _add(self, row: Row, key: Number) -> None:
        self._level_of[row[2]] = key
        if key in self._queues:
            self._queue(key)[row[2]] = row
            return
        self._queues[key] = {row[2]: row}
        insort(self._keys["buy" if key > 0 else "sell"], key)
        if self._unshared is not None:
            self._unshared.add(key)

    def _remove(self, order_id: str, key: Number) -> None:
        del self._level_of[order_id]
        if len(self._queues[key]) > 1:
            del self._queue(key)[order_id]
            return
        del self._queues[key]
        if self._unshared is not None:
            self._unshared.discard(key)
        keys = self._keys["buy" if key > 0 else "sell"]
        del keys[bisect_left(keys, key)]

    def freeze(self) -> FrozenOrders:
        """Return an immutable copy of the book as it is now: 1 ms for 46,000 levels of any size.

        From now on the first change of each level copies that level.

        Raises:
            BookNotReady: no REST book is loaded.
        """
        if not self.is_ready:
            raise BookNotReady
        self._unshared = set()
        keys = {side: keys.copy() for side, keys in self._keys.items()}
        return FrozenOrders(keys, self._queues.copy(), self.sequence)
