"""One client of the simulated exchange: its frames, its limits, its close."""

import json
from functools import partial

import pytest
import trio

from hedgehogd.simulator import Address
from tests.simulator.peers import (
    SUBSCRIBE,
    UPGRADE,
    ask_for_much,
    market,
    masked,
    open_deaf,
    open_raw,
    read_to_end,
    serve,
)

pytestmark = pytest.mark.e2e  # a real exchange on real sockets


async def test_a_client_that_does_not_subscribe_is_closed(nursery, connect):
    """Coinbase allows five seconds (docs/COINBASE.md §3.1); other commands do not count."""
    port = await nursery.start(partial(serve, market(), first_subscribe_s=0.25))
    address = Address(f"ws://127.0.0.1:{port}", "", 1)
    async with connect(address.url) as good, await open_raw(address) as silent:
        await silent.send_all(masked(0x1, b'{"type":"unsubscribe","channels":["ticker"]}'))
        await good.send(channels=["level2_batch"], product_ids=["BTC-USD"])
        end = b""
        while not end.endswith(b"\x03\xf0no subscribe within 0.25 s"):
            end += await silent.receive_some()
        received = await good.receive_until("l2update")

    assert b'"subscriptions","channels":[]' in end
    assert received


async def test_pings_are_answered_before_data(exchange):
    """Clients end the connection when a pong is late (docs/COINBASE.md §15)."""
    async with await open_raw(exchange) as stream:
        await stream.send_all(masked(0x1, json.dumps(SUBSCRIBE).encode()) + masked(0x9, b"?"))
        assert (await stream.receive_some()).startswith(b"\x8a\x01?")


async def test_a_close_is_answered_with_its_code(exchange):
    """The closing handshake of RFC 6455 §7."""
    async with await open_raw(exchange) as stream:
        await stream.send_all(masked(0x8, (4000).to_bytes(2, "big") + b"bye"))
        assert await read_to_end(stream) == b"\x88\x02\x0f\xa0"
    async with await open_raw(exchange) as stream:
        await stream.send_all(masked(0x8, b""))
        assert await read_to_end(stream) == b"\x88\x00"


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (masked(0x2, b"binary"), 1003),
        (masked(0x1, b"\xff"), 1007),
        (b"\x81\x01x", 1002),
        (masked(0x1, b" " * 65_000) + masked(0x1, b" " * 65_000), None),
        (b"\x01\xff" + (70_000).to_bytes(8, "big") + bytes(4) + b" " * 70_000, 1009),
    ],
    ids=["binary", "not UTF-8", "not masked", "large", "too large"],
)
async def test_a_protocol_violation_is_closed_with_its_reason(exchange, frame, code):
    """The developer of a relay finds the mistake in a test, not in production."""
    async with await open_raw(exchange) as stream:
        await stream.send_all(frame + masked(0x8, b""))
        end = await read_to_end(stream)

    assert (b"\x88\x00" if code is None else code.to_bytes(2, "big")) in end
    assert (b"Message too big" in end) == (code == 1009)


async def test_a_client_that_reads_too_slowly_gets_an_error_and_is_closed(nursery):
    """The exchange closes connections with a long queue (docs/COINBASE.md §11)."""
    port = await nursery.start(partial(serve, market(), backlog_bytes_max=100_000))
    async with await open_deaf(port) as stream:
        await stream.send_all(UPGRADE)
        await ask_for_much(stream)
        data = b""
        with trio.fail_after(5):
            while b"\x88\x10\x03\xf0ErrSlowConsume" not in data:
                data += await stream.receive_some()

    assert b'{"type":"error","message":"ErrSlowConsume","reason":"' in data
