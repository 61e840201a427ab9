"""Gaps in trades: which backfilled trade fills which gap."""

import json

import pytest

from hedgehogd.domain import limits
from hedgehogd.domain.channel import Topic
from hedgehogd.domain.record import GapRecord, TradeRecord
from hedgehogd.log.trade_gaps import TradeGaps, WaitingTrades
from tests.fakes import make_message

BTC, ETH = Topic("matches", "BTC-USD"), Topic("matches", "ETH-USD")
NOW = 1_700_000_000_000_000


def trades(*numbers):
    return [{"trade_id": number, "price": "1"} for number in numbers]


def filled(records):
    return [(each.trade_id, each.gap_id) for each in records]


def test_a_trade_names_the_gap_that_it_fills():
    """A reader places it there; trades that the log has are left out."""
    gaps = TradeGaps()
    gaps.note([make_message("matches"), GapRecord(BTC, first=3, last=5, id=70)])
    gaps.note([GapRecord(BTC, first=8, last=9, id=80), GapRecord(ETH, first=1, last=9, id=90)])
    (first, *rest) = gaps.fill("BTC-USD", trades(2, 3, 5, 6, 8), NOW)

    assert TradeRecord(BTC, 3, first.payload, 70, 0, NOW) == first
    match = {"type": "match", "trade_id": 3, "price": "1", "product_id": "BTC-USD"}
    assert match == json.loads(first.payload)
    assert [(5, 70), (8, 80)] == filled(rest)


def test_a_trade_fills_a_gap_once():
    """Also if the last writer has recorded it."""
    gaps = TradeGaps()
    gaps.note([GapRecord(BTC, first=3, last=5, id=70), TradeRecord(BTC, 4, b"{}", 70)])

    assert [(3, 70), (5, 70)] == filled(gaps.fill("BTC-USD", trades(3, 4, 5, 5), NOW))
    assert [] == gaps.fill("BTC-USD", trades(3, 4, 5), NOW)


def test_a_trade_of_the_log_fills_the_gap_that_it_names():
    """Not an older one with the same numbers."""
    gaps = TradeGaps()
    gaps.note([GapRecord(BTC, first=3, last=5, id=70), GapRecord(BTC, first=3, last=5, id=80)])
    gaps.note([TradeRecord(BTC, 4, b"{}", 80), TradeRecord(BTC, 4, b"{}", 80)])

    assert [(4, 70)] == filled(gaps.fill("BTC-USD", trades(4, 4), NOW))


def test_waiting_trades_are_bounded(monkeypatch):
    """The newest of them wait, also of one call."""
    monkeypatch.setattr(limits, "LOG_TRADES_WAITING_MAX", 3)
    waiting = WaitingTrades()
    waiting.add("ETH-USD", trades(1, 2, 3, 4))
    assert ("ETH-USD", trades(2, 3, 4)) == waiting.take()
    waiting.add("ETH-USD", trades(5))
    waiting.add("BTC-USD", trades(6, 7, 8))

    assert [("BTC-USD", trades(6, 7, 8)), None] == [waiting.take(), waiting.take()]


def test_numbers_that_began_again_fill_the_newest_gap():
    """Then the one before it."""
    gaps = TradeGaps()
    gaps.note([GapRecord(BTC, first=3, last=5, id=70), GapRecord(BTC, first=4, last=6, id=80)])

    assert [(4, 80), (4, 70)] == filled(gaps.fill("BTC-USD", trades(4, 4, 4), NOW))


@pytest.mark.parametrize(
    "gap", [GapRecord(BTC, id=70), GapRecord(Topic("ticker", "BTC-USD"), first=3, last=5, id=70)]
)
def test_other_gaps_are_not_filled(gap):
    """A gap without numbers, or of another channel, has no trades."""
    gaps = TradeGaps()
    gaps.note([gap])

    assert 0 == len(gaps)
    assert [] == gaps.fill("BTC-USD", trades(3, 4), NOW)


def test_gaps_are_bounded(monkeypatch):
    """In number, and in the ids of the trades that filled them."""
    monkeypatch.setattr(limits, "LOG_GAPS_MAX", 3)
    monkeypatch.setattr(limits, "LOG_FILLED_TRADES_MAX", 4)
    gaps = TradeGaps()
    gaps.note([GapRecord(BTC, first=10 * n, last=10 * n + 9, id=n) for n in range(1, 5)])
    assert 3 == len(gaps)
    assert [] == gaps.fill("BTC-USD", trades(10), NOW)
    assert 5 == len(gaps.fill("BTC-USD", trades(20, 21, 22, 30, 31), NOW))
    assert 2 == len(gaps)
    assert [] == gaps.fill("BTC-USD", trades(23), NOW)
    assert 5 == len(gaps.fill("BTC-USD", trades(32, 40, 41, 42, 43), NOW))

    assert 1 == len(gaps)
    assert [(44, 4)] == filled(gaps.fill("BTC-USD", trades(44), NOW))
