"""Conversations with the simulated exchange: Coinbase's protocol and its order of messages."""

import time
from functools import partial

import pytest
import trio

from hedgehogd.protocol.signing import Credentials
from hedgehogd.simulator import Simulation, serve_exchange
from hedgehogd.simulator.keys import (
    AUTHENTICATION_REQUIRED,
    TEST_KEY,
    TEST_PASSPHRASE,
    TEST_SECRET,
)
from tests.simulator.peers import (
    market,
    reasons,
    serve,
)
from tests.simulator.world import FOUR, of_type, receive_all


@pytest.mark.e2e
async def test_an_acknowledgement_lists_all_subscriptions_by_canonical_name(exchange, connect):
    """It states all topics, not the change; ``level2_batch`` is ``level2_50`` (COINBASE §4)."""
    async with connect(exchange.url) as client:
        await client.send(channels=["ticker_batch", "level2_batch"], product_ids=["BTC-USD"])
        first = (await client.receive_until("subscriptions"))[-1]
        await client.send(channels=[{"name": "heartbeat", "product_ids": ["ETH-USD"]}, "status"])
        second = (await client.receive_until("subscriptions"))[-1]
        await client.send("unsubscribe", ["ticker_1000", "status"])
        third = (await client.receive_until("subscriptions"))[-1]
        await client.send("unsubscribe", ["level2_50", "heartbeat"], ["ETH-USD", "LTC-USD"])
        fourth = (await client.receive_until("subscriptions"))[-1]

    def rows(*pairs):
        return [{"name": n, "product_ids": ids, "account_ids": None} for n, ids in pairs]

    btc, eth = ["BTC-USD"], ["ETH-USD"]
    assert first["channels"] == rows(("ticker_1000", btc), ("level2_50", btc))
    assert second["channels"] == rows(
        ("ticker_1000", btc), ("level2_50", btc), ("heartbeat", eth), ("status", [])
    )
    assert third["channels"] == rows(("level2_50", btc), ("heartbeat", eth))
    assert fourth["channels"] == rows(("level2_50", btc))


@pytest.mark.e2e
async def test_a_new_subscription_begins_with_the_current_state(exchange, connect):
    """Snapshot before updates, ``last_match`` right before the next match (COINBASE §6, §8.1)."""
    async with connect(exchange.url) as client:
        await client.send(
            channels=["level2_batch", "matches", "ticker", "status"], product_ids=["BTC-USD"]
        )
        received = await client.receive_until("match")
        while not {"l2update", "ticker"} <= {message["type"] for message in received}:
            received.append(await client.receive())
    kinds = [message["type"] for message in received]
    trades = [message["trade_id"] for message in received if message["type"].endswith("match")]

    assert {"snapshot", "last_match", "ticker", "status", "subscriptions"} == set(kinds[:5])
    assert kinds.index("snapshot") < kinds.index("l2update")
    assert list(range(trades[0], trades[0] + len(trades))) == trades


@pytest.mark.e2e
async def test_the_acknowledgement_may_come_before_or_after_the_state(exchange, connect):
    """Both orders occur on the real feed (COINBASE §8.1), so clients must be tested with both."""
    first = set()
    for _ in range(20):
        async with connect(exchange.url) as client:
            await client.send(channels=["matches"], product_ids=["LTC-USD"])
            first.add((await client.receive())["type"])

    assert first == {"last_match", "subscriptions"}


@pytest.mark.e2e
async def test_a_repeated_subscribe_brings_no_second_snapshot(exchange, connect):
    """The real exchange's behaviour is unknown; a client gets one by unsubscribing first."""
    async with connect(exchange.url) as client:
        ask = partial(client.send, channels=["matches"], product_ids=["LTC-USD", "LTC-USD"])
        await ask()
        received = [await client.receive(), await client.receive()]
        await ask()
        again = await client.receive_until("subscriptions")
        await client.send("unsubscribe", ["matches"])
        await client.receive_until("subscriptions")
        await ask()
        third = [await client.receive(), await client.receive()]

    assert {"last_match", "subscriptions"} == {message["type"] for message in received}
    assert "last_match" not in {message["type"] for message in again}
    assert {"last_match", "subscriptions"} == {message["type"] for message in third}


