"""One product of the simulated market: its book, its traders, its counters.

Pure: time and seed are arguments. One ``fire`` is one action of the traders, at
``due_ns``: an order placed, changed or cancelled, or a taker that walks the book. Actions
come in bursts with a heavy tail, because that is how a real feed hurts: the recorded
market's busiest tenth of a second held five times the average (FEED §12).

What real feeds keep, this one keeps (FEED §6.3, §6.4, §6.6): removals only of levels that
exist, no update that repeats a size, a book that never crosses, trade ids without a hole,
sequences that rise with jumps, one ticker for all matches of one taker.

The price hovers around where it began: takers lean against its distance from there.
"""

import random
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from hedgehogd.domain.channel import LEVEL2, MATCHES, TICKER
from hedgehogd.simulator import messages
from hedgehogd.simulator.amounts import NS_PER_S
from hedgehogd.simulator.book import Book, Ladder, Side
from hedgehogd.simulator.messages import Trade
from hedgehogd.simulator.products import Product
from hedgehogd.simulator.rolling import Statistics

# A product's counters begin at the start time divided by these, so that they rise across
# restarts: they advance by less than one in that time (RATE_MAX), and stay below 2^53.
NS_PER_SEQUENCE = 1_000
NS_PER_TRADE_ID = 10_000

# Trades that REST can still show: over ten minutes of the liveliest product.
TRADES_KEPT = 5_000

_LEVELS = 300
_LEVELS_MIN = 20
_MATCHES_PER_TAKER_MAX = 8
_SMALL_BURST, _LARGE_BURST = 2.5, 30.0
_LARGE_BURST_SHARE = 0.03
_GAP_IN_BURST_NS = 1_500_000
_LEAN = 10.0


class MarketMessage(NamedTuple):
    """One message of the simulated exchange.

    Attributes:
        time_ns: when it leaves the exchange, ns since the epoch.
        channel: the canonical name of its channel, for example ``"level2_50"``.
        product_id: its market; empty for ``status``.
        payload: the JSON text.
    """

    time_ns: int
    channel: str
    product_id: str
    payload: bytes


