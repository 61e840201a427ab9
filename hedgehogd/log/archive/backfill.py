"""Backfilled trades at the place of their gap."""

from collections.abc import Iterable
from typing import NamedTuple

from hedgehogd.domain.record import GapRecord, TradeRecord


class Placement(NamedTuple):
    """Which backfilled trades a stream of records delivers at the place of their gap.

    It is constant for one stream: a trade that is appended after the stream has passed its gap is
    delivered where it was appended, so that none is omitted and none repeated.

    Attributes:
        after_id: the position at which the stream began: gaps with larger ids are in it.
        to_id: the last id of the log when the stream began: trades with larger ids are delivered
            where they were appended.
    """

    after_id: int
    to_id: int

    def moves(self, trade: TradeRecord) -> bool:
        """Say whether the stream delivers ``trade`` at the place of its gap."""
        return trade.gap_id > self.after_id and trade.id <= self.to_id


def fill(gap: GapRecord, trades: Iterable[TradeRecord]) -> list[GapRecord | TradeRecord]:
    """Return the records at the place of ``gap``: its trades, and gaps of the numbers between them.

    Every part that is a gap has the id of ``gap``.
    """
    by_number = {trade.trade_id: trade for trade in trades}
    if gap.first is None or gap.last is None:
        return [gap, *(by_number[number] for number in sorted(by_number))]
    found: list[GapRecord | TradeRecord] = []
    following = gap.first
    for number in sorted(by_number):
        if following < number and following <= gap.last:
            found.append(_part(gap, following, min(number - 1, gap.last)))
        found.append(by_number[number])
        following = max(following, number + 1)
    if following <= gap.last:
        found.append(_part(gap, following, gap.last))
    return found


def _part(gap: GapRecord, first: int, last: int) -> GapRecord:
    return GapRecord(gap.topic, gap.kind, first, last, gap.id, gap.received_us)
