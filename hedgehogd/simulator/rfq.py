"""Trades that were agreed on beside the book: ``rfq_matches`` (FEED §6.5).

Rare, with trade ids of their own and no sequence. Prices are near the book's; nothing of
the book changes.
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
# Beginning with the start time divided by this, the ids rise across restarts: they
# advance by less than one in that time, at any rate, and differ from the book's.
_NS_PER_TRADE_ID = 50_000_000


class Rfq:
    """The trades of one product beside its book.

    Attributes:
        due_ns: when the next one happens, ns since the epoch.
    """

    def __init__(self, trading: Trading, seed: int, start_ns: int, rate: float) -> None:
        """Plan the first.

        Args:
            trading: whose prices they are near.
            seed: decides, with the product's name, everything that happens.
            start_ns: ns since the epoch.
            rate: 1.0 for a few a minute.
        """
        self._trading = trading
        # Not the traders' lots: the book is to be the same with and without this.
        self._random = random.Random(f"{seed} {trading.product.id} rfq")
        self._trade_id = start_ns // _NS_PER_TRADE_ID
        self._pause_ns = 60 * NS_PER_S / _PER_MINUTE / rate
        self.due_ns = start_ns
        self._plan()

    def fire(self, wanted: Container[tuple[str, str]]) -> Iterable[MarketMessage]:  # noqa: ARG002
        """Let one happen, and plan the next."""
        rng, trading, now_ns = self._random, self._trading, self.due_ns
        book, product = trading.engine.book, trading.product
        self._trade_id += 1
        tick = rng.randrange(max(1, book.best_bid - 5), book.best_ask + 6)
        units = 1 + product.size_units * rng.randrange(1, 400) // 100
        lots = rng.getrandbits(64)
        side: Side = "buy" if rng.random() < 0.5 else "sell"
        trade = Matched(self._trade_id, 0, lots, lots + 1, side, tick, units, now_ns)
        self._plan()
        made = partial(messages.rfq_match, product, trading.salt, trade)
        return (MarketMessage(now_ns, RFQ_MATCHES.name, product.id, made),)

    def _plan(self) -> None:
        wait_ns = int(self._random.expovariate(1 / self._pause_ns))
        self.due_ns += 1000 * (1 + wait_ns // 1000)
