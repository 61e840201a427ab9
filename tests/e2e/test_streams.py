"""The main job, end to end, on the demo market: streams of all kinds, controlled by REST."""

import subprocess
from collections.abc import Awaitable, Callable

import msgspec
import pytest
import trio

from hedgehogd.app import upstream as intake_module
from tests.e2e.harness import (
    PATIENCE_S,
    HttpStream,
    free_port,
    next_event,
    next_line,
    next_of,
    quick,
    rest,
    running,
    subscribe,
    websocket,
)

pytestmark = pytest.mark.e2e

SSE, NDJSON = "text/event-stream", "application/x-ndjson"


async def _curl(port: int, accept: str, until: bytes) -> bytes:
    """Return curl's output up to the arrival of ``until``."""
    url = f"http://127.0.0.1:{port}/api/v1/subscribe/BTC-USD"
    command = ["curl", "-sN", "-H", f"Accept: {accept}", url]
    printed = b""
    process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE)
    try:
        with trio.fail_after(PATIENCE_S):
            while until not in printed:
                printed += await process.stdout.receive_some()
    finally:
        process.kill()
        await process.wait()
        await process.stdout.aclose()
    return printed


async def test_websocket_sse_and_ndjson_subscribers_all_receive_a_pair() -> None:
    """The main use, with the usual clients."""
    async with running(quick(feed_where="demo")) as daemon:
        async with websocket(daemon.port, "/ws-feed") as client:
            await client.send_message(subscribe(["BTC-USD"], ["ticker", "matches"]))
            assert (await next_of(client, "ticker"))["product_id"] == "BTC-USD"
        events = await _curl(daemon.port, SSE, b"\nid: ")
        lines = await _curl(daemon.port, "*/*", b'"type":"ticker"')

        assert b'data: {"type":"last_match","trade_id":' in events
        assert b'{"type":"last_match","trade_id":' in lines


async def _pairs_seen(read: Callable[[], Awaitable[bytes | str]], wanted: set[str]) -> None:
    """Read until messages of exactly the pairs in ``wanted`` have arrived."""
    seen: set[str] = set()
    with trio.fail_after(PATIENCE_S):
        while seen != wanted:
            seen.add(msgspec.json.decode(await read()).get("product_id", ""))
            seen.discard("")


async def _control(port: int, session: str, read: Callable[[], Awaitable[bytes | str]]) -> None:
    """Add and remove ETH-USD by REST, each twice, while reading the stream."""
    path = "/api/v1/subscribe/ETH-USD"
    states = []
    for _ in range(2):
        status, state = await rest(port, "POST", path, Hedgehog_Session=session)
        assert (200, session) == (status, state["session"])
        states.append(state["channels"])
    assert states[0] == states[1]
    await _pairs_seen(read, {"BTC-USD", "ETH-USD"})
    for _ in range(2):
        status, state = await rest(port, "DELETE", f"{path}?session={session}")
        assert status == 200
        assert {"BTC-USD"} == {p for row in state["channels"] for p in row["product_ids"]}
    for _ in range(20):  # messages in flight may still arrive, then none
        await read()
    for _ in range(20):
        assert msgspec.json.decode(await read()).get("product_id") != "ETH-USD"


@pytest.mark.parametrize("path", ["/ws", "/ws-feed"])
async def test_rest_starts_and_stops_a_pair_on_an_open_websocket(path: str) -> None:
    """Control by REST works on strict streams too: the response head names the session."""
    async with (
        running(quick(feed_where="demo", demo_rate=5.0)) as daemon,
        websocket(daemon.port, path) as client,
    ):
        headers = {name.lower(): value for name, value in client.handshake_headers}
        session = headers[b"hedgehog-session"].decode()
        await client.send_message(subscribe(["BTC-USD"], ["ticker", "matches"]))
        await next_of(client, "ticker")
        await _control(daemon.port, session, client.get_message)


@pytest.mark.parametrize("accept", [SSE, NDJSON])
async def test_rest_starts_and_stops_a_pair_on_an_open_http_stream(accept: str) -> None:
    """The same on streams without commands of their own."""
    async with running(quick(feed_where="demo", demo_rate=5.0)) as daemon:
        path = "/api/v1/subscribe/btc-usd"
        stream = await HttpStream.open(daemon.port, path, Accept=accept)
        session = stream.headers["hedgehog-session"]

        async def read() -> str | bytes:
            return (await next_event(stream))["data"] if accept == SSE else await next_line(stream)

        await _control(daemon.port, session, read)
        await stream.aclose()


