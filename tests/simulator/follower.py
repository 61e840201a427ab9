"""Someone who follows a market by its messages alone, and complains like a client."""

import json
from decimal import Decimal

from hedgehogd.simulator.products import LISTED

START_NS = 1_790_000_000_123_456_789
S = 1_000_000_000
FEW = LISTED[:1] + LISTED[-1:]
SEEDS = [1, 2, 3]


def run(market, seconds):
    return list(market.advance(market.now_ns + int(seconds * S)))


def of(messages, channel, product_id="BTC-USD"):
    return [
        json.loads(message.payload)
        for message in messages
        if message.channel == channel and message.product_id == product_id
    ]


class Follower:
    """A client's book: Coinbase's recipe, and a complaint wherever a real feed gave none."""

    def __init__(self, snapshot):
        message = json.loads(snapshot)
        self.sides = {
            "buy": {Decimal(price): size for price, size in message["bids"]},
            "sell": {Decimal(price): size for price, size in message["asks"]},
        }
        bids, asks = (
            [price for price, _ in map(self.decimals, message[k])] for k in ("bids", "asks")
        )
        assert bids == sorted(set(bids), reverse=True)
        assert asks == sorted(set(asks))
        self.time = message["time"]

    @staticmethod
    def decimals(row):
        return [Decimal(text) for text in row]

    def apply(self, update):
        assert self.time <= update["time"], "time went backwards"
        self.time = update["time"]
        assert update["changes"]
        for side, price, size in update["changes"]:
            level = Decimal(price)
            if Decimal(size):
                assert self.sides[side].get(level) != size, "a repeated size"
                self.sides[side][level] = size
            else:
                del self.sides[side][level]  # KeyError: a removal of nothing
        assert max(self.sides["buy"]) < min(self.sides["sell"]), "crossed"
