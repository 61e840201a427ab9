"""Backfilled trades at the place of their gap."""

from hypothesis import given
from hypothesis import strategies as st

from hedgehogd.domain.channel import MATCHES
from hedgehogd.domain.record import GapKind, GapRecord, TradeRecord
from hedgehogd.log.archive.backfill import Placement, fill

TOPIC = MATCHES.topic("BTC-USD")


@given(st.integers(1, 30), st.integers(0, 20), st.sets(st.integers(1, 60)))
def test_each_number_is_a_trade_or_missing(first, more, numbers):
    """In order, and none twice."""
    gap = GapRecord(TOPIC, GapKind.MISSING, first, first + more, 7, 8)
    found = fill(gap, [TradeRecord(TOPIC, number, b"", 7, 9) for number in numbers])
    listed = [
        number
        for part in found
        for number in (
            range(part.first, part.last + 1) if isinstance(part, GapRecord) else [part.trade_id]
        )
    ]

    assert sorted(numbers | set(range(first, first + more + 1))) == listed


def test_a_gap_without_numbers_precedes_its_trades():
    """How many are missing is not known."""
    gap = GapRecord(TOPIC)
    trades = [TradeRecord(TOPIC, 2, b""), TradeRecord(TOPIC, 1, b"")]

    assert [gap, trades[1], trades[0]] == fill(gap, trades)


def test_a_trade_is_moved_if_the_stream_reaches_its_gap_later():
    """And if it was known when the stream began."""
    placement = Placement(10, 20)

    assert placement.moves(TradeRecord(TOPIC, 1, b"", 11, 20))
    assert not placement.moves(TradeRecord(TOPIC, 1, b"", 10, 20))
    assert not placement.moves(TradeRecord(TOPIC, 1, b"", 11, 21))
    assert not placement.moves(TradeRecord(TOPIC, 1, b"", 0, 20))
