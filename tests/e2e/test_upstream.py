"""The daemon and its exchange: books for late joiners, two lines, keys, large snapshots.

Faults are fired in the exchange, and each test checks that its fault took effect there.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path

import httpx
import msgspec
import pytest
import trio
from trio_websocket import WebSocketConnection

from hedgehogd.app.daemon import Daemon
from hedgehogd.settings.credentials import NAMES
from hedgehogd.simulator import Address, Simulation, serve_exchange
from hedgehogd.simulator.exchange import MarketExchange
from hedgehogd.simulator.keys import (
    AUTHENTICATION_REQUIRED,
    TEST_KEY,
    TEST_PASSPHRASE,
    TEST_SECRET,
)
from tests.e2e.harness import (
    PATIENCE_S,
    free_port,
    next_of,
    quick,
    rest,
    running,
    subscribe,
    websocket,
)

pytestmark = pytest.mark.e2e

BTC = "BTC-USD"
SIGN = "Failed to subscribe"


@asynccontextmanager
async def relayed(
    rate: float = 2.0, *, require_auth: bool = False, **settings: object
) -> AsyncIterator[tuple[Daemon, Address]]:
    """Run an exchange and a daemon that it feeds."""
    simulation = Simulation(seed=5, rate=rate, require_auth=require_auth)
    async with trio.open_nursery() as nursery:
        address = await nursery.start(partial(serve_exchange, simulation))
        async with running(quick(feed_where=address.url, **settings)) as daemon:
            yield daemon, address
        nursery.cancel_scope.cancel()


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """Return the commands that the exchange receives, in order of arrival."""
    texts: list[dict] = []
    original = MarketExchange.receive

    def note(self: MarketExchange, client: object, text: str) -> None:
        texts.append(msgspec.json.decode(text))
        original(self, client, text)

    monkeypatch.setattr(MarketExchange, "receive", note)
    return texts


def channels_of(requests: list[dict]) -> set[str]:
    """Return the names of all channels in ``requests``."""
    rows = [row for request in requests for row in request["channels"]]
    return {row if isinstance(row, str) else row["name"] for row in rows}


async def until(is_so: Callable[[], bool]) -> None:
    """Wait until ``is_so`` returns True."""
    with trio.fail_after(PATIENCE_S):
        while not is_so():
            await trio.sleep(0.01)


async def get(url: str) -> dict:
    """Return the JSON of a REST answer."""
    async with httpx.AsyncClient(trust_env=False) as client:
        return (await client.get(url)).raise_for_status().json()


class Book:
    """A client's book, by Coinbase's recipe."""

    def __init__(self, snapshot: dict) -> None:
        self.sides = {
            "buy": {float(price): float(size) for price, size, *_ in snapshot["bids"]},
            "sell": {float(price): float(size) for price, size, *_ in snapshot["asks"]},
        }

    def apply(self, update: dict) -> None:
        """Apply one ``l2update``."""
        for side, price, size in update["changes"]:
            if float(size):
                self.sides[side][float(price)] = float(size)
            else:
                del self.sides[side][float(price)]


async def test_a_late_joiner_gets_a_snapshot_of_our_book_without_a_request_to_the_exchange(
    commands: list[dict],
) -> None:
    """A new subscribe would send a snapshot to all subscribers and cost the exchange a request."""
    async with relayed() as (daemon, address), websocket(daemon.port, "/ws-feed") as first:
        await first.send_message(subscribe([BTC], ["level2"]))
        await next_of(first, "l2update")
        before, made = list(commands), daemon.instance.pipe.snapshots.made
        async with websocket(daemon.port, "/ws-feed") as late:
            await late.send_message(subscribe([BTC], ["level2"]))
            book = Book(await next_of(late, "snapshot", "l2update"))
            for _ in range(20):
                book.apply(await next_of(late, "snapshot", "l2update"))
            page = await get(f"{address.rest_url}/products/{BTC}/book?level=2")
            there = Book(page).sides
            # The page shows one moment; messages sent until then are still on their way.
            for _ in range(1000):
                if book.sides == there:
                    break
                book.apply(await next_of(late, "snapshot", "l2update"))

            assert book.sides == there
        assert daemon.instance.pipe.snapshots.made == made + 1
        assert commands == before


async def test_full_joins_a_book_of_orders_fetched_from_hedgehogd() -> None:
    """The recipe of COINBASE §9 with hedgehogd alone: subscribe, fetch, drop older, continue."""
    async with relayed() as (daemon, _), websocket(daemon.port, "/ws-feed") as client:
        await client.send_message(subscribe([BTC], ["full"]))
        kinds = ("received", "open", "match", "done", "change")
        sequences = [(await next_of(client, *kinds))["sequence"]]
        book = await get(f"http://127.0.0.1:{daemon.port}/products/{BTC}/book?level=3")
        while sequences[-1] < book["sequence"] + 200:
            sequences.append((await next_of(client, *kinds))["sequence"])
        following = [sequence for sequence in sequences if sequence > book["sequence"]]

        assert book["bids"]
        assert book["asks"]
        assert following[0] == book["sequence"] + 1
        assert all(later == before + 1 for before, later in pairwise(sequences))


def live_lines(daemon: Daemon) -> int:
    """Return the number of lines with all connections live."""
    lines = daemon.instance.health.read_lines()
    return sum(0 < line.connections == line.live for line in lines)


async def _read(client: WebSocketConnection, told: list[dict], trade_ids: list[int]) -> None:
    while True:
        message = msgspec.json.decode(await client.get_message())
        told.append(message)
        if message["type"] == "match":
            trade_ids.append(message["trade_id"])


@pytest.mark.parametrize("fault", ["reset", "eof"])
async def test_the_loss_of_one_of_two_lines_costs_its_subscribers_nothing(fault: str) -> None:
    """The second line exists for this case."""
    operator_port = free_port()
    async with (
        relayed(feed_lines=2, serve_operator_bind=f"127.0.0.1:{operator_port}") as (
            daemon,
            address,
        ),
        websocket(daemon.port, "/ws") as client,
        trio.open_nursery() as nursery,
    ):
        told: list[dict] = []
        trade_ids: list[int] = []
        await client.send_message(subscribe([BTC], ["matches", "full"]))
        await next_of(client, "match")
        nursery.start_soon(_read, client, told, trade_ids)
        await until(lambda: live_lines(daemon) == 2)
        await until(lambda: len(told) > 200)
        address.faults.fire(fault, 3, BTC)
        await until(lambda: address.faults.fired[fault] == 1)
        struck = len(trade_ids)
        await until(lambda: len(trade_ids) - struck > 20)
        await until(lambda: sum(line.losses for line in daemon.instance.health.read_lines()) > 0)
        status, state = await rest(operator_port, "GET", "/api/v1/lines")
        nursery.cancel_scope.cancel()

    trades = sorted(set(trade_ids))
    sequences = sorted({m["sequence"] for m in told if "sequence" in m})
    assert trades == list(range(trades[0], trades[0] + len(trades)))
    assert sequences == list(range(sequences[0], sequences[0] + len(sequences)))
    assert [m for m in told if m["type"] in {"gap", "stale", "error"}] == []
    assert status == 200
    assert sorted(line["losses"] for line in state["lines"]) == [0, 1]
    assert sum(line["wins"] for line in state["lines"]) > 0


async def test_without_a_key_level2_is_served_and_full_refused_with_the_exchanges_text(
    commands: list[dict],
) -> None:
    """Most users have no key; they get all channels that need none."""
    async with relayed(require_auth=True) as (daemon, _):
        async with websocket(daemon.port, "/ws-feed") as client:
            await client.send_message(subscribe([BTC], ["level2"]))
            assert (await next_of(client, "snapshot", "l2update"))["type"] == "snapshot"
            assert (await next_of(client, "snapshot", "l2update"))["type"] == "l2update"
            await client.send_message(subscribe([BTC], ["full"]))
            error = await next_of(client, "error")
        path = f"/api/v1/stream?pairs={BTC}&channels=full"
        status, refused = await rest(daemon.port, "GET", path)

    assert (error["message"], error["reason"]) == (SIGN, AUTHENTICATION_REQUIRED)
    assert status == 403
    assert refused["error"] == {"code": "refused_channel", "message": AUTHENTICATION_REQUIRED}
    assert "level2_batch" in channels_of(commands) or "level2_50" in channels_of(commands)


async def test_with_a_key_full_is_served_and_the_key_is_in_no_log(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], commands: list[dict]
) -> None:
    """Many people can read a journal; a key must not be in it."""
    for name, text in zip(NAMES, (TEST_KEY, TEST_SECRET, TEST_PASSPHRASE), strict=True):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o600)
    async with (
        relayed(require_auth=True, feed_credentials=str(tmp_path)) as (daemon, _),
        websocket(daemon.port, "/ws-feed") as client,
    ):
        await client.send_message(subscribe([BTC], ["full", "level2"]))
        types = {(await next_of(client, "received"))["type"]}
        types.add((await next_of(client, "l2update"))["type"])
    printed = "".join(capfd.readouterr())

    assert types == {"received", "l2update"}
    assert {request["key"] for request in commands if "full" in channels_of([request])} == {
        TEST_KEY
    }
    assert "serving" in printed
    assert not [s for s in (TEST_KEY, TEST_SECRET, TEST_PASSPHRASE) if s in printed]


async def test_a_snapshot_of_megabytes_reaches_its_subscriber_and_closes_none() -> None:
    """The default limits admit the deepest books."""
    async with relayed() as (daemon, address), websocket(daemon.port, "/ws-feed") as client:
        address.faults.fire("big_snapshot", 5_000_000, "ETH-USD")
        await client.send_message(subscribe(["ETH-USD"], ["level2"]))
        with trio.fail_after(PATIENCE_S):
            while len(text := await client.get_message()) < 10_000:
                pass
        snapshot = msgspec.json.decode(text)
        book = Book(snapshot)
        for _ in range(20):
            book.apply(await next_of(client, "l2update"))

        assert address.faults.fired["big_snapshot"] == 1
        assert len(text) >= 5_000_000
        assert snapshot["type"] == "snapshot"
        assert daemon.instance.counts.ends == {}
        assert daemon.instance.counts.drops == {}
