"""A wake-up call between two parts that run in different tasks."""

import trio


class Wakeup:
    """Wakes the one task that waits; a call of ``set`` before the wait is kept.

    The part that has news calls ``set`` and need not know which task waits. So it can be built
    first, without a callback into a part that is built later.
    """

    def __init__(self) -> None:
        self._event = trio.Event()

    def set(self) -> None:
        """Wake the task that waits; each later ``wait`` returns at once until ``clear``."""
        self._event.set()

    def clear(self) -> None:
        """Forget the calls so far."""
        self._event = trio.Event()

    async def wait(self) -> None:
        """Wait until ``set`` has been called since the last ``clear``."""
        await self._event.wait()