@pytest.mark.e2e
async def test_the_valid_part_of_a_request_is_subscribed(exchange, connect):
    """Errors first, then the acknowledgement of the valid topics (COINBASE §6.16)."""
    async with connect(exchange.url) as client:
        await client.send(
            channels=["heartbeat", "ticket", "user", "balance"], product_ids=["BTC-USD", "NO-USD"]
        )
        received = await client.receive_until("subscriptions")

    assert all(message["message"] == "Failed to subscribe" for message in received[:-1])
    assert sorted(reasons(received)) == [
        "NO-USD is not a valid product",
        "balance is private to one account and is not relayed",
        "ticket is not a valid channel",
        "user is private to one account and is not relayed",
    ]
    assert received[-1]["channels"] == [
        {"name": "heartbeat", "product_ids": ["BTC-USD"], "account_ids": None}
    ]


@pytest.mark.e2e
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
async def test_an_invalid_command_is_an_error_and_changes_nothing(
    exchange, connect, text, message, reason
):
    """Errors do not close the connection by themselves (COINBASE §6.16)."""
    async with connect(exchange.url) as client:
        await client.websocket.send_message(text)
        error = await client.receive()
        await client.send(channels=["heartbeat"])
        after = await client.receive_until("subscriptions")

    assert (error["type"], error["message"], error.get("reason")) == ("error", message, reason)
    assert reasons(after) == ["You need to specify at least one product ID for channel heartbeat"]
    assert after[-1]["channels"] == []


@pytest.mark.e2e
async def test_all_clients_see_one_market(exchange, connect):
    """Clients can compare the messages of two relays."""
    async with connect(exchange.url) as one, connect(exchange.url + "/ws-feed") as other:
        for client in (one, other):
            await client.send(channels=["matches"], product_ids=["BTC-USD"])
        seen = []
        for client in (one, other):
            received = [await client.receive() for _ in range(30)]
            seen.append({m["trade_id"]: m for m in received if m["type"] == "match"})
    both = seen[0].keys() & seen[1].keys()

    assert len(both) > 10
    assert [seen[0][trade_id] for trade_id in both] == [seen[1][trade_id] for trade_id in both]


@pytest.mark.e2e
async def test_the_seed_in_use_is_reported(nursery):
    """A market that showed a bug can be reproduced only with its seed."""
    first = await nursery.start(serve_exchange, Simulation(seed=7))
    second = await nursery.start(serve_exchange, Simulation())
    third = await nursery.start(serve_exchange, Simulation())

    assert first.seed == 7
    assert second.seed != third.seed


@pytest.mark.e2e
async def test_on_a_slow_machine_the_market_is_late_but_complete(nursery, connect):
    """Load must not look like gaps in the market; so time advances in steps, late if necessary."""
    world = market()
    start = world.now_ns
    turns = []
    advance = world.advance

    def slow_advance(until_ns, wanted):
        turns.append(until_ns - world.now_ns)
        time.sleep(0.03)
        return advance(until_ns, wanted)

    world.advance = slow_advance
    await nursery.start(serve, world)
    await trio.sleep(0.15)

    assert max(turns) == 20_000_000
    assert world.now_ns - start == sum(turns)


async def test_level3_begins_with_its_schema_once_per_subscribe(world, autojump_clock):
    """The arrays cannot be read without it (COINBASE §6.13)."""
    exchange = world(rate=1, products=FOUR)
    client = await exchange.client("level3", product_ids=["BTC-USD", "ETH-USD"])
    received, _ = await receive_all(client, 1)
    await client.send(channels=["level3"], product_ids=["LTC-USD"])
    again, _ = await receive_all(client, 1)
    first = next(m for m in received if not of_type([m], "subscriptions"))

    assert first["schema"]["noop"] == ["type", "product_id", "sequence", "time"]
    assert len(of_type(received, "level3")) == len(of_type(again, "level3")) == 1
    assert {m[1] for m in again if isinstance(m, list)} == {"BTC-USD", "ETH-USD", "LTC-USD"}


async def test_a_book_of_orders_is_bootstrapped_by_rest(world, autojump_clock):
    """Subscribe, queue, fetch level 3, drop older messages, apply the rest (COINBASE §9)."""
    exchange = world(rate=1)
    client = await exchange.client("full")
    queue, _ = await receive_all(client, 0.5)
    _, book = await exchange.get("/products/BTC-USD/book?level=3")
    queue += (await receive_all(client, 2))[0]
    _, later = await exchange.get("/products/BTC-USD/book?level=3")
    orders = {row[2]: row[:2] for side in ("bids", "asks") for row in book[side]}
    sequence = book["sequence"]
    for message in queue:
        if message.get("sequence", 0) <= sequence:
            continue
        assert message["sequence"] == sequence + 1
        sequence += 1
        if message["type"] == "open":
            orders[message["order_id"]] = [message["price"], message["remaining_size"]]
        elif message["type"] == "done":
            orders.pop(message["order_id"], None)

    assert book["sequence"] < sequence == later["sequence"]
    assert orders.keys() == {row[2] for side in ("bids", "asks") for row in later[side]}


