"""Level-3 books of every product with ``full`` or ``level3`` on the feed.

The channels send changes and no snapshot. A book starts with a REST level-3 book, requested by the
task that waits for ``missed``, and is joined to the events that are on the tape already. Then it
follows the tape, in the same turn. So an answer made from it matches the messages that
subscribers of ``full`` have received, to the sequence (COINBASE §9). A gap ends the book, and a
new one is fetched.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable

import trio

from hedgehogd.domain.amount import BadAmount
from hedgehogd.domain.channel import FULL, LEVEL3, Topic
from hedgehogd.domain.frozen_orders import FrozenOrders, book_parts
from hedgehogd.domain.message import BadMessage, Message, intern_topic
from hedgehogd.domain.order_event import OrderEvent, from_full, from_level3
from hedgehogd.domain.orders import OrderBook, SequenceGap
from hedgehogd.engine.delivery import FetchedOrders
from hedgehogd.engine.tape import Tape
from hedgehogd.engine.wakeup import Wakeup

_FULL, _LEVEL3 = FULL.topic_channel, LEVEL3.topic_channel
_READ: dict[str, Callable[[bytes], OrderEvent | None]] = {_FULL: from_full, _LEVEL3: from_level3}


class _Held:
    """One product's book, the channel that it follows, and whether events have joined it.

    ``began_at`` is the sequence of the first event since the feed holds the channel, None without
    one: an older REST book may have been fetched before an interruption. When the exchange sets its
    sequences back, the lowest sequence since then replaces it.
    """

    __slots__ = ("began_at", "book", "channel", "has_joined")

    def __init__(self, channel: str, began_at: int | None) -> None:
        self.book = OrderBook()
        self.channel = channel
        self.began_at = began_at
        self.has_joined = False

    def set_back(self, sequence: int | None) -> None:
        """Lower ``began_at`` to ``sequence``, so that REST books from there on are accepted."""
        if self.began_at is not None and sequence is not None and sequence < self.began_at:
            self.began_at = sequence


class OrderBooks:
    """All level-3 books of one instance.

    Attributes:
        lost: books dropped, and fetched books that were too old to be joined, by reason: ``gap``,
            ``set_back`` (the exchange restarted its sequences), ``stale``.
        unreadable: unreadable rows and events; each costs its own order.
        missed: set when a product's book is missing and has to be fetched.
    """

    def __init__(self, missed: Wakeup | None = None) -> None:
        self.missed = Wakeup() if missed is None else missed
        self.lost: Counter[str] = Counter()
        self.unreadable = 0
        self._held: dict[str, _Held] = {}
        self._loaded = trio.Event()

    def __len__(self) -> int:
        """Return how many books are ready."""
        return sum(held.book.is_ready for held in self._held.values())

    def missing(self) -> list[str]:
        """Return the products that have events and no complete book."""
        return [product_id for product_id, held in self._held.items() if not held.book.is_ready]

    def is_live(self, product_id: str) -> bool:
        """Say whether the product's book is complete and up to date."""
        held = self._held.get(product_id)
        return held is not None and held.book.is_ready

    def products(self) -> set[str]:
        """Return the products that have a book, ready or not."""
        return set(self._held)

    def forget(self, topic: Topic) -> None:
        """Drop the book that follows ``topic``, which the feed no longer holds."""
        held = self._held.get(topic.product_id)
        if held is not None and held.channel == topic.channel:
            del self._held[topic.product_id]

    def end(self, product_ids: Collection[str] | None) -> None:
        """Drop the books of ``product_ids``, all books for None: the feed no longer updates them.

        The next event starts each book again.
        """
        for product_id in list(self._held if product_ids is None else product_ids):
            held = self._held.pop(product_id, None)
            self.lost["stale"] += held is not None and held.book.is_ready

    def interrupt(self, topic: Topic) -> None:
        """After a gap of ``topic``, drop the book that follows it, and set ``missed``.

        A book that is not ready stays: its REST book is still to be loaded.
        """
        held = self._held.get(topic.product_id)
        if held is not None and held.channel == topic.channel and held.book.is_ready:
            self._lose(held, "gap")

    def follow(self, messages: Iterable[Message]) -> None:
        """Apply the events among ``messages``, which are the newest on the tape.

        The first event of a product starts its book and sets ``missed``. Until the REST book is
        loaded nothing is applied: ``load`` reads the events from the tape. A gap, or sequences that
        the exchange restarted, drop the book and set ``missed``.
        """
        for message in messages:
            channel, product_id = message.topic
            if channel not in _READ or not product_id:
                continue
            held = self._held.get(product_id)
            if held is None:
                self._held[product_id] = _Held(channel, message.sequence)
                self.missed.set()
            elif held.channel == channel:
                held.set_back(message.sequence)
                if held.book.is_ready:
                    self._apply(held, message)

    async def load(self, fetched: FetchedOrders, tape: Tape) -> None:
        """Load a fetched book in slices, and join it to the events on the tape.

        A book of a product without events is ignored. One from before the first event of the
        product, or with a gap to the events on the tape, is dropped, and ``missed`` is set.
        The broker calls this between two batches, so the tape does not change meanwhile.
        """
        held = self._held.get(fetched.product_id)
        if held is None:
            return
        held.has_joined = False
        if held.began_at is not None and fetched.sequence < held.began_at - 1:
            self._lose(held, "gap")
            return
        for _ in held.book.load_parts(fetched.bids, fetched.asks, fetched.sequence):
            await trio.lowlevel.checkpoint()
        self.unreadable += held.book.skipped
        topic = intern_topic(held.channel, fetched.product_id)
        for _, message in tape.read(tape.begin - 1, frozenset({topic})):
            if held.book.is_ready:
                self._apply(held, message)
        loaded, self._loaded = self._loaded, trio.Event()
        loaded.set()

    async def wait_ready(self, product_id: str) -> None:
        """Wait until the product's book is complete; the caller limits the time."""
        while True:
            held = self._held.get(product_id)
            if held is not None and held.book.is_ready:
                await trio.lowlevel.checkpoint()
                return
            await self._loaded.wait()

    async def answer(self, product_id: str, level: int, time: str) -> bytes | None:
        """Return the answer to ``/products/<id>/book``, made in slices.

        None if the product has no complete book.

        Args:
            product_id: the product.
            level: 1, 2 or 3.
            time: RFC 3339; stated in the answer.
        """
        held = self._held.get(product_id)
        if held is None or not held.book.is_ready:
            await trio.lowlevel.checkpoint()
            return None
        frozen: FrozenOrders = held.book.freeze()
        parts = []
        for part in book_parts(frozen, level=level, time=time):
            parts.append(part)
            await trio.lowlevel.checkpoint()
        return b"".join(parts)

    def _apply(self, held: _Held, message: Message) -> None:
        try:
            event = _READ[held.channel](message.payload)
            if event is None:
                return
            self.unreadable += event.kind == "unreadable"
            if held.book.apply(event):
                held.has_joined = True
            elif held.has_joined:  # the exchange restarted its sequences
                self._lose(held, "set_back")
        except SequenceGap:
            self._lose(held, "gap")
        except (BadMessage, BadAmount):
            held.has_joined = True
            self.unreadable += 1

    def _lose(self, held: _Held, reason: str) -> None:
        self.lost[reason] += 1
        held.book.clear()
        self.missed.set()
