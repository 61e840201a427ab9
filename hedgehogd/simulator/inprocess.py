"""Connections to a simulated exchange without sockets, for tests on a mock clock.

A socket wakes its reader when the kernel likes; on ``trio.testing``'s clocks time would
jump ahead meanwhile. These streams wake it at once, so a whole campaign of faults and
reconnects passes in milliseconds, the same way each time.

Nothing bounds what waits in such a stream: a client that does not read is not slow here.
"""

from collections.abc import Callable

import trio
from trio.testing import MemoryReceiveStream, MemorySendStream, memory_stream_pair

from hedgehogd.simulator.server import Server

_Memory = trio.StapledStream[MemorySendStream, MemoryReceiveStream]


class _End(trio.abc.HalfCloseableStream):
    """One end of a connection that can be cut."""

    def __init__(self, inner: _Memory, reset: Callable[[], None]) -> None:
        self.is_cut = False
        self.reset = reset
        self._inner = inner

    def cut(self) -> None:
        """Let all reads and writes fail from now on, also those under way."""
        self.is_cut = True
        self._inner.receive_stream.close()
        self._inner.send_stream.close()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        try:
            return await self._inner.receive_some(max_bytes)
        except trio.ClosedResourceError:
            raise self._why() from None

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        try:
            await self._inner.send_all(data)
        except trio.ClosedResourceError:
            raise self._why() from None

    def _why(self) -> Exception:
        if self.is_cut:
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

    It is served in ``nursery`` until it ends; shaking hands is the client's part, for
    example by ``trio_websocket.wrap_client_stream``. The server is to ``run`` already, or
    soon: its market does not move before.
    """
    near, far = memory_stream_pair()

    def reset() -> None:
        client.cut()
        served.cut()

    client, served = _End(near, reset), _End(far, reset)
    nursery.start_soon(server.serve, served)
    return client
