"""The real recording, replayed by the simulator and relayed, byte for byte."""

import msgspec
import pytest
import trio

from hedgehogd.simulator import Simulation
from tests.e2e.harness import (
    WEBSOCKET_HEADERS,
    RawStream,
    exchange,
    free_port,
    quick,
    running,
    subscribe,
    texts_of,
    unchunked,
)
from tests.recordings import PRO, recording

pytestmark = pytest.mark.e2e

SUBSCRIBERS = 100
SPEED = 10.0
CHANNELS = ["level2", "ticker", "matches"]


def _recorded() -> tuple[list[bytes], list[str]]:
    """Return the data messages of the recording, and its products."""
    lines = recording(f"{PRO}/feed.jsonl").read_bytes().splitlines()
    data = [line for line in lines if not line.startswith(b'{"type":"subscriptions"')]
    products = sorted({msgspec.json.decode(line)["product_id"] for line in data})
    return data, products


async def _by_websocket(
    port: int, products: list[str], expected: list[bytes], ready: trio.Event
) -> list[bytes]:
    stream = await RawStream.open(port, "/ws-feed", *WEBSOCKET_HEADERS)
    await stream.send_text(subscribe(products, CHANNELS))
    await stream.read_bytes(2)
    ready.set()
    await stream.read_to(expected[-1])
    await stream.aclose()
    got = texts_of(stream.read)
    assert got[0].startswith(b'{"type":"subscriptions"')
    return got[1:]


async def _by_http(
    port: int, products: list[str], expected: list[bytes], ready: trio.Event, accept: str
) -> list[bytes]:
    path = f"/api/v1/stream?pairs={','.join(products)}&channels={','.join(CHANNELS)}"
    path += "&notices=none" * (accept != "text/event-stream")
    stream = await RawStream.open(port, path, f"Accept: {accept}")
    ready.set()
    await stream.read_to(expected[-1])
    await stream.aclose()
    return _messages(unchunked(stream.read), accept)


def _messages(body: bytes, accept: str) -> list[bytes]:
    """Return the messages of a body, without the framing of lines or events."""
    if accept != "text/event-stream":
        return [line for line in body.split(b"\n") if line]
    events = [event for event in body.split(b"\n\n") if event.startswith(b"data: ")]
    return [event.partition(b"\n")[0].removeprefix(b"data: ") for event in events]


async def test_a_recording_reaches_a_hundred_subscribers_byte_for_byte() -> None:
    """In order, none lost, none repeated, in every wire form: messages pass unchanged."""
    expected, products = _recorded()
    assert (len(expected), len(products)) == (9943, 10)
    exchange_port = free_port()
    received: dict[int, list[bytes]] = {}

    async def reader(number: int, ready: trio.Event) -> None:
        kind = number % 4
        if kind < 2:
            got = await _by_websocket(port, products, expected, ready)
        else:
            accept = "text/event-stream" if kind == 2 else "application/x-ndjson"
            got = await _by_http(port, products, expected, ready, accept)
        received[number] = got

    async with running(quick(feed_where=f"ws://127.0.0.1:{exchange_port}")) as daemon:
        port = daemon.port
        async with trio.open_nursery() as readers:
            waiting = [trio.Event() for _ in range(SUBSCRIBERS)]
            for number, ready in enumerate(waiting):
                readers.start_soon(reader, number, ready)
            for ready in waiting:
                await ready.wait()
            # All subscribers are connected; only now does the exchange start.
            simulation = Simulation(port=exchange_port, recording=recording(PRO), speed=SPEED)
            async with exchange(simulation):
                while len(received) < SUBSCRIBERS:
                    await trio.sleep(0.05)

    assert len(received) == SUBSCRIBERS
    for number, got in received.items():
        assert expected == got, f"subscriber {number}"
