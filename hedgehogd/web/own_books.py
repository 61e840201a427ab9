"""REST answers about order books, made from the books that the instance keeps."""

from datetime import UTC, datetime

import trio

from hedgehogd.domain.channel import FULL, LEVEL3
from hedgehogd.domain.limits import ORDER_BOOK_WAIT_S
from hedgehogd.fanout.pipe import Pipe


class OwnBooks:
    """Answers ``/products/<id>/book`` from the level-3 books that follow ``full``.

    Args:
        pipe: the instance's parts.
        can_fetch: books that are missing are fetched, so waiting for one helps.
    """

    def __init__(self, pipe: Pipe, *, can_fetch: bool = True) -> None:
        self._pipe = pipe
        self._can_fetch = can_fetch

    async def rest_book(self, product_id: str, level: int) -> bytes | None:
        """Return the JSON text of the answer; None when the book is not held.

        Waits for a book whose events are wanted and whose beginning is on its way.
        """
        demand = self._pipe.demand
        if self._can_fetch and any(
            demand.is_wanted(channel.topic(product_id)) for channel in (FULL, LEVEL3)
        ):
            with trio.move_on_after(ORDER_BOOK_WAIT_S):
                await self._pipe.orders.wait_ready(product_id)
        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        return await self._pipe.orders.answer(product_id, level, now)
