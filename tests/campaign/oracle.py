"""Check that each subscriber received the market's messages, or a notice of each gap.

The oracle reads a subscriber's log once, in the order of arrival. Each topic has an
``_Account``: the numbers that arrived, and the numbers that a notice reported missing.
"""

import json
from decimal import Decimal, InvalidOperation

NUMBER_OF = {"matches": "trade_id", "full": "sequence"}
NUMBERED = frozenset({"matches", "full", "level3", "ticker"})
TRADES_DROPPED_MAX = 5  # by one ``trade_gap_everywhere``
REFUSED = " is not a valid product"


class Wrong(AssertionError):
    """The relay has violated a guarantee."""


def _number(channel, payload):
    value = json.loads(payload)
    if channel == "level3":
        return int(value[2]) if isinstance(value, list) else None
    return value.get(NUMBER_OF.get(channel, "sequence"))


class Facts:
    """The market's messages by number, made once for all subscribers of a world."""

    def __init__(self, world):
        self.world = world
        self._by_number = {}

    def by_number(self, channel, product_id):
        key = (channel, product_id)
        if key not in self._by_number:
            said = self.world.truth.of(*key)
            self._by_number[key] = {_number(channel, payload): payload for payload in said}
        return self._by_number[key]

    def last(self, channel, product_id):
        numbers = self.by_number(channel, product_id)
        return max(numbers, default=None)


class _Account:
    """Numbers of one topic: those that arrived, and those that were reported missing."""

    def __init__(self, channel, product_id, facts):
        self.channel = channel
        self.product_id = product_id
        self.facts = facts
        self.last = None
        self.missing = set()

    def report_missing(self, first, last):
        self.missing.update(range(first, last + 1))
        if self.last is not None:
            self.last = max(self.last, last)

    def take(self, number, payload, kind):
        known = self.facts.by_number(self.channel, self.product_id)
        where = f"{self.channel}:{self.product_id} {number}"
        if number not in known:
            # A last_match may be older than the recorded messages: the market's first trade.
            if (kind == "last_match" and not known) or number < min(known):
                self.last = max(number, self.last or 0)
                return
            raise Wrong(f"{where}: the market never sent {payload[:200]}")
        truth = known[number]
        if kind == "last_match":
            truth = truth.replace(b'"type":"match"', b'"type":"last_match"')
        if payload != truth:
            raise Wrong(f"{where}: arrived as {payload[:300]}, was {truth[:300]}")
        if self.last is not None and number <= self.last:
            if kind == "last_match" and number == self.last:
                return  # the initial message after a second subscribe
            raise Wrong(f"{where}: arrived after {self.last}")
        if self.last is not None and number != self.last + 1:
            raise Wrong(f"{where}: no notice of the gap {self.last + 1} to {number - 1}")
        self.last = number

    def settle(self):
        last = self.facts.last(self.channel, self.product_id)
        if last is not None and self.last is not None and self.last != last:
            raise Wrong(f"{self.channel}:{self.product_id}: ended at {self.last}, market at {last}")
        if last is not None and self.last is None:
            raise Wrong(f"{self.channel}:{self.product_id}: no message arrived")


class _Monotone:
    """A ticker: correct messages with rising sequences, at the end the latest one."""

    def __init__(self, product_id, facts):
        self.product_id = product_id
        self.facts = facts
        self.last = None

    def take(self, number, payload):
        known = self.facts.by_number("ticker", self.product_id)
        # The first one after a subscribe states the best prices of its own time.
        core = ("sequence", "price", "trade_id", "time", "last_size", "side")
        if known and number >= min(known):
            truth, said = json.loads(known.get(number, b"{}")), json.loads(payload)
            if any(truth.get(key) != said[key] for key in core):
                raise Wrong(f"ticker:{self.product_id} {number}: the market never sent {payload}")
        if self.last is not None and number < self.last:
            raise Wrong(f"ticker:{self.product_id} {number} arrived after {self.last}")
        self.last = number

    def settle(self):
        last = self.facts.last("ticker", self.product_id)
        if last is not None and self.last != last:
            raise Wrong(f"ticker:{self.product_id}: ended at {self.last}, the market at {last}")


