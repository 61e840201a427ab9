"""The simulated market: one clock, derived channels, consistent books (COINBASE §5, §6)."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgehogd.simulator.market import RATE_MAX, Market
from hedgehogd.simulator.products import LISTED, products_for
from tests.simulator.follower import FEW, SEEDS, START_NS, Follower, OrderFollower, S, of, run


@settings(max_examples=8, deadline=None)
@given(
    seed=st.integers(min_value=0, max_value=2**32),
    steps=st.lists(st.integers(min_value=0, max_value=S // 4), max_size=5),
)
def test_the_same_seed_gives_the_same_bytes_for_any_steps_of_time(seed, steps):
    """A failure found with a seed must be reproducible with it, on a slower machine too."""
    whole = list(Market(seed, START_NS, FEW).advance(START_NS + S // 4))
    market = Market(seed, START_NS, FEW)
    pieces = [
        message for step in [*sorted(steps), S // 4] for message in market.advance(START_NS + step)
    ]

    assert whole == pieces
    assert market.now_ns == START_NS + S // 4


@pytest.mark.random
def test_another_seed_gives_another_market():
    """A seed without effect would make all soak runs the same."""
    first, second = (run(Market(seed, START_NS, FEW), 1) for seed in (1, 2))

    assert of(first, "level2") != of(second, "level2")


def test_a_product_does_not_depend_on_other_products():
    """Listing one more pair must not change the market of a seed."""
    alone = run(Market(1, START_NS, LISTED[:1]), 0.7)
    among = run(Market(1, START_NS, products_for(["NEW-PAIR"])), 0.7)
    of_one = [[m for m in messages if m.product_id == "BTC-USD"] for messages in (alone, among)]

    assert of_one[0] == of_one[1]


@pytest.mark.random
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("channel", ["level2", "level2_50"])
def test_snapshot_and_updates_give_the_whole_book(channel, seed):
    """Clients crash on removals of unknown levels; other errors stay silent (COINBASE §6.6)."""
    market = Market(seed, START_NS, FEW, rate=10)
    run(market, 0.333)  # into the middle of a window of level2_50
    followers = {key: Follower(market.initial_state(channel, key)) for key in market.products}
    messages = run(market, 1.4, channel)
    for product_id, follower in followers.items():
        updates = of(messages, channel, product_id)
        assert len(updates) > 20
        for update in updates:
            follower.apply(update)

        assert follower.sides == Follower(market.initial_state(channel, product_id)).sides


def test_a_window_of_level2_50_holds_all_its_changes_and_no_more():
    """``50`` means 50 ms; the time is that of its latest change (COINBASE §5, §6.6)."""
    market = Market(1, START_NS, FEW[:1])
    messages = run(market, 3, "level2", "level2_50")
    single, batches = (of(messages, channel) for channel in ("level2", "level2_50"))

    assert len(batches) < len(single)
    assert len(batches) <= 60
    assert {update["time"] for update in batches} <= {update["time"] for update in single}
    assert any(len(update["changes"]) > 1 for update in batches)


def test_each_product_has_a_heartbeat_a_second_with_its_counters():
    """Clients compare ``last_trade_id`` with their own last trade (COINBASE §6.1, §9)."""
    market = Market(1, START_NS, FEW[:1])
    highest = json.loads(market.initial_state("matches", "BTC-USD"))["trade_id"]
    heartbeats = []
    for message in run(market, 3):
        if message.product_id == "BTC-USD" and message.channel != "level3":
            content = json.loads(message.payload)
            highest = max(highest, content.get("trade_id", 0))
            if content["type"] == "heartbeat":
                heartbeats.append(content)
                assert highest == content["last_trade_id"]

    assert len(heartbeats) == 3
    assert [heartbeat["sequence"] for heartbeat in heartbeats] == sorted(
        {heartbeat["sequence"] for heartbeat in heartbeats}
    )


def test_ticker_batch_sends_changes_every_five_seconds():
    """``ticker_1000`` is ticker, conflated (COINBASE §5)."""
    market = Market(4, START_NS, LISTED, rate=0.3)
    messages = run(market, 40, "ticker", "ticker_1000")
    newest, batches, quiet = {}, 0, 0
    for message in messages:
        if message.channel == "ticker":
            newest[message.product_id] = json.loads(message.payload)
        elif message.channel == "ticker_1000":
            batches += 1
            assert (message.time_ns - START_NS) % (5 * S) == 0
            content, known = json.loads(message.payload), newest.pop(message.product_id, None)
            # The very first batch may report the trade before the opening.
            assert message.time_ns == START_NS + 5 * S or known["trade_id"] == content["trade_id"]
            quiet += known is None

    assert len(LISTED) < batches < 8 * len(LISTED)
    assert quiet < len(LISTED)


@pytest.mark.random
def test_messages_leave_in_time_order():
    """All products share one clock, so a relay receives their messages interleaved in order."""
    times = [message.time_ns for message in run(Market(1, START_NS, LISTED), 0.7)]

    assert sorted(times) == times


def test_status_names_all_products_and_their_currencies():
    """A client without REST learns the products from it (COINBASE §6.2)."""
    market = Market(1, START_NS, products_for(["NEW-PAIR", "BTC-USD"]))
    status = json.loads(market.initial_state("status", ""))
    repeated = [m for m in run(market, 11, "status") if m.channel == "status"]

    assert [*[product.id for product in LISTED], "NEW-PAIR"] == [
        p["id"] for p in status["products"]
    ]
    assert {"BTC", "USD", "NEW", "PAIR"} <= {currency["id"] for currency in status["currencies"]}
    assert [market.initial_state("status", "")] * 2 == [message.payload for message in repeated]


@pytest.mark.parametrize("rate", [0, -1, RATE_MAX * 1.1, float("nan")])
def test_a_rate_beyond_the_limit_is_a_bug_of_the_caller(rate):
    """Above it, sequences could exceed those of a later run."""
    with pytest.raises(AssertionError):
        Market(1, START_NS, FEW, rate)


@pytest.mark.parametrize("topics", [set(), {("level2", "BTC-USD"), ("full", "ETH-BTC")}])
def test_subscriptions_do_not_change_the_market(topics):
    """Messages without a subscriber are not made; the rest is the same, byte for byte."""
    every, some = (Market(1, START_NS, FEW) for _ in range(2))
    sent = [m for m in run(every, 2) if (m.channel, m.product_id) in topics]
    wanted = list(some.advance(START_NS + 2 * S, topics))

    order_by_order = {"full", "level3", "level2", "matches", "ticker"}
    assert [m for m in wanted if m.channel in order_by_order] == sent
    for product_id in some.products:
        sequences = [m.trading(product_id).engine.sequence for m in (every, some)]
        assert sequences[0] == sequences[1]


@pytest.mark.random
@pytest.mark.parametrize("channel", ["level2", "level2_50"])
def test_a_book_with_added_levels_stays_consistent(channel):
    """A snapshot of megabytes is a valid test only if the book is consistent."""
    market = Market(1, START_NS, FEW[:1])
    run(market, 1)
    follower = Follower(market.initial_state(channel, "BTC-USD"))
    by_order = OrderFollower(market)
    sent = [*market.add_levels("BTC-USD", 500), *run(market, 1)]
    for update in of(sent, channel):
        follower.apply(update)
    for message in of(sent, "full"):
        by_order.apply(message)

    assert len(market.trading("BTC-USD").engine.book.bids) > 700
    assert follower.sides == Follower(market.initial_state(channel, "BTC-USD")).sides
    assert by_order.orders == OrderFollower(market).orders
    assert len(market.initial_state(channel, "BTC-USD")) > 1_400 * 28
