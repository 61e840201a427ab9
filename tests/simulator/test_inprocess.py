"""Connections without sockets behave like real ones."""

import json

import httpx
import pytest
import trio

from tests.simulator.peers import SUBSCRIBE, UPGRADE, masked
from tests.simulator.world import of_type, receive_all


async def test_market_time_passes_on_the_mock_clock(world, autojump_clock):
    """Otherwise a campaign of faults would run in real time."""
    client = await world(rate=1).client("heartbeat", "matches")
    begin = trio.current_time()
    received, is_open = await receive_all(client, 20.5)
    trades = [m["trade_id"] for m in of_type(received, "last_match", "match")]

    assert is_open
    assert trio.current_time() - begin == pytest.approx(20.5)
    assert len(of_type(received, "heartbeat")) in {20, 21}
    assert len(trades) > 40
    assert trades == list(range(trades[0], trades[0] + len(trades)))


async def test_all_connections_see_the_same_numbered_messages(world, autojump_clock):
    """Two lines to one market can be compared, message by message."""
    exchange = world(rate=1)
    one, other = [await exchange.client("full") for _ in range(2)]
    (first, _), (second, _) = await receive_all(one, 2), await receive_all(other, 0.5)
    first, second = (
        {m["sequence"]: m for m in received if "sequence" in m} for received in (first, second)
    )
    both = first.keys() & second.keys()

    assert len(both) > 500
    assert all(first[sequence] == second[sequence] for sequence in both)


async def test_rest_needs_no_socket_either(world, autojump_clock):
    """httpx calls the app itself."""
    server = world().server
    transport = httpx.ASGITransport(app=server.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
        book = (await client.get("/products/BTC-USD/book?level=3")).json()

    assert len(book["bids"]) > 300


async def test_a_reset_breaks_reads_and_writes_of_both_ends(world, autojump_clock):
    """A reset must not look like an orderly end."""
    exchange = world()
    stream = exchange.stream()
    await stream.send_all(UPGRADE)
    assert (await stream.receive_some()).startswith(b"HTTP/1.1 101")
    await stream.send_all(masked(0x1, json.dumps(SUBSCRIBE).encode()))
    exchange.faults.fire("reset")
    with pytest.raises(trio.BrokenResourceError):
        while await stream.receive_some():
            pass
    with pytest.raises(trio.BrokenResourceError):
        await stream.send_all(b"x")


async def test_using_an_end_after_its_close_is_reported_as_such(world, autojump_clock):
    """The error is not that of a reset by the peer."""
    stream = world().stream()
    await stream.wait_send_all_might_not_block()
    await stream.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await stream.receive_some()
    with pytest.raises(trio.ClosedResourceError):
        await stream.send_all(b"x")


async def test_a_request_without_a_handshake_is_closed(world, autojump_clock):
    """REST has its own access without sockets; Hypercorn needs a socket."""
    stream = world().stream()
    await stream.send_all(b"GET /products HTTP/1.1\r\nHost: x\r\n\r\n")
    assert await stream.receive_some() == b""
    await stream.send_eof()
