"""Byte streams that stand in front of others.

The feed, the simulator and the door, which do not know each other, share it.
"""

from collections.abc import Callable

import trio

from hedgehogd.domain import limits

# Half of what the kernel reports as room at once (SEND_BUFFER_BYTES, doubled; a third of it).
_PART_BYTES = 16 * 1024


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

    Made for Hypercorn, which writes inside a shielded scope and so cannot time out a peer that
    does not read: this stream does.

    Attributes:
        socket: the socket below, whose addresses Hypercorn asks for.
        head: what was read before, and is read first.
    """

    def __init__(
        self,
        inner: trio.SocketStream,
        head: bytes,
        on_progress: Callable[[float], None] = lambda _now: None,
    ) -> None:
        """``on_progress`` is called with the time whenever bytes were received or sent."""
        super().__init__(inner)
        self.socket = inner.socket
        self._end_writing = inner.send_eof
        self.head = head
        self._is_replayed = False
        self._on_progress = on_progress

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Return the replayed bytes first, then what the peer sends."""
        if self.head and not self._is_replayed:
            self._is_replayed = True
            await trio.lowlevel.checkpoint()
            return self.head
        data = await super().receive_some(max_bytes)
        self._on_progress(trio.current_time())
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send part after part: a slow reader gets all of it, a reader that stalls is given up.

        Raises:
            trio.BrokenResourceError: it took no part of ``_PART_BYTES`` in ``ANSWER_STALL_S``.
        """
        with memoryview(data) as whole:
            for begin in range(0, len(whole), _PART_BYTES):
                try:
                    with trio.fail_after(limits.ANSWER_STALL_S):
                        await super().send_all(whole[begin : begin + _PART_BYTES])
                except trio.TooSlowError:
                    raise trio.BrokenResourceError("the peer does not read") from None
                self._on_progress(trio.current_time())

    async def send_eof(self) -> None:
        """End writing."""
        await self._end_writing()
