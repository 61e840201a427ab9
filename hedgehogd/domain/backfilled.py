"""Trades that REST brought after the feed had missed them, for those who resume soon."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from hedgehogd.domain.limits import BACKFILLED_KEEP_S, BACKFILLED_TRADES_MAX


class _Batch(NamedTuple):
    added_at: float
    product_id: str
    trades: Sequence[Mapping[str, Any]]


class Backfilled:
    """Keeps backfilled trades for a while; the oldest go first when there are too many.

    Attributes:
        on_add: told of each product's trades when they are added.

    Args:
        trades_max: trades kept at most, all products together.
        keep_s: how long they are kept, in seconds.
    """

    def __init__(
        self, trades_max: int = BACKFILLED_TRADES_MAX, keep_s: float = BACKFILLED_KEEP_S
    ) -> None:
        self.on_add: Callable[[str, Sequence[Mapping[str, Any]]], None] = lambda *_: None
        self._trades_max = trades_max
        self._keep_s = keep_s
        self._count = 0
        self._batches: deque[_Batch] = deque()
        self._by_product: dict[str, deque[_Batch]] = {}

    def __len__(self) -> int:
        return self._count

    def add(self, product_id: str, trades: Sequence[Mapping[str, Any]], now: float) -> None:
        """Keep ``trades``, which ascend by trade id; ``now`` rises steadily, in seconds."""
        self.on_add(product_id, trades)
        kept = trades[-self._trades_max :]
        if kept:
            batch = _Batch(now, product_id, kept)
            self._batches.append(batch)
            self._by_product.setdefault(product_id, deque()).append(batch)
            self._count += len(kept)
        self._forget(now)

    def since(self, product_id: str, now: float) -> list[Mapping[str, Any]]:
        """Return what is kept of ``product_id``, each trade once, ascending by trade id."""
        self._forget(now)
        found: dict[int, Mapping[str, Any]] = {}
        for batch in self._by_product.get(product_id, ()):
            for trade in batch.trades:
                found[trade["trade_id"]] = trade
        return [found[trade_id] for trade_id in sorted(found)]

    def _forget(self, now: float) -> None:
        """Drop what is too old or too much; a product's batches are in the same order as all."""
        batches = self._batches
        while batches and (
            batches[0].added_at <= now - self._keep_s or self._count > self._trades_max
        ):
            oldest = batches.popleft()
            of_product = self._by_product[oldest.product_id]
            of_product.popleft()
            if not of_product:
                del self._by_product[oldest.product_id]
            self._count -= len(oldest.trades)
