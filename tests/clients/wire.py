"""A tap on a client's connection: its handshake and its frames, independent of the client."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio


@dataclass
class Tap:
    """The bytes of one client's connection.

    Attributes:
        port: the client connects here.
        sent: by the client.
        received: by the client.
    """

    port: int
    sent: bytearray = field(default_factory=bytearray)
    received: bytearray = field(default_factory=bytearray)

    @property
    def url(self) -> str:
        """Return the feed URL for the client."""
        return f"ws://127.0.0.1:{self.port}"

    def request(self) -> dict[str, str]:
        """Return the headers of the client's handshake, with names in lower case."""
        return _headers(bytes(self.sent))

    def answer(self) -> dict[str, str]:
        """Return the headers of the server's handshake response."""
        return _headers(bytes(self.received))


@asynccontextmanager
async def tapped(port: int) -> AsyncIterator[Tap]:
    """Forward connections to ``port``, and record the bytes."""
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(lambda task_status: _tap_any(port, nursery, task_status))
        yield listeners
        nursery.cancel_scope.cancel()


async def _tap_any(port: int, nursery: trio.Nursery, task_status: trio.TaskStatus[Tap]) -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    tap = Tap(listeners[0].socket.getsockname()[1])

    async def serve(client: trio.SocketStream) -> None:
        server = await trio.open_tcp_stream("127.0.0.1", port)
        async with server, trio.open_nursery() as both:
            both.start_soon(_pass, client, server, tap.sent)
            both.start_soon(_pass, server, client, tap.received)

    task_status.started(tap)
    await trio.serve_listeners(serve, listeners, handler_nursery=nursery)


async def _pass(source: trio.SocketStream, sink: trio.SocketStream, record: bytearray) -> None:
    try:
        async for data in source:
            record += data
            await sink.send_all(data)
        await sink.send_eof()
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass  # one end has closed; the tests check the recorded bytes


def _headers(raw: bytes) -> dict[str, str]:
    lines = raw.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")[1:]
    return {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines)}


def opcodes(raw: bytes) -> list[int]:
    """Return the opcodes of all frames after a handshake, masked or not."""
    found, at = [], raw.index(b"\r\n\r\n") + 4
    while at + 2 <= len(raw):
        size, start = raw[at + 1] & 0x7F, at + 2
        if size >= 126:
            width = 2 if size == 126 else 8
            size, start = int.from_bytes(raw[start : start + width], "big"), start + width
        found.append(raw[at] & 0x0F)
        at = start + size + (4 if raw[at + 1] & 0x80 else 0)
    return found


CLOSE, PING, PONG = 8, 9, 10
