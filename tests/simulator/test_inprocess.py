"""Connections without sockets: what they keep of real ones."""

import json

import httpx
import pytest
import trio

from tests.simulator.peers import SUBSCRIBE, UPGRADE, masked
from tests.simulator.world import hear_all, of_type


async def test_market_time_passes_on_the_mock_clock(world, autojump_clock):
    """Otherwise a campaign of faults would take as long as it lasts."""
    client = await world(rate=1).client("heartbeat", "matches")
    begin = trio.current_time()
    heard, is_open = await hear_all(client, 20.5)
    trades = [m["trade_id"] for m in of_type(heard, "last_match", "match")]

    assert is_open
    assert trio.current_time() - begin == pytest.approx(20.5)
    assert len(of_type(heard, "heartbeat")) in {20, 21}
    assert len(trades) > 40
    assert trades == list(range(trades[0], trades[0] + len(trades)))


async def test_all_connections_see_the_same_numbered_messages(world, autojump_clock):
    """Two lines to one market can be compared, message by message."""
    here = world(rate=1)
    one, other = [await here.client("full") for _ in range(2)]
    (first, _), (second, _) = await hear_all(one, 2), await hear_all(other, 0.5)
    first, second = (
        {m["sequence"]: m for m in heard if "sequence" in m} for heard in (first, second)
    )
    both = first.keys() & second.keys()

    assert len(both) > 500
    assert all(first[sequence] == second[sequence] for sequence in both)


async def test_rest_needs_no_socket_either(world, autojump_clock):
    """httpx speaks to the app itself."""
    server = world().server
    transport = httpx.ASGITransport(app=server.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
        book = (await client.get("/products/BTC-USD/book?level=3")).json()

    assert len(book["bids"]) > 300


async def test_a_reset_breaks_reads_and_writes_of_both_ends(world, autojump_clock):
    """A cut cable is not a polite end, and must not look like one."""
    here = world()
    stream = here.stream()
    await stream.send_all(UPGRADE)
    assert (await stream.receive_some()).startswith(b"HTTP/1.1 101")
    await stream.send_all(masked(0x1, json.dumps(SUBSCRIBE).encode()))
    here.faults.fire("reset")
    with pytest.raises(trio.BrokenResourceError):
        while await stream.receive_some():
            pass
    with pytest.raises(trio.BrokenResourceError):
        await stream.send_all(b"x")


async def test_an_end_that_was_closed_says_so(world, autojump_clock):
    """Not that the peer broke it."""
    stream = world().stream()
    await stream.wait_send_all_might_not_block()
    await stream.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await stream.receive_some()
    with pytest.raises(trio.ClosedResourceError):
        await stream.send_all(b"x")


async def test_what_is_no_handshake_is_hung_up_on(world, autojump_clock):
    """REST has its own way in; Hypercorn needs a socket."""
    stream = world().stream()
    await stream.send_all(b"GET /products HTTP/1.1\r\nHost: x\r\n\r\n")
    assert await stream.receive_some() == b""
    await stream.send_eof()
