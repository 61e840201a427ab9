"""Books that follow a market by its messages alone, and fail as a strict client would."""

import json
from decimal import Decimal

from hedgehogd.simulator.events import order_id
from hedgehogd.simulator.market import EVERYTHING
from hedgehogd.simulator.order_messages import SCHEMA
from hedgehogd.simulator.products import LISTED

START_NS = 1_790_000_000_123_456_789
S = 1_000_000_000
FEW = LISTED[:1] + LISTED[-1:]
SEEDS = [1, 2]


class Channels:
    """The topics of a subscriber of all products of some channels."""

    def __init__(self, names):
        self.names = names

    def __contains__(self, topic):
        return topic[0] in self.names


def run(market, seconds, *channels):
    """Advance ``market``; return the messages of ``channels``, or of all channels.

    Messages of other channels are not made, which is faster; those with a fixed period may be
    included.
    """
    wanted = Channels(channels) if channels else EVERYTHING
    return list(market.advance(market.now_ns + int(seconds * S), wanted))


def of(messages, channel, product_id="BTC-USD"):
    return [
        json.loads(message.payload)
        for message in messages
        if message.channel == channel and message.product_id == product_id
    ]


class Follower:
    """A client's level book by Coinbase's recipe; fails wherever no recorded feed ever would."""

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
                del self.sides[side][level]  # KeyError: the removed level does not exist
        assert max(self.sides["buy"]) < min(self.sides["sell"]), "crossed"


class OrderFollower:
    """A client's book of single orders.

    By the recipes of docs/COINBASE.md §9 for ``full`` and §6.13 for ``level3``. Fails on a gap in
    the numbers, and on every message about an unknown order.
    """

    def __init__(self, market, product_id="BTC-USD"):
        """Start from the market's own book, as in REST's level 3."""
        product, trading = market.products[product_id], market.trading(product_id)
        self.sequence = trading.engine.sequence
        self.orders = {
            order_id(trading.salt, order.number): (
                order.side,
                Decimal(order.tick).scaleb(-product.price_decimals),
                Decimal(order.units).scaleb(-product.size_decimals),
            )
            for side in ("buy", "sell")
            for order in trading.engine.book.side(side).resting()
        }

    def apply(self, message):
        if isinstance(message, list):
            message = self._named(message)
        self.sequence += 1
        assert int(message["sequence"]) == self.sequence, "a gap"
        getattr(self, f"_{message['type']}", lambda message: None)(message)

    @staticmethod
    def _named(cells):
        assert all(isinstance(cell, str) for cell in cells)
        schema = json.loads(SCHEMA)["schema"]
        named = dict(zip(schema[cells[0]], cells, strict=True))
        if cells[0] == "open":
            named["remaining_size"] = named.pop("size")
        if cells[0] == "change":
            named |= {"new_size": named.pop("size"), "new_price": named.pop("price")}
        return named

    def _open(self, m):
        assert m["order_id"] not in self.orders
        size = Decimal(m["remaining_size"])
        self.orders[m["order_id"]] = (m["side"], Decimal(m["price"]), size)

    def _match(self, m):
        side, price, size = self.orders[m["maker_order_id"]]
        assert (m.get("side", side), Decimal(m["price"])) == (side, price)
        assert size >= Decimal(m["size"])
        self.orders[m["maker_order_id"]] = (side, price, size - Decimal(m["size"]))

    def _change(self, m):
        side, price, size = self.orders[m["order_id"]]
        assert Decimal(m.get("old_size", size)) == size
        price = Decimal(m.get("new_price", m.get("price")))
        self.orders[m["order_id"]] = (side, price, Decimal(m["new_size"]))

    def _done(self, m):
        """Remove the order; its remainder must be right. An order that never rested is ignored."""
        order = self.orders.pop(m["order_id"], None)
        if order is not None and "remaining_size" in m:
            assert order[1:] == (Decimal(m["price"]), Decimal(m["remaining_size"]))

    def levels(self, side):
        sizes = {}
        for at, price, size in self.orders.values():
            if at == side:
                sizes[price] = sizes.get(price, 0) + size
        return sizes
