"""level2_batch, made from level2: 50 ms of changes in one message (FEED §5).

The two cannot be told apart on one connection, so where the exchange gives us ``level2``,
only that is asked for (DESIGN §5). The books do the gathering; this producer says when a
window is over. Where ``level2_batch`` itself flows, it has nothing to do.
"""

import trio

from hedgehogd.books.level2_books import Books
from hedgehogd.domain.limits import LEVEL2_BATCH_S
from hedgehogd.engine.delivery import Delivery


class Level2Batch:
    """Ends the windows of one instance's books."""

    def __init__(self, books: Books) -> None:
        self._books = books

    async def run(self, inbox: trio.MemorySendChannel[Delivery]) -> None:
        """End a window every ``LEVEL2_BATCH_S`` while somebody wants one, for ever."""
        async with inbox:
            while True:
                await trio.sleep(LEVEL2_BATCH_S)
                if self._books.watch_demand():
                    await inbox.send(Delivery([], ends_window=True))
