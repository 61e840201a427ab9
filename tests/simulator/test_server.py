"""The server of the simulated exchange: new connections, and its end."""

from functools import partial
from pathlib import Path

import pytest
import trio

from hedgehogd.domain.errors import EXIT_USAGE, OperatorError
from hedgehogd.simulator import Simulation, serve_exchange
from hedgehogd.simulator.faults import Faults
from hedgehogd.simulator.rest import catalogue_app
from tests.simulator.peers import (
    UPGRADE,
    ask_for_much,
    get,
    market,
    must_end_at_once,
    open_deaf,
    open_raw,
    read_to_end,
    serve,
)

pytestmark = pytest.mark.e2e  # a real exchange on real sockets


async def test_a_stuck_client_does_not_delay_the_end():
    """Stopping the simulator must not wait for clients that do not read."""
    streams = []
    async with must_end_at_once(streams) as nursery:
        port = await nursery.start(serve, market(50))
        for _ in range(3):
            stream = await open_deaf(port)
            streams.append(stream)
            await stream.send_all(UPGRADE)
            await ask_for_much(stream)
        await trio.sleep(0.05)


async def test_a_rest_client_that_does_not_read_does_not_delay_the_end():
    """Hypercorn writes inside a shielded scope; only closing its socket ends the write."""
    streams = []
    app = catalogue_app([{"id": "x" * 20_000_000}], lambda: 0)
    async with must_end_at_once(streams) as nursery:
        port = await nursery.start(partial(serve, market(), app=app))
        stream = await open_deaf(port)
        streams.append(stream)
        await stream.send_all(b"GET /products HTTP/1.1\r\nHost: x\r\n\r\n")
        await stream.receive_some(1)
        await trio.sleep(0.05)


async def test_invalid_requests_do_no_harm(exchange, connect):
    """Every open port receives port scans."""
    port = int(exchange.url.rpartition(":")[2])
    for data in (
        b"",
        b"\r\n",
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        b"x" * 70_000,
    ):
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(data)
            await stream.send_eof()
            assert b" 101 " not in await read_to_end(stream)
    gone = await open_raw(exchange)
    await gone.aclose()
    async with connect(exchange.url) as client:
        await client.send(channels=["status"])
        assert await client.receive_until("subscriptions")


@pytest.mark.parametrize(
    ("simulation", "expected"),
    [
        (Simulation(rate=0), "rate 0: expected more than 0"),
        (Simulation(rate=float("nan")), "rate nan: expected"),
        (Simulation(recording=Path("x"), require_auth=True), "has neither faults nor keys"),
        (Simulation(speed=-1), "speed -1: expected 0"),
        (Simulation(pairs=("BTC-USD", "btc/usd")), "pair 'btc/usd': expected one like BTC-USD"),
    ],
)
async def test_invalid_settings_are_refused_at_the_start(simulation, expected):
    """The operator learns the wrong value and the expected form."""
    with pytest.raises(OperatorError, match=expected) as caught:
        await serve_exchange(simulation)

    assert caught.value.exit_status == EXIT_USAGE


@pytest.mark.parametrize(
    ("faults", "expected"),
    [
        ("rest", "no fault 'rest'\n  Did you mean 'reset'"),
        ("late:0", "fault late: found '0', expected a whole number"),
        ("binary:1", "fault binary: found '1', expected no parameter"),
    ],
)
async def test_invalid_faults_are_refused_at_the_start(faults, expected):
    """The error names the most similar fault."""
    with pytest.raises(OperatorError, match=expected) as caught:
        await serve_exchange(Simulation(faults=("reset", faults)))

    assert caught.value.exit_status == EXIT_USAGE


async def test_recurring_faults_come_with_the_exchange(nursery, monkeypatch):
    """Their seed is the market's, so one number reproduces both."""
    ran = []

    async def run(self, recurring, seed):
        ran.append((recurring, seed))

    monkeypatch.setattr(Faults, "run", run)
    await nursery.start(serve_exchange, Simulation(seed=4, faults=("reset:30", "binary")))
    await trio.testing.wait_all_tasks_blocked()

    assert ran == [([("reset", "30"), ("binary", None)], 4)]


async def test_a_port_in_use_is_named(exchange):
    """This is the most frequent reason why a start fails."""
    port = int(exchange.url.rpartition(":")[2])
    with pytest.raises(
        OperatorError, match=f"cannot listen on 127.0.0.1 port {port}: Address already"
    ):
        await serve_exchange(Simulation(port=port))


async def test_an_answer_ends_its_connection(exchange):
    """Otherwise a handshake could arrive at Hypercorn, which serves only REST."""
    assert (await get(exchange, "/time")).headers["connection"] == "close"
