"""Instances that drain, die or lose their feed, and a reload of HAProxy, as clients see clients."""

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

pytestmark = [pytest.mark.e2e, pytest.mark.cluster, pytest.mark.xdist_group("cluster")]
NDJSON = "/api/v1/subscribe/BTC-USD"
AT_A_TIME = 3
NOTICED_S = 2.0  # HAProxy has to notice a drain within this time


class Visitors:
    """Clients that connect continuously: each opens a stream, reads a message and closes.

    Attributes:
        seen: time and instance of each answer.
        failures: faults, as text.
        incomplete: answers that ended early; HAProxy cannot repeat those requests.
        is_over: no further client connects.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self.seen: list[tuple[float, int]] = []
        self.failures: list[str] = []
        self.incomplete = 0
        self.is_over = False

    async def connect(self) -> None:
        """Connect one client after the other until ``is_over``."""
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
                self.incomplete += 1
            except (AssertionError, OSError, KeyError, trio.BrokenResourceError) as error:
                self.failures.append(repr(error))
            await trio.sleep(0.01)

    async def more(self, count: int = 40) -> None:
        """Wait for ``count`` more answers."""
        goal = len(self.seen) + count
        await eventually(lambda: len(self.seen) + len(self.failures) >= goal, "more visitors")


@asynccontextmanager
async def visitors(port: int, *, incomplete_max: int = 0) -> AsyncIterator[Visitors]:
    """Run some clients at a time until the block ends; none may fail."""
    clients = Visitors(port)
    async with trio.open_nursery() as nursery:
        for _ in range(AT_A_TIME):
            nursery.start_soon(clients.connect)
        try:
            yield clients
        finally:
            clients.is_over = True
    assert clients.failures == []
    assert clients.incomplete <= incomplete_max


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


async def test_a_draining_instance_gets_no_new_streams_and_sends_farewells_to_the_old_ones(cluster):
    """A deploy: no new streams there after two seconds, old ones continue until the farewell."""
    leaving = cluster.numbers[0]
    async with a_stream_on_each(cluster) as streams, visitors(cluster.port) as clients:
        await clients.more()
        begin = trio.current_time()
        cluster.signal(leaving, signal.SIGTERM)
        await trio.sleep(NOTICED_S)
        noticed = trio.current_time()
        await next_of(streams[leaving], "ticker")  # the old stream continues ...
        key = dict(streams[leaving].handshake_headers)[b"hedgehog-session"].decode()
        answer = await rest(cluster.port, "POST", "/api/v1/subscribe/ETH-USD", Hedgehog_Session=key)
        open_stream = await HttpStream.open(8000 + leaving, NDJSON)  # ... and the port is open
        went_on = trio.current_time()
        closing = await next_of(streams[leaving], "closing")
        with pytest.raises(ConnectionClosed) as farewell:
            await streams[leaving].get_message()
        await open_stream.body()
        status = await cluster.end_of(leaving)
        await clients.more()
        for number in cluster.numbers[1:]:
            await next_of(streams[number], "ticker")

    assert leaving in {instance for at, instance in clients.seen if at < begin}
    assert leaving not in {instance for at, instance in clients.seen if at > noticed}
    assert went_on - begin < 3.5  # drain.notice_s was not over
    assert "BTC-USD" in closing["position"]["ticker"]
    assert (farewell.value.reason.code, status) == (1012, 0)
    assert (answer[0], answer[1]["session"]) == (200, key)  # another instance forwarded it


async def test_an_instance_that_is_killed_costs_its_own_streams_only(cluster):
    """No later client sees an error, even if the dead instance had accepted its request.

    Only an answer that has begun cannot be repeated by another instance.
    """
    killed = cluster.numbers[1]
    async with (
        a_stream_on_each(cluster) as streams,
        visitors(cluster.port, incomplete_max=AT_A_TIME) as clients,
    ):
        await clients.more()
        cluster.signal(killed, signal.SIGKILL)
        await cluster.end_of(killed)
        await clients.more(100)
        with pytest.raises(ConnectionClosed):
            while True:
                await next_of(streams[killed], "ticker")
        for number in set(cluster.numbers) - {killed}:
            await next_of(streams[number], "ticker")
        cluster.start(killed)
        await eventually(lambda: killed in cluster.proxy.up(), "it is up again")
        back = trio.current_time()
        await clients.more(100)

    assert killed in {instance for at, instance in clients.seen if at > back}


async def test_without_a_feed_clients_are_served_and_notified(cluster):
    """Without the exchange no instance is ready, but each is better than a refusal."""
    async with visitors(cluster.port) as clients:
        await clients.more()
        downs = cluster.proxy.downs("living")
        cluster.stop_exchange()
        await eventually(lambda: not cluster.proxy.up(), "no instance is ready")
        lost = trio.current_time()
        await clients.more(60)
        async with websocket(cluster.port, "/ws") as client:
            stale = await next_of(client, "stale")
        events = await HttpStream.open(cluster.port, NDJSON, Accept="text/event-stream")
        session, notice = await next_event(events), await next_event(events)
        await events.aclose()
        cluster.start_exchange()
        await eventually(cluster.proxy.up, "an instance is ready again")
        await clients.more()

    assert cluster.proxy.downs("living") == downs
    assert {instance for at, instance in clients.seen if at > lost} == set(cluster.numbers)
    assert stale["type"] == "stale"
    assert "stale" in notice["data"], (session, notice)


async def test_a_reload_of_the_proxy_keeps_open_streams(cluster):
    """They stay in the old process; new clients reach the new one."""
    lines = await HttpStream.open(cluster.port, NDJSON)
    async with a_stream_on_each(cluster) as streams, visitors(cluster.port) as clients:
        await clients.more()
        (old,) = cluster.proxy.workers()
        cluster.proxy.reload()
        await eventually(lambda: len(cluster.proxy.workers()) == 2, "a new process serves")
        await clients.more(100)
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
    """The watchdog's next action, a kill, redirects clients that waited for an answer."""
    hung = cluster.numbers[2]
    async with visitors(cluster.port, incomplete_max=AT_A_TIME) as clients:
        await clients.more()
        cluster.signal(hung, signal.SIGSTOP)
        await eventually(lambda: hung not in cluster.proxy.up(), "the hung instance is down")
        waiting = int(cluster.proxy.servers()[hung]["scur"])
        cluster.signal(hung, signal.SIGKILL)
        await cluster.end_of(hung)
        with trio.fail_after(PATIENCE_S):
            await clients.more(100)

    assert waiting >= 1
