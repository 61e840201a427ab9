"""Handshakes, subscriptions and REST that go wrong: what is seen of it, and that it is counted."""

import json

import pytest
import trio

from tests.simulator.faults.test_spoils import books
from tests.simulator.peers import UPGRADE, reasons
from tests.simulator.world import hear_all, of_type


@pytest.mark.parametrize("status", [429, 500, 502, 503])
async def test_http_answers_handshakes_with_a_status(world, autojump_clock, status):
    """429 is what too-fast connects get (FEED §10)."""
    here = world()
    here.faults.fire("http", f"{status}x2")
    for _ in range(2):
        stream = here.stream()
        await stream.send_all(UPGRADE)
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 %d " % status)
        await stream.aclose()
    client = await here.client("heartbeat")

    assert of_type((await hear_all(client, 2))[0], "heartbeat")
    assert here.faults.fired == {"http": 1}


async def test_error_and_partial_ack_refuses_a_product_that_exists(world, autojump_clock):
    """Error first, then the acknowledgement of the rest (FEED §6.16)."""
    here = world()
    here.faults.fire("error_and_partial_ack")
    client = await here.client("heartbeat", "matches", product_ids=["BTC-USD", "ETH-USD"])
    heard, _ = await hear_all(client, 3)
    (ack,) = of_type(heard, "subscriptions")

    assert reasons(heard) == ["ETH-USD is not a valid product"]
    assert [row["product_ids"] for row in ack["channels"]] == [["BTC-USD"], ["BTC-USD"]]
    assert {m["product_id"] for m in of_type(heard, "heartbeat", "match")} == {"BTC-USD"}
    assert here.faults.fired == {"error_and_partial_ack": 1}


async def test_a_lone_product_is_refused_only_by_name(world, autojump_clock):
    """Otherwise nothing would be acknowledged, and the fault not be what it is called."""
    here = world()
    here.faults.fire("error_and_partial_ack")
    first = await here.client("heartbeat")
    assert reasons((await hear_all(first, 1))[0]) == []
    second = await here.client()
    here.faults.fire("error_and_partial_ack", product_id="BTC-USD", client=2)
    await second.say(channels=["heartbeat"], product_ids=["BTC-USD"])

    assert reasons((await hear_all(second, 1))[0]) == ["BTC-USD is not a valid product"]


async def test_lost_subscription_is_acknowledged_and_never_flows(world, autojump_clock):
    """Only its silence tells. Asking anew helps."""
    here = world()
    here.faults.fire("lost_subscription", "matches")
    client = await here.client("heartbeat", "matches")
    heard, _ = await hear_all(client, 4)
    (ack,) = of_type(heard, "subscriptions")
    await client.say("unsubscribe", ["matches"])
    await client.say(channels=["matches"], product_ids=["BTC-USD"])
    after, _ = await hear_all(client, 4)

    assert [row["name"] for row in ack["channels"]] == ["heartbeat", "matches"]
    assert of_type(heard, "match", "last_match") == []
    assert len(of_type(heard, "heartbeat")) >= 3
    assert of_type(after, "last_match")
    assert of_type(after, "match")
    assert here.faults.fired == {"lost_subscription": 1}


async def test_lost_subscription_counts_when_something_was_lost(world, autojump_clock):
    """Not when it is arranged."""
    here = world()
    here.faults.fire("lost_subscription", "heartbeat")
    client = await here.client("heartbeat")
    await hear_all(client, 0.5)
    assert here.faults.fired == {}
    await hear_all(client, 1)
    assert here.faults.fired == {"lost_subscription": 1}


@pytest.mark.parametrize("channel", ["level2", "level2_batch"])
async def test_big_snapshot_is_a_real_book_of_that_size(world, autojump_clock, channel):
    """Those who held the book before are told how it grew, and both follow it from there."""
    here = world(rate=1)
    earlier = await here.client(channel)
    before, _ = await hear_all(earlier, 0.5)
    here.faults.fire("big_snapshot", 100_000, "BTC-USD")
    later = await here.client(channel, "heartbeat")
    first = await later.hear_raw()
    if b"subscriptions" in first:
        first = await later.hear_raw()
    rest, _ = await hear_all(later, 1)
    after, _ = await hear_all(earlier, 0.5)
    (mine, complaints), (theirs, more) = (
        books([*of_type([json.loads(first)], "snapshot"), *rest]),
        books([*before, *after]),
    )

    assert 100_000 <= len(first) < 140_000
    assert (complaints, more) == ([], [])
    assert len(mine["sell"]) > 1500
    assert {s: len(mine[s]) for s in mine} == pytest.approx(
        {s: len(theirs[s]) for s in theirs}, rel=0.05
    )
    assert here.faults.fired == {"big_snapshot": 1}


async def test_rest_error_answers_requests_with_a_status(world, autojump_clock):
    """As often as asked for; only where it was aimed at."""
    here = world()
    here.faults.fire("rest_error", "503x2", "BTC-USD")
    statuses = [
        (await here.get(path))[0]
        for path in ("/time", *["/products/BTC-USD/trades"] * 3, "/products/ETH-USD/trades")
    ]

    assert statuses == [200, 503, 503, 200, 200]
    assert here.faults.fired == {"rest_error": 1}


async def test_rest_slow_answers_late(world, autojump_clock):
    """A relay that waits for ever would be one less."""
    here = world()
    here.faults.fire("rest_slow", "7.5", "ETH-USD")
    begin = trio.current_time()
    await here.get("/products/BTC-USD/trades")
    assert trio.current_time() - begin < 1
    await here.get("/products/ETH-USD/trades")
    assert 7.4 < trio.current_time() - begin < 8.5
    assert here.faults.fired == {"rest_slow": 1}


async def test_rest_stale_hides_the_newest_trades_from_the_first_page(world, autojump_clock):
    """The exchange's cache does that; cursors pass it by (FEED §13)."""
    here = world()
    await trio.sleep(10)
    here.faults.fire("rest_stale", 4)
    path = "/products/BTC-USD/trades"
    _, by_cursor = await here.get(f"{path}?before=1")
    _, stale = await here.get(path)
    _, fresh = await here.get(path)

    assert by_cursor[0]["trade_id"] <= fresh[0]["trade_id"]
    assert by_cursor[0]["trade_id"] - stale[0]["trade_id"] > 10
    assert here.faults.fired == {"rest_stale": 1}


async def test_rest_stale_waits_until_it_hides_something(world, autojump_clock):
    """A page that would be the same anyway is not stale."""
    here = world(rate=0.01)
    await trio.sleep(30)
    here.faults.fire("rest_stale", 0.001)
    await here.get("/products/ETH-BTC/trades")

    assert here.faults.fired == {}