async def test_restricted_channels_need_a_signature(world, autojump_clock):
    """With the exchange's error text; the rest of the request is accepted (COINBASE §5)."""
    exchange = world(require_auth=True)
    client = await exchange.client("level2", "heartbeat", "full", "level3", "level2_batch")
    received, _ = await receive_all(client, 1.5)

    assert reasons(received) == [AUTHENTICATION_REQUIRED]
    assert received[0]["message"] == "Failed to subscribe"
    (ack,) = of_type(received, "subscriptions")
    assert [row["name"] for row in ack["channels"]] == ["heartbeat", "level2_50"]
    assert of_type(received, "heartbeat")


async def test_a_signature_is_valid_for_its_own_message_only(world, autojump_clock):
    """A later subscribe without a signature is not authenticated (COINBASE §3.2)."""
    exchange = world(require_auth=True)
    signed = Credentials(TEST_KEY, TEST_SECRET, TEST_PASSPHRASE).sign(1.7e9)
    client = await exchange.client("level2", "full", **signed)
    received, _ = await receive_all(client, 1)
    await client.send(channels=["full"], product_ids=["ETH-USD"])
    after, _ = await receive_all(client, 1)

    assert of_type(received, "error") == []
    assert {"snapshot", "l2update", "received", "open"} <= {m["type"] for m in received}
    assert reasons(after) == [AUTHENTICATION_REQUIRED]
    assert {m.get("product_id") for m in of_type(after, "received")} == {"BTC-USD"}


@pytest.mark.parametrize(
    ("key", "secret", "message", "reason"),
    [
        ("x", TEST_SECRET, "Authentication Failed", '{"message":"Invalid API Key"}'),
        (
            TEST_KEY,
            "eA==",
            "Sorry, you could not be authenticated: Bad Request",
            "invalid signature",
        ),
    ],
)
async def test_a_wrong_signature_subscribes_to_nothing(
    world, autojump_clock, key, secret, message, reason
):
    """Not even to channels that need no signature (COINBASE §6.16)."""
    exchange = world(require_auth=True)
    signed = Credentials(key, secret, TEST_PASSPHRASE).sign(1.7e9)
    client = await exchange.client("heartbeat", **signed)
    received, _ = await receive_all(client, 3)

    assert received == [{"type": "error", "message": message, "reason": reason}]


async def test_an_exchange_without_authentication_ignores_signatures(world, autojump_clock):
    """Some clients always sign, with any key that they have (COINBASE §15)."""
    exchange = world()
    client = await exchange.client("level2", signature="x", key="", passphrase="y", timestamp=1)
    received, _ = await receive_all(client, 1)

    assert of_type(received, "error") == []
    assert of_type(received, "snapshot")


async def test_rfq_matches_of_all_products_need_no_product(world, autojump_clock):
    """A client that holds all products cannot add one (COINBASE §3.1)."""
    exchange = world(products=FOUR)
    every = await exchange.client("rfq_matches", product_ids="ALL")
    one = await exchange.client("rfq_matches", product_ids=["ETH-USD"])
    received, _ = await receive_all(every, 30)
    of_one, _ = await receive_all(one, 0.1)
    await every.send(channels=["rfq_matches"], product_ids=["ETH-USD"])
    refused, _ = await receive_all(every, 0.1)
    eth = [m for m in of_type(received, "rfq_match") if m["product_id"] == "ETH-USD"]

    assert len({m["product_id"] for m in of_type(received, "rfq_match")}) > 2
    assert eth == of_type(of_one, "rfq_match")
    assert of_type(received, "subscriptions")[0]["channels"][0]["product_ids"] == []
    assert reasons(refused) == ["ALL products are subscribed to already"]


async def test_an_unsubscribe_from_an_unknown_channel_is_an_error_for_that_one_only(
    world, autojump_clock
):
    """The valid part of a request is carried out (COINBASE §6.16)."""
    client = await world().client("heartbeat", "matches")
    await client.receive_until("subscriptions")
    await client.send("unsubscribe", ["tickets", "matches"])
    received = await client.receive_until("subscriptions")
    errors = of_type(received, "error")

    assert [(e["message"], e["reason"]) for e in errors] == [
        ("Failed to unsubscribe", "tickets is not a valid channel")
    ]
    assert [row["name"] for row in received[-1]["channels"]] == ["heartbeat"]
