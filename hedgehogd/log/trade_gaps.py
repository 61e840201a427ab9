"""Gaps in trades, and which backfilled trade fills which of them.

Another instance may have received a trade that this one backfills. So a backfilled trade is
recorded only if the log has a gap there, and once.
"""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hedgehogd.domain import limits
from hedgehogd.domain.channel import MATCHES, Topic
from hedgehogd.domain.message import Message
from hedgehogd.domain.record import GapRecord, Record, TradeRecord
from hedgehogd.protocol.backfilled import encode_trade


class WaitingTrades:
    """Backfilled trades that wait for a writer, the newest ``LOG_TRADES_WAITING_MAX`` of them."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[str, Sequence[Mapping[str, Any]]]] = deque()
        self._count = 0

    def add(self, product_id: str, trades: Sequence[Mapping[str, Any]]) -> None:
        """Add trades of a product, oldest first; too many of them drop the oldest."""
        trades = trades[-limits.LOG_TRADES_WAITING_MAX :]
        self._waiting.append((product_id, trades))
        self._count += len(trades)
        while self._count > limits.LOG_TRADES_WAITING_MAX:
            self._count -= len(self._waiting.popleft()[1])

    def take(self) -> tuple[str, Sequence[Mapping[str, Any]]] | None:
        """Remove and return the oldest ones, and their product; None if none wait."""
        if not self._waiting:
            return None
        taken = self._waiting.popleft()
        self._count -= len(taken[1])
        return taken


class TradeGaps:
    """The newest gaps in trades of the log; at a limit the oldest ones are dropped."""

    def __init__(self) -> None:
        self._gaps: deque[tuple[GapRecord, set[int]]] = deque()
        self._by_topic: dict[Topic, deque[tuple[GapRecord, set[int]]]] = {}
        self._filled = 0

    def __len__(self) -> int:
        """Return the number of gaps."""
        return len(self._gaps)

    def note(self, records: Iterable[Record]) -> None:
        """Note the gaps and backfilled trades among the next records of the log."""
        for record in records:
            if isinstance(record, Message):
                continue
            if isinstance(record, GapRecord):
                is_numbered = record.first is not None and record.last is not None
                if record.topic.channel == MATCHES.topic_channel and is_numbered:
                    gap: tuple[GapRecord, set[int]] = (record, set())
                    self._gaps.append(gap)
                    self._by_topic.setdefault(record.topic, deque()).append(gap)
            elif isinstance(record, TradeRecord):
                self._find(record.topic, record.trade_id, record.gap_id)
        self._limit()

    def fill(
        self, product_id: str, trades: Sequence[Mapping[str, Any]], now_us: int
    ) -> list[TradeRecord]:
        """Return the records of those of ``trades`` that fill a gap of the log.

        Args:
            product_id: the market.
            trades: each has an int as ``trade_id``.
            now_us: the time, µs since the epoch.
        """
        topic = MATCHES.topic(product_id)
        records = []
        for trade in trades:
            gap = self._find(topic, trade["trade_id"])
            if gap is not None:
                payload = encode_trade(product_id, trade)
                records.append(
                    TradeRecord(topic, trade["trade_id"], payload, gap.id, received_us=now_us)
                )
        self._limit()
        return records

    def _find(self, topic: Topic, trade_id: int, gap_id: int = 0) -> GapRecord | None:
        """Return the newest gap with a trade that is not filled yet, and note it as filled.

        Args:
            topic: the topic.
            trade_id: the trade.
            gap_id: the only gap that may have it; 0 for any.
        """
        for gap, filled in reversed(self._by_topic.get(topic, ())):
            first, last = gap.first or 0, gap.last or 0
            if gap_id in {0, gap.id} and first <= trade_id <= last and trade_id not in filled:
                filled.add(trade_id)
                self._filled += 1
                return gap
        return None

    def _limit(self) -> None:
        while self._gaps and (
            len(self._gaps) > limits.LOG_GAPS_MAX or self._filled > limits.LOG_FILLED_TRADES_MAX
        ):
            gap, filled = self._gaps.popleft()
            of_topic = self._by_topic[gap.topic]
            of_topic.popleft()
            if not of_topic:
                del self._by_topic[gap.topic]
            self._filled -= len(filled)
