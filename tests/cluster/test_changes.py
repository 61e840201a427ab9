"""Instances that leave, die or lose their feed, and a reload, as clients see them."""

import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import h11
import pytest
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection

from tests.cluster.harness import eventually, instance_of
from tests.e2e.harness import (  # fmt: skip
    PATIENCE_S,
    HttpStream,
    next_event,
    next_line,
    next_of,
    rest,
    subscribe,
    websocket,
)

pytestmark = pytest.mark.cluster
NDJSON = "/api/v1/subscribe/BTC-USD"
AT_A_TIME = 3
NOTICED_S = 2.0  # within this time HAProxy has to have noticed a drain


class Visitors:
    """Clients that come all the time: each opens a stream, reads a message and hangs up.

    Attributes:
        seen: when each was answered, and by which instance.
        failures: what went wrong, for people.
        cut: answers that broke off in their middle; nobody can ask again for them.
        is_over: nobody comes any more.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self.seen: list[tuple[float, int]] = []
        self.failures: list[str] = []
        self.cut = 0
        self.is_over = False

    async def come(self) -> None:
        """Come, one after the other, until it is over."""
        while not self.is_over:
            try:
                stream = await HttpStream.open(self._port, NDJSON)
                if stream.status == 200:
                    self.seen.append((trio.current_time(), instance_of(stream)))
                else:
                    self.failures.append(f"status {stream.status}")
                await stream.aclose()
                status, _ = await rest(self._port, "GET", "/time")
                if status != 200:
                    self.failures.append(f"/time: status {status}")
            except h11.RemoteProtocolError:
                self.cut += 1
            except (AssertionError, OSError, KeyError, trio.BrokenResourceError) as error:
                self.failures.append(repr(error))
            await trio.sleep(0.01)

    async def more(self, count: int = 40) -> None:
        """Wait until ``count`` more have been answered."""
        goal = len(self.seen) + count
        await eventually(lambda: len(self.seen) + len(self.failures) >= goal, "more visitors")


@asynccontextmanager
async def visitors(port: int, *, cut_max: int = 0) -> AsyncIterator[Visitors]:
    """Let some at a time come, until the block ends; none may fail."""
    them = Visitors(port)
    async with trio.open_nursery() as nursery:
        for _ in range(AT_A_TIME):
            nursery.start_soon(them.come)
        try:
            yield them
        finally:
            them.is_over = True
    assert them.failures == []
    assert them.cut <= cut_max


@asynccontextmanager
async def a_stream_on_each(cluster) -> AsyncIterator[dict[int, WebSocketConnection]]:
    """Open WebSockets until every instance has one, subscribed to a ticker."""
    async with AsyncExitStack() as stack:
        found: dict[int, WebSocketConnection] = {}
        for _ in range(30):
            client = await stack.enter_async_context(websocket(cluster.port, "/ws"))
            found[(await next_of(client, "session"))["instance"]] = client
            if found.keys() == set(cluster.numbers):
                break
        for client in found.values():
            await client.send_message(subscribe(["BTC-USD"], ["ticker"]))
            await next_of(client, "ticker")
        yield found


async def test_an_instance_that_drains_is_left_in_peace_and_its_streams_get_their_farewell(cluster):
    """A deploy: no new streams there within two seconds, the old ones go on until they are told."""
    leaving = cluster.numbers[0]
    async with a_stream_on_each(cluster) as streams, visitors(cluster.port) as them:
        await them.more()
        begin = trio.current_time()
        cluster.signal(leaving, signal.SIGTERM)
        await trio.sleep(NOTICED_S)
        noticed = trio.current_time()
        await next_of(streams[leaving], "ticker")  # the old stream goes on ...
        key = dict(streams[leaving].handshake_headers)[b"hedgehog-session"].decode()
        told = await rest(cluster.port, "POST", "/api/v1/subscribe/ETH-USD", Hedgehog_Session=key)
        open_stream = await HttpStream.open(8000 + leaving, NDJSON)  # ... and the door is open
        went_on = trio.current_time()
        closing = await next_of(streams[leaving], "closing")
        with pytest.raises(ConnectionClosed) as farewell:
            await streams[leaving].get_message()
        await open_stream.body()
        status = await cluster.end_of(leaving)
        await them.more()
        for number in cluster.numbers[1:]:
            await next_of(streams[number], "ticker")

    assert leaving in {instance for at, instance in them.seen if at < begin}
    assert leaving not in {instance for at, instance in them.seen if at > noticed}
    assert went_on - begin < 3.5  # the drain's own notice had not run out
    assert "BTC-USD" in closing["position"]["ticker"]
    assert (farewell.value.reason.code, status) == (1012, 0)
    assert (told[0], told[1]["session"]) == (200, key)  # another instance passed it on


async def test_an_instance_that_is_killed_costs_its_own_streams_only(cluster):
    """Nobody who comes then sees an error, whatever the dead one had accepted already.

    Only an answer that has begun cannot be had again from another.
    """
    killed = cluster.numbers[1]
    async with (
        a_stream_on_each(cluster) as streams,
        visitors(cluster.port, cut_max=AT_A_TIME) as them,
    ):
        await them.more()
        cluster.signal(killed, signal.SIGKILL)
        await cluster.end_of(killed)
        await them.more(100)
        with pytest.raises(ConnectionClosed):
            while True:
                await next_of(streams[killed], "ticker")
        for number in set(cluster.numbers) - {killed}:
            await next_of(streams[number], "ticker")
        cluster.start(killed)
        await eventually(lambda: killed in cluster.proxy.up(), "it is back")
        back = trio.current_time()
        await them.more(100)

    assert killed in {instance for at, instance in them.seen if at > back}


async def test_without_a_feed_clients_are_served_and_told(cluster):
    """The exchange is away: no instance is ready, but each is better than a refusal."""
    async with visitors(cluster.port) as them:
        await them.more()
        cluster.stop_exchange()
        await eventually(lambda: not cluster.proxy.up(), "no instance is ready")
        lost = trio.current_time()
        await them.more(60)
        async with websocket(cluster.port, "/ws") as client:
            stale = await next_of(client, "stale")
        events = await HttpStream.open(cluster.port, NDJSON, Accept="text/event-stream")
        session, told = await next_event(events), await next_event(events)
        await events.aclose()
        cluster.start_exchange()
        await eventually(cluster.proxy.up, "an instance is ready again")
        await them.more()

    assert cluster.proxy.up("living") == set(cluster.numbers)
    assert {instance for at, instance in them.seen if at > lost} == set(cluster.numbers)
    assert stale["type"] == "stale"
    assert "stale" in told["data"], (session, told)


async def test_a_reload_of_the_proxy_keeps_open_streams(cluster):
    """They stay in the old process; who comes meanwhile meets the new one."""
    lines = await HttpStream.open(cluster.port, NDJSON)
    async with a_stream_on_each(cluster) as streams, visitors(cluster.port) as them:
        await them.more()
        (old,) = cluster.proxy.workers()
        cluster.proxy.reload()
        await eventually(lambda: len(cluster.proxy.workers()) == 2, "a new process serves")
        await them.more(100)
        for client in streams.values():
            for _ in range(3):
                await next_of(client, "ticker")
        for _ in range(3):
            await next_line(lines)
        both = cluster.proxy.workers()
    await lines.aclose()
    await eventually(lambda: old not in cluster.proxy.workers(), "the old process has left")

    assert old in both


async def test_a_hung_instance_gets_no_more_streams_and_its_visitors_go_elsewhere(cluster):
    """What the watchdog does next, a kill, sends on those who were waiting for an answer."""
    hung = cluster.numbers[2]
    async with visitors(cluster.port, cut_max=AT_A_TIME) as them:
        await them.more()
        cluster.signal(hung, signal.SIGSTOP)
        await eventually(lambda: hung not in cluster.proxy.up(), "the hung one is found")
        waiting = int(cluster.proxy.servers()[hung]["scur"])
        cluster.signal(hung, signal.SIGKILL)
        await cluster.end_of(hung)
        with trio.fail_after(PATIENCE_S):
            await them.more(100)

    assert waiting >= 1
