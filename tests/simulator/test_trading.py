"""One product of the simulated market keeps the invariants of recorded ones (COINBASE §6, §7)."""

import json
from collections import defaultdict
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgehogd.simulator.market import RATE_MAX, Market
from hedgehogd.simulator.products import LISTED
from tests.simulator.follower import FEW, SEEDS, START_NS, Follower, OrderFollower, S, of, run

ONE = LISTED[:1]
# Half of the changes are takers', and no order is fleeting.
EAGER = LISTED[0]._replace(takers_per_s=60, events_per_s=150)


@pytest.mark.random
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("channel", ["full", "level3"])
def test_a_book_of_orders_equals_its_initial_state_plus_every_event(seed, channel):
    """Each number once, each order known; the levels are the sums (COINBASE §7, §9)."""
    market = Market(seed, START_NS, FEW, rate=10)
    run(market, 0.2)
    followers = {key: OrderFollower(market, key) for key in market.products}
    messages = run(market, 0.8, channel)
    for product_id, follower in followers.items():
        for message in of(messages, channel, product_id):
            follower.apply(message)
        now = OrderFollower(market, product_id)
        aggregated = Follower(market.initial_state("level2", product_id)).sides

        assert follower.sequence == now.sequence
        assert follower.orders == now.orders
        for side in ("buy", "sell"):
            levels = {price: Decimal(size) for price, size in aggregated[side].items()}
            assert follower.levels(side) == levels


@pytest.mark.random
def test_every_kind_of_event_happens():
    """A kind of event that never occurs is never tested with a relay."""
    market = Market(1, START_NS, [EAGER], rate=10)
    messages = of(run(market, 3, "full"), "full")
    kinds = {
        (m["type"], m.get("order_type") or m.get("reason"), "funds" in m, "price" in m)
        for m in messages
    }

    assert kinds == {
        ("received", "limit", False, True),
        ("received", "market", False, False),
        ("received", "market", True, False),
        ("open", None, False, True),
        ("match", None, False, True),
        ("done", "filled", False, True),
        ("done", "filled", False, False),
        ("done", "canceled", False, True),
        ("done", "canceled", False, False),
        ("change", "STP", False, True),
        ("change", "modify_order", False, False),
    }


def test_a_taker_is_received_matched_and_then_done_or_open():
    """The events of an order that trades at once (docs/COINBASE.md §12)."""
    market = Market(2, START_NS, [EAGER], rate=10)
    events, makers = defaultdict(list), defaultdict(list)
    for m in of(run(market, 1, "full"), "full"):
        if m["type"] == "match":
            events[m["taker_order_id"]].append("match")
            makers[m["maker_order_id"]].append(m["sequence"])
        else:
            events[m["order_id"]].append(m["type"])
        if m["type"] == "done" and m["reason"] == "filled" and m["order_id"] in makers:
            assert m["sequence"] == makers[m["order_id"]][-1] + 1
    takers = [order_events for order_events in events.values() if "match" in order_events]

    assert len(takers) > 100
    for order_events in takers:
        assert order_events[0] == "received"
        assert "match" in order_events[1:3]
        assert order_events[order_events.index("match") :].count("received") == 0
        after = [kind for kind in order_events[1:] if kind != "match"]
        assert not after or after[0] in {"done", "open"}
    assert any("open" in order_events for order_events in takers)


@pytest.mark.random
def test_a_heartbeat_is_never_ahead_of_the_orders():
    """Otherwise a client would fetch the whole book again (docs/COINBASE.md §6.1)."""
    market = Market(1, START_NS, ONE, rate=3)
    sequence, heartbeats = market.trading("BTC-USD").engine.sequence, 0
    for message in run(market, 4, "full", "heartbeat"):
        if message.product_id == "BTC-USD" and message.channel == "full":
            sequence = json.loads(message.payload)["sequence"]
        if message.product_id == "BTC-USD" and message.channel == "heartbeat":
            assert json.loads(message.payload)["sequence"] == sequence
            heartbeats += 1

    assert heartbeats == 4


@pytest.mark.parametrize("seed", SEEDS)
def test_trade_ids_have_no_gap_and_sequences_jump_but_never_fall(seed):
    """Gap detection depends on both (docs/COINBASE.md §6.4, §7)."""
    market = Market(seed, START_NS, ONE, rate=20)
    last = json.loads(market.initial_state("matches", "BTC-USD"))
    matches = of(run(market, 2, "matches"), "matches")
    trade_ids = [match["trade_id"] for match in matches]
    sequences = [match["sequence"] for match in matches]

    assert last["type"] == "last_match"
    assert len(matches) > 100
    assert list(range(last["trade_id"] + 1, last["trade_id"] + 1 + len(matches))) == trade_ids
    assert sorted(set(sequences)) == sequences
    assert sequences[-1] - sequences[0] > 10 * len(matches)