async def test_a_wrong_pair_is_a_404_for_its_subscriber_only() -> None:
    """A typing error costs its author an error message, and nothing more."""
    async with (
        running(quick(feed_where="demo")) as daemon,
        websocket(daemon.port, "/ws-feed") as client,
    ):
        await client.send_message(subscribe(["BTC-USD", "BTC-UDS"], ["ticker"]))
        error = await next_of(client, "error")
        ack = await next_of(client, "subscriptions")
        stream = await HttpStream.open(daemon.port, "/api/v1/subscribe/BTC-UDS")
        wrong_stream = (stream.status, msgspec.json.decode(await stream.body()))
        wrong_post = await rest(daemon.port, "POST", "/api/v1/subscribe/BTC-UDS?session=x")

        expected = {
            "error": {"code": "unknown_pair", "message": "BTC-UDS is not a pair listed here"}
        }
        assert error["reason"] == "BTC-UDS is not a valid product"
        assert ack["channels"][0]["product_ids"] == ["BTC-USD"]
        assert (404, expected) == wrong_stream
        assert (404, expected) == wrong_post
        assert (await next_of(client, "ticker"))["product_id"] == "BTC-USD"


async def _no_list(
    *_: object, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    task_status.started()


async def test_without_a_list_of_products_the_exchanges_refusal_reaches_the_subscriber(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A feed may have no list of products; a wrong pair is still refused."""
    async with running(quick(feed_where="demo")) as first:
        monkeypatch.setattr(intake_module, "keep_catalogue", _no_list)
        url = f"ws://127.0.0.1:{first.port}/ws-feed"
        async with (
            running(quick(feed_where=url)) as second,
            websocket(second.port, "/ws-feed") as wrong,
            websocket(second.port, "/ws-feed") as right,
        ):
            await right.send_message(subscribe(["BTC-USD"], ["ticker"]))
            await wrong.send_message(subscribe(["NO-SUCH"], ["ticker"]))
            assert (await next_of(wrong, "subscriptions"))["channels"][0]["product_ids"] == [
                "NO-SUCH"
            ]
            assert (await next_of(wrong, "error"))["reason"] == "NO-SUCH is not a valid product"
            assert (await next_of(wrong, "subscriptions"))["channels"] == []
            assert (await next_of(right, "ticker"))["product_id"] == "BTC-USD"


async def test_a_stream_request_after_a_control_request_needs_a_new_connection() -> None:
    """Browsers and proxies reuse connections; every request must pass through the door."""
    async with running(quick(feed_where="demo")) as daemon:
        stream = await trio.open_tcp_stream("127.0.0.1", daemon.port)
        both = (
            b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
            b"GET /api/v1/stream HTTP/1.1\r\nHost: localhost\r\n\r\n"
        )
        await stream.send_all(both)
        answer = b""
        with trio.fail_after(PATIENCE_S):
            while data := await stream.receive_some():
                answer += data
        await stream.aclose()

        assert answer.startswith(b"HTTP/1.1 200")
        assert b"\r\nconnection: close\r\n" in answer.lower()
        assert answer.count(b"HTTP/1.1") == 1


async def test_level2_begins_with_a_snapshot_also_for_late_joiners() -> None:
    """Changes without their book are worse than no message."""
    async with running(quick(feed_where="demo")) as daemon:
        for _ in range(3):
            async with websocket(daemon.port, "/ws-feed") as client:
                await client.send_message(subscribe(["BTC-USD"], ["level2_batch"]))
                first = await next_of(client, "snapshot", "l2update")
                second = await next_of(client, "snapshot", "l2update")

                assert [first["type"], second["type"]] == ["snapshot", "l2update"]


@pytest.mark.parametrize("form", ["websocket", SSE, NDJSON])
async def test_every_form_receives_the_stale_notice(form: str) -> None:
    """Without a network at the start, silence would look like a quiet market."""
    async with running(quick(feed_where=f"ws://127.0.0.1:{free_port()}")) as daemon:
        with trio.fail_after(PATIENCE_S):
            if form == "websocket":
                async with websocket(daemon.port, "/api/v1/subscribe/BTC-USD") as connection:
                    notice = await next_of(connection, "stale")
            else:
                path = "/api/v1/subscribe/BTC-USD"
                stream = await HttpStream.open(daemon.port, path, Accept=form)
                line = await next_line(stream) if form == NDJSON else b""
                while form == SSE and b"stale" not in line:
                    line = (await next_event(stream))["data"].encode()
                notice = msgspec.json.decode(line)
                await stream.aclose()

    assert (notice["type"], notice["stale"]) == ("stale", True)  # the session is in the head
    assert "Connection refused" in notice["reason"]
