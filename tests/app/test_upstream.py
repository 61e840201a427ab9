"""The producers of an instance: the kinds of feed, and the errors that end the start."""

from dataclasses import replace
from pathlib import Path

import pytest
import trio

from hedgehogd.app import upstream as intake
from hedgehogd.app.daemon import Daemon
from hedgehogd.domain.errors import FeedError, OperatorError
from hedgehogd.feeds.dialer import Dialer
from hedgehogd.feeds.rest_client import RestClient
from hedgehogd.simulator import Simulation
from tests.e2e.harness import (
    exchange,
    next_of,
    only_error,
    quick,
    rest,
    running,
    subscribe,
    websocket,
)

pytestmark = pytest.mark.e2e  # a real daemon each


async def test_a_missing_recording_is_an_operators_error(tmp_path: Path) -> None:
    """A typing mistake in --feed is read as a path that does not exist."""
    with pytest.raises(ExceptionGroup) as caught:
        await Daemon(quick(feed_where=str(tmp_path / "none"))).run()

    assert isinstance(only_error(caught.value), OperatorError)


async def test_an_exchange_that_refuses_the_first_connection_ends_the_daemon() -> None:
    """A wrong URL must not look like a quiet market."""

    async def forbidden(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            await stream.send_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, forbidden, 0)
        port = listeners[0].socket.getsockname()[1]
        settings = quick(feed_where=f"ws://127.0.0.1:{port}", feed_pairs=("BTC-USD",))
        with trio.fail_after(10), pytest.raises(ExceptionGroup) as caught:
            await Daemon(settings).run()
        nursery.cancel_scope.cancel()

    error = only_error(caught.value)
    assert isinstance(error, FeedError)
    assert error.for_good


async def test_credentials_that_cannot_be_read_end_the_start(tmp_path: Path) -> None:
    """Without them ``level2_batch`` would replace ``level2`` for no visible reason."""
    async with exchange(Simulation()) as url:
        settings = quick(feed_where=url, feed_credentials=str(tmp_path))
        with trio.fail_after(5), pytest.raises(ExceptionGroup) as caught:
            await Daemon(settings).run()

    error = only_error(caught.value)
    assert isinstance(error, OperatorError)
    assert "coinbase-key: No such file" in str(error)


async def test_each_line_carries_the_whole_feed() -> None:
    """``--lines 2`` opens each connection twice, and both are live."""
    settings = quick(feed_pairs=("BTC-USD",), feed_lines=2)
    async with (
        exchange(Simulation()) as url,
        running(replace(settings, feed_where=url)) as daemon,
    ):
        with trio.fail_after(5):
            while [line.live for line in daemon.instance.health.read_lines()] != [1, 1]:
                await trio.sleep(0.01)
        ready = await rest(daemon.port, "GET", "/readyz")

    assert ready[0] == 200
    assert daemon.instance.health.connects == 2


async def test_without_demand_no_connection_is_dialled_and_the_instance_is_ready() -> None:
    """Coinbase closes connections that do not subscribe, so none is opened."""
    async with exchange(Simulation()) as url, running(quick(feed_where=url)) as daemon:
        ready = await rest(daemon.port, "GET", "/readyz")

        assert ready == (200, {"ready": True, "reason": "idle"})
        assert daemon.instance.health.connects == 0


async def test_a_recording_is_a_feed_of_its_own(tmp_path: Path) -> None:
    """A recording starts with the first subscriber, and its end leaves the streams open."""
    path = tmp_path / "feed.jsonl"
    lines = [
        f'{{"type":"match","trade_id":{n},"product_id":"BTC-USD","sequence":{n}}}' for n in (1, 2)
    ]
    path.write_text("\n".join(lines) + "\n")
    async with (
        running(quick(feed_where=str(path))) as daemon,
        websocket(daemon.port, "/ws-feed") as client,
    ):
        await client.send_message(subscribe(["BTC-USD"], ["matches"]))
        got = [(await next_of(client, "match"))["trade_id"] for _ in range(2)]
        with trio.fail_after(5):
            while (ready := await rest(daemon.port, "GET", "/readyz"))[1]["reason"] == "idle":
                await trio.sleep(0.01)

        assert got == [1, 2]
        assert ready == (200, {"ready": True, "reason": "recording ended"})


async def test_instances_of_one_address_share_the_exchanges_limits(tmp_path, monkeypatch) -> None:
    """Four instances that fetch missing trades at once would be blocked together."""
    shares = []
    monkeypatch.setattr(RestClient, "share", lambda _, among: shares.append(("rest", among)))
    monkeypatch.setattr(Dialer, "share", lambda _, among: shares.append(("dials", among)))
    monkeypatch.setattr(intake.limits, "INSTANCES_LOOK_S", 0.05)
    settings = quick(feed_where="demo", instance=2, serve_runtime_dir=str(tmp_path))
    async with running(settings):
        (tmp_path / "7.sock").touch()
        with trio.fail_after(5):
            while ("dials", 2) not in shares:
                await trio.sleep(0.01)

    assert shares[:2] == [("rest", 1), ("dials", 1)]
    assert ("rest", 2) in shares