def test_one_taker_makes_several_matches_and_one_ticker():
    """A ticker reports the last match of a taker, so its trade ids skip (COINBASE §6.3)."""
    messages = run(Market(1, START_NS, ONE, rate=20), 1, "matches", "ticker")
    by_taker = defaultdict(list)
    for match in of(messages, "matches"):
        by_taker[match["taker_order_id"]].append(match)
    tickers = of(messages, "ticker")

    assert any(len(matches) > 1 for matches in by_taker.values())
    assert len(by_taker) == len(tickers)
    for ticker, matches in zip(tickers, by_taker.values(), strict=True):
        match = matches[-1]
        for key in ("sequence", "trade_id", "time", "price", "product_id"):
            assert match[key] == ticker[key]
        assert match["size"] == ticker["last_size"]
        assert {match["side"], ticker["side"]} == {"buy", "sell"}  # maker and taker


def test_matches_are_at_the_best_resting_price():
    """Book and trades belong to one market; they are not two random processes."""
    market = Market(1, START_NS, ONE, rate=20)
    follower = Follower(market.initial_state("level2", "BTC-USD"))
    checked = 0
    by_time = defaultdict(list)
    for message in run(market, 1.2, "level2", "matches"):
        if message.product_id == "BTC-USD" and message.channel in {"level2", "matches"}:
            by_time[message.time_ns].append(json.loads(message.payload))
    for messages in by_time.values():
        first = next((m for m in messages if m["type"] == "match"), None)
        if first:
            best = max if first["side"] == "buy" else min
            assert best(follower.sides[first["side"]]) == Decimal(first["price"])
            checked += 1
        for message in messages:
            if message["type"] == "l2update":
                follower.apply(message)

    assert checked > 50


@settings(max_examples=5, deadline=None)
@given(st.integers(min_value=0, max_value=2**32), st.floats(min_value=0.1, max_value=0.2))
def test_counters_rise_across_restarts(seed, seconds):
    """Positions of a relay must stay valid when the simulator restarts."""
    market = Market(seed, START_NS, FEW, RATE_MAX)
    run(market, seconds, "matches")
    before = [json.loads(market.initial_state("matches", key)) for key in market.products]
    later = Market(seed + 1, market.now_ns, FEW)
    after = [json.loads(later.initial_state("matches", key)) for key in market.products]

    for old, new in zip(before, after, strict=True):
        assert old["sequence"] < new["sequence"] < 2**53
        assert old["trade_id"] < new["trade_id"] < 2**53


def test_the_busiest_product_has_the_recorded_rate_and_bursts():
    """Evenly spaced messages would never test a queue (docs/COINBASE.md §12)."""
    messages = run(Market(1, START_NS, ONE), 40, "level2", "matches")
    tenths = defaultdict(int)
    for message in messages:
        if message.channel == "level2":
            tenths[message.time_ns // (S // 10)] += 1
    mean = sum(tenths.values()) / 400

    assert 90 < len(of(messages, "level2")) / 40 < 150
    assert 3 < len(of(messages, "matches")) / 40 < 8
    assert max(tenths.values()) > 3 * mean


@pytest.mark.random
def test_a_long_run_keeps_its_price_and_its_depth():
    """A demo that runs for weeks must not reach a price of one cent, or an empty book."""
    market = Market(5, START_NS, LISTED[-1:], RATE_MAX)
    product = LISTED[-1]
    for _ in range(4):
        for _ in market.advance(market.now_ns + 3 * S, ()):
            pass
        book = market.trading(product.id).engine.book
        assert abs(book.best_bid - product.price_ticks) < product.price_ticks // 5
        assert all(20 <= len(ladder) < 1000 for ladder in (book.bids, book.asks))


@pytest.mark.random
def test_a_side_with_few_levels_keeps_its_number_of_orders():
    """Otherwise orders would collect on the last 20 levels, and a demo's memory would grow."""
    market = Market(1, START_NS, LISTED[-1:], RATE_MAX)
    for _ in market.advance(market.now_ns + 12 * S, ()):
        pass
    book = market.trading(LISTED[-1].id).engine.book
    assert all(len(ladder) < 30 for ladder in (book.bids, book.asks))  # the case occurred
    assert all(400 < ladder.orders < 600 for ladder in (book.bids, book.asks))
