"""Messages have the exchange's keys in the exchange's order."""

import json

from hedgehogd.simulator.market import Market
from hedgehogd.simulator.messages import MarketMessage
from tests.recordings import PRO, recording
from tests.simulator.follower import FEW, START_NS, of, run


def recorded_keys(kind):
    with recording(f"{PRO}/feed.jsonl").open() as lines:
        return next(list(json.loads(line)) for line in lines if f'"type":"{kind}"' in line)


def test_keys_are_in_the_order_of_the_wire():
    """Compared with a real recording."""
    market = Market(1, START_NS, FEW)
    market.hold_auction("BTC-USD", 5)
    messages = run(
        market, 60, "ticker", "matches", "level2", "heartbeat", "rfq_matches", "auctionfeed"
    )
    made = {
        message["type"]: list(message)
        for c in ("ticker", "matches", "level2")
        for message in of(messages, c)
    }
    made["last_match"] = list(json.loads(market.initial_state("matches", "BTC-USD")))
    made["snapshot"] = list(json.loads(market.initial_state("level2", "BTC-USD")))
    since_2022 = {"best_bid_size", "best_ask_size"}

    assert recorded_keys("ticker") == [key for key in made["ticker"] if key not in since_2022]
    for kind in ("match", "last_match", "l2update"):
        assert recorded_keys(kind) == made[kind]
    assert [*recorded_keys("snapshot"), "time"] == made["snapshot"]
    heartbeat = of(messages, "heartbeat")[0]
    assert list(heartbeat) == ["type", "last_trade_id", "product_id", "sequence", "time"]
    match_keys = [key for key in made["match"] if key != "sequence"]
    assert list(of(messages, "rfq_matches")[0]) == match_keys
    assert list(of(messages, "auctionfeed")[0]) == [
        "type", "product_id", "sequence", "auction_state", "best_bid_price", "best_bid_size",
        "best_ask_price", "best_ask_size", "open_price", "open_size", "can_open", "timestamp",
    ]  # fmt: skip


def test_a_message_is_encoded_once_and_only_on_demand():
    """A market without subscribers to single orders must not pay for their messages."""
    made = []

    def make():
        made.append(1)
        return b"{}"

    message = MarketMessage(5, "full", "BTC-USD", make)
    assert made == []
    assert message.payload == message.payload == b"{}"
    assert made == [1]
    assert message == MarketMessage(5, "full", "BTC-USD", b"{}")
    assert hash(message) == hash(MarketMessage(5, "full", "BTC-USD", b"{}"))
    assert message != MarketMessage(6, "full", "BTC-USD", b"{}")
    assert message != b"{}"
    assert repr(message) == "MarketMessage(5, 'full', 'BTC-USD', b'{}')"
