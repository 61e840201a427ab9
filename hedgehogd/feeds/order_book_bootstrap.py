"""Level-3 books, fetched by REST for products with ``full`` or ``level3`` messages.

The request is sent ``ORDER_BOOK_SETTLE_S`` after the first event, so that the book is not older
than that event (COINBASE §9). The exchange sanctions clients that poll level-3 books
(COINBASE §13), so each product's book is requested at most once in ``ORDER_BOOK_PAUSE_S``.
"""

import msgspec
import structlog
import trio

from hedgehogd.books.level3_books import OrderBooks
from hedgehogd.domain import limits
from hedgehogd.domain.rows import read_rows
from hedgehogd.engine.delivery import Delivery, FetchedOrders
from hedgehogd.feeds.rest_client import RestClient

log = structlog.get_logger("rest")

_QUERY = (("level", "3"),)


class _Book(msgspec.Struct):
    sequence: int
    bids: msgspec.Raw
    asks: msgspec.Raw


def read_book(product_id: str, body: bytes) -> FetchedOrders:
    """Decode the answer to ``/products/<id>/book?level=3``; unreadable rows stay in it as they are.

    Raises:
        msgspec.DecodeError: the body is not a book.
    """
    try:
        book = msgspec.json.decode(body, type=_Book)
    except (UnicodeDecodeError, RecursionError) as error:
        raise msgspec.DecodeError(str(error)) from None
    bids, asks = (read_rows(bytes(side)) for side in (book.bids, book.asks))
    return FetchedOrders(product_id, bids, asks, book.sequence)


class Bootstrap:
    """Fetch missing level-3 books, one at a time.

    Args:
        books: the level-3 books of the instance.
        rest: the REST client; it is running.

    Attributes:
        failures: requests since start without a book as answer.
    """

    def __init__(self, books: OrderBooks, rest: RestClient) -> None:
        self.failures = 0
        self._books = books
        self._rest = rest
        self._due: dict[str, float] = {}  # when to request each missing book
        self._not_before: dict[str, float] = {}  # end of the pause after each recent request

    async def run(self, inbox: trio.MemorySendChannel[Delivery]) -> None:
        """Fetch missing books, for ever, and put each into ``inbox``; close it at the end."""
        async with inbox:
            while True:
                missing = self._books.missing()
                if not missing:
                    self._due.clear()
                    self._books.missed.clear()
                    await self._books.missed.wait()
                    continue
                now = trio.current_time()
                settled_at = now + limits.ORDER_BOOK_SETTLE_S
                self._not_before = {p: at for p, at in self._not_before.items() if at > now}
                self._due = {
                    p: self._due.get(p) or max(settled_at, self._not_before.get(p, settled_at))
                    for p in missing
                }
                product_id = min(missing, key=self._due.__getitem__)
                due = self._due[product_id]
                if due > now:  # a book that becomes missing meanwhile may be due sooner
                    self._books.missed.clear()
                    with trio.move_on_at(due):
                        await self._books.missed.wait()
                    continue
                await self._fetch(product_id, inbox)

    async def _fetch(self, product_id: str, inbox: trio.MemorySendChannel[Delivery]) -> None:
        del self._due[product_id]
        self._not_before[product_id] = trio.current_time() + limits.ORDER_BOOK_PAUSE_S
        answer = await self._rest.get_later(f"/products/{product_id}/book", _QUERY)
        try:
            if answer.status != 200:
                raise msgspec.DecodeError(answer.message)
            book = read_book(product_id, answer.body)
        except msgspec.DecodeError as error:
            self.failures += 1
            log.warning("no level-3 book", product_id=product_id, reason=str(error))
            return
        await inbox.send(Delivery([], order_book=book))
