"""The assignment of products to the connections of a line, and how a product moves.

All channels of a product share one connection, or their order is lost. A product with ``full`` or
``level3`` is *heavy*. Heavy products are spread over slots 1 to ``HEAVY_CONNECTIONS_MAX``, because
the exchange disconnects a client that reads a busy connection too slowly. The other products share
slot 0; one that may not be there is placed on a slot above ``HEAVY_CONNECTIONS_MAX``. A product
that is no longer heavy may stay where it is.

Messages of ``matches`` and ``full`` are indistinguishable, and so are those of ``level2`` and
``level2_batch``. Each of these two pairs is a *kind* with two *variants*. A connection that has
carried one variant of a product must not carry the other one: the product *moves*. It moves too
when a topic of it is silent on its connection (``avoid``).

A product that moves has two placements. The new connection, its *newest placement*, subscribes
first; the old one unsubscribes ``HANDOVER_S`` after the product's first message on the new one.

Sans-I/O: time is an argument, in seconds. Each line has a plan of its own.
"""

from collections import Counter
from collections.abc import Iterable
from itertools import chain, count

from hedgehogd.domain.channel import FULL, LEVEL2, LEVEL2_BATCH, LEVEL3, MATCHES, Topic
from hedgehogd.domain.limits import HANDOVER_S, HEAVY_CONNECTIONS_MAX, MOVES_MAX

_HEAVY = frozenset({FULL.topic_channel, LEVEL3.topic_channel})
_KINDS = ((FULL, MATCHES), (LEVEL2, LEVEL2_BATCH))
_KIND_BY_CHANNEL = {
    channel.topic_channel: kind for kind, pair in enumerate(_KINDS) for channel in pair
}


class _Holding:
    """A product on one connection.

    Attributes:
        slot: the number of the connection.
        topics: the topics of the product that the connection has to hold.
        arrived_at: when a message of the product first arrived there while it was the newest
            placement; None before that, and after the connection has ended.
    """

    __slots__ = ("arrived_at", "slot", "topics")

    def __init__(self, slot: int, topics: frozenset[Topic]) -> None:
        self.slot = slot
        self.topics = topics
        self.arrived_at: float | None = None


