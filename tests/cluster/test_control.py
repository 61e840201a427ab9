"""REST commands for streams anywhere in the cluster, sent to the one public address."""

import json
import re
from collections import Counter
from random import Random

import pytest
import trio

from tests.cluster.harness import instance_of
from tests.e2e.harness import HttpStream, next_line, rest

pytestmark = [pytest.mark.e2e, pytest.mark.cluster, pytest.mark.xdist_group("cluster")]
COMMANDS = 60
PRODUCTS = ("BTC-USD", "ETH-USD", "SOL-USD")
STREAM = "/api/v1/stream"


async def test_any_command_reaches_the_stream_it_names(cluster):
    """No cookie, no stickiness: the session id suffices, on any instance."""
    random = Random(seed := 4)
    accepts = ("text/event-stream", "application/x-ndjson")
    streams = [await HttpStream.open(cluster.port, STREAM, Accept=accepts[i % 2]) for i in range(6)]
    held: dict[str, set[str]] = {s.headers["hedgehog-session"]: set() for s in streams}
    for _ in range(COMMANDS):
        key, product = random.choice(sorted(held)), random.choice(PRODUCTS)
        method = random.choice(("POST", "DELETE"))
        path = f"/api/v1/subscribe/{product}?channels=ticker"
        if random.random() < 0.5:
            status, state = await rest(cluster.port, method, f"{path}&session={key}")
        else:
            status, state = await rest(cluster.port, method, path, Hedgehog_Session=key)
        (held[key].add if method == "POST" else held[key].discard)(product)
        assert (status, state["session"]) == (200, key), seed
        assert {p for row in state["channels"] for p in row["product_ids"]} == held[key], seed
    shown = {key: (await rest(cluster.port, "GET", f"/api/v1/sessions/{key}"))[1] for key in held}
    for stream in streams:
        await stream.aclose()

    assert Counter(instance_of(stream) for stream in streams) == dict.fromkeys(cluster.numbers, 2)
    for key, state in shown.items():
        assert {p for row in state["channels"] for p in row["product_ids"]} == held[key]


async def test_a_pair_started_by_rest_flows(cluster):
    """The command's effect, not only its answer."""
    stream = await HttpStream.open(cluster.port, STREAM)
    key = stream.headers["hedgehog-session"]
    await rest(cluster.port, "POST", "/api/v1/subscribe/ETH-USD", Hedgehog_Session=key)
    line = json.loads(await next_line(stream))
    await stream.aclose()

    assert line["product_id"] == "ETH-USD"


@pytest.mark.parametrize(
    ("client", "address"), [("127.0.0.1", "6.6.6.6"), ("127.0.0.9", "127.0.0.9")]
)
async def test_a_client_s_address_is_stated_by_trusted_proxies_alone(cluster, client, address):
    """Limits and log lines use it; 127.0.0.1 is a proxy in front of HAProxy, by default."""
    asked = f"GET {STREAM} HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n"
    stream = await trio.open_tcp_stream("127.0.0.1", cluster.port, local_address=client)
    async with stream:
        await stream.send_all(asked.encode())
        head = await stream.receive_some()
        key = re.search(rb"(?i)hedgehog-session: *(\S+)", head)[1].decode()
        _, state = await rest(cluster.port, "GET", f"/api/v1/sessions/{key}")

    assert state["address"] == address


async def test_a_session_of_an_instance_that_does_not_exist_is_a_404(cluster):
    """Any instance answers so."""
    status, answer = await rest(cluster.port, "GET", "/api/v1/sessions/57000.nothing")

    assert (status, answer["error"]["code"]) == (404, "unknown_session")
