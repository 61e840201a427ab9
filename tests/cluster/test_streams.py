"""Every kind of client through a real HAProxy."""

import json
from collections import Counter

import h11
import pytest
import trio

from tests.cluster.harness import get, instance_of
from tests.e2e.harness import (
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


async def test_streams_are_spread_evenly(cluster):
    """Each instance gets its share, regardless of earlier streams."""
    streams = [await HttpStream.open(cluster.port, NDJSON) for _ in range(12)]
    counts = Counter(instance_of(stream) for stream in streams)
    for stream in streams:
        await stream.aclose()

    assert counts == dict.fromkeys(cluster.numbers, 4)


@pytest.mark.parametrize("path", ["/", "/ws-feed"])
async def test_a_coinbase_client_notices_no_proxy(cluster, path):
    """Only Coinbase's own messages, on a connection that works in both directions."""
    async with websocket(cluster.port, path) as client:
        await client.send_message(subscribe(["BTC-USD"], ["ticker", "matches"]))
        types = {json.loads(await client.get_message())["type"] for _ in range(3)}
        await client.send_message(subscribe(["ETH-USD"], ["ticker"]))
        answer = await next_of(client, "subscriptions")
        await next_of(client, "match")

    assert types <= {"subscriptions", "ticker", "last_match", "match"}
    assert {"BTC-USD", "ETH-USD"} <= {p for c in answer["channels"] for p in c["product_ids"]}


async def test_the_extended_websocket_begins_with_its_session(cluster):
    """The session's id passes in the handshake and in the first message."""
    async with websocket(cluster.port, "/ws") as client:
        session = await next_of(client, "session")
        headers = {name.lower(): value for name, value in client.handshake_headers}

    assert session["instance"] in cluster.numbers
    assert headers[b"hedgehog-session"].decode() == session["session"]


async def test_sse_and_ndjson_arrive_message_by_message(cluster):
    """HAProxy does not hold messages back until a buffer is full."""
    events = await HttpStream.open(cluster.port, NDJSON, Accept="text/event-stream")
    lines = await HttpStream.open(cluster.port, NDJSON)
    first = await next_event(events)
    types = {json.loads((await next_event(events))["data"])["type"] for _ in range(4)}
    types |= {json.loads(await next_line(lines))["type"] for _ in range(4)}
    for stream in (events, lines):
        await stream.aclose()

    assert first["event"] == "hedgehogd"
    assert events.headers["content-type"].startswith("text/event-stream")
    assert types <= {"ticker", "last_match", "match"}


async def test_a_kept_alive_connection_reaches_the_streaming_plane(cluster):
    """A stream requested after a control answer must not reach Hypercorn."""
    http = h11.Connection(h11.CLIENT)
    stream = await trio.open_tcp_stream("127.0.0.1", cluster.port)

    async def ask(path):
        head = h11.Request(method="GET", target=path, headers=[("Host", "localhost")])
        await stream.send_all(http.send(head) + http.send(h11.EndOfMessage()))
        body = b""
        while True:
            event = http.next_event()
            if event is h11.NEED_DATA:
                http.receive_data(await stream.receive_some())
            elif isinstance(event, h11.Response):
                answer = event
            elif isinstance(event, h11.Data) and path == NDJSON:
                return answer, bytes(event.data)
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            else:
                http.start_next_cycle()  # raises unless the connection stays open
                return answer, body

    async with stream:
        with trio.fail_after(PATIENCE_S):
            control = [await ask("/healthz") for _ in range(3)]
            streamed, line = await ask(NDJSON)

    assert [json.loads(body) for _, body in control] == [{"status": "alive"}] * 3
    assert streamed.status_code == 200
    assert b"hedgehog-session" in dict(streamed.headers)
    assert line


async def test_rest_answers_through_the_proxy_as_without_it(cluster):
    """The same status and body from each instance; errors included."""
    direct = 8000 + cluster.numbers[0]
    for path in ("/products/BTC-USD", "/api/v1/subscribe/NO-PAIR", "/nothing"):
        assert await rest(cluster.port, "GET", path) == await rest(direct, "GET", path)


async def test_statistics_and_prometheus_answer(cluster):
    """An operator's browser and Prometheus read them."""
    port = cluster.proxy.cluster.statistics_port
    metrics = get(port, "/metrics").decode()

    assert b"Statistics Report" in get(port, "/")
    for number in cluster.numbers:
        row = f'haproxy_server_status{{proxy="ready",server="{number}",state="UP"}} 1'
        assert row in metrics
