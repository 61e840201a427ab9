"""Clients that act as no client library would, and servers with limits short enough for tests."""

import json
from contextlib import asynccontextmanager

import httpx
import trio

from hedgehogd.simulator.exchange import MarketExchange
from hedgehogd.simulator.market import Market
from hedgehogd.simulator.products import LISTED
from hedgehogd.simulator.rest import market_app
from hedgehogd.simulator.server import Server, listen

UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
SUBSCRIBE = {"type": "subscribe", "channels": ["level2_batch"], "product_ids": ["BTC-USD"]}


def masked(opcode, payload):
    """Return a client's frame, with a mask of zeros."""
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else b"\xfe" + size.to_bytes(2, "big")
    return bytes([0x80 | opcode]) + length + bytes(4) + payload


async def open_raw(address):
    """Return a connection after its handshake, without any automatic replies."""
    stream = await trio.open_tcp_stream("127.0.0.1", int(address.url.rpartition(":")[2]))
    await stream.send_all(UPGRADE)
    response = await stream.receive_some()
    assert response.startswith(b"HTTP/1.1 101")
    return stream


async def open_deaf(port):
    """Return a connection before its handshake, with a tiny receive buffer in the kernel."""
    sock = trio.socket.socket()
    sock.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, 4096)
    await sock.connect(("127.0.0.1", port))
    return trio.SocketStream(sock)


async def read_to_end(stream):
    data = b""
    with trio.fail_after(5):
        async for piece in stream:
            data += piece
    return data


async def ask_for_much(stream):
    """Cause answers of 600 KB: errors that quote the request."""
    request = json.dumps(SUBSCRIBE | {"channels": ["level2_batch", "nothing" * 1500]})
    for _ in range(60):
        await stream.send_all(masked(0x1, request.encode()))


@asynccontextmanager
async def must_end_at_once(streams):
    """Cancel the tasks of the nursery that this yields; they must end within a second.

    If they do not, the streams are closed, so that the test fails instead of hanging.
    """

    async def close_streams():
        await trio.sleep(2)
        for stream in streams:
            await stream.aclose()

    async with trio.open_nursery() as outer:
        async with trio.open_nursery() as inner:
            yield inner
            outer.start_soon(close_streams)
            cancelled_at = trio.current_time()
            inner.cancel_scope.cancel()
        assert trio.current_time() - cancelled_at < 1
        outer.cancel_scope.cancel()
    for stream in streams:
        await stream.aclose()


def reasons(messages):
    return [message["reason"] for message in messages if message["type"] == "error"]


async def serve(market, app=None, *, task_status, **limits):
    """Serve ``market`` with limits short enough for tests."""
    listeners = await listen("127.0.0.1", 0)
    task_status.started(listeners[0].socket.getsockname()[1])
    app = app or market_app(market)
    await Server(MarketExchange(market, 1), app, **limits).run(listeners)


def market(rate=1.0):
    return Market(1, 1_790_000_000_000_000_000, LISTED[:1], rate)


async def get(exchange, path):
    async with httpx.AsyncClient() as client:
        return await client.get(exchange.rest_url + path)
