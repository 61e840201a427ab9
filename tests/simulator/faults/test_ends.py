"""Connections that stop, trickle or end: what a client sees, and that it is counted."""

import json

import pytest
import trio
from trio.testing import wait_all_tasks_blocked
from trio_websocket import ConnectionClosed

from tests.simulator.peers import SUBSCRIBE, UPGRADE, masked
from tests.simulator.world import hear_all, of_type


async def raw(here):
    """Return a connection that has shaken hands and asked for ``level2_batch``."""
    stream = here.stream()
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


async def test_reset_is_neither_a_close_nor_an_end(world, autojump_clock):
    """1006 to those who count in codes."""
    here = world()
    stream = await raw(here)
    here.faults.fire("reset")
    with pytest.raises(trio.BrokenResourceError):
        await read_to_end(stream)

    await wait_all_tasks_blocked()
    assert here.faults.fired == {"reset": 1}
    assert here.faults.clients == {}


async def test_eof_ends_the_stream_without_a_close_frame(world, autojump_clock):
    """What waits is still written; then nothing."""
    here = world()
    stream = await raw(here)
    here.faults.fire("eof")
    data = await read_to_end(stream)
    await stream.aclose()

    assert b'"l2update"' in data
    assert data.endswith(b'Z"}')
    assert here.faults.fired == {"eof": 1}


@pytest.mark.parametrize("name", ["reset", "eof"])
async def test_they_can_wait_for_the_nth_message(world, autojump_clock, name):
    """In the middle of a burst, for example."""
    here = world()
    client = await here.client("heartbeat")
    await hear_all(client, 0.1)
    here.faults.fire(name, 3)
    heard, is_open = await hear_all(client, 10)

    assert len(heard) == 2
    assert not is_open
    assert here.faults.fired == {name: 1}


@pytest.mark.parametrize("code", [1000, 1001, 1008, 1011, 1012])
async def test_close_comes_with_its_code(world, autojump_clock, code):
    """Restarts of the exchange's proxies, among others (FEED §11)."""
    here = world()
    client = await here.client("heartbeat")
    here.faults.fire("close", code)
    with pytest.raises(ConnectionClosed) as caught:
        while True:
            await client.websocket.get_message()

    assert caught.value.reason.code == code
    assert here.faults.fired == {"close": 1}


async def test_close_with_1006_is_a_reset(world, autojump_clock):
    """No frame may hold that code."""
    here = world()
    stream = await raw(here)
    here.faults.fire("close", "1006")
    with pytest.raises(trio.BrokenResourceError):
        await read_to_end(stream)

    assert here.faults.fired == {"close": 1}


async def test_silence_answers_no_ping_and_then_goes_on(world, autojump_clock):
    """Connections that stay open and say nothing are the commonest end (FEED §11)."""
    here = world(rate=1)
    client = await here.client("heartbeat")
    await hear_all(client, 1.5)
    here.faults.fire("silence", 20)
    heard, is_open = await hear_all(client, 19)
    with trio.move_on_after(1) as waiting:
        await client.websocket.ping()
    after, _ = await hear_all(client, 5)

    assert len(of_type(heard, "heartbeat")) == 0
    assert is_open
    assert waiting.cancelled_caught
    assert len(of_type(after, "heartbeat")) > 20
    assert here.faults.fired == {"silence": 1}


async def test_slow_drip_comes_byte_by_byte(world, autojump_clock):
    """Whoever measures life by messages and not by bytes gives up too soon."""
    here = world(rate=1)
    stream = await raw(here)
    while not (data := await stream.receive_some()).endswith(b'Z"}'):
        pass
    here.faults.fire("slow_drip", 50)
    begin = trio.current_time()
    data, pieces = b"", 0
    while not data.endswith(b'Z"}'):
        data += await stream.receive_some()
        pieces += 1

    assert pieces == len(data)
    assert trio.current_time() - begin > len(data) / 50 - 1
    assert here.faults.fired == {"slow_drip": 1}


@pytest.mark.e2e
@pytest.mark.parametrize("name", ["reset", "eof"])
async def test_on_sockets_a_reset_is_a_reset_and_an_end_an_end(exchange, connect, name):
    """What the kernel makes of it is what a relay will see."""
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
