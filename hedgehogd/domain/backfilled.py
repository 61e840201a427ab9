"""Trades missed by the feed and fetched by REST, kept for subscribers that resume soon."""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from hedgehogd.domain.limits import BACKFILLED_KEEP_S, BACKFILLED_TRADES_MAX


class _Batch(NamedTuple):
    added_at: float
    product_id: str
    trades: Sequence[Mapping[str, Any]]


class Backfilled:
    """Recently backfilled trades; at the limit the oldest batches are dropped first.

    Args:
        trades_max: trades kept at most, all products together.
        keep_s: seconds for which a trade is kept.
    """

    def __init__(
        self, trades_max: int = BACKFILLED_TRADES_MAX, keep_s: float = BACKFILLED_KEEP_S
    ) -> None:
        self._trades_max = trades_max
        self._keep_s = keep_s
        self._count = 0
        self._batches: deque[_Batch] = deque()
        self._by_product: dict[str, deque[_Batch]] = {}

    def __len__(self) -> int:
        return self._count

    def add(self, product_id: str, trades: Sequence[Mapping[str, Any]], now: float) -> None:
        """Keep ``trades``, in ascending order of trade id; ``now`` is monotonic, in seconds."""
        kept = trades[-self._trades_max :]
        if kept:
            batch = _Batch(now, product_id, kept)
            self._batches.append(batch)
            self._by_product.setdefault(product_id, deque()).append(batch)
            self._count += len(kept)
        self._expire(now)

    def since(self, product_id: str, now: float) -> list[Mapping[str, Any]]:
        """Return the kept trades of ``product_id``, each once, in ascending order of trade id."""
        self._expire(now)
        by_id: dict[int, Mapping[str, Any]] = {}
        for batch in self._by_product.get(product_id, ()):
            for trade in batch.trades:
                by_id[trade["trade_id"]] = trade
        return [by_id[trade_id] for trade_id in sorted(by_id)]

    def _expire(self, now: float) -> None:
        """Drop expired batches, and the oldest beyond the limit.

        Each product's batches are in the order of ``_batches``, so its oldest is the first too.
        """
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
