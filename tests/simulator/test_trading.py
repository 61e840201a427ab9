"""One product of the simulated market keeps what the recorded ones kept (FEED §6, §7)."""

import json
from collections import defaultdict
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgehogd.simulator.market import RATE_MAX, Market
from hedgehogd.simulator.products import LISTED
from tests.simulator.follower import FEW, SEEDS, START_NS, Follower, S, of, run


@pytest.mark.parametrize("seed", SEEDS)
def test_trade_ids_have_no_hole_and_sequences_jump_but_never_fall(seed):
    """Gap detection rests on both (FEED §6.4, §7)."""
    market = Market(seed, START_NS, FEW, rate=20)
    last = json.loads(market.greeting("matches", "BTC-USD"))
    matches = of(run(market, 3), "matches")
    trade_ids = [match["trade_id"] for match in matches]
    sequences = [match["sequence"] for match in matches]

    assert last["type"] == "last_match"
    assert len(matches) > 100
    assert list(range(last["trade_id"] + 1, last["trade_id"] + 1 + len(matches))) == trade_ids
    assert sorted(set(sequences)) == sequences
    assert sequences[-1] - sequences[0] > 10 * len(matches)


def test_one_taker_makes_several_matches_and_one_ticker():
    """Cascades are why a ticker's trade ids skip; it reports the last of them (FEED §6.3)."""
    messages = run(Market(1, START_NS, FEW, rate=20), 2)
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


def test_matches_take_the_best_price_that_rests():
    """The book and the trades are one market, not two random ones."""
    market = Market(1, START_NS, FEW, rate=20)
    follower = Follower(market.greeting("level2", "BTC-USD"))
    checked = 0
    by_time = defaultdict(list)
    for message in run(market, 2):
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


@settings(max_examples=8, deadline=None)
@given(st.integers(min_value=0, max_value=2**32), st.floats(min_value=0.1, max_value=0.4))
def test_counters_rise_across_restarts(seed, seconds):
    """A relay's positions must stay meaningful when the simulator is started again."""
    market = Market(seed, START_NS, FEW, RATE_MAX)
    run(market, seconds)
    before = [json.loads(market.greeting("matches", key)) for key in market.products]
    later = Market(seed + 1, market.now_ns, FEW)
    after = [json.loads(later.greeting("matches", key)) for key in market.products]

    for old, new in zip(before, after, strict=True):
        assert old["sequence"] < new["sequence"] < 2**53
        assert old["trade_id"] < new["trade_id"] < 2**53


def test_the_liveliest_product_is_as_lively_and_as_bursty_as_recorded():
    """Evenly spaced messages would never test a queue (FEED §12)."""
    messages = run(Market(1, START_NS, LISTED), 60)
    tenths = defaultdict(int)
    for message in messages:
        if message.channel == "level2":
            tenths[message.time_ns // (S // 10)] += 1
    mean = sum(tenths.values()) / 600

    assert 90 < len(of(messages, "level2")) / 60 < 150
    assert 3 < len(of(messages, "matches")) / 60 < 8
    assert max(tenths.values()) > 3 * mean


def test_a_long_run_keeps_its_price_and_its_depth():
    """A demo that runs for weeks must not end at a price of one cent, or an empty book."""
    market = Market(5, START_NS, LISTED[-1:], RATE_MAX)
    product = LISTED[-1]
    for _ in range(6):
        for _ in market.advance(market.now_ns + 3 * S):
            pass
        book = market.trading(product.id).book
        assert abs(book.best_bid - product.price_ticks) < product.price_ticks // 5
        assert all(20 <= len(ladder) < 1000 for ladder in (book.bids, book.asks))
