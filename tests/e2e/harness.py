"""Shared parts of the end-to-end tests: a daemon, an exchange, and independent clients.

trio-websocket reads WebSockets and h11 reads HTTP; neither shares code with hedgehogd's writer.
"""

import contextlib
import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

import h11
import msgspec
import trio
from trio_websocket import WebSocketConnection, wrap_client_stream

from hedgehogd.app.daemon import Daemon
from hedgehogd.settings.keys import Settings
from hedgehogd.simulator import Simulation, serve_exchange
from tests.ports import share

PATIENCE_S = 20
_RANDOM = random.SystemRandom()  # not that of the tests, which has the same seed everywhere
_DRAWN: set[int] = set()


def free_port() -> int:
    """Return a port that no program listens on, and that no other process of pytest-xdist draws.

    It lies above the ports of ``tests/cluster`` and below those that Linux gives to clients:
    a port from there may belong to a connection by the time a daemon listens on it.
    """
    ports = share(range(29_100, 32_700))
    for port in _RANDOM.sample(ports, len(ports)):
        if port in _DRAWN:
            continue
        _DRAWN.add(port)  # a test may draw several before one is in use
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError("no free port")


def quick(**changes: object) -> Settings:
    """Return settings for tests: a free port, no delay in the drain."""
    settings = Settings(serve_port=free_port(), drain_spread_s=0.0, drain_timeout_s=5.0)
    return replace(settings, **changes)


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Daemon]:
    """Run a daemon; drain it at the end."""
    daemon = Daemon(settings)
    with trio.fail_after(PATIENCE_S * 3):
        async with trio.open_nursery() as nursery:
            await nursery.start(daemon.run)
            yield daemon
            daemon.stop.set()


@asynccontextmanager
async def exchange(simulation: Simulation) -> AsyncIterator[str]:
    """Run a simulated exchange; end its connections at the end."""
    async with trio.open_nursery() as nursery:
        address = await nursery.start(partial(serve_exchange, simulation))
        yield address.url
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def websocket(port: int, path: str) -> AsyncIterator[WebSocketConnection]:
    """Open a WebSocket to the daemon; at the end drop the connection without a close frame.

    A close handshake would race with the daemon's pings: trio-websocket 0.12 fails when a
    ping arrives while it is closing.
    """
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    async with stream, trio.open_nursery() as nursery:
        yield await wrap_client_stream(nursery, stream, "localhost", path, max_message_size=1 << 24)
        nursery.cancel_scope.cancel()


def subscribe(pairs: list[str], channels: list[object]) -> str:
    """Return Coinbase's subscribe message."""
    return msgspec.json.encode(
        {"type": "subscribe", "product_ids": pairs, "channels": channels}
    ).decode()


async def next_of(connection: WebSocketConnection, *types: str) -> dict:
    """Return the next message of one of ``types``."""
    with trio.fail_after(PATIENCE_S):
        while True:
            message = msgspec.json.decode(await connection.get_message())
            if message["type"] in types:
                return message