class _Book:
    """A book as a client keeps it, from snapshots and updates alone."""

    def __init__(self, name):
        self.name = name
        self.sides = None
        self.unreadable = set()  # levels whose last size is unreadable, until the next snapshot

    def snapshot(self, value):
        self.sides = {"buy": {}, "sell": {}}
        self.unreadable.clear()
        for side, rows in (("buy", value["bids"]), ("sell", value["asks"])):
            for price, size in rows:
                self._set(side, price, size)

    def update(self, value):
        if self.sides is None:
            raise Wrong(f"{self.name}: an update before the snapshot")
        for side, price, size in value["changes"]:
            try:
                key, amount = Decimal(price), Decimal(size)
            except InvalidOperation:
                self.unreadable.add((side, _level_key(price)))  # the level may or may not exist
                continue
            if not amount and key not in self.sides[side] and (side, key) not in self.unreadable:
                raise Wrong(f"{self.name}: a removal of {side} {price}, which it does not have")
            self.unreadable.discard((side, key))
            self._set(side, price, size)

    def _set(self, side, price, size):
        try:
            key, amount = Decimal(price), Decimal(size)
        except InvalidOperation:
            return
        if amount:
            self.sides[side][key] = amount
        else:
            self.sides[side].pop(key, None)

    def settle(self, true_sides):
        """Compare the levels: a book with a fault has had a new snapshot by now."""
        if self.sides is None:
            raise Wrong(f"{self.name}: no snapshot arrived")
        wrong = {
            side: sorted(set(self.sides[side].items()) ^ set(true_sides[side].items()))[:6]
            for side in ("buy", "sell")
        }
        if any(wrong.values()):
            raise Wrong(f"{self.name}: the book differs at {wrong}")


def _level_key(text):
    """Return the number that ``text`` states; ``text`` itself when it states none."""
    try:
        return Decimal(text)
    except InvalidOperation:
        return text


def judge(world, witness, wanted):
    """Check one subscriber's log.

    Args:
        world: after ``settle``: without faults, and with a market that has stopped.
        witness: the subscriber.
        wanted: the ``(channel, product)`` pairs that it was subscribed to all the time; messages
            of other topics are only checked for errors of their own.
    """
    facts = world.facts
    accounts, tickers, books, seen = {}, {}, {}, set()
    stale, refused, reported_trades, gaps = {}, set(), {}, set()
    full_until = {}
    for entry, item in witness.log:
        if entry == "notice":
            _read_notice(
                json.loads(item), accounts, facts, stale, refused, reported_trades, gaps, full_until
            )
            continue
        topic, kind = item.topic, item.type
        product_id = topic.product_id
        for channel in ("matches", "full", "level3"):
            carries = channel in {topic.channel, item.also.channel if item.also else ""}
            if (
                carries
                and (channel, product_id) in wanted
                and (number := _number(channel, item.payload))
            ):
                account = accounts.setdefault(
                    (channel, product_id), _Account(channel, product_id, facts)
                )
                account.take(number, item.payload, kind)
                seen.add((channel, product_id))
        if topic.channel == "full":
            full_until[product_id] = max(full_until.get(product_id, 0), item.sequence or 0)
        if kind == "ticker" and topic.channel == "ticker":
            ticker = tickers.setdefault(product_id, _Monotone(product_id, facts))
            ticker.take(item.sequence, item.payload)
        elif kind == "heartbeat":
            if item.payload not in facts.world.truth.of("heartbeat", product_id):
                raise Wrong(f"the market never sent {item.payload}")
            until = full_until.get(product_id, item.sequence)
            if ("full", product_id) in wanted and item.sequence > until:
                raise Wrong(f"heartbeat {item.sequence} ahead of full {until}")
        elif kind in {"snapshot", "l2update"}:
            # A subscriber with both channels receives a common message once, for both.
            for channel in ("level2", "level2_batch"):
                carries = channel in {topic.channel, item.also.channel if item.also else ""}
                if carries and (channel, product_id) in wanted:
                    book = books.setdefault((channel, product_id), _Book(f"{channel}:{product_id}"))
                    getattr(book, "snapshot" if kind == "snapshot" else "update")(
                        json.loads(item.payload)
                    )
    if witness.has_left:
        return
    sending = {t for t in wanted if len(world.truth.of(*t)) > witness.sent_before[t]}
    silent = {t for t in wanted - sending if t[0] in NUMBERED}
    silent |= {t for t in sending - accounts.keys() if _may_be_lost_whole(world, t)}
    _settle(world, wanted - silent, accounts, tickers, books, refused)
    # Without a topic of a product, because its channels were refused, no further notice is due.
    own = {product_id for channel, product_id in wanted if channel not in {"status", *refused}}
    own = (own | {"*"}) - refused
    if any(is_stale for product_id, is_stale in stale.items() if product_id in own):
        raise Wrong(f"reported stale, and never live again: {stale}")
    given_up = world.backfill.given_up.total()
    for product_id, ids in gaps:
        lost = set(ids) - reported_trades.get(product_id, set())
        if len(lost) > given_up:
            raise Wrong(f"{len(lost)} trades of {product_id} were neither fetched nor given up")


