"""REST answers about order books, from the level-3 books of this instance."""

from datetime import UTC, datetime

import trio

from hedgehogd.domain.channel import FULL, LEVEL3
from hedgehogd.domain.limits import ORDER_BOOK_WAIT_S
from hedgehogd.fanout.pipe import Pipe


class OwnBooks:
    """Answer ``/products/<id>/book`` from the level-3 books, which follow ``full`` or ``level3``.

    Args:
        pipe: the instance's parts.
        can_fetch: whether missing books are fetched from REST, so that one is worth waiting for.
    """

    def __init__(self, pipe: Pipe, *, can_fetch: bool = True) -> None:
        self._pipe = pipe
        self._can_fetch = can_fetch

    async def rest_book(self, product_id: str, level: int) -> bytes | None:
        """Return the JSON text of the answer; None when there is no complete book.

        Waits up to ``ORDER_BOOK_WAIT_S`` for a book that is being fetched: its channel is in
        demand, and ``can_fetch`` is true.
        """
        demand = self._pipe.demand
        if self._can_fetch and any(
            demand.is_wanted(channel.topic(product_id)) for channel in (FULL, LEVEL3)
        ):
            with trio.move_on_after(ORDER_BOOK_WAIT_S):
                await self._pipe.orders.wait_ready(product_id)
        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        return await self._pipe.orders.answer(product_id, level, now)
