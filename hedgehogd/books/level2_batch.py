"""Producer of ``level2_batch``: 50 ms of ``level2`` changes in one message (COINBASE §5).

On one connection the messages of the two channels are indistinguishable. So where the exchange
offers ``level2``, hedgehogd subscribes to that alone and makes ``level2_batch`` from it. The books
gather the changes; this producer ends each window. Where the exchange's own ``level2_batch``
arrives, the producer has nothing to do.
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
        """End a window every ``LEVEL2_BATCH_S`` while a subscriber wants it; never return."""
        async with inbox:
            while True:
                await trio.sleep(LEVEL2_BATCH_S)
                if self._books.watch_demand():
                    await inbox.send(Delivery([], ends_window=True))