class Trading:
    """The market of one product.

    Attributes:
        product: which one.
        book: its order book now.
        sequence: its counter of engine events.
        trades: the latest trades, oldest first; never empty.
        statistics: what its ticker says about the last day.
        due_ns: when the next action happens.
    """

    def __init__(
        self,
        product: Product,
        seed: int,
        start_ns: int,
        rate: float,
        changed: Callable[[Side, int, int], None],
    ) -> None:
        """Open the market.

        Args:
            product: what is traded.
            seed: together with the product's name it decides everything that happens.
            start_ns: ns since the epoch.
            rate: 1.0 for the product's usual liveliness; more is livelier.
            changed: called with ``(side, tick, units before)`` at every change to the book.
        """
        self.product = product
        self.book = Book()
        self.sequence = start_ns // NS_PER_SEQUENCE
        self._changed = changed
        self._random = rng = random.Random(f"{seed} {product.id}")
        self._spacing = max(1, product.price_ticks // 60_000)
        self._taker_share = product.takers_per_s / product.changes_per_s
        self._unseen = product.events_per_s / product.changes_per_s - 1
        self._gap_ns = _GAP_IN_BURST_NS / rate
        self._pause_ns = _pause_s(product.changes_per_s) * NS_PER_S / rate
        self._left_in_burst = 0
        self._fill()
        price = self.book.best_bid
        per_hour = int(product.takers_per_s * rate * 3600) * product.size_units // 2
        self.statistics = Statistics(rng, start_ns, price, per_hour)
        first = start_ns // NS_PER_TRADE_ID
        trade = self._trade(first, "buy", price, product.size_units, start_ns, self._order_id())
        self.trades: deque[Trade] = deque([trade], maxlen=TRADES_KEPT)
        self.due_ns = start_ns
        self._schedule()

    def fire(self) -> list[MarketMessage]:
        """Let the action happen that is due, and plan the next one."""
        self.sequence += 1 + int(self._random.expovariate(1.0) * self._unseen)
        draw = self._random.random()
        if draw < self._taker_share:
            happened = self._take()
        elif draw < 0.4:
            happened = self._resize()
        else:
            happened = self._place_or_cancel()
        self._schedule()
        return happened

    def _fill(self) -> None:
        """Build the first book around the product's price."""
        sides: tuple[tuple[Ladder, int], ...] = ((self.book.bids, -1), (self.book.asks, 1))
        for ladder, step in sides:
            tick = self.product.price_ticks
            for _ in range(_LEVELS):
                tick += step * (1 + int(self._random.expovariate(1 / self._spacing)))
                ladder.set(tick, self._size())

    def _schedule(self) -> None:
        """Plan the next action: soon within a burst, after a pause between bursts."""
        rng = self._random
        if self._left_in_burst:
            self._left_in_burst -= 1
            wait_ns = rng.expovariate(1 / self._gap_ns)
        else:
            wait_ns = rng.expovariate(1 / self._pause_ns)
            mean = _LARGE_BURST if rng.random() < _LARGE_BURST_SHARE else _SMALL_BURST
            self._left_in_burst = int(rng.expovariate(1 / mean))
        # Whole microseconds, as on the wire; at least one, so that time moves.
        self.due_ns += 1000 * (1 + int(wait_ns) // 1000)

    def _size(self) -> int:
        """Draw a size: many small, few large; on average the product's usual one."""
        rng = self._random
        return 1 + self.product.size_units * rng.randrange(1, 64) * rng.randrange(1, 64) // 1024

    def _rank(self, ladder: Ladder) -> int:
        """Choose a level: mostly near the best, sometimes anywhere."""
        rng = self._random
        if rng.random() < 0.3:
            return rng.randrange(len(ladder))
        return min(int(rng.expovariate(1 / 8)), len(ladder) - 1)

    def _side(self) -> tuple[Side, Ladder]:
        side: Side = "buy" if self._random.random() < 0.5 else "sell"
        return side, self.book.side(side)

    def _resize(self) -> list[MarketMessage]:
        """An order at a level that exists is changed; the level's size becomes another."""
        side, ladder = self._side()
        tick = ladder.tick(self._rank(ladder))
        units = self._size()
        return [self._set(side, tick, units if units != ladder[tick] else units + 1)]

    def _place_or_cancel(self) -> list[MarketMessage]:
        """Place where levels are few, cancel where they are many: the book stays as deep."""
        side, ladder = self._side()
        placing = 0.5 + (_LEVELS - len(ladder)) / _LEVELS
        if self._random.random() < placing or len(ladder) <= _LEVELS_MIN:
            return [self._place(side)]
        return [self._set(side, ladder.tick(self._rank(ladder)), 0)]

    def _place(self, side: Side) -> MarketMessage:
        """Place an order below the best ask or above the best bid: it never trades at once."""
        rng = self._random
        draw = rng.random()
        reach = 0.2 if draw < 0.3 else 12 if draw < 0.8 else 200
        distance = 1 + int(rng.expovariate(1 / (reach * self._spacing)))
        if side == "buy":
            tick = max(1, self.book.best_ask - distance)
        else:
            tick = self.book.best_bid + distance
        return self._set(side, tick, self.book.side(side)[tick] + self._size())

    def _set(self, side: Side, tick: int, units: int) -> MarketMessage:
        before = self.book.side(side).set(tick, units)
        self._changed(side, tick, before)
        update = messages.l2update(self.product, ((side, tick, units),), self.due_ns)
        return MarketMessage(self.due_ns, LEVEL2.name, self.product.id, update)

    def _take(self) -> list[MarketMessage]:
        """One order takes what rests: several matches perhaps, and one ticker."""
        rng = self._random
        away = (self.book.best_bid - self.product.price_ticks) / self.product.price_ticks
        buys = rng.random() < min(max(0.5 - _LEAN * away, 0.1), 0.9)
        maker_side: Side = "sell" if buys else "buy"
        ladder = self.book.side(maker_side)
        wanted = rng.randrange(1, 1000) if rng.random() < 0.2 else 1 + self._size() // 2
        taker = self._order_id()
        update_first = rng.random() < 0.8
        happened: list[MarketMessage] = []
        for _ in range(_MATCHES_PER_TAKER_MAX):
            if not wanted or len(ladder) <= _LEVELS_MIN:
                break
            tick = ladder.tick(0)
            here = ladder[tick]
            resting = here if rng.random() < 0.7 else 1 + here // 2
            size = min(wanted, resting)
            wanted -= size
            match = self._match(maker_side, tick, size, taker)
            update = self._set(maker_side, tick, here - size)
            happened += (update, match) if update_first else (match, update)
        if happened:
            ticker = MarketMessage(self.due_ns, TICKER.name, self.product.id, self.ticker())
            happened.insert(0 if rng.random() < 0.17 else len(happened), ticker)
        return happened

    def _match(self, maker_side: Side, tick: int, size: int, taker: str) -> MarketMessage:
        self.sequence += 1
        trade_id = self.trades[-1].trade_id + 1
        trade = self._trade(trade_id, maker_side, tick, size, self.due_ns, taker)
        self.trades.append(trade)
        payload = messages.match(self.product, trade)
        return MarketMessage(self.due_ns, MATCHES.name, self.product.id, payload)

    def _trade(
        self, trade_id: int, maker_side: Side, tick: int, size: int, time_ns: int, taker: str
    ) -> Trade:
        self.statistics.trade(time_ns, tick, size)
        maker = self._order_id()
        return Trade(trade_id, self.sequence, maker, taker, maker_side, tick, size, time_ns)

    def _order_id(self) -> str:
        """Draw a UUID; not by ``uuid``, which takes three times as long."""
        text = f"{self._random.getrandbits(128):032x}"
        return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-a{text[17:20]}-{text[20:]}"

    def ticker(self) -> bytes:
        """Return the ``ticker`` about the latest trade and the best prices now."""
        return messages.ticker(self.product, self.trades[-1], self.statistics.day(), self.book)

    def last_match(self) -> bytes:
        """Return the latest trade as a ``last_match``."""
        return messages.match(self.product, self.trades[-1], "last_match")

    def heartbeat(self, time_ns: int) -> bytes:
        """Return the ``heartbeat`` with the counters as they are."""
        trade_id = self.trades[-1].trade_id
        return messages.heartbeat(self.product, trade_id, self.sequence, time_ns)


def _pause_s(actions_per_s: float) -> float:
    """Return the mean pause between bursts that gives ``actions_per_s`` on average."""
    small = 1 + _mean_of_whole(_SMALL_BURST)
    large = 1 + _mean_of_whole(_LARGE_BURST)
    burst = (1 - _LARGE_BURST_SHARE) * small + _LARGE_BURST_SHARE * large
    return max(burst / actions_per_s - (burst - 1) * _GAP_IN_BURST_NS / NS_PER_S, 1e-6)


def _mean_of_whole(mean: float) -> float:
    """Return the mean of ``int(expovariate(1 / mean))``, roughly: half less."""
    return mean - 0.5
