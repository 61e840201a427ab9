"""Connections that stop, slow down or end: effect on the client, and the count."""

import json

import pytest
import trio
from trio.testing import wait_all_tasks_blocked
from trio_websocket import ConnectionClosed

from tests.simulator.peers import SUBSCRIBE, UPGRADE, masked
from tests.simulator.world import of_type, receive_all


async def raw(exchange):
    """Return a connection that has subscribed to ``level2_batch``."""
    stream = exchange.stream()
    await stream.send_all(UPGRADE)
    assert (await stream.receive_some()).startswith(b"HTTP/1.1 101")
    await stream.send_all(masked(0x1, json.dumps(SUBSCRIBE).encode()))
    await trio.sleep(1)
    return stream


async def read_to_end(stream):
    data = b""
    while piece := await stream.receive_some():
        data += piece
    return data


async def test_a_reset_is_neither_a_close_frame_nor_an_eof(world, autojump_clock):
    """WebSocket libraries report it as code 1006."""
    exchange = world()
    stream = await raw(exchange)
    exchange.faults.fire("reset")
    with pytest.raises(trio.BrokenResourceError):
        await read_to_end(stream)

    await wait_all_tasks_blocked()
    assert exchange.faults.fired == {"reset": 1}
    assert exchange.faults.clients == {}


async def test_eof_ends_the_stream_without_a_close_frame(world, autojump_clock):
    """The queue is still written; then the stream ends."""
    exchange = world()
    stream = await raw(exchange)
    exchange.faults.fire("eof")
    data = await read_to_end(stream)
    await stream.aclose()

    assert b'"l2update"' in data
    assert data.endswith(b'Z"}')
    assert exchange.faults.fired == {"eof": 1}


@pytest.mark.parametrize("name", ["reset", "eof"])
async def test_an_end_can_wait_for_the_nth_message(world, autojump_clock, name):
    """In the middle of a burst, for example."""
    exchange = world()
    client = await exchange.client("heartbeat")
    await receive_all(client, 0.1)
    exchange.faults.fire(name, 3)
    heard, is_open = await receive_all(client, 10)

    assert len(heard) == 2
    assert not is_open
    assert exchange.faults.fired == {name: 1}


@pytest.mark.parametrize("code", [1000, 1001, 1008, 1011, 1012])
async def test_close_comes_with_its_code(world, autojump_clock, code):
    """Restarts of the exchange's proxies cause some of these codes (docs/COINBASE.md §11)."""
    exchange = world()
    client = await exchange.client("heartbeat")
    exchange.faults.fire("close", code)
    with pytest.raises(ConnectionClosed) as caught:
        while True:
            await client.websocket.get_message()

    assert caught.value.reason.code == code
    assert exchange.faults.fired == {"close": 1}


async def test_close_with_1006_is_a_reset(world, autojump_clock):
    """No frame may hold that code."""
    exchange = world()
    stream = await raw(exchange)
    exchange.faults.fire("close", "1006")
    with pytest.raises(trio.BrokenResourceError):
        await read_to_end(stream)

    assert exchange.faults.fired == {"close": 1}


async def test_silence_answers_no_ping_and_then_continues(world, autojump_clock):
    """Open connections without messages are the most frequent failure (docs/COINBASE.md §11)."""
    exchange = world(rate=1)
    client = await exchange.client("heartbeat")
    await receive_all(client, 1.5)
    exchange.faults.fire("silence", 20)
    heard, is_open = await receive_all(client, 19)
    with trio.move_on_after(1) as waiting:
        await client.websocket.ping()
    after, _ = await receive_all(client, 5)

    assert len(of_type(heard, "heartbeat")) == 0
    assert is_open
    assert waiting.cancelled_caught
    assert len(of_type(after, "heartbeat")) > 20
    assert exchange.faults.fired == {"silence": 1}


async def test_slow_drip_comes_byte_by_byte(world, autojump_clock):
    """A client that measures silence in messages, not in bytes, closes too early."""
    exchange = world(rate=1)
    stream = await raw(exchange)
    while not (data := await stream.receive_some()).endswith(b'Z"}'):
        pass
    exchange.faults.fire("slow_drip", 50)
    begin = trio.current_time()
    data, pieces = b"", 0
    while not data.endswith(b'Z"}'):
        data += await stream.receive_some()
        pieces += 1

    assert pieces == len(data)
    assert trio.current_time() - begin > len(data) / 50 - 1
    assert exchange.faults.fired == {"slow_drip": 1}


@pytest.mark.e2e
@pytest.mark.parametrize("name", ["reset", "eof"])
async def test_on_sockets_a_reset_is_a_reset_and_an_end_an_end(exchange, connect, name):
    """A relay sees the result of the kernel's handling."""
    port = int(exchange.url.rpartition(":")[2])
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(UPGRADE + masked(0x1, json.dumps(SUBSCRIBE).encode()))
        await stream.receive_some()
        exchange.faults.fire(name)
        with trio.fail_after(5):
            if name == "reset":
                with pytest.raises(trio.BrokenResourceError) as caught:
                    await read_to_end(stream)
                assert isinstance(caught.value.__cause__, ConnectionResetError)
            else:
                assert not (await read_to_end(stream)).endswith((b"\x88\x00", b"\x03\xe8"))

    assert exchange.faults.fired == {name: 1}
