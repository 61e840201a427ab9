"""Trades by request for quote, outside the book: ``rfq_matches`` (docs/COINBASE.md §6.5).

They are rare, with trade ids of their own and no sequence. Their prices are near the book's; they
do not change the book.
"""

import random
from collections.abc import Container, Iterable
from functools import partial

from hedgehogd.domain.channel import RFQ_MATCHES
from hedgehogd.simulator import messages
from hedgehogd.simulator.amounts import NS_PER_S
from hedgehogd.simulator.book import Side
from hedgehogd.simulator.events import Matched
from hedgehogd.simulator.messages import MarketMessage
from hedgehogd.simulator.trading import Trading

_PER_MINUTE = 3.0
# The ids begin at the start time divided by this, so they rise across restarts: they advance
# by less than one in that time, at any rate. They differ from the ids of the book's trades.
_NS_PER_TRADE_ID = 50_000_000


class Rfq:
    """The request-for-quote trades of one product.

    Attributes:
        due_ns: time of the next trade, ns since the epoch.
    """

    def __init__(self, trading: Trading, seed: int, start_ns: int, rate: float) -> None:
        """Schedule the first trade.

        Args:
            trading: their prices are near those of its book.
            seed: determines, with the product's name, all these trades.
            start_ns: ns since the epoch.
            rate: 1.0 for a few a minute.
        """
        self._trading = trading
        # A generator of its own, so that the book is the same with and without these trades.
        self._random = random.Random(f"{seed} {trading.product.id} rfq")
        self._trade_id = start_ns // _NS_PER_TRADE_ID
        self._pause_ns = 60 * NS_PER_S / _PER_MINUTE / rate
        self.due_ns = start_ns
        self._schedule()

    def fire(self, wanted: Container[tuple[str, str]]) -> Iterable[MarketMessage]:  # noqa: ARG002
        """Make one trade, schedule the next, and return the message of the first."""
        rng, trading, now_ns = self._random, self._trading, self.due_ns
        book, product = trading.engine.book, trading.product
        self._trade_id += 1
        tick = rng.randrange(max(1, book.best_bid - 5), book.best_ask + 6)
        units = 1 + product.size_units * rng.randrange(1, 400) // 100
        order_number = rng.getrandbits(64)
        side: Side = "buy" if rng.random() < 0.5 else "sell"
        trade = Matched(
            self._trade_id, 0, order_number, order_number + 1, side, tick, units, now_ns
        )
        self._schedule()
        made = partial(messages.rfq_match, product, trading.salt, trade)
        return (MarketMessage(now_ns, RFQ_MATCHES.name, product.id, made),)

    def _schedule(self) -> None:
        wait_ns = int(self._random.expovariate(1 / self._pause_ns))
        self.due_ns += 1000 * (1 + wait_ns // 1000)
