"""A stream that is cancelled at any await leaves no state (httpcore tests its code so)."""

import pytest
import trio

from hedgehogd.app.daemon import make_instance
from hedgehogd.settings.keys import Settings
from hedgehogd.streaming.door import Door, open_listener
from hedgehogd.streaming.outlet import OutletSettings
from hedgehogd.streaming.plane import StreamingPlane
from tests.streaming.conftest import Served, ticker
from tests.streaming.test_connection import SUBSCRIBE, Client


async def _life(served: Served, until: str) -> None:
    """Bring one subscriber to a chosen point of its life."""
    if until == "head":
        stream = await served.connect()
        await stream.send_all(b"GET / HT")
        return
    client = Client(await served.upgrade("/ws", SO_RCVBUF=4096))
    if until == "open":
        return
    await client.next_json()
    await client.say(SUBSCRIBE)
    await client.next_json()
    if until == "reading":
        return
    outlet = next(iter(served.plane.outlets))
    number = 0
    while not outlet.waiting_bytes:
        number += 1
        await served.publish(ticker(number, pad=20_000))
    if until == "farewell":
        outlet.end(1012, "restart")


@pytest.mark.parametrize("until", ["head", "open", "reading", "flushing", "farewell"])
async def test_a_cancelled_stream_leaves_no_session_and_no_demand(until: str) -> None:
    """The member is detached, the socket closed, the demand released."""
    instance = make_instance(Settings())
    async with trio.open_nursery() as nursery:
        plane = StreamingPlane(instance, OutletSettings(nursery, instance.counts))
        listener = open_listener("127.0.0.1", 0)
        served = Served(instance, plane, listener.getsockname()[1])
        await nursery.start(Door(plane, served.control).run, listener, nursery)
        with trio.fail_after(5):
            await _life(served, until)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    for stream in served.opened:
        await stream.aclose()

    assert instance.counts.visitors == 0
    assert len(instance.sessions) == 0
    assert plane.outlets == {}
    assert instance.pipe.hub.topics("ticker") == []
    assert frozenset() == instance.pipe.demand.wanted(trio.current_time() + 3600)
    assert listener.fileno() == -1