def _may_be_lost_whole(world, topic):
    """Return whether a fault may have dropped every trade of a product, the first one included.

    No number precedes the first one, so its loss is not known. Later trades reveal one another.
    """
    dropped = world.faults.fired["trade_gap_everywhere"] * TRADES_DROPPED_MAX
    return topic[0] == "matches" and len(world.truth.of(*topic)) <= dropped


def _read_notice(notice, accounts, facts, stale, refused, reported_trades, gaps, full_until):
    kind, product_id = notice["type"], notice.get("product_id")
    if kind == "gap":
        channel = notice["channel"]
        name = "trade_id" if channel == "matches" else "sequence"
        first, last = notice[f"first_{name}"], notice[f"last_{name}"]
        account = accounts.setdefault((channel, product_id), _Account(channel, product_id, facts))
        account.report_missing(first, last)
        if channel == "full":
            full_until[product_id] = max(full_until.get(product_id, 0), last)
        if channel == "matches":
            gaps.add((product_id, tuple(range(first, last + 1))))
    elif kind == "stale":
        for each in notice.get("product_ids", ["*"]):
            stale[each] = notice["stale"]
        if "product_ids" not in notice and not notice["stale"]:
            stale.clear()
    elif kind == "backfilled":
        for trade in notice["trades"]:
            truth = facts.by_number("matches", product_id).get(trade["trade_id"])
            if truth is None or json.loads(truth)["time"] != trade["time"]:
                raise Wrong(f"a backfilled trade that never happened: {trade}")
            reported_trades.setdefault(product_id, set()).add(trade["trade_id"])
    elif kind == "error":
        reason = notice.get("reason", "")
        if reason.endswith(REFUSED):
            refused.add(reason.removesuffix(REFUSED))
        elif "require authentication" in reason or "API Key" in reason:
            refused.update({"full", "level3"})
        else:
            raise Wrong(f"an unexpected error: {notice}")


def _settle(world, wanted, accounts, tickers, books, refused):
    """Check that every topic still held has reached the market's latest state."""
    facts = world.facts
    for channel, product_id in wanted:
        if channel in refused or product_id in refused:
            continue
        if channel in {"matches", "full", "level3"}:
            account = accounts.get((channel, product_id))
            if account is None:
                account = _Account(channel, product_id, facts)
            account.settle()
        elif channel == "ticker":
            tickers.get(product_id, _Monotone(product_id, facts)).settle()
        elif channel in {"level2", "level2_batch"}:
            book = books.get((channel, product_id), _Book(f"{channel}:{product_id}"))
            book.settle(world.true_book(product_id))
