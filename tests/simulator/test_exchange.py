"""Conversations with the simulated exchange: Coinbase's protocol and its manners."""

import time
from functools import partial

import pytest
import trio

from hedgehogd.simulator import Simulation, serve_exchange
from tests.simulator.peers import (
    market,
    reasons,
    serve,
)

pytestmark = pytest.mark.e2e  # a real exchange on real sockets


async def test_an_acknowledgement_states_everything_held_under_canonical_names(exchange, connect):
    """FEED §4: the whole state, not the change; ``level2_batch`` is ``level2_50`` there."""
    async with connect(exchange.url) as client:
        await client.say(channels=["ticker_batch", "level2_batch"], product_ids=["BTC-USD"])
        first = (await client.hear_until("subscriptions"))[-1]
        await client.say(channels=[{"name": "heartbeat", "product_ids": ["ETH-USD"]}, "status"])
        second = (await client.hear_until("subscriptions"))[-1]
        await client.say("unsubscribe", ["ticker_1000", "status"])
        third = (await client.hear_until("subscriptions"))[-1]
        await client.say("unsubscribe", ["level2_50", "heartbeat"], ["ETH-USD", "LTC-USD"])
        fourth = (await client.hear_until("subscriptions"))[-1]

    def rows(*pairs):
        return [{"name": n, "product_ids": ids, "account_ids": None} for n, ids in pairs]

    btc, eth = ["BTC-USD"], ["ETH-USD"]
    assert first["channels"] == rows(("ticker_1000", btc), ("level2_50", btc))
    assert second["channels"] == rows(
        ("ticker_1000", btc), ("level2_50", btc), ("heartbeat", eth), ("status", [])
    )
    assert third["channels"] == rows(("level2_50", btc), ("heartbeat", eth))
    assert fourth["channels"] == rows(("level2_50", btc))


async def test_a_new_subscription_begins_with_the_state_of_things(exchange, connect):
    """Snapshot before updates, ``last_match`` right before the next match (FEED §6, §8.1)."""
    async with connect(exchange.url) as client:
        await client.say(
            channels=["level2_batch", "matches", "ticker", "status"], product_ids=["BTC-USD"]
        )
        heard = await client.hear_until("match")
        while not {"l2update", "ticker"} <= {message["type"] for message in heard}:
            heard.append(await client.hear())
    kinds = [message["type"] for message in heard]
    trades = [message["trade_id"] for message in heard if message["type"].endswith("match")]

    assert {"snapshot", "last_match", "ticker", "status", "subscriptions"} == set(kinds[:5])
    assert kinds.index("snapshot") < kinds.index("l2update")
    assert list(range(trades[0], trades[0] + len(trades))) == trades


async def test_the_acknowledgement_may_come_before_or_after_the_state(exchange, connect):
    """Both orders are real (FEED §8.1), so clients must meet both."""
    first = set()
    for _ in range(20):
        async with connect(exchange.url) as client:
            await client.say(channels=["matches"], product_ids=["LTC-USD"])
            first.add((await client.hear())["type"])

    assert first == {"last_match", "subscriptions"}


async def test_asking_again_brings_no_second_snapshot(exchange, connect):
    """Whether the real one sends it is not known; who wants one must unsubscribe first."""
    async with connect(exchange.url) as client:
        ask = partial(client.say, channels=["matches"], product_ids=["LTC-USD", "LTC-USD"])
        await ask()
        heard = [await client.hear(), await client.hear()]
        await ask()
        again = await client.hear_until("subscriptions")
        await client.say("unsubscribe", ["matches"])
        await client.hear_until("subscriptions")
        await ask()
        anew = [await client.hear(), await client.hear()]

    assert {"last_match", "subscriptions"} == {message["type"] for message in heard}
    assert "last_match" not in {message["type"] for message in again}
    assert {"last_match", "subscriptions"} == {message["type"] for message in anew}


async def test_the_valid_rest_of_a_request_is_subscribed(exchange, connect):
    """Errors first, then the acknowledgement of what there is (FEED §6.16)."""
    async with connect(exchange.url) as client:
        await client.say(
            channels=["heartbeat", "ticket", "full", "level2"], product_ids=["BTC-USD", "NO-USD"]
        )
        heard = await client.hear_until("subscriptions")

    assert all(message["message"] == "Failed to subscribe" for message in heard[:-1])
    assert sorted(reasons(heard)) == [
        "NO-USD is not a valid product",
        "full is not a valid channel",
        "level2 is not a valid channel",
        "ticket is not a valid channel",
    ]
    assert heard[-1]["channels"] == [
        {"name": "heartbeat", "product_ids": ["BTC-USD"], "account_ids": None}
    ]


@pytest.mark.parametrize(
    ("text", "message", "reason"),
    [
        (
            '{"type":"subscribe","product_ids":["BTC-USD"]}',
            "Failed to subscribe",
            "No channels provided",
        ),
        ('{"type":"unsubscribe"}', "Failed to unsubscribe", "No channels provided"),
        ("{", "Malformed JSON", None),
        ('{"type":"heartbeat","on":true}', "Type has to be either subscribe or unsubscribe", None),
    ],
)
async def test_what_means_nothing_is_an_error_and_changes_nothing(
    exchange, connect, text, message, reason
):
    """Errors do not close the connection by themselves (FEED §6.16)."""
    async with connect(exchange.url) as client:
        await client.websocket.send_message(text)
        error = await client.hear()
        await client.say(channels=["heartbeat"])
        after = await client.hear_until("subscriptions")

    assert (error["type"], error["message"], error.get("reason")) == ("error", message, reason)
    assert reasons(after) == ["You need to specify at least one product ID for channel heartbeat"]
    assert after[-1]["channels"] == []


async def test_all_clients_see_one_market(exchange, connect):
    """One seed, one world: what two relays say about it can be compared."""
    async with connect(exchange.url) as one, connect(exchange.url + "/ws-feed") as other:
        for client in (one, other):
            await client.say(channels=["matches"], product_ids=["BTC-USD"])
        seen = []
        for client in (one, other):
            heard = [await client.hear() for _ in range(30)]
            seen.append({m["trade_id"]: m for m in heard if m["type"] == "match"})
    both = seen[0].keys() & seen[1].keys()

    assert len(both) > 10
    assert [seen[0][trade_id] for trade_id in both] == [seen[1][trade_id] for trade_id in both]


async def test_the_seed_in_use_is_reported(nursery):
    """A market that showed a bug can be had again only by who knows its seed."""
    first = await nursery.start(serve_exchange, Simulation(seed=7))
    second = await nursery.start(serve_exchange, Simulation())
    third = await nursery.start(serve_exchange, Simulation())

    assert first.seed == 7
    assert second.seed != third.seed


async def test_a_machine_that_cannot_keep_up_makes_the_market_slow_not_thin(nursery, connect):
    """Load must not look like gaps in the market; so time passes in steps, late if need be."""
    world = market()
    start = world.now_ns
    turns = []
    advance = world.advance

    def slow_advance(until_ns):
        turns.append(until_ns - world.now_ns)
        time.sleep(0.03)
        return advance(until_ns)

    world.advance = slow_advance
    await nursery.start(serve, world)
    await trio.sleep(0.15)

    assert max(turns) == 20_000_000
    assert world.now_ns - start == sum(turns)