class Plan:
    """The placement of the products on the connections of one line, by slot.

    Attributes:
        silent: ids of the products that ``avoid`` moves, until their first message at the newest
            placement, or until they are released.
    """

    def __init__(self) -> None:
        self.silent: set[str] = set()
        self._holdings: dict[str, list[_Holding]] = {}  # the newest last
        # The variant of each kind that a live connection has carried, by slot and product.
        self._variants: dict[tuple[int, str], dict[int, str]] = {}
        self._avoided: set[tuple[int, str]] = set()
        self._moves: Counter[str] = Counter()  # of each product, by ``avoid``

    def follow(self, asked: Iterable[Topic], now: float) -> None:
        """Place the topics ``asked`` for; release each product without such a topic.

        A product that may not stay on its connection gets a second placement. The first call at
        least ``HANDOVER_S`` after the product's first message there releases the old placement.
        """
        by_product: dict[str, set[Topic]] = {}
        for topic in asked:
            by_product.setdefault(topic.product_id, set()).add(topic)
        for product_id in self._holdings.keys() - by_product.keys():
            del self._holdings[product_id], self._moves[product_id]
            self.silent.discard(product_id)
        for product_id, topics in by_product.items():
            self._place(product_id, frozenset(topics))
            holdings = self._holdings[product_id]
            arrived_at = holdings[-1].arrived_at
            if arrived_at is not None and now - arrived_at >= HANDOVER_S:
                del holdings[:-1]

    def slots(self) -> list[int]:
        """Return the slots that hold at least one product, in ascending order."""
        return sorted({h.slot for holdings in self._holdings.values() for h in holdings})

    def topics(self, slot: int) -> frozenset[Topic]:
        """Return the topics that the connection at ``slot`` has to hold, of moving products too."""
        return frozenset(
            topic
            for holdings in self._holdings.values()
            for holding in holdings
            if holding.slot == slot
            for topic in holding.topics
        )

    def products(self, slots: Iterable[int]) -> frozenset[str]:
        """Return the ids of the products that have their newest placement on one of ``slots``."""
        chosen = frozenset(slots)
        return frozenset(
            product_id
            for product_id, holdings in self._holdings.items()
            if holdings[-1].slot in chosen
        )

    def arrived(self, slot: int, product_id: str, now: float) -> None:
        """Record that a message of the product arrived on the connection at ``slot``.

        Only the first one since the connection began, at the product's newest placement, has an
        effect: ``HANDOVER_S`` begins, and the product leaves ``silent``.
        """
        holdings = self._holdings.get(product_id, [])
        if holdings and holdings[-1].slot == slot and holdings[-1].arrived_at is None:
            holdings[-1].arrived_at = now
            self.silent.discard(product_id)

    def ended(self, slot: int) -> None:
        """Record that the connection at ``slot`` has ended.

        The variants that it carried are forgotten, except those of the topics still placed there. A
        product that was moved away by ``avoid`` may be placed there again. The products of the slot
        count as not arrived there. Those with their newest placement there may be moved
        ``MOVES_MAX`` times again.
        """
        for key in [key for key in self._variants if key[0] == slot]:
            del self._variants[key]
        self._avoided = {key for key in self._avoided if key[0] != slot}
        for product_id, holdings in self._holdings.items():
            if holdings[-1].slot == slot:
                del self._moves[product_id]
            for holding in holdings:
                if holding.slot == slot:
                    holding.arrived_at = None
                    self._mark(slot, product_id, holding.topics)

    def avoid(self, slot: int, product_id: str) -> None:
        """Let the next ``follow`` move a product off the connection at ``slot``.

        The caller has found a topic of the product silent there; the product is added to
        ``silent``. Do nothing if this was called for slot and product since the connection began,
        or if the product has been moved ``MOVES_MAX`` times: it is silent on every connection, so
        none is the cause. The moves are counted again from 0 after ``ended`` of its newest
        placement, and after its release.
        """
        if (slot, product_id) not in self._avoided and self._moves[product_id] < MOVES_MAX:
            self._avoided.add((slot, product_id))
            self._moves[product_id] += 1
            self.silent.add(product_id)

    def refused(self, channels: Iterable[str]) -> None:
        """Forget that any connection carried ``channels``, which the exchange refused.

        No message of them arrived, so the other variant may use the same connection.
        """
        gone = frozenset(channels)
        for variants in self._variants.values():
            for kind in [kind for kind, channel in variants.items() if channel in gone]:
                del variants[kind]

    def next_change_at(self) -> float | None:
        """Return when ``follow`` can next release an old placement.

        None if no product that moves has arrived at its newest placement.
        """
        times = [
            holdings[-1].arrived_at + HANDOVER_S
            for holdings in self._holdings.values()
            if len(holdings) > 1 and holdings[-1].arrived_at is not None
        ]
        return min(times, default=None)

    def _place(self, product_id: str, topics: frozenset[Topic]) -> None:
        holdings = self._holdings.setdefault(product_id, [])
        has_to_move = bool(holdings) and (holdings[-1].slot, product_id) in self._avoided
        if holdings and holdings[-1].topics == topics and not has_to_move:
            return
        fitting = [
            holding
            for holding in holdings
            if self._fits(holding.slot, product_id, topics)
            and (holding.slot, product_id) not in self._avoided
        ]
        if fitting:
            holding = fitting[-1]
            holdings.remove(holding)  # the newest one, or an older one: the product moves back
        else:
            holding = _Holding(self._choose(product_id, topics), topics)
            # A third placement: the earlier move is not complete. The newer of the two before is
            # released if nothing has arrived there, otherwise the older one.
            if len(holdings) > 1:
                del holdings[1 if holdings[1].arrived_at is None else 0]
        holding.topics = topics
        holdings.append(holding)
        self._mark(holding.slot, product_id, topics)

    def _fits(self, slot: int, product_id: str, topics: frozenset[Topic]) -> bool:
        """Say whether the connection at ``slot`` may carry ``topics`` of a product.

        It may not if it has carried the other variant of one of them. Heavy topics need a slot from
        1 to ``HEAVY_CONNECTIONS_MAX``; other topics may be on any slot.
        """
        if _is_heavy(topics) and not 1 <= slot <= HEAVY_CONNECTIONS_MAX:
            return False
        variants = self._variants.get((slot, product_id), {})
        return all(
            variants.get(_KIND_BY_CHANNEL[t.channel], t.channel) == t.channel
            for t in topics
            if t.channel in _KIND_BY_CHANNEL
        )

    def _mark(self, slot: int, product_id: str, topics: frozenset[Topic]) -> None:
        for topic in topics:
            kind = _KIND_BY_CHANNEL.get(topic.channel)
            if kind is not None:
                self._variants.setdefault((slot, product_id), {})[kind] = topic.channel

    def _choose(self, product_id: str, topics: frozenset[Topic]) -> int:
        """Return a slot that may carry ``topics``, and where the product is not placed now.

        A product that is not heavy gets the lowest slot for such products that it does not avoid.
        A heavy one prefers slots that it does not avoid, then slots that have carried it, then
        those with the fewest heavy products.
        """
        here = {holding.slot for holding in self._holdings[product_id]}
        if not _is_heavy(topics):
            here |= {slot for slot, avoider in self._avoided if avoider == product_id}
            light = chain((0,), count(HEAVY_CONNECTIONS_MAX + 1))
            return next(s for s in light if s not in here and self._fits(s, product_id, topics))
        load = Counter(
            holding.slot
            for holdings in self._holdings.values()
            for holding in holdings
            if _is_heavy(holding.topics)
        )
        free = [s for s in range(1, HEAVY_CONNECTIONS_MAX + 1) if s not in here]
        fitting = [s for s in free if self._fits(s, product_id, topics)]
        # A slot that has carried the product is preferred, so a product uses at most four slots,
        # one for each combination of variants, and one more for each that it avoids.
        known = {slot for slot in fitting if (slot, product_id) in self._variants}
        avoided = {slot for slot in fitting if (slot, product_id) in self._avoided}
        return min(fitting, key=lambda s: (s in avoided, s not in known, load[s], s))


def _is_heavy(topics: Iterable[Topic]) -> bool:
    return any(topic.channel in _HEAVY for topic in topics)