class HttpStream:
    """A GET with a streamed answer: first the head, then the body in pieces, read with h11."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._http = h11.Connection(h11.CLIENT)
        self._left = b""
        self.status = 0
        self.headers: dict[str, str] = {}
        self.ended_cleanly = False

    @classmethod
    async def open(cls, port: int, path: str, **headers: str) -> "HttpStream":
        """Send the request and read the response head."""
        self = cls(await trio.open_tcp_stream("127.0.0.1", port))
        rows = [("Host", "localhost"), *((k.replace("_", "-"), v) for k, v in headers.items())]
        request = h11.Request(method="GET", target=path, headers=rows)
        await self._stream.send_all(self._http.send(request) + self._http.send(h11.EndOfMessage()))
        head = await self._next()
        assert isinstance(head, h11.Response)
        self.status = head.status_code
        self.headers = {name.decode(): value.decode() for name, value in head.headers}
        return self

    async def _next(self) -> object:
        with trio.fail_after(PATIENCE_S):
            while (event := self._http.next_event()) is h11.NEED_DATA:
                self._http.receive_data(await self._stream.receive_some())
        return event

    async def read_until(self, separator: bytes) -> bytes | None:
        """Return the body up to the next ``separator``, without it; None at a regular end."""
        while separator not in self._left:
            event = await self._next()
            if isinstance(event, h11.EndOfMessage):
                self.ended_cleanly = True
                return None
            assert isinstance(event, h11.Data)
            self._left += bytes(event.data)
        found, _, self._left = self._left.partition(separator)
        return found

    async def body(self) -> bytes:
        """Return the rest of the body, and close the connection."""
        while not isinstance(event := await self._next(), h11.EndOfMessage):
            self._left += bytes(event.data)
        await self.aclose()
        return self._left

    async def aclose(self) -> None:
        """Close the connection."""
        await self._stream.aclose()


async def next_line(stream: HttpStream) -> bytes:
    """Return the next NDJSON line, without blank lines."""
    while not (line := await stream.read_until(b"\n")):
        assert line is not None, "the stream has ended"
    return line


async def next_event(stream: HttpStream) -> dict[str, str]:
    """Return the fields of the next SSE event, without comments."""
    while True:
        block = await stream.read_until(b"\n\n")
        assert block is not None, "the stream has ended"
        fields: dict[str, str] = {}
        for line in block.decode().split("\n"):
            name, _, value = line.partition(": ")
            if name and not line.startswith(":"):
                fields[name] = value
        if "data" in fields:
            return fields


async def rest(port: int, method: str, path: str, body: bytes = b"", **headers: str) -> tuple:
    """Make one request; return status and decoded JSON."""
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    http = h11.Connection(h11.CLIENT)
    rows = [("Host", "localhost"), ("Content-Length", str(len(body)))]
    rows += [(name.replace("_", "-"), value) for name, value in headers.items()]
    data = http.send(h11.Request(method=method, target=path, headers=rows))
    data += http.send(h11.Data(data=body)) if body else b""
    status, answer = 0, b""
    async with stream:
        await stream.send_all(data + http.send(h11.EndOfMessage()))
        with trio.fail_after(PATIENCE_S):
            while True:
                event = http.next_event()
                if event is h11.NEED_DATA:
                    http.receive_data(await stream.receive_some())
                elif isinstance(event, h11.Response):
                    status = event.status_code
                elif isinstance(event, h11.Data):
                    answer += bytes(event.data)
                else:
                    return status, msgspec.json.decode(answer) if answer else None


class RawStream:
    """A stream read as bytes, for tests in which a real client would be too slow."""

    def __init__(self, stream: trio.SocketStream, left: bytes) -> None:
        self._stream = stream
        self.read = bytearray(left)

    @classmethod
    async def open(cls, port: int, path: str, *headers: str) -> "RawStream":
        """Send a GET and skip the response head."""
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        rows = "".join(f"{row}\r\n" for row in headers)
        await stream.send_all(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{rows}\r\n".encode())
        head = b""
        with trio.fail_after(PATIENCE_S):
            while b"\r\n\r\n" not in head:
                head += await stream.receive_some()
        assert head.startswith((b"HTTP/1.1 101", b"HTTP/1.1 200")), head
        return cls(stream, head.partition(b"\r\n\r\n")[2])

    async def send_text(self, text: str) -> None:
        """Send a masked text frame."""
        payload = text.encode()
        size = bytes((0x80 | 126, *len(payload).to_bytes(2, "big")))
        await self._stream.send_all(b"\x81" + size + bytes(4) + payload)  # the mask is 0

    async def read_bytes(self, count: int) -> None:
        """Read until at least ``count`` bytes have arrived."""
        with trio.fail_after(PATIENCE_S * 2):
            while len(self.read) < count:
                data = await self._stream.receive_some()
                assert data, "the stream has ended"
                self.read += data

    async def read_to(self, last: bytes) -> None:
        """Read until ``last`` has arrived, and 100 ms longer, to find any further bytes."""
        tail = len(last) + 1000
        with trio.fail_after(PATIENCE_S * 2):
            while last not in self.read[-tail:]:
                await self.read_bytes(len(self.read) + 1)
        with trio.move_on_after(0.1):
            while data := await self._stream.receive_some():
                self.read += data

    async def aclose(self) -> None:
        """Close the connection."""
        await self._stream.aclose()


WEBSOCKET_HEADERS = (
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)


def only_error(group: BaseExceptionGroup) -> BaseException:
    """Return the one plain exception in ``group``."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        assert len(error.exceptions) == 1
        error = error.exceptions[0]
    return error


def texts_of(raw: bytes) -> list[bytes]:
    """Return the payloads of all complete text frames of a server, without pings."""
    return split_texts(raw)[0]


def split_texts(raw: bytes) -> tuple[list[bytes], int]:
    """Return the payloads as ``texts_of`` does, and the offset of the first incomplete frame."""
    texts, at = [], 0
    while at + 10 <= len(raw):
        size, start = raw[at + 1], at + 2
        if size == 126:
            size, start = int.from_bytes(raw[at + 2 : at + 4], "big"), at + 4
        elif size == 127:
            size, start = int.from_bytes(raw[at + 2 : at + 10], "big"), at + 10
        if start + size > len(raw):
            break
        if raw[at] == 0x81:
            texts.append(bytes(raw[start : start + size]))
        else:
            assert raw[at] == 0x89, bytes(raw[at : start + size])
        at = start + size
    return texts, at


def unchunked(raw: bytes) -> bytes:
    """Return the body of a chunked HTTP/1.1 answer, complete chunks only."""
    body, at = [], 0
    while (line_end := raw.find(b"\r\n", at)) >= 0:
        size = int(raw[at:line_end], 16)
        start = line_end + 2
        if start + size + 2 > len(raw):
            break
        assert raw[start + size : start + size + 2] == b"\r\n"
        body.append(bytes(raw[start : start + size]))
        at = start + size + 2
    return b"".join(body)
