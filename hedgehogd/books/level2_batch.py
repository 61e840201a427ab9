"""Producer of ``level2_batch``: 50 ms of ``level2`` changes in one message (COINBASE §5).

On one connection the messages of the two channels are indistinguishable. So where the exchange
offers ``level2``, hedgehogd subscribes to that alone and makes ``level2_batch`` from it. The books
gather the changes; this producer sends the broker the end of each window. Where the exchange's own
``level2_batch`` arrives, the producer has nothing to do.
"""

import trio

from hedgehogd.books.level2_books import Books
from hedgehogd.domain.limits import LEVEL2_BATCH_S
from hedgehogd.engine.delivery import Delivery


class Level2Batch:
    """Sends the ends of windows of 50 ms for one instance's books."""

    def __init__(self, books: Books) -> None:
        self._books = books

    async def run(self, inbox: trio.MemorySendChannel[Delivery]) -> None:
        """Send the end of a window to ``inbox`` every ``LEVEL2_BATCH_S``; never return.

        Nothing is sent while no ``level2_batch`` made from ``level2`` is wanted. It waits while the
        inbox is full, and closes its end of the inbox when it is cancelled.
        """
        async with inbox:
            while True:
                await trio.sleep(LEVEL2_BATCH_S)
                if self._books.watch():
                    await inbox.send(Delivery([], ends_window=True))
