"""Faults of handshakes, subscribes and REST: effect on the client, and the count."""

import json

import pytest
import trio

from tests.simulator.faults.test_spoils import books
from tests.simulator.peers import UPGRADE, reasons
from tests.simulator.world import of_type, receive_all


@pytest.mark.parametrize("status", [429, 500, 502, 503])
async def test_http_answers_handshakes_with_a_status(world, autojump_clock, status):
    """The real exchange answers 429 to connections that are too frequent (COINBASE §10)."""
    exchange = world()
    exchange.faults.fire("http", f"{status}x2")
    for _ in range(2):
        stream = exchange.stream()
        await stream.send_all(UPGRADE)
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 %d " % status)
        await stream.aclose()
    client = await exchange.client("heartbeat")

    assert of_type((await receive_all(client, 2))[0], "heartbeat")
    assert exchange.faults.fired == {"http": 1}


async def test_error_and_partial_ack_refuses_a_product_that_exists(world, autojump_clock):
    """Error first, then the acknowledgement of the rest (docs/COINBASE.md §6.16)."""
    exchange = world()
    exchange.faults.fire("error_and_partial_ack")
    client = await exchange.client("heartbeat", "matches", product_ids=["BTC-USD", "ETH-USD"])
    heard, _ = await receive_all(client, 3)
    (ack,) = of_type(heard, "subscriptions")

    assert reasons(heard) == ["ETH-USD is not a valid product"]
    assert [row["product_ids"] for row in ack["channels"]] == [["BTC-USD"], ["BTC-USD"]]
    assert {m["product_id"] for m in of_type(heard, "heartbeat", "match")} == {"BTC-USD"}
    assert exchange.faults.fired == {"error_and_partial_ack": 1}


async def test_a_single_product_is_refused_only_by_name(world, autojump_clock):
    """Otherwise nothing would be acknowledged, and the fault would not be a partial one."""
    exchange = world()
    exchange.faults.fire("error_and_partial_ack")
    first = await exchange.client("heartbeat")
    assert reasons((await receive_all(first, 1))[0]) == []
    second = await exchange.client()
    exchange.faults.fire("error_and_partial_ack", product_id="BTC-USD", client=2)
    await second.send(channels=["heartbeat"], product_ids=["BTC-USD"])

    assert reasons((await receive_all(second, 1))[0]) == ["BTC-USD is not a valid product"]


async def test_lost_subscription_is_acknowledged_and_never_sent(world, autojump_clock):
    """Only the missing messages reveal it. A new subscribe works."""
    exchange = world()
    exchange.faults.fire("lost_subscription", "matches")
    client = await exchange.client("heartbeat", "matches")
    heard, _ = await receive_all(client, 4)
    (ack,) = of_type(heard, "subscriptions")
    await client.send("unsubscribe", ["matches"])
    await client.send(channels=["matches"], product_ids=["BTC-USD"])
    after, _ = await receive_all(client, 4)

    assert [row["name"] for row in ack["channels"]] == ["heartbeat", "matches"]
    assert of_type(heard, "match", "last_match") == []
    assert len(of_type(heard, "heartbeat")) >= 3
    assert of_type(after, "last_match")
    assert of_type(after, "match")
    assert exchange.faults.fired == {"lost_subscription": 1}


async def test_lost_subscription_counts_when_a_message_was_lost(world, autojump_clock):
    """Not when it is armed or matched."""
    exchange = world()
    exchange.faults.fire("lost_subscription", "heartbeat")
    client = await exchange.client("heartbeat")
    await receive_all(client, 0.5)
    assert exchange.faults.fired == {}
    await receive_all(client, 1)
    assert exchange.faults.fired == {"lost_subscription": 1}


@pytest.mark.parametrize("channel", ["level2", "level2_batch"])
async def test_big_snapshot_is_a_real_book_of_that_size(world, autojump_clock, channel):
    """Earlier subscribers receive the new levels; both books agree from then on."""
    exchange = world(rate=1)
    earlier = await exchange.client(channel)
    before, _ = await receive_all(earlier, 0.5)
    exchange.faults.fire("big_snapshot", 100_000, "BTC-USD")
    later = await exchange.client(channel, "heartbeat")
    first = await later.receive_raw()
    if b"subscriptions" in first:
        first = await later.receive_raw()
    rest, _ = await receive_all(later, 1)
    after, _ = await receive_all(earlier, 0.5)
    (mine, errors), (theirs, other_errors) = (
        books([*of_type([json.loads(first)], "snapshot"), *rest]),
        books([*before, *after]),
    )

    assert 100_000 <= len(first) < 140_000
    assert (errors, other_errors) == ([], [])
    assert len(mine["sell"]) > 1500
    assert {s: len(mine[s]) for s in mine} == pytest.approx(
        {s: len(theirs[s]) for s in theirs}, rel=0.05
    )
    assert exchange.faults.fired == {"big_snapshot": 1}


async def test_rest_error_answers_requests_with_a_status(world, autojump_clock):
    """For the requested number of times, and only for the requested product."""
    exchange = world()
    exchange.faults.fire("rest_error", "503x2", "BTC-USD")
    statuses = [
        (await exchange.get(path))[0]
        for path in ("/time", *["/products/BTC-USD/trades"] * 3, "/products/ETH-USD/trades")
    ]

    assert statuses == [200, 503, 503, 200, 200]
    assert exchange.faults.fired == {"rest_error": 1}


async def test_rest_slow_answers_late(world, autojump_clock):
    """A relay that waits for ever would fail this test."""
    exchange = world()
    exchange.faults.fire("rest_slow", "7.5", "ETH-USD")
    begin = trio.current_time()
    await exchange.get("/products/BTC-USD/trades")
    assert trio.current_time() - begin < 1
    await exchange.get("/products/ETH-USD/trades")
    assert 7.4 < trio.current_time() - begin < 8.5
    assert exchange.faults.fired == {"rest_slow": 1}


async def test_rest_stale_hides_the_newest_trades_from_the_first_page(world, autojump_clock):
    """The exchange's cache has this effect; requests with cursors avoid it (COINBASE §13)."""
    exchange = world()
    await trio.sleep(10)
    exchange.faults.fire("rest_stale", 4)
    path = "/products/BTC-USD/trades"
    _, by_cursor = await exchange.get(f"{path}?before=1")
    _, stale = await exchange.get(path)
    _, fresh = await exchange.get(path)

    assert by_cursor[0]["trade_id"] <= fresh[0]["trade_id"]
    assert by_cursor[0]["trade_id"] - stale[0]["trade_id"] > 10
    assert exchange.faults.fired == {"rest_stale": 1}


async def test_rest_stale_waits_until_it_hides_something(world, autojump_clock):
    """A page that would be the same without the fault is not stale."""
    exchange = world(rate=0.01)
    await trio.sleep(30)
    exchange.faults.fire("rest_stale", 0.001)
    await exchange.get("/products/ETH-BTC/trades")

    assert exchange.faults.fired == {}
