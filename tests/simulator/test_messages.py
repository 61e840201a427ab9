"""Messages have the exchange's keys in the exchange's order."""

import json

from hedgehogd.simulator.market import Market
from tests.recordings import PRO, recording
from tests.simulator.follower import FEW, START_NS, of, run


def recorded_keys(kind):
    with recording(f"{PRO}/feed.jsonl").open() as lines:
        return next(list(json.loads(line)) for line in lines if f'"type":"{kind}"' in line)


def test_keys_stand_in_the_order_of_the_wire():
    """Byte-exact imitation, against a real recording."""
    market = Market(1, START_NS, FEW)
    messages = run(market, 5)
    made = {
        message["type"]: list(message)
        for c in ("ticker", "matches", "level2")
        for message in of(messages, c)
    }
    made["last_match"] = list(json.loads(market.greeting("matches", "BTC-USD")))
    made["snapshot"] = list(json.loads(market.greeting("level2", "BTC-USD")))
    since_2022 = {"best_bid_size", "best_ask_size"}

    assert recorded_keys("ticker") == [key for key in made["ticker"] if key not in since_2022]
    for kind in ("match", "last_match", "l2update"):
        assert recorded_keys(kind) == made[kind]
    assert [*recorded_keys("snapshot"), "time"] == made["snapshot"]
    heartbeat = of(messages, "heartbeat")[0]
    assert list(heartbeat) == ["type", "last_trade_id", "product_id", "sequence", "time"]
