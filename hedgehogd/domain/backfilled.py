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
    """Recently backfilled trades, in batches; at the limit the oldest batches are dropped first.

    Its length is the number of trades kept. Expired batches are dropped at each call of a method.

    Args:
        trades_max: trades kept at most, all products together.
        keep_s: seconds for which a batch is kept unless the limit drops it earlier.
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
        """Add ``trades`` of a product as one batch, of more than ``trades_max`` the last ones.

        Args:
            product_id: the market.
            trades: in ascending order of trade id; each has an int as ``trade_id``.
            now: the time of a monotonic clock, in seconds.
        """
        kept = trades[-self._trades_max :]
        if kept:
            batch = _Batch(now, product_id, kept)
            self._batches.append(batch)
            self._by_product.setdefault(product_id, deque()).append(batch)
            self._count += len(kept)
        self._expire(now)

    def since(self, product_id: str, now: float) -> list[Mapping[str, Any]]:
        """Return the kept trades of ``product_id``, each once, in ascending order of trade id.

        Of two trades with one id the one added later is returned. ``now`` is the time of the
        clock of ``add``.
        """
        self._expire(now)
        by_id: dict[int, Mapping[str, Any]] = {}
        for batch in self._by_product.get(product_id, ()):
            for trade in batch.trades:
                by_id[trade["trade_id"]] = trade
        return [by_id[trade_id] for trade_id in sorted(by_id)]

    def _expire(self, now: float) -> None:
        """Drop expired batches, then the oldest ones until the limit is kept.

        Each product's batches are in the order of ``_batches``, so the oldest batch of all is
        also the first one of its product.
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
