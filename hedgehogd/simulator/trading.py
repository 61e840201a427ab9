"""One product of the simulated market: its traders' actions, and the resulting messages.

Pure: time and seed are arguments. One ``fire`` is one action of the traders, at ``due_ns``: an
order is placed, changed or cancelled, or a taker trades with the book; in addition, orders
that come and go without changing the book. ``pace`` determines the times, ``matching`` the
effects of an order.

The market keeps the invariants of real feeds (docs/COINBASE.md §6.3, §6.4, §6.6, §7): every event
has the next sequence, only existing levels are removed, no update repeats a size, the book
never crosses, trade ids have no gap, and all matches of one taker share one ticker.

The price moves around its initial value: the further it is away, the more takers push it back.
"""

import random
from collections import deque
from collections.abc import Callable, Container, Iterator
from functools import partial
from itertools import islice

from hedgehogd.domain.channel import FULL, LEVEL2, LEVEL3, MATCHES, TICKER
from hedgehogd.simulator import messages, order_messages
from hedgehogd.simulator.book import Ladder, Order, Side
from hedgehogd.simulator.events import AddedLevels, Event, Matched, singles
from hedgehogd.simulator.matching import LEVELS_MIN, Engine, TakerOrder
from hedgehogd.simulator.messages import MarketMessage
from hedgehogd.simulator.pace import Pace
from hedgehogd.simulator.products import Product
from hedgehogd.simulator.rolling import Statistics

# A product's counters begin at the start time divided by these, so that they rise across
# restarts: they advance by less than one in that time (RATE_MAX), and stay below 2^53.
NS_PER_SEQUENCE = 1_000
NS_PER_TRADE_ID = 10_000

# Trades that REST can return: over ten minutes of the busiest product.
TRADES_KEPT = 5_000

_LEVELS = 300
_ORDERS = 500  # target number per side; placing and cancelling approach it
_LEVEL_ORDERS_MAX = 3  # orders per level of the initial book
_RETURN_STRENGTH = 10.0
_MODIFY_SHARE = 0.01
_OWN_SHARE = 0.03  # share of takers that match an order of their own
# Mean number of engine events of one action, without fleeting orders; measured.
_EVENTS_PER_ACTION = 1.6

_BY_ORDER = ((FULL.name, order_messages.full), (LEVEL3.name, order_messages.level3))

Wanted = Container[tuple[str, str]]
"""Topics with a subscriber: ``(canonical channel name, product id)``."""


