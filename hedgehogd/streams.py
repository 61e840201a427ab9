"""Byte streams that stand in front of others.

Floor 2: shared by the feed, the simulator and the door, which do not know each other.
"""

import trio

from hedgehogd.domain import limits


class PassingStream(trio.abc.Stream):
    """A stream that passes everything on; subclasses look at what they pass."""

    def __init__(self, inner: trio.abc.Stream) -> None:
        self._inner = inner

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Return what ``inner`` has received."""
        return await self._inner.receive_some(max_bytes)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send by ``inner``."""
        await self._inner.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """Wait for ``inner``."""
        await self._inner.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        """Close ``inner``."""
        await self._inner.aclose()


class ReplayStream(PassingStream, trio.abc.HalfCloseableStream):
    """A connection whose first read returns what was read from it already.

    Made for Hypercorn, which writes inside a shielded scope: nobody above could time a
    peer out that does not read, so this stream does.

    Attributes:
        socket: the socket below, whose addresses Hypercorn asks for.
    """

    def __init__(self, inner: trio.SocketStream, head: bytes) -> None:
        super().__init__(inner)
        self.socket = inner.socket
        self._end_writing = inner.send_eof
        self._head = head

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Return the replayed bytes first, then what the peer sends."""
        if self._head:
            head, self._head = self._head, b""
            await trio.lowlevel.checkpoint()
            return head
        return await super().receive_some(max_bytes)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send, or give the peer up.

        Raises:
            trio.BrokenResourceError: it took nothing more for ``HEAD_TIMEOUT_S``.
        """
        try:
            with trio.fail_after(limits.HEAD_TIMEOUT_S):
                await super().send_all(data)
        except trio.TooSlowError:
            raise trio.BrokenResourceError("the peer does not read") from None

    async def send_eof(self) -> None:
        """End writing."""
        await self._end_writing()
