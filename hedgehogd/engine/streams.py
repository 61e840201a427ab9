"""Byte streams that wrap another byte stream; used by the feed, the simulator and the door."""

from collections.abc import Callable

import trio

from hedgehogd.domain import limits

# Below half of the free space from which the kernel reports a socket as writable: a third of twice
# SEND_BUFFER_BYTES.
_PART_BYTES = 16 * 1024


class PassingStream(trio.abc.Stream):
    """A stream that forwards every call; subclasses inspect the bytes."""

    def __init__(self, inner: trio.abc.Stream) -> None:
        self._inner = inner

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Return bytes received by ``inner``; empty bytes at the end of its stream."""
        return await self._inner.receive_some(max_bytes)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send ``data`` with ``inner``."""
        await self._inner.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until ``inner`` may be able to send without waiting."""
        await self._inner.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        """Close ``inner``."""
        await self._inner.aclose()


class ReplayStream(PassingStream, trio.abc.HalfCloseableStream):
    """A connection with some bytes read already: the first read returns them again.

    Made for Hypercorn, which writes inside a shielded scope and so cannot time out a peer that
    does not read. This stream times the peer out.

    Attributes:
        socket: the underlying socket; Hypercorn reads its addresses.
        head: the bytes read already, returned by the first read.
    """

    def __init__(
        self,
        inner: trio.SocketStream,
        head: bytes,
        on_progress: Callable[[float], None] = lambda _now: None,
    ) -> None:
        """Wrap ``inner``, which has already received ``head``.

        ``on_progress`` is called with ``trio.current_time`` when a read from ``inner`` returns, at
        the end of its stream too, and when a part is sent; not when ``head`` is returned.
        """
        super().__init__(inner)
        self.socket = inner.socket
        self._end_writing = inner.send_eof
        self.head = head
        self._is_replayed = False
        self._on_progress = on_progress

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Return the whole of ``head`` first, then the bytes that the peer sends."""
        if self.head and not self._is_replayed:
            self._is_replayed = True
            await trio.lowlevel.checkpoint()
            return self.head
        data = await super().receive_some(max_bytes)
        self._on_progress(trio.current_time())
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send part after part: a slow peer receives all of them, a stalled peer is an error.

        Raises:
            trio.BrokenResourceError: the connection broke, or the kernel did not accept a part of
                ``_PART_BYTES`` within ``ANSWER_STALL_S`` because the peer does not read.
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
        """Send the end of the stream: no bytes follow; reading continues."""
        await self._end_writing()