class Trading:
    """The market of one product.

    Attributes:
        product: the product.
        salt: its order ids are derived from it (``events.order_id``).
        engine: its book and its counters.
        trades: the latest trades, oldest first; never empty.
        statistics: the statistics of the last day and month, for its ticker.
        due_ns: time of the next action, ns since the epoch.
    """

    def __init__(
        self,
        product: Product,
        seed: int,
        start_ns: int,
        rate: float,
        before_change: Callable[[Side, int, int], None],
        *,
        modifies: bool = True,
    ) -> None:
        """Open the market.

        Args:
            product: the product to trade.
            seed: determines, together with the product's name, all events.
            start_ns: ns since the epoch.
            rate: 1.0 for the product's usual activity; more is busier.
            before_change: called with ``(side, tick, units)`` before every change to a level.
            modifies: whether orders are modified; see ``Simulation``.
        """
        self.product = product
        self._modifies = modifies
        self._random = rng = random.Random(f"{seed} {product.id}")
        self.salt = rng.getrandbits(128)
        sequence, trade_id = start_ns // NS_PER_SEQUENCE, start_ns // NS_PER_TRADE_ID
        self.engine = Engine(sequence, trade_id, 10**product.size_decimals, before_change)
        self._spacing = max(1, product.price_ticks // 60_000)
        self._taker_share = product.takers_per_s / product.changes_per_s
        # Rounding down to integers takes 0.5 of the mean away; an order makes two events.
        unseen = product.events_per_s / product.changes_per_s - _EVENTS_PER_ACTION
        self._fleeting = max(0.0, unseen / 2 + 0.45)
        self._orders = _ORDERS
        self._pace = Pace(rng, product.changes_per_s, rate)
        self._fill_book()
        price = self.engine.book.best_bid
        per_hour = int(product.takers_per_s * rate * 3600) * product.size_units // 2
        self.statistics = Statistics(rng, start_ns, price, per_hour)
        self.statistics.trade(start_ns, price, product.size_units)
        before = Matched(trade_id, sequence, 0, -1, "buy", price, product.size_units, start_ns)
        self.trades: deque[Matched] = deque([before], maxlen=TRADES_KEPT)
        self.due_ns = start_ns + self._pace.wait_ns()

    def fire(self, wanted: Wanted) -> Iterator[MarketMessage]:
        """Carry out the action that is due, schedule the next one, return the messages.

        Args:
            wanted: messages of other topics are not made; the events are the same.
        """
        now_ns, engine = self.due_ns, self.engine
        fleeting = int(self._random.expovariate(1.0) * self._fleeting)
        if fleeting:
            engine.add_fleeting(fleeting, self.salt, self.product.size_units)
        draw = self._random.random()
        matches: list[Matched] = []
        update_first = ticker_first = True
        if draw < self._taker_share:
            matches = self._take()
            update_first, ticker_first = (self._random.random() < share for share in (0.8, 0.17))
        elif self._modifies and draw < self._taker_share + _MODIFY_SHARE:
            self._modify()
        else:
            self._place_or_cancel()
        self.due_ns += self._pace.wait_ns()
        about_events = self._messages(engine.collect(), now_ns, wanted, update_first)
        if matches and (TICKER.name, self.product.id) in wanted:
            ticker = MarketMessage(now_ns, TICKER.name, self.product.id, self.ticker())
            return iter((ticker, *about_events) if ticker_first else (*about_events, ticker))
        return about_events

    def add_levels(self, levels: int, now_ns: int, wanted: Wanted) -> Iterator[MarketMessage]:
        """Open orders on ``levels`` new levels of each side, far away; return the messages.

        For tests with a large book: it keeps that depth from then on. ``level2`` reports all
        new levels in one message.
        """
        book, units = self.engine.book, self.product.size_units
        ask, bid = (ladder.tick(len(ladder) - 1) for ladder in (book.asks, book.bids))
        room = min(levels, bid - 1)  # bids end at one tick; asks get the rest
        asks = [(ask + step, units + step % 97) for step in range(1, 2 * levels - room + 1)]
        self.engine.add_levels("sell", asks)
        if room:
            bids = [(bid - step, units + step % 97) for step in range(1, room + 1)]
            self.engine.add_levels("buy", bids)
        self._orders += levels
        return self._messages(self.engine.collect(), now_ns, wanted, update_first=True)

    def _messages(
        self, events: list[Event], now_ns: int, wanted: Wanted, update_first: bool
    ) -> Iterator[MarketMessage]:
        """Iterate over the messages about ``events``, in order, on each channel in ``wanted``."""
        product, salt = self.product, self.salt
        books = [(name, make) for name, make in _BY_ORDER if (name, product.id) in wanted]
        level2_wanted = (LEVEL2.name, product.id) in wanted
        matches_wanted = (MATCHES.name, product.id) in wanted
        for event in events:
            for name, make in books:
                for one in singles(event):
                    text = partial(make, product, salt, one, now_ns)
                    yield MarketMessage(now_ns, name, product.id, text)
            updates = self._updates(event, now_ns) if level2_wanted and event.changes else []
            if update_first:
                yield from updates
            if matches_wanted and isinstance(event, Matched):
                text = partial(messages.match, product, salt, event)
                yield MarketMessage(now_ns, MATCHES.name, product.id, text)
            if not update_first:
                yield from updates

    def _updates(self, event: Event, now_ns: int) -> list[MarketMessage]:
        """Return the ``l2update`` of each change, or one for all levels that were added."""
        changes = event.changes
        parts = (changes,) if isinstance(event, AddedLevels) else ((change,) for change in changes)
        return [
            MarketMessage(
                now_ns,
                LEVEL2.name,
                self.product.id,
                partial(messages.l2update, self.product, part, now_ns),
            )
            for part in parts
        ]

    def _fill_book(self) -> None:
        """Build the initial book around the product's price, of orders from before the start."""
        rng, number = self._random, self.engine.sequence
        book = self.engine.book
        sides: tuple[tuple[Side, Ladder, int], ...] = (
            ("buy", book.bids, -1),
            ("sell", book.asks, 1),
        )
        for side, ladder, step in sides:
            tick = self.product.price_ticks
            for _ in range(_LEVELS):
                tick += step * (1 + int(rng.expovariate(1 / self._spacing)))
                for _ in range(int(1 + _LEVEL_ORDERS_MAX * rng.random())):
                    ladder.add(Order(number, side, tick, self._size()))
                    number -= 1

    def _size(self) -> int:
        """Draw a size: many small, few large; the mean is the product's typical size."""
        draw = self._random.random  # randrange takes five times as long
        return 1 + self.product.size_units * int(1 + 63 * draw()) * int(1 + 63 * draw()) // 1024

    def _choose(self, ladder: Ladder) -> Order:
        """Choose an order: mostly near the best price, and among the first eight of its level."""
        rng = self._random
        if rng.random() < 0.3:
            rank = rng.randrange(len(ladder))
        else:
            rank = min(int(rng.expovariate(1 / 8)), len(ladder) - 1)
        tick = ladder.tick(rank)
        place = rng.randrange(min(ladder.crowd(tick), 8))
        return next(islice(ladder.queue(tick), place, None))

    def _side(self) -> tuple[Side, Ladder]:
        side: Side = "buy" if self._random.random() < 0.5 else "sell"
        return side, self.engine.book.side(side)

    def _modify(self) -> None:
        """Reduce an order, or move it to another price; do nothing where that is impossible."""
        side, ladder = self._side()
        order = self._choose(ladder)
        if self._random.random() < 0.5:
            if order.units > 1:
                self.engine.shrink(order, self._random.randrange(1, order.units))
        elif len(ladder) > LEVELS_MIN:
            tick = self._price(side)
            if tick != order.tick:
                self.engine.move(order, tick)

    def _place_or_cancel(self) -> None:
        """Place an order if the side has few, cancel one if it has many: the depth stays the same.

        A side with its fewest levels cancels an order of its fullest level, so that it keeps
        both its levels and its number of orders.
        """
        side, ladder = self._side()
        placing = 0.5 + (self._orders - ladder.orders) / self._orders
        if self._random.random() >= placing:
            if len(ladder) > LEVELS_MIN:
                self.engine.cancel(self._choose(ladder))
                return
            fullest = max(map(ladder.tick, range(len(ladder))), key=ladder.crowd)
            if ladder.crowd(fullest) > 1:
                self.engine.cancel(next(ladder.queue(fullest)))
                return
        self.engine.rest(side, self._price(side), self._size())

    def _price(self, side: Side) -> int:
        """Draw a price that never trades at once.

        It is below the best ask for ``"buy"``, above the best bid for ``"sell"``.
        """
        rng, book = self._random, self.engine.book
        draw = rng.random()
        reach = 0.2 if draw < 0.3 else 12 if draw < 0.8 else 200
        distance = 1 + int(rng.expovariate(1 / (reach * self._spacing)))
        return max(1, book.best_ask - distance) if side == "buy" else book.best_bid + distance

    def _take(self) -> list[Matched]:
        """Place one order that trades at once; return its matches, of which it may have none."""
        rng, price, book = self._random, self.product.price_ticks, self.engine.book
        away = (book.best_bid - price) / price
        buys = rng.random() < min(max(0.5 - _RETURN_STRENGTH * away, 0.1), 0.9)
        ladder = book.asks if buys else book.bids
        wanted = rng.randrange(1, 1000) if rng.random() < 0.2 else 1 + self._size()
        draw = rng.random()
        limit = ladder.tick(min(int(4 * draw), len(ladder) - 1)) if draw < 0.6 else None
        incoming = TakerOrder(
            "buy" if buys else "sell", wanted, limit, draw > 0.85, rng.random() < _OWN_SHARE
        )
        matches = self.engine.take(incoming, self.due_ns)
        for trade in matches:
            self.statistics.trade(trade.time_ns, trade.tick, trade.units)
        self.trades += matches
        return matches

    def ticker(self) -> bytes:
        """Return the ``ticker`` of the latest trade, with the current best prices."""
        day = self.statistics.day()
        return messages.ticker(self.product, self.trades[-1], day, self.engine.book)

    def last_match(self) -> bytes:
        """Return the latest trade as a ``last_match``."""
        return messages.match(self.product, self.salt, self.trades[-1], "last_match")

    def heartbeat(self, time_ns: int) -> bytes:
        """Return the ``heartbeat`` with the current counters."""
        trade_id, sequence = self.trades[-1].trade_id, self.engine.sequence
        return messages.heartbeat(self.product, trade_id, sequence, time_ns)
