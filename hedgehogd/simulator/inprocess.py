"""Connections to a simulated exchange without sockets, for tests on a mock clock.

The kernel wakes the reader of a socket at an unknown time; the clocks of ``trio.testing`` would
jump ahead meanwhile. These streams wake the reader at once, so a whole campaign of faults and
reconnects passes in milliseconds, the same way each time.

The buffer of such a stream is unbounded: a client that does not read is not slow here.
"""

from collections.abc import Callable

import trio
from trio.testing import MemoryReceiveStream, MemorySendStream, memory_stream_pair

from hedgehogd.simulator.server import Server

_MemoryStream = trio.StapledStream[MemorySendStream, MemoryReceiveStream]


class _End(trio.abc.HalfCloseableStream):
    """One end of a connection that can be reset."""

    def __init__(self, inner: _MemoryStream, reset: Callable[[], None]) -> None:
        self.is_broken = False
        self.reset = reset
        self._inner = inner

    def break_off(self) -> None:
        """Make all reads and writes fail from now on, also those in progress."""
        self.is_broken = True
        self._inner.receive_stream.close()
        self._inner.send_stream.close()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        try:
            return await self._inner.receive_some(max_bytes)
        except trio.ClosedResourceError:
            raise self._error() from None

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        try:
            await self._inner.send_all(data)
        except trio.ClosedResourceError:
            raise self._error() from None

    def _error(self) -> Exception:
        if self.is_broken:
            return trio.BrokenResourceError("the connection was reset")
        return trio.ClosedResourceError("this end was closed")

    async def wait_send_all_might_not_block(self) -> None:
        await self._inner.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        await self._inner.send_eof()

    async def aclose(self) -> None:
        await self._inner.aclose()


def connect(server: Server, nursery: trio.Nursery) -> trio.abc.HalfCloseableStream:
    """Return the client's end of a new connection to ``server``.

    The connection is served in ``nursery`` until it ends. The caller does the handshake, for
    example with ``trio_websocket.wrap_client_stream``. The server must ``run`` already, or
    soon: its market does not advance before.
    """
    near, far = memory_stream_pair()

    def reset() -> None:
        client.break_off()
        served.break_off()

    client, served = _End(near, reset), _End(far, reset)
    nursery.start_soon(server.serve, served)
    return client
