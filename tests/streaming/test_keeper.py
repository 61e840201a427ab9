"""Keepalives for quiet streams, the end of silent peers, and the farewell."""

from random import Random

import pytest
import trio
from wsproto.events import Ping, Pong

from hedgehogd.domain import limits
from hedgehogd.streaming.keeper import keep_alive, say_farewell
from tests.streaming.conftest import Served, read_all, read_to
from tests.streaming.test_connection import Client


async def test_quiet_streams_are_kept_alive(
    served: Served, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """Proxies close idle connections."""
    forms = {"text/event-stream": b":\n\n", "application/x-ndjson": b"\n"}
    streams = []
    for accept in forms:
        query = "" if "event" in accept else "?notices=none"
        head = f"GET /api/v1/stream{query} HTTP/1.1\nHost: x\nAccept: {accept}"
        stream = await served.ask(head)
        await read_to(stream, b"\r\n\r\n")
        streams.append(stream)
    await read_to(streams[0], b"\n\n\r\n")  # the session event
    nursery.start_soon(keep_alive, served.plane)
    begin = trio.current_time()
    for _ in range(3):
        for stream, alive in zip(streams, forms.values(), strict=True):
            chunk = b"%x\r\n%b\r\n" % (len(alive), alive)
            assert chunk == await read_to(stream, chunk)

    assert trio.current_time() - begin <= 3 * limits.KEEP_ALIVE_S + 1
    for stream in streams:
        await stream.aclose()


async def test_a_websocket_that_answers_pings_stays_and_a_silent_one_is_closed(
    served: Served, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """A proxy accepts the bytes for a dead peer for ever; only the missing pongs show it."""
    alive, dead = Client(await served.upgrade("/ws")), Client(await served.upgrade("/ws"))
    await alive.next_json()
    await dead.next_json()
    nursery.start_soon(keep_alive, served.plane)
    for _ in range(6):
        ping = await alive.next()
        assert isinstance(ping, Ping)
        await alive.send(Pong(payload=ping.payload))

    assert len(served.plane.outlets) == 1
    assert served.instance.counts.ends == {"peer_silent": 1}
    await alive.stream.aclose()
    await dead.stream.aclose()


async def test_farewells_are_spread_over_time(
    served: Served, autojump_clock: trio.testing.MockClock
) -> None:
    """Ten thousand clients that reconnect in one instant would overload the other instances."""
    streams = []
    for _ in range(10):
        stream = await served.ask("GET /api/v1/stream?notices=none HTTP/1.1\nHost: x")
        await read_to(stream, b"\r\n\r\n")
        streams.append(stream)
    ended_at: list[float] = []
    begin = trio.current_time()

    async def watch(stream: trio.SocketStream) -> None:
        assert await read_all(stream) == b"0\r\n\r\n"
        ended_at.append(trio.current_time() - begin)

    async with trio.open_nursery() as watchers:
        for stream in streams:
            watchers.start_soon(watch, stream)
        await say_farewell(served.plane, 5.0, Random(1))

    assert [0.5 * n for n in range(10)] == pytest.approx(ended_at, abs=0.2)
    await say_farewell(served.plane, 5.0, Random(1))  # no stream is left, so there is no wait


async def test_a_stream_with_waiting_data_gets_no_keepalive(served: Served) -> None:
    """The waiting data keeps its connection alive."""
    stream = await served.ask("GET /api/v1/stream?notices=none HTTP/1.1\nHost: x")
    await read_to(stream, b"\r\n\r\n")
    outlet = next(iter(served.plane.outlets))
    outlet._flushing = True
    outlet.keep_alive()
    outlet._flushing = False
    outlet.end(1012, "restart")
    outlet.keep_alive()

    assert await read_all(stream) == b"0\r\n\r\n"
